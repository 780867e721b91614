"""Which settings of a protocol make it fit a device, the mildest first."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from selbench.devices import Device
from selbench.estimate import USABLE, Shape, Work, peak

__all__ = ["CHANGES", "Change", "nearest_fit"]


def _halves(number: int) -> list[int]:
    return [] if number <= 1 else [number // 2, *_halves(number // 2)]


@dataclass(frozen=True)
class Change:
    """One key of a protocol that takes less memory at other values, the mildest first; `harmless` ones leave the result as it is.

    Those that redraw leave its distribution as it is: sequences that are generated together share a stream of random numbers.
    """

    key: str
    field: str
    options: Callable[[Work], list[Any]]
    harmless: bool = False
    redraws: bool = False


CHANGES = (  # in the order in which they are tried
    Change("training.micro_batch", "micro_batch", lambda w: _halves(w.micro_batch), True),
    Change("evaluation.batch", "evaluation_batch", lambda w: _halves(w.evaluation_batch), True, True),
    Change("training.rollout_batch", "rollout_batch", lambda w: _halves(min(w.rollout_batch, w.responses)), True, True),
    Change("training.gradient_checkpointing", "checkpointed", lambda w: [] if w.checkpointed else [True], True),
    Change("model.teacher_dtype", "teacher_dtype", lambda w: ["bfloat16"] if w.teacher_dtype == "float32" and not w.shared else []),
    Change("lora.rank", "lora_rank", lambda w: [] if w.lora_rank else [16]),
    Change("model.student_dtype", "student_dtype", lambda w: ["bfloat16"] if w.student_dtype == "float32" and not w.shared else []),
    Change("training.prompts_per_step", "prompts", lambda w: _halves(w.prompts)),
    Change("training.max_response_tokens", "response_tokens", lambda w: [n for n in _halves(w.response_tokens) if n >= 512]),
)


def nearest_fit(work: Work, student: Shape, teacher: Shape, device: Device, keys: Collection[str]) -> list[tuple[Change, Any]] | None:
    """The mildest values of `keys` with which the work fits the device: [] when it fits as it is, None when nothing is enough.

    Changes are added at their strongest in the order of CHANGES until it fits, then each is relaxed as far as it goes, the
    last one first.
    """
    room = USABLE * device.memory
    used: list[tuple[Change, list[Any]]] = []
    current = work
    for change in CHANGES:
        if peak(current, student, teacher, device) <= room:
            break
        options = change.options(current) if change.key in keys else []
        if options:
            used.append((change, [getattr(work, change.field), *options]))
            current = replace(current, **{change.field: options[-1]})
    if peak(current, student, teacher, device) > room:
        return None
    for change, options in reversed(used):
        fitting = (replace(current, **{change.field: option}) for option in options)
        current = next(trial for trial in fitting if peak(trial, student, teacher, device) <= room)
    return [(change, getattr(current, change.field)) for change, options in used if getattr(current, change.field) != options[0]]
