"""The engine contract: prompts in, the student's own tokens out, as ids that are never re-tokenised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

from selbench.errors import UserError

__all__ = ["Engine", "EngineError", "Gap", "Progress", "Rollouts", "Sampling", "numbers"]

Progress = Callable[[int, int], None]  # sequences done, sequences in all


class EngineError(UserError):
    """The engine failed, or its samples are not those of the weights being trained: the cell fails, in one line."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `top_k` 0 means off; `max_tokens` bounds the response."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True)
class Gap:
    """|engine's - trainer's| log-probability of the same sampled tokens, in nats: mean, largest, and over how many tokens."""

    mean: float
    largest: float
    tokens: int


def numbers(first: int | Sequence[int], count: int) -> Sequence[int]:
    """The number of each of `count` prompts, as `Engine.generate` takes them."""
    return range(first, first + count) if isinstance(first, int) else first


@dataclass(frozen=True)
class Rollouts:
    """Sequences as token ids: prompt and response in one, with a mask that says which tokens the student wrote.

    tokens[i], mask[i]: equally long lists; mask 1 = student token (a candidate), 0 = prompt, template or tool token.
    start[i]: index of the first response token. finish[i]: "stop" (ended by an end token) or "length" (cut at the limit).
    sample[i]: the sequence's number in the global batch.
    logprobs[i]: of each response token as the engine saw it, in nats, of the raw logits (temperature 1); None: not asked for.
    gap: how far the engine's log-probabilities are from the trainer's; None where one module does both.
    facts: what the making of the batch measured, for the step's record.
    """

    tokens: tuple[tuple[int, ...], ...]
    mask: tuple[tuple[int, ...], ...]
    start: tuple[int, ...]
    finish: tuple[str, ...]
    sample: tuple[int, ...]
    logprobs: tuple[tuple[float, ...], ...] | None = None
    gap: Gap | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], finish: Sequence[str], first: int | Sequence[int] = 0,
        logprobs: Sequence[Sequence[float]] | None = None,
    ) -> Rollouts:  # fmt: skip
        """Single-turn rollouts: every response token is the student's."""
        pairs = list(zip(prompts, responses, strict=True))
        return cls(
            tuple((*prompt, *response) for prompt, response in pairs),
            tuple((0,) * len(prompt) + (1,) * len(response) for prompt, response in pairs),
            tuple(len(prompt) for prompt, _ in pairs),
            tuple(finish),
            tuple(numbers(first, len(pairs))),
            None if logprobs is None else tuple(tuple(row) for row in logprobs),
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def responses(self) -> list[list[int]]:
        """The student's tokens of each sequence."""
        return [[t for t, m in zip(tokens, mask, strict=True) if m] for tokens, mask in zip(self.tokens, self.mask, strict=True)]

    def without_first(self, ids: Sequence[int]) -> Rollouts:
        """The first occurrence of each id in each response taken out of the mask: the special-token mask (methods 1.6)."""

        def drop(tokens: tuple[int, ...], mask: tuple[int, ...]) -> tuple[int, ...]:
            kept = list(mask)
            for wanted in ids:
                place = next((i for i, (t, m) in enumerate(zip(tokens, mask, strict=True)) if m and t == wanted), None)
                if place is not None:
                    kept[place] = 0
            return tuple(kept)

        return replace(self, mask=tuple(drop(t, m) for t, m in zip(self.tokens, self.mask, strict=True)))


class Engine(Protocol):
    """Draws responses from the weights being trained."""

    name: str

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int, progress: Progress | None = None,
        first: int | Sequence[int] = 0,
    ) -> Rollouts:  # fmt: skip
        """One response per prompt, in the order of the prompts. Same weights, arguments and machine: same tokens.

        first: number of the first prompt in a batch that is answered in several calls, or the number of each prompt. What is drawn
        for a prompt depends on (seed, its number) alone, never on the prompts beside it, up to the rounding of the forward passes.
        Raises UserError for what the model's context cannot hold, EngineError when the engine fails.
        """
        ...

    def sync(self, student: nn.Module) -> None:
        """Take over the student's current weights."""
        ...

    def rest(self) -> None:
        """Give back what it holds of the device until the next sync: training comes now."""
        ...

    def close(self) -> None:
        """Free what the engine holds, or leave it to the next cell of this process."""
        ...
