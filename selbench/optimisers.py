"""The optimiser: AdamW, and forms of it by torchao whose moments take a quarter of the memory or none of the GPU's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from selbench.settings import Training

__all__ = ["MOMENT_BYTES", "build_optimiser", "set_rate"]

MOMENT_BYTES = {"adamw": None, "adamw8bit": 2 * (1 + 4 / 256), "adamw_offload": 0.0}  # a parameter; none: two of its own precision


def build_optimiser(parameters: Sequence[torch.nn.Parameter], training: Training, device: torch.device) -> Any:
    """`training.optimiser` over these parameters.

    adamw8bit: both moments in blocks of 256 8-bit numbers with a scale each (Dettmers et al., arXiv:2110.02861).
    adamw_offload: parameters' copies and moments in the memory of the host, updated there (ZeRO-Offload, arXiv:2101.06840).
    Raises ConfigError where the package is missing, or the device has nothing to offload from.
    """
    import torch

    settings: dict[str, Any] = {"lr": training.learning_rate, "betas": training.betas, "weight_decay": training.weight_decay}
    if training.optimiser == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **settings)  # one kernel for all parameters, on a CPU too
    try:
        from torchao.optim import AdamW8bit, CPUOffloadOptimizer
    except ImportError as error:
        raise ConfigError(f"training.optimiser = {training.optimiser!r} needs the package torchao; install selbench[optim]") from error
    if training.optimiser == "adamw8bit":
        return AdamW8bit(parameters, **settings)
    if device.type != "cuda":
        raise ConfigError("training.optimiser = 'adamw_offload' moves a GPU's moments to the host, and this run has no GPU; use 'adamw'")
    return CPUOffloadOptimizer(parameters, torch.optim.AdamW, **settings)


def set_rate(optimiser: Any, rate: float) -> None:
    """The learning rate of the next step, in place where it is a tensor: torchao's compiled step refuses a number in its stead."""
    import torch

    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
