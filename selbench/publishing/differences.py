"""Where two executions of one cell part: each level compared, in the order in which one causes the next.

What was given (code, packages, machine, data, weights, prompts) is read from the passports, what came out (tokens, signals, metrics,
selection, final weights, answers) from the records. Seconds and measured memory are no outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from selbench.provenance import hash_folder
from selbench.records import read_metrics, read_table

__all__ = ["GIVEN", "Level", "first_difference", "given", "outcome"]

GIVEN = ("config", "data", "weights", "prompts")  # another one of these is another experiment; code, packages and machine may differ
MEASURED = ("seconds", "peak_bytes", "peak_memory_bytes")  # of a step's record: differ between any two executions
MACHINE = ("processor", "gpus", "threads", "engine")
ROLLOUT = ("sample", "position", "token")
ABSENT = "not in both records"
AFTER_TRAINING = (2, 10**9)  # later than any step


@dataclass(frozen=True)
class Level:
    """One thing compared. same: None where one side has no record of it; order: what comes first in time; detail: how it differs."""

    name: str
    same: bool | None
    detail: str = ""
    order: tuple[int, ...] = (0,)


def first_difference(levels: Iterable[Level]) -> Level | None:
    """The level that the others may follow from."""
    return min((level for level in levels if level.same is False), key=lambda level: level.order, default=None)


def given(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Level]:
    """Levels of two passports."""

    def told(read: Callable[[Mapping[str, Any]], Mapping[str, Any] | None], names: Sequence[str] | None = None) -> list[str]:
        return _changes(read(before) or {}, read(now) or {}, names)

    code = told(lambda side: side.get("code"), ("sources", "commit", "dirty"))
    if not told(lambda side: side.get("code"), ("sources",)):
        code = [f"{text}, same sources" for text in code]
    found = {
        "code": code,
        "packages": told(lambda side: {**(side.get("packages") or {}), "python": side.get("python")}),
        "machine": told(lambda side: {**(side.get("hardware") or {}), "engine": side.get("engine")}, MACHINE),
        "data": told(_data),
        "weights": told(lambda side: {role: model.get("sha256") for role, model in side["models"].items()}),
        "prompts": told(dict, ("prompt_sha256", "rendered_example")),
    }
    return [Level(name, not texts, "; ".join(texts), (1, place)) for place, (name, texts) in enumerate(found.items())]


def _data(passport: Mapping[str, Any]) -> dict[str, Any]:
    training = passport.get("training_prompts") or {}
    tasks = {f"task {name}": facts.get("rows_sha256") for name, facts in (passport.get("tasks") or {}).items()}
    return {"training prompts": training.get("sha256"), **tasks}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str] | None = None) -> list[str]:
    """`torch 2.13.0, now 2.14.0` for each name whose value moved."""
    keys = names or sorted({*before, *now})
    return [f"{key} {_brief(before.get(key))}, now {_brief(now.get(key))}" for key in keys if before.get(key) != now.get(key)]


def outcome(before: Path, now: Path, tasks: Sequence[str], trained: bool) -> list[Level]:
    """Levels of the records in two run folders."""
    levels = [*_tokens(before, now), _metrics(before, now), _selection(before, now), _final(before, now)] if trained else []
    return levels + [_answers(before, now, task, (3, place)) for place, task in enumerate(tasks)]


def _tokens(before: Path, now: Path) -> list[Level]:
    """Rollouts, and signals and kept tokens beside them, of the steps whose tokens are stored: the first and the last."""
    ours, theirs = (_table(side / "tokens.parquet") for side in (before, now))
    if ours is None or theirs is None:
        return [Level("tokens", None, ABSENT), Level("signals", None, ABSENT)]
    signals = [str(name) for name in ours if name not in (*ROLLOUT, "step")]
    parts: tuple[tuple[str, Sequence[str]], ...] = (("tokens", ROLLOUT), ("signals", signals))
    levels = []
    for part, (name, columns) in enumerate(parts):
        level = Level(name, True)
        for step in sorted(set(ours["step"])):
            one, other = (table[table["step"] == step].reset_index(drop=True) for table in (ours, theirs))
            if place := _first_cell(one, other, columns):
                row, column = place
                where = "" if row >= min(len(one), len(other)) else f" sample {one['sample'][row]}, position {one['position'][row]},"
                level = Level(name, False, f"step {step},{where} {_values(one, other, row, column)}", (2, int(step), part))
                break
        levels.append(level)
    return levels


def _metrics(before: Path, now: Path) -> Level:
    ours, theirs = ([_drop(row, MEASURED) for row in read_metrics(side / "metrics.jsonl")] for side in (before, now))
    for step, (one, other) in enumerate(zip(ours, theirs, strict=False), 1):
        if texts := [text for key in one if (text := "".join(_changes(one, other, [key])))]:
            return Level("metrics", False, f"step {step}, {'; '.join(texts[:3])}" + (" …" if len(texts) > 3 else ""), (2, step, 2))
    if len(ours) != len(theirs):
        return Level("metrics", False, f"{len(ours)} steps, now {len(theirs)}", (2, min(len(ours), len(theirs)) + 1, 2))
    return Level("metrics", True, f"{len(ours)} steps")


def _selection(before: Path, now: Path) -> Level:
    tables = [_table(side / "selection.parquet") for side in (before, now)]
    if tables[0] is None or tables[1] is None:
        return Level("selection", None, ABSENT)
    place = _first_cell(tables[0], tables[1], [str(name) for name in tables[0]])
    if place is None:
        return Level("selection", True)
    return Level("selection", False, f"step {place[0] + 1}, {_values(tables[0], tables[1], *place)}", (2, place[0] + 1, 3))


def _final(before: Path, now: Path) -> Level:
    """The trained weights, where both sides still have them: published folders do not."""
    folders = [side / "checkpoint" / "final" for side in (before, now)]
    if not all(folder.is_dir() for folder in folders):
        return Level("final weights", None, "no checkpoint beside the records")
    hashes = [hash_folder(folder, "*.safetensors") for folder in folders]
    if hashes[0] == hashes[1]:
        return Level("final weights", True)
    return Level("final weights", False, f"{hashes[0][:12]}, now {hashes[1][:12]}", AFTER_TRAINING)


def _answers(before: Path, now: Path, task: str, order: tuple[int, ...]) -> Level:
    ours, theirs = (read_table(side / "eval" / task / "samples.parquet") for side in (before, now))
    place = _first_cell(ours, theirs, [str(name) for name in ours])
    name = f"answers, {task}"
    if place is None:
        return Level(name, True, f"{len(ours)} answers", order)
    row, column = place
    where = "" if row >= min(len(ours), len(theirs)) else f"problem {ours['problem'][row]}, sample {ours['sample'][row]}, "
    return Level(name, False, where + _values(ours, theirs, row, column), order)


def _first_cell(ours: pd.DataFrame, theirs: pd.DataFrame, columns: Sequence[str]) -> tuple[int, str] | None:
    """Row and column of the first cell that differs, row by row; a missing row or column counts as one. NaN equals NaN."""
    if lost := [name for name in columns if name not in theirs or name not in ours]:
        return 0, lost[0]
    shared = min(len(ours), len(theirs))
    one, other = (table.loc[: shared - 1, list(columns)].reset_index(drop=True).astype(object) for table in (ours, theirs))
    unequal = ~((one == other) | (one.isna() & other.isna()))
    wrong = unequal.any(axis=1)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        return row, next(name for name in columns if unequal[name][row])
    return None if len(ours) == len(theirs) else (shared, "row")


def _values(ours: pd.DataFrame, theirs: pd.DataFrame, row: int, column: str) -> str:
    if column not in ours or column not in theirs or row >= min(len(ours), len(theirs)):
        return f"{len(ours)} rows, now {len(theirs)}" if column in ours or column == "row" else f"no column {column}"
    return f"{column} {_brief(ours[column][row])}, now {_brief(theirs[column][row])}"


def _table(path: Path) -> pd.DataFrame | None:
    return read_table(path) if path.exists() else None


def _drop(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in names}


def _brief(value: object) -> str:
    text = repr(value) if isinstance(value, str) and not value.isprintable() else str(value)
    if len(text) in (40, 64) and set(text) <= set("0123456789abcdef"):  # a commit or a SHA-256
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}…"
