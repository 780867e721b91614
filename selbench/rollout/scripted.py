"""An engine that says what it is told: for tests of the agent loop, and to measure what the loop costs beside generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from selbench.rollout import Progress, Rollouts, Sampling, numbers
from selbench.seeding import derive

__all__ = ["Scripted"]


class Scripted:
    """replies: episode number -> the ids of each of its turns; a turn longer than the limit is cut there."""

    name = "scripted"

    def __init__(self, replies: Mapping[int, Sequence[Sequence[int]]]) -> None:
        self.turns = {derive(number, turn, "turn"): tuple(ids) for number, own in replies.items() for turn, ids in enumerate(own)}
        self.prompts: list[tuple[int, ...]] = []  # what it was asked, in order

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int, progress: Progress | None = None,
        first: int | Sequence[int] = 0,
    ) -> Rollouts:  # fmt: skip
        """The replies of the numbered turns. Raises KeyError for a turn that nobody wrote."""
        self.prompts += [tuple(prompt) for prompt in prompts]
        said = [self.turns[number] for number in numbers(first, len(prompts))]
        finish = ["length" if len(ids) > sampling.max_tokens else "stop" for ids in said]
        return Rollouts.of(prompts, [ids[: sampling.max_tokens] for ids in said], finish, first)

    def sync(self, student: nn.Module) -> None:
        """It has no weights."""

    def rest(self) -> None:
        """It holds nothing."""

    def close(self) -> None:
        """It holds nothing."""
