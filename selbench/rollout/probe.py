"""Whether an engine samples from the weights being trained: its log-probabilities beside the trainer's, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selbench.rollout import EngineError, Gap, Rollouts
from selbench.seeding import derive

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BOUNDS", "held_to", "measure", "trainer_logprobs"]

BOUNDS = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.05}  # nats, mean absolute; what rounding makes of it, with room
SEQUENCES, TOKENS = 4, 128  # compared after each sync


def trainer_logprobs(model: Any, tokens: tuple[int, ...], start: int, count: int) -> Tensor:
    """ln p (count,) float32 of the first `count` response tokens of one sequence under the trained module, in nats."""
    import torch

    from selbench.models import head_of

    ids = torch.tensor([tokens[: start + count]], device=model.device)
    head, training = head_of(model), model.training
    model.eval()
    try:
        with torch.no_grad():
            hidden = model.get_decoder()(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[0, start - 1 :]
            logits = head.logits(hidden, len(head.weight))
    finally:
        model.train(training)
    return torch.log_softmax(logits.double(), -1).gather(-1, ids[0, start:, None]).squeeze(-1).float().cpu()


def measure(model: Any, rollouts: Rollouts, seed: int) -> Gap:
    """The gap over the first tokens of a few sequences, drawn from `seed`. Needs the engine's log-probabilities."""
    import torch

    assert rollouts.logprobs is not None
    asked = sorted(range(len(rollouts)), key=lambda i: derive(seed, i, "probe"))[:SEQUENCES]
    parts = []
    for i in asked:
        theirs = torch.tensor(rollouts.logprobs[i][:TOKENS])
        if len(theirs):
            parts.append((theirs - trainer_logprobs(model, rollouts.tokens[i], rollouts.start[i], len(theirs))).abs())
    every = torch.cat(parts) if parts else torch.zeros(1)
    return Gap(float(every.mean()), float(every.max()), sum(map(len, parts)))


def held_to(gap: Gap, dtype: str) -> Gap:
    """The gap itself. Raises EngineError, with the likely causes, where it is above the bound of the engine's precision."""
    if not gap.mean <= BOUNDS[dtype]:  # NaN is above it
        raise EngineError(
            f"engine and trainer disagree by {gap.mean:.2g} nats a token (largest {gap.largest:.2g}, {gap.tokens} tokens; bound "
            f"{BOUNDS[dtype]:g} in {dtype}): stale weights, another precision, another end of the prompt, or a vocabulary cut short; "
            f"engine=hf samples from the trained module itself"
        )
    return gap
