"""For vLLM's sampler: columns of the output head that stand for no token are never drawn."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

__all__ = ["OnlyTokens"]


class OnlyTokens(LogitsProcessor):
    """Masks every column from `additional_config["selbench_tokens"]` on, for all requests alike."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.tokens = int(vllm_config.additional_config["selbench_tokens"])

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """logits (n, V), masked in place."""
        logits[:, self.tokens :] = float("-inf")
        return logits

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Nothing is kept of a request."""
