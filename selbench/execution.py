"""How a step is executed on a device: sizes and places that change its memory and its time, never its result.

An execution is chosen before a run (`--memory-limit`), kept in the run folder so that a resumed run goes on in the same bits,
halved where a GPU runs out of memory all the same, and its predicted memory is held against the measured one after two steps.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from selbench.errors import ConfigError, UserError
from selbench.records import read_json, write_json

if TYPE_CHECKING:
    from selbench.settings import Training

__all__ = [
    "Allowance", "Execution", "choose", "compare", "default_execution", "halved", "is_out_of_memory", "ladder", "parse_size", "report",
    "settle", "store", "with_retries", "words_of",
]  # fmt: skip

T = TypeVar("T")
STORED, COMPARED = "execution.json", "memory.json"
UNITS = {"": 1, "b": 1, **{f"{letter}{end}": base**power for power, letter in enumerate("kmgt", 1)
                           for end, base in (("", 1024), ("ib", 1024), ("b", 1000))}}  # fmt: skip
OFF = 1.2  # measured over predicted, from which on a phase is named
TINY_PHASE = 2**28  # bytes; allocators and libraries decide below that


@dataclass(frozen=True)
class Execution:
    """micro_batch: sequences per forward pass. rows_per_chunk: rows whose logits are alive at a time (none: from free memory).

    teacher: "resident" keeps its weights on the device, "offloaded" brings them there for its passes alone (from pinned CPU memory).
    teacher_rows: its hidden rows between the two passes: "device", "host" (pinned CPU memory) or "recomputed" (kept tokens only).
    """

    micro_batch: int
    rows_per_chunk: int | None = None
    gradient_checkpointing: bool = False
    teacher: Literal["resident", "offloaded"] = "resident"
    teacher_rows: Literal["device", "host", "recomputed"] = "device"


@dataclass(frozen=True)
class Allowance:
    """What a cell may take: an execution (none: the protocol's), the bytes by phase predicted of it, and the limit it was chosen for."""

    execution: Execution | None = None
    predicted: Mapping[str, int] = field(default_factory=dict)
    limit: int | None = None


def default_execution(training: Training) -> Execution:
    """As the protocol says."""
    return Execution(training.micro_batch, gradient_checkpointing=training.gradient_checkpointing)


def halved(execution: Execution, *, dropout: bool = False) -> Execution | None:
    """The next smaller one: half the micro-batch and the chunk; then recomputed activations; then the teacher elsewhere; else None.

    dropout: of an adapter; its draws depend on the micro-batches and cannot be repeated, so both stay as they are.
    """
    if dropout:
        rows = execution.rows_per_chunk
        smaller = replace(execution, rows_per_chunk=None if rows is None else max(1, rows // 2))
        if execution.teacher == "resident":
            return replace(smaller, teacher="offloaded", teacher_rows="host")
        return smaller if smaller != execution else None
    micro_batch, rows = max(1, execution.micro_batch // 2), execution.rows_per_chunk
    smaller = replace(execution, micro_batch=micro_batch, rows_per_chunk=None if rows is None else max(1, rows // 2))
    if micro_batch < execution.micro_batch:
        return smaller
    if not execution.gradient_checkpointing:
        return replace(smaller, gradient_checkpointing=True)
    if execution.teacher == "resident":
        return replace(smaller, teacher="offloaded", teacher_rows="host")
    return smaller if smaller != execution else None


def ladder(start: Execution, rows: int, *, gpu: bool, shared: bool, dropout: bool = False) -> Iterator[Execution]:
    """From `start` to the smallest, in the order of what each rung costs in time. rows: the chunk that `start` would take.

    dropout: see `halved`.
    """
    yield start
    now = start
    while rows > 64:  # matrix products of fewer rows read the head more often than they use it
        rows //= 2
        now = replace(now, rows_per_chunk=rows)
        yield now
    while now.micro_batch > 1 and not dropout:
        now = replace(now, micro_batch=now.micro_batch // 2)
        yield now
    if gpu:
        now = replace(now, teacher_rows="host")
        yield now
    if not now.gradient_checkpointing and not dropout:
        now = replace(now, gradient_checkpointing=True)
        yield now
    now = replace(now, teacher_rows="recomputed")
    yield now
    if gpu and not shared:
        now = replace(now, teacher="offloaded")
        yield now
    while rows > 1:
        rows //= 2
        now = replace(now, rows_per_chunk=rows)
        yield now


def choose(
    peak_of: Callable[[Execution], tuple[str, int]],
    start: Execution,
    rows: int,
    limit: int,
    *,
    gpu: bool,
    shared: bool,
    what: str,
    dropout: bool = False,
) -> Execution:
    """The mildest execution whose predicted peak is within `limit` bytes; each rung is taken back as far as it goes.

    peak_of: execution to (name of its fullest phase, bytes). Raises ConfigError with the smallest peak when nothing is enough.
    """
    best, rungs = start, list(ladder(start, rows, gpu=gpu, shared=shared, dropout=dropout))
    for best in rungs:
        if peak_of(best)[1] <= limit:
            break
    else:
        phase, size = min((peak_of(rung) for rung in rungs), key=lambda found: found[1])
        raise ConfigError(
            f"--memory-limit {_size(limit)}: {what} takes at least {_size(size)} in phase {phase}, whatever the execution; "
            f"raise the limit, or change the protocol (training.rollout_batch, evaluation.batch, lora.rank, model.student_dtype)"
        )
    for name in ("rows_per_chunk", "micro_batch", "teacher_rows", "gradient_checkpointing"):  # what a later rung made unnecessary
        milder = replace(best, **{name: getattr(start, name)})
        if peak_of(milder)[1] <= limit:
            best = milder
    return best


def parse_size(text: str, option: str = "--memory-limit") -> int:
    """`6GiB`, `6G`, `500MB`, `24e9` in bytes; G is GiB, GB is 10^9. Raises ConfigError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:[eE]\d+)?)\s*([A-Za-z]*)\s*", text)
    if not found or found[2].lower() not in UNITS or float(found[1]) <= 0:
        raise ConfigError(f"{option} {text!r}: not a size; write a number with a unit, as in 6GiB or 500MB")
    return int(float(found[1]) * UNITS[found[2].lower()])


def settle(folder: Path, execution: Execution, limit: int | None = None) -> Execution:
    """The execution of the run in `folder`: the stored one if it began before, else this one, stored.

    A limit in bytes that the run did not begin with replaces what was stored: whoever gives it wants less than the last try took.
    """
    path = folder / STORED
    if path.exists():
        stored = read_json(path)
        before = stored.pop("limit_bytes", None)
        if limit is None or limit == before:
            return Execution(**{key: value for key, value in stored.items() if key != "schema"})
        print(f"executed within {_size(limit)} from here on: {words_of(execution)}", file=sys.stderr)
    store(folder, execution, limit)
    return execution


def store(folder: Path, execution: Execution, limit: int | None = None) -> None:
    """What a resumed run goes on with: also when a GPU ran out of memory and the execution was halved on the way."""
    write_json(folder / STORED, {"schema": 1, **asdict(execution), "limit_bytes": limit})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU refused an allocation."""
    import torch

    text = str(error) if isinstance(error, RuntimeError) else ""  # the driver and cuBLAS have words of their own
    said = any(words in text for words in ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"))
    return said or isinstance(error, torch.OutOfMemoryError)


def with_retries(step: Callable[[Execution], T], execution: Execution, *, dropout: bool = False) -> tuple[T, Execution]:
    """`step` of an execution, or of the first halved one that fits the GPU; its draws are derived from the step, so it may be repeated.

    Raises UserError when the smallest does not fit either.
    """
    while True:
        try:
            return step(execution), execution
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            smaller = halved(execution, dropout=dropout)
            if smaller is None:
                raise UserError(
                    f"the GPU is out of memory with the smallest execution ({words_of(execution)}); set model.student_dtype=bfloat16, "
                    f"lora.rank=16 or a shorter training.max_response_tokens"
                ) from error
        print(f"out of memory: {words_of(execution)} becomes {words_of(smaller)}, the step is repeated", file=sys.stderr)
        _release()
        execution = smaller


def _release() -> None:
    """What the failed attempt left behind, once its frames are gone."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def report(folder: Path, allowance: Allowance, measured: Mapping[str, int], execution: Execution) -> None:
    """memory.json and a line or more in the log: bytes predicted from shapes, bytes measured in the second step, by phase."""
    predicted = allowance.predicted
    write_json(folder / COMPARED, {
        "schema": 1, "execution": asdict(execution), "limit_bytes": allowance.limit,
        "phases": {name: {"predicted_bytes": predicted.get(name), "measured_bytes": measured[name]} for name in measured},
    })  # fmt: skip
    for line in compare(predicted, measured, allowance.limit):
        print(line, file=sys.stderr)


def compare(predicted: Mapping[str, int], measured: Mapping[str, int], limit: int | None = None) -> list[str]:
    """Sentences: both peaks, then each phase that takes far more than predicted, and the limit where it is passed."""
    shared = [name for name in measured if name in predicted]
    if not shared:
        return []
    fullest = max(shared, key=lambda name: measured[name])
    lines = [f"memory: {_size(measured[fullest])} in {fullest}, {_size(max(predicted[name] for name in shared))} predicted"]
    lines += [
        f"warning: phase {name} takes {_size(measured[name])}, {measured[name] / predicted[name]:.1f} times what was predicted"
        for name in shared if measured[name] > max(OFF * predicted[name], predicted[name] + TINY_PHASE)
    ]  # fmt: skip
    if limit is not None and measured[fullest] > limit:
        lines.append(f"warning: {_size(measured[fullest])} is more than the limit of {_size(limit)}; set it lower by as much")
    return lines


def words_of(execution: Execution) -> str:
    """What is not as usual in it, as key=value."""
    default: dict[str, Any] = asdict(Execution(0))
    changed = [f"{key}={value}" for key, value in asdict(execution).items() if value != default[key]]
    return " ".join(changed)


def _size(number: float) -> str:
    return f"{number / 2**30:.2f} GiB"
