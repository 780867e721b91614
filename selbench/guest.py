"""A frozen model that lives in the memory of the host and comes to the device for its passes alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["Guest"]


class Guest:
    """`model` away from `device` but for the time of `visit`. Its output head stays there: the loss needs it between the passes.

    Weights are frozen, so nothing is copied back: the host's copy (pinned where there is a GPU) is what the model falls back to.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        stays = {id(weight) for weight in model.get_output_embeddings().parameters()}
        self.device, self.open = device, 0
        self.home: list[tuple[Tensor, Tensor]] = []
        for weight in (*model.parameters(), *model.buffers()):
            if id(weight) not in stays:
                host = weight.data.to("cpu", copy=True)
                self.home.append((weight, host.pin_memory() if torch.cuda.is_available() else host))
        self._leave()

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """Within it the whole model is on the device; visits may be nested."""
        self.open += 1
        try:
            if self.open == 1:
                for weight, host in self.home:
                    weight.data = host.to(self.device, non_blocking=True, copy=True)
            yield
        finally:
            self.open -= 1
            if self.open == 0:
                self._leave()

    def _leave(self) -> None:
        for weight, host in self.home:
            weight.data = host
