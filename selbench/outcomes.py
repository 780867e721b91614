"""Finished runs as numbers: the answers of a cell on a task, with what its training cost. What cannot be read is named, never guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from selbench import costs, records
from selbench.errors import RecordError

__all__ = ["RECALLS", "Reader", "Run", "measured", "read_evaluation", "read_plan", "union"]

RECALLS = ("planted_recall", "planted_recall_overconfident", "planted_recall_uncertain")
PLAN = ("protocol", "fingerprint", "command", "pairs", "tasks", "seeds", "cells")


@dataclass(frozen=True)
class Run:
    """One finished cell on one task, or on a pool of tasks.

    shares: (P,) share of the k samples right, by problem id, ids in order. samples: k, None where the tasks of a pool differ in it.
    """

    shares: pd.Series
    samples: int | None
    numbers: dict[str, float]
    meta: dict[str, Any]


def read_plan(folder: Path) -> dict[str, Any]:
    """plan.json of a protocol's folder. Raises RecordError when it is missing, torn, newer, incomplete, or lists a cell twice."""
    path = folder / "plan.json"
    plan = records.read_json(path)
    if absent := [name for name in PLAN if name not in plan]:
        raise RecordError(f"{path}: no {', '.join(absent)} in it; run the protocol's command again")
    folders = [cell["folder"] for cell in plan["cells"]]
    if twice := sorted({name for name in folders if folders.count(name) > 1}):
        raise RecordError(f"{path}: lists {', '.join(twice)} more than once; keep one entry of each")
    margins = plan.get("margins", {})
    if wrong := [f"{task} {value}" for task, value in margins.items() if not (isinstance(value, int | float) and 0 < value < 100)]:
        raise RecordError(f"{path}: margins are points between 0 and 100, not {', '.join(wrong)}")
    for pool, members in plan.get("pools", {}).items():
        if pool in plan["tasks"] or len(set(members)) < 2 or not set(members) <= set(plan["tasks"]):
            raise RecordError(f"{path}: the pool {pool} is not of two or more of its tasks; run the protocol's command again")
    return plan


def measured(plan: Mapping[str, Any]) -> list[str]:
    """What has rows of its own in the leaderboard: the tasks of a plan, then its pools of tasks."""
    return [*plan["tasks"], *plan.get("pools", {})]


class Reader:
    """Reads the runs of one protocol folder. `problems`: a sentence for each that cannot be read, in the order of reading."""

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder, self.fingerprint = folder, plan["fingerprint"]
        self.pools: Mapping[str, Sequence[str]] = plan.get("pools", {})
        self.problems: list[str] = []
        self._known: dict[tuple[str, str, str], Run | str] = {}
        self._first: dict[tuple[str, str], Run] = {}
        self._trained: dict[str, dict[str, float]] = {}

    def read(self, pair: str, task: str, cell: str) -> Run | str:
        """The run, or why there is none: "missing", "failed" or "unreadable". The first of a pair and task sets the problems of all.

        Of a pool: the union of its tasks' problems, if all of its tasks are there.
        """
        key = pair, task, cell
        if key not in self._known:
            members = self.pools.get(task)
            self._known[key] = self._pooled(pair, members, cell) if members else self._read(pair, task, cell)
        return self._known[key]

    def _pooled(self, pair: str, members: Sequence[str], cell: str) -> Run | str:
        found = {task: self.read(pair, task, cell) for task in members}
        runs = {task: run for task, run in found.items() if isinstance(run, Run)}
        words = [word for word in found.values() if isinstance(word, str)]
        return words[0] if words else union(runs, self._trained.get(cell, {}))

    def _read(self, pair: str, task: str, cell: str) -> Run | str:
        path = self.folder / cell
        try:
            if not records.is_done(path, fingerprint=self.fingerprint):
                if (path / "DONE").exists():
                    raise RecordError(f"{path / 'DONE'}: finished under another protocol fingerprint; run it again")
                if not (path / "FAILED.json").exists():
                    return "missing"
                self._note(f"{path}: failed with {records.read_json(path / 'FAILED.json').get('error', 'an unnamed error')}")
                return "failed"
            if path.name not in records.BASE and cell not in self._trained:
                self._trained[cell] = _training(path / "metrics.jsonl")
            run = read_evaluation(path / "eval" / task, self._trained.get(cell, {}))
            first = self._first.setdefault((pair, task), run)
            if not (run.samples == first.samples and run.shares.index.equals(first.shares.index)):
                raise RecordError(f"{path / 'eval' / task}: other problems or samples than the first run of this task; evaluate again")
        except RecordError as error:
            self._note(str(error))
            return "unreadable"
        except (KeyError, TypeError) as error:
            self._note(f"{path}: a record of another shape ({type(error).__name__}: {error}); delete its folder and run again")
            return "unreadable"
        return run

    def _note(self, sentence: str) -> None:
        """One line, once, without the place of the runs on this machine."""
        line = " ".join(sentence.replace(f"{self.folder}/", "").split())
        if line not in self.problems:
            self.problems.append(line)


