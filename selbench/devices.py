"""What the plan knows of an accelerator: memory, matmul rate and bandwidth, from datasheets or measured on this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from selbench.errors import ConfigError, nearest

if TYPE_CHECKING:
    import torch

__all__ = ["GPUS", "Device", "at_hand", "fitting_threads", "gpu", "roofline"]

GIB = 2**30
SHARED_FLOPS = 2**23  # of one matrix product, from which on a second thread shortens it: some 0.2 ms of a core


@dataclass(frozen=True)
class Device:
    """memory in bytes; bf16, fp32: dense FLOP/s (bf16 on tensor cores, float32 without TF32); bandwidth in bytes/s."""

    name: str
    memory: int
    bf16: float
    fp32: float
    bandwidth: float
    source: str

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"


GPUS: dict[str, Device] = {  # a card's "80 GB" are GiB to the driver; sparse figures of the datasheets are halved
    device.name: device
    for device in (
        Device("h200", 141 * GIB, 989.5e12, 67e12, 4.8e12, "NVIDIA H200 datasheet, SXM"),
        Device("h100", 80 * GIB, 989.5e12, 67e12, 3.35e12, "NVIDIA H100 datasheet, SXM"),
        Device("a100-80g", 80 * GIB, 312e12, 19.5e12, 2.039e12, "NVIDIA A100 datasheet, 80 GB SXM"),
        Device("a100-40g", 40 * GIB, 312e12, 19.5e12, 1.555e12, "NVIDIA A100 datasheet, 40 GB"),
        Device("l40s", 48 * GIB, 362.05e12, 91.6e12, 0.864e12, "NVIDIA L40S datasheet"),
        Device("rtx4090", 24 * GIB, 165.2e12, 82.6e12, 1.008e12, "NVIDIA Ada architecture whitepaper, appendix A"),
        Device("rtx3090", 24 * GIB, 71e12, 35.6e12, 0.936e12, "NVIDIA Ampere GA102 architecture whitepaper, appendix A"),
    )
}


def gpu(name: str) -> Device:
    """A GPU of the table. Raises ConfigError with the nearest names."""
    if name.lower() not in GPUS:
        raise ConfigError(f"--gpu {name!r}: {nearest(name.lower(), GPUS)}")
    return GPUS[name.lower()]


def at_hand(kind: str) -> Device:
    """The device that a run would use here: `cpu`, or the current GPU, its rates measured by a matmul and a copy (some 50 ms)."""
    import torch

    if kind == "cpu":
        import psutil

        low, full = _matmul_rate(torch.bfloat16, kind, 256), _matmul_rate(torch.float32, kind, 768)  # bf16: 1 GFLOP/s without AMX
        return Device("cpu", int(psutil.virtual_memory().total), low, full, _copy_rate(kind, 2**24), "measured here")
    seen = torch.cuda.get_device_properties(torch.cuda.current_device())
    low, full = (_matmul_rate(dtype, kind, 4096) for dtype in (torch.bfloat16, torch.float32))
    copied = _copy_rate(kind, 2**28)
    torch.cuda.empty_cache()  # 2 GiB that a run on a full device would miss
    return Device(seen.name, int(seen.total_memory), low, full, copied, "measured here")


def roofline(kind: str, rate: Literal["bf16", "fp32"]) -> dict[str, Any]:
    """What the machine at hand can do, for the record: FLOP/s of matrix products by precision, bytes/s of a copy (read and written).

    Measured once per process, with its number of threads and beside whatever runs there. rate: the precision of the run, to
    which its shares of the matmul rate refer.
    """
    found = _measured(kind)
    return {"device": found.name, "bf16": found.bf16, "fp32": found.fp32, "copy_bytes_per_second": found.bandwidth, "rate": rate}


@cache
def _measured(kind: str) -> Device:
    return at_hand(kind)


@contextlib.contextmanager
def fitting_threads(hidden_size: int, intermediate_size: int, sequences: int) -> Iterator[None]:
    """Within it, one thread where a decoding step's widest matrix product is too small to share, else as many as there were.

    Waking a second thread for each of a tiny model's thousand products a step takes longer than the products: on two cores the loop of
    the embedded pair ran 1.4 steps/s with two threads and 3.2 with one (`selbench bench loop`).
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if 2 * hidden_size * intermediate_size * sequences >= SHARED_FLOPS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _matmul_rate(dtype: torch.dtype, kind: str, size: int) -> float:
    import torch

    x = torch.randn(size, size, device=kind).to(dtype)
    return 2 * size**3 / _seconds(lambda: x @ x)


def _copy_rate(kind: str, elements: int) -> float:
    import torch

    x = torch.ones(elements, device=kind)
    return 2 * 4 * elements / _seconds(x.clone)


def _seconds(action: Callable[[], object]) -> float:
    import torch

    wait: Callable[[], object] = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    rounds, runs = (3, 8) if torch.cuda.is_available() else (3, 1)
    action()
    wait()
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(runs):
            action()
        wait()
        found.append((time.perf_counter() - began) / runs)
    return min(found)  # the others waited for clocks to rise, or for a neighbour
