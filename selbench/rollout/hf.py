"""Rollouts by `transformers` generate, on the very module that is trained: in sync by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from selbench.rollout import Progress, Rollouts, Sampling
from selbench.seeding import derive

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["HFEngine"]


class HFEngine:
    """Batched sampling with a dynamic cache. Prompts of similar length share a batch, so that little padding is computed."""

    name = "hf"

    def __init__(self, model: PreTrainedModel, *, end_ids: Sequence[int], pad_id: int, batch: int = 256) -> None:
        self.model, self.end_ids, self.pad_id, self.batch = model, tuple(end_ids), pad_id, batch

    def sync(self, student: torch.nn.Module) -> None:
        """Nothing to move: the engine samples from the trained module itself. Raises ValueError if given another one."""
        if student is not self.model:
            raise ValueError("the hf engine was built on another module than the one being trained")

    def close(self) -> None:
        """Nothing is held besides the model."""

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int, progress: Progress | None = None) -> Rollouts:
        """See `Engine.generate`. The global generator is left as it was found."""
        responses: list[list[int]] = [[] for _ in prompts]
        finish = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        training = self.model.training
        self.model.eval()
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        try:
            for start in range(0, len(order), self.batch):
                rows = order[start : start + self.batch]
                with torch.random.fork_rng(devices=devices), torch.no_grad():
                    torch.manual_seed(derive(seed, start, "rollout"))
                    generated = self._generate([prompts[i] for i in rows], sampling)
                for i, tokens in zip(rows, generated, strict=True):
                    stop = next((n for n, token in enumerate(tokens) if token in self.end_ids), None)
                    responses[i] = tokens if stop is None else tokens[: stop + 1]
                    finish[i] = "length" if stop is None else "stop"
                if progress:
                    progress(min(start + self.batch, len(order)), len(order))
        finally:
            self.model.train(training)
        return Rollouts.of(prompts, responses, finish)

    def _generate(self, prompts: list[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):  # left padding: every response starts in the same column
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        drawn: dict[str, Any] = (
            {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
            if sampling.temperature > 0
            else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        )
        device = self.model.device
        generate: Any = self.model.generate
        out = generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=sampling.max_tokens,
            eos_token_id=list(self.end_ids), pad_token_id=self.pad_id, repetition_penalty=1.0, **drawn,
        )  # fmt: skip
        return [list(row) for row in out[:, width:].tolist()]