def _training(path: Path) -> dict[str, float]:
    steps = records.read_metrics(path)
    if not steps or [step["step"] for step in steps] != list(range(1, len(steps) + 1)):
        raise RecordError(f"{path}: not the steps 1, 2, ... of a finished run; delete its folder and run again")
    frame = pd.DataFrame(steps)
    numbers = costs.of_training(steps, path.parent)
    numbers["kept_percent"] = 100 * float(frame["kept"].sum() / frame["tokens"].sum())
    numbers |= {f"{name}_percent": 100 * float(frame[name].astype(float).mean()) for name in RECALLS if name in frame}
    return numbers


def read_evaluation(path: Path, training: Mapping[str, float] | None = None) -> Run:
    """Accuracy from the verdicts in a task's folder (from the scores where a task has them), over all n·k answers.

    training: what else is known of the cell, as numbers. Raises RecordError unless exactly n·k answers are there.
    """
    file = path / "samples.parquet"
    meta, rows = records.read_json(path / "meta.json"), _answers(file)
    n, k = int(meta["problems"]), int(meta["samples"])
    if unknown := sorted(set(rows["verdict"]) - set(records.VERDICTS)):
        raise RecordError(f"{file}: unknown verdicts {', '.join(map(str, unknown))}; evaluate again")
    if (twice := rows[rows.duplicated(["problem", "sample"])]).size:
        problem, sample = twice.iloc[0][["problem", "sample"]]
        raise RecordError(f"{file}: {len(twice)} answers stand there twice, the first is sample {sample} of {problem}; evaluate again")
    right = records.worth(rows)
    shares = right.groupby(rows["problem"].astype(str)).agg(["mean", "size"])
    if len(rows) != n * k or len(shares) != n or (shares["size"] != k).any():
        raise RecordError(f"{file}: {len(rows)} answers where {n} problems x {k} samples are due; evaluate again")
    counted = rows["verdict"].value_counts(normalize=True)
    truncated = float(counted.get("truncated", 0.0))
    ungraded = float(sum(counted.get(word, 0.0) for word in records.VERDICTS if word not in ("correct", "incorrect", "truncated")))
    numbers = dict(training or {}) | {"accuracy_percent": 100 * float(np.mean(right)), "truncated_percent": 100 * truncated}
    numbers |= {"ungraded_percent": 100 * ungraded, **costs.with_evaluation(training or {}, meta)}
    return Run(shares["mean"], k, numbers, meta)


def union(runs: Mapping[str, Run], training: Mapping[str, float]) -> Run:
    """The runs of one cell on several tasks as one: every problem counts the same, whatever task it is of."""
    shares = pd.concat([run.shares.set_axis([f"{task}/{problem}" for problem in run.shares.index]) for task, run in runs.items()])
    samples = {run.samples for run in runs.values()}
    sizes, metas = [len(run.shares) for run in runs.values()], [run.meta for run in runs.values()]
    meta: dict[str, Any] = {name: ", ".join(sorted({str(each.get(name, "")) for each in metas})) for name in ("grader", "engine")}
    meta["seconds"] = sum(float(each["seconds"]) for each in metas)
    meta["peak_memory_bytes"] = max(each.get("peak_memory_bytes") or 0 for each in metas)
    numbers = dict(training) | costs.with_evaluation(training, meta)
    for name in ("accuracy_percent", "truncated_percent", "ungraded_percent"):
        numbers[name] = float(np.average([run.numbers[name] for run in runs.values()], weights=sizes))
    return Run(shares, samples.pop() if len(samples) == 1 else None, numbers, meta)


def _answers(path: Path) -> pd.DataFrame:
    """What is counted; the texts beside it can be thousands of times as large and stay on disk."""
    try:
        wanted = ["problem", "sample", "verdict"]
        return pd.read_parquet(path, columns=[*wanted, *({"score"} & set(pq.read_schema(path).names))])
    except Exception as error:  # pyarrow raises its own types, OSError and ValueError alike
        raise RecordError(f"{path}: not readable as Parquet ({error}); delete its folder and run again") from error
