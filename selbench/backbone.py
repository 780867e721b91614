"""A causal LM up to its last hidden states: the module that accelerate wraps, with activations recomputed where asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from selbench.adapter import dropouts, dropping

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """A causal LM up to its last hidden states, as a module of its own, so that accelerate wraps what is really called.

    checkpointing: each layer keeps its input alone and is computed again in the backward pass (Chen et al., arXiv:1604.06174):
    the same numbers for about a third more time and a fraction of the memory.
    """

    def __init__(self, model: Any, checkpointing: bool = False) -> None:
        super().__init__()
        self.model = model
        self.dropouts = dropouts(model)
        self.recomputed: list[nn.Module] = []
        if checkpointing:
            self.checkpoint()

    def checkpoint(self) -> None:
        """From now on activations are recomputed."""
        self.recomputed = self.recomputed or checkpointed_layers(self.model)

    def forward(self, **inputs: Any) -> Any:
        with dropping(self.dropouts), recomputing(self.recomputed):
            return self.model.get_decoder()(**inputs)


def checkpointed_layers(model: Any) -> list[nn.Module]:
    """The layers of a transformers model that can be recomputed, made ready for it."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable({"use_reentrant": False})
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextlib.contextmanager
def recomputing(layers: list[nn.Module]) -> Iterator[None]:
    """Recomputation is on within it, where gradients are taken. transformers asks the layer's own training flag, and no part of it."""
    for layer in layers:
        layer.training = torch.is_grad_enabled()
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
