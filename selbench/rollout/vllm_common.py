"""What vLLM in this process and vLLM behind an address have in common: what they are asked, and what counts as an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from selbench.rollout import EngineError, Rollouts, Sampling, numbers
from selbench.rollout.probe import held_to, measure
from selbench.rollout.weights import Arrival, bits
from selbench.seeding import derive

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Answer", "arrived", "asked", "ready", "rollouts_of", "take", "tokens_of", "weight_facts"]


@dataclass(frozen=True)
class Answer:
    """One response: its tokens, their log-probabilities in nats, of the raw logits, and what ended it."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish: str


def tokens_of(student: Any) -> int:
    """Columns of the output head that stand for tokens; those behind them are padding of the head."""
    suppressed = getattr(student.generation_config, "suppress_tokens", None)
    return min(suppressed) if suppressed else int(student.config.get_text_config().vocab_size)


def ready(
    student: nn.Module, at: tuple[int, ...] | None, prompts: Sequence[Sequence[int]], sampling: Sampling, room: int, context: int
) -> None:
    """Raises EngineError where the weights are not those of the last sync (`at`, their bits), or a prompt leaves no room for a response.

    room: tokens of the longest sequence in the engine; context: in the model.
    """
    if at != bits(student):
        raise EngineError("the student's weights changed since the engine last took them over; call sync before generate")
    if long := [i for i, prompt in enumerate(prompts) if len(prompt) + sampling.max_tokens > room]:
        worst = max(len(prompts[i]) for i in long)
        limit = f"the model's context of {context}" if room == context else f"the engine's {room}"
        raise EngineError(
            f"{len(long)} of {len(prompts)} prompts (longest {worst} tokens) and {sampling.max_tokens} new tokens do not fit {limit}; "
            f"lower max_response_tokens or max_tokens, or filter the prompts (filters.max_prompt_tokens)"
        )


def asked(sampling: Sampling, seed: int, first: int | Sequence[int], count: int, end_ids: Sequence[int]) -> list[dict[str, Any]]:
    """vLLM's SamplingParams for each prompt, as keywords; what is drawn for one depends on (seed, its number) alone."""
    shared = {
        "max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k,
        "logprobs": 0, "detokenize": False, "ignore_eos": True, "stop_token_ids": list(end_ids),
    }  # fmt: skip
    return [{**shared, "seed": derive(seed, number, "rollout") >> 1} for number in numbers(first, count)]


def rollouts_of(
    student: nn.Module, prompts: Sequence[Sequence[int]], answers: Sequence[Answer], first: int | Sequence[int], seed: int, dtype: str
) -> Rollouts:
    """The answers as rollouts, with their gap to the trainer's log-probabilities.

    Raises EngineError where answers are missing, ended in another way than by an end token or at the limit, or are not of these weights.
    """
    if len(answers) != len(prompts):
        raise EngineError(f"vLLM answered {len(answers)} of {len(prompts)} prompts; nothing of this batch is used")
    if odd := sorted({each.finish for each in answers} - {"stop", "length"}):
        raise EngineError(f"vLLM ended responses by {', '.join(odd)}; nothing of this batch is used")
    drawn = Rollouts.of(
        prompts, [each.token_ids for each in answers], [each.finish for each in answers], first, [each.logprobs for each in answers]
    )
    return replace(drawn, gap=held_to(measure(student, drawn, seed), dtype)) if len(drawn) else drawn


def take(worker: Any, weights: Iterator[tuple[str, Tensor]], after: Callable[[Any], None] | None) -> None:
    """In vLLM's worker: the weights one by one, in place. after: what its package needs then."""
    worker.reload_weights(weights_iterator=weights)
    if after is not None:
        after(worker)


def arrived(arrival: Arrival) -> Arrival:
    """The arrival itself. Raises EngineError where not all weights did."""
    if arrival.problems:
        more = f" and {len(arrival.problems) - 3} more" if len(arrival.problems) > 3 else ""
        raise EngineError(
            f"vLLM did not take all weights of the student: {'; '.join(arrival.problems[:3])}{more}; use engine=hf for this model"
        )
    return arrival


def weight_facts(arrival: Arrival | None) -> Mapping[str, Any]:
    """For the passport: what the comparison of all weights found."""
    return {"weights": {"tensors": arrival.tensors, "layers": arrival.layers, "largest_error": arrival.error}} if arrival else {}
