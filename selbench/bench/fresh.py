"""One measurement in a process of its own: `python -m selbench.bench.fresh SPEC.json RESULT.json`.

A peak of memory can be told apart from what came before only where nothing came before: imports, allocator and compiled code of one
implementation would be found in the next one's numbers. Inputs come from a seed, or from a file of real rows.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from selbench.bench.inputs import Inputs
    from selbench.bench.rivals import Rival

__all__ = ["exactness", "main", "speed"]

LONG_FLOP = 1e12  # a run longer than that on a CPU is not repeated to warm up; fewer rows warm the same code
WARM, TIMED = 3, 10  # on a GPU; on a CPU at most as many timed runs as fit into
SECONDS = 2.0  # one at least


def speed(x: Inputs, rival: Rival) -> dict[str, Any]:
    """Milliseconds of loss and backward, and bytes at the peak beyond the inputs and the two gradients that it leaves."""
    import torch

    from selbench.bench.inputs import SMALL_ROWS
    from selbench.provenance import reset_peak_memory

    cuda = x.student_hidden.device.type == "cuda"
    kept = len(x.student_hidden) if x.kept is None else len(x.kept)
    flop = 2 * len(x.student_weight) * kept * (3 * x.student_weight.shape[1] + x.teacher_weight.shape[1])
    warm = x.first(SMALL_ROWS) if flop > LONG_FLOP and not cuda and not rival.compiled else x
    for _ in range(WARM if cuda else 1):
        rival.run(warm).backward()  # type: ignore[no-untyped-call]
        warm.student_hidden.grad = warm.student_weight.grad = x.student_hidden.grad = x.student_weight.grad = None
    del warm
    gradients = 0
    milliseconds: list[float] = []
    peaks: list[int] = []
    loss = 0.0
    while len(milliseconds) < TIMED and (cuda or sum(milliseconds) < 1000 * SECONDS):
        x.student_hidden.grad = x.student_weight.grad = None
        before = _in_use(cuda)
        reset_peak_memory()
        if cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()  # type: ignore[no-untyped-call]
        began = time.perf_counter()
        total = rival.run(x)
        total.backward()  # type: ignore[no-untyped-call]
        if cuda:
            end.record()  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            milliseconds.append(begin.elapsed_time(end))
        else:
            milliseconds.append(1000 * (time.perf_counter() - began))
        gradients = sum(_bytes(leaf.grad) for leaf in (x.student_hidden, x.student_weight))
        peaks.append((torch.cuda.max_memory_allocated() if cuda else _status("VmHWM")) - before - gradients)
        loss = float(total.detach())
        del total
    return {
        "ms": statistics.median(milliseconds), "timed": len(milliseconds),
        "peak_bytes": max(peaks), "gradient_bytes": gradients, "loss": loss, "flop": flop,
        "kept": kept, "threads": torch.get_num_threads(),
    }  # fmt: skip


def _bytes(x: Tensor | None) -> int:
    return 0 if x is None else x.nbytes


def exactness(x: Inputs, rival: Rival) -> dict[str, float]:
    """Loss and gradients against dense autograd in float64: absolute and relative errors, and 1 - cosine of the gradients."""
    from dataclasses import replace

    names = ("student_hidden", "student_weight", "teacher_hidden", "teacher_weight")
    wide = replace(x, **{name: getattr(x, name).detach().double() for name in names}).leaves()
    expected = _reference(wide)
    got = rival.run(x)
    got.backward()  # type: ignore[no-untyped-call]
    expected.backward()  # type: ignore[no-untyped-call]

    def against(side: Inputs, other: Inputs, name: str) -> tuple[float, float]:
        a, b = (getattr(one, name).grad.double().flatten() for one in (side, other))
        return float((a - b).norm() / b.norm()), float(1 - (a @ b) / (a.norm() * b.norm()))

    hidden, weight = (against(x, wide, name) for name in ("student_hidden", "student_weight"))
    right = float(expected.detach())
    gap = abs(float(got.detach()) - right)
    return {
        "loss_error": gap, "loss_relative": gap / abs(right), "hidden_relative": hidden[0], "weight_relative": weight[0],
        "hidden_one_minus_cosine": hidden[1], "weight_one_minus_cosine": weight[1],
    }  # fmt: skip


def _reference(x: Inputs) -> Tensor:
    student, teacher, _ = x.rows()
    logp, logq = ((h @ w.T).log_softmax(-1) for h, w in ((student, x.student_weight), (teacher, x.teacher_weight)))
    return (logp.exp() * (logp - logq)).sum(-1).mean()


def _status(name: str) -> int:
    """A line of /proc/self/status, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _in_use(cuda: bool) -> int:
    """Bytes held now. Freed blocks go back to the system first: kept, they would hide the same bytes of the run that follows."""
    if cuda:
        import torch

        torch.cuda.synchronize()
        return int(torch.cuda.memory_allocated())
    import gc

    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    return _status("VmRSS")


def main(spec_file: str, result_file: str) -> None:
    """Do what the specification says; write the result."""
    import torch

    from selbench.bench.inputs import calibrate, inputs_of
    from selbench.bench.rivals import RIVALS
    from selbench.provenance import usable_cores

    spec = json.loads(Path(spec_file).read_text())
    torch.set_num_threads(usable_cores())
    if spec["measure"] == "calibrate":
        found = calibrate(spec)
    else:
        found = {"speed": speed, "exactness": exactness}[spec["measure"]](inputs_of(spec), RIVALS[spec["implementation"]])
    Path(result_file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
