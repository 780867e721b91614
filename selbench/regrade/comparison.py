"""Verdicts of several graders on the same records: scores, disagreements, ranks. Arithmetic only, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selbench.grading import GRADER, GRADERS, Grade
from selbench.records import VERDICTS
from selbench.regrade.outputs import Record
from selbench.stats import Interval, accuracy_interval, paired_interval

__all__ = ["OURS", "Grades", "compare", "disagreements"]

OURS = "sympy"  # the grader whose verdicts stand in records, as version GRADER
Grades = dict[str, list[Grade]]  # per grader, in the order of the records


@dataclass(frozen=True)
class _Counts:
    """One system on one task. runs (S,), problems (P,); asked (S, P): records; right (S, P) per grader: those it calls correct."""

    runs: list[str]
    problems: list[str]
    asked: NDArray[np.int64]
    right: dict[str, NDArray[np.int64]]

    def accuracy(self, grader: str) -> float:
        return int(self.right[grader].sum()) / int(self.asked.sum())

    def shares(self, grader: str) -> NDArray[np.float64]:
        """(S, P), their mean is the accuracy also where problems have different numbers of samples."""
        return self.right[grader] / self.asked.mean()


def compare(records: Sequence[Record], grades: Grades) -> dict[str, Any]:
    """What grades.json says of these verdicts, one list of grades per grader in the order of the records (see the module)."""
    names = list(grades)
    right = {name: np.array([grade.verdict == "correct" for grade in grades[name]]) for name in names}
    places: dict[tuple[str, str], list[int]] = {}
    for index, record in enumerate(records):
        places.setdefault((record.task, record.system), []).append(index)
    counts = {key: _count(records, right, places[key]) for key in sorted(places)}
    systems = [
        {"task": task, "system": system, "records": int(found.asked.sum()), "problems": len(found.problems), "runs": len(found.runs),
         "graders": {name: _score(found, name, [grades[name][i].verdict for i in places[task, system]]) for name in names}}
        for (task, system), found in counts.items()
    ]  # fmt: skip
    agreement = []
    for first, second in combinations(names, 2):
        only = [int((right[a] & ~right[b]).sum()) for a, b in ((first, second), (second, first))]
        agreement.append({"graders": [first, second], "differ": sum(only), "share": sum(only) / len(records),
                          "only_first": only[0], "only_second": only[1]})  # fmt: skip
    by_task: dict[str, dict[str, _Counts]] = {}
    for (task, system), found in counts.items():
        by_task.setdefault(task, {})[system] = found
    stored = _stored(records, grades.get(OURS))
    return {
        "schema": 1, "graders": {name: GRADERS[name] for name in names}, "records": len(records),
        "sources": [str(source) for source in dict.fromkeys(record.source for record in records)], "systems": systems,
        "agreement": agreement, "disagreements": len(disagreements(records, grades)), "stored": stored, "update": None,
        "ranks": [_ranks(task, found, names) for task, found in by_task.items() if len(found) > 1],
        "notes": _notes(records, by_task, stored),
    }  # fmt: skip


def disagreements(records: Sequence[Record], grades: Grades) -> list[dict[str, Any]]:
    """The records that one grader calls correct and another does not, in order, with what each made of them and where they stand."""
    return [
        {"task": record.task, "system": record.system, "run": record.run, "problem": record.problem, "sample": record.sample,
         "gold": record.gold, "verdicts": {name: found[index].verdict for name, found in grades.items()},
         "extracted": {name: found[index].extracted for name, found in grades.items()},
         "stored": record.stored and record.stored[0], "source": str(record.source), "row": record.row}
        for index, record in enumerate(records)
        if len({found[index].verdict == "correct" for found in grades.values()}) > 1
    ]  # fmt: skip


def _count(records: Sequence[Record], right: dict[str, NDArray[np.bool_]], places: Sequence[int]) -> _Counts:
    runs = sorted({records[i].run for i in places})
    problems = sorted({records[i].problem for i in places})
    row, column = ({name: place for place, name in enumerate(names)} for names in (runs, problems))
    at = ([row[records[i].run] for i in places], [column[records[i].problem] for i in places])
    asked = np.zeros((len(runs), len(problems)), np.int64)
    np.add.at(asked, at, 1)
    found = {name: np.zeros_like(asked) for name in right}
    for name, flags in right.items():
        np.add.at(found[name], at, flags[list(places)])
    return _Counts(runs, problems, asked, found)


def _score(found: _Counts, name: str, verdicts: Sequence[str]) -> dict[str, Any]:
    interval, method = _interval(found.right[name].tobytes(), found.asked.tobytes(), found.asked.shape)
    counted = Counter(verdicts)
    if stray := counted.keys() - set(VERDICTS):
        raise RuntimeError(f"grader {name} gave unknown verdicts: {', '.join(sorted(stray))}")
    return {"accuracy": found.accuracy(name), "low": interval.low, "high": interval.high, "interval": method,
            "verdicts": {verdict: counted[verdict] for verdict in VERDICTS}}  # fmt: skip


@lru_cache(maxsize=4096)  # graders mostly agree: the same counts come again and again
def _interval(right: bytes, asked: bytes, shape: tuple[int, int]) -> tuple[Interval, str]:
    correct, total = (np.frombuffer(data, np.int64).reshape(shape) for data in (right, asked))
    if correct.sum() in (0, total.sum()):  # nothing to resample
        return accuracy_interval(np.full((shape[1], 1), float(correct.sum() > 0)))
    if shape[0] == 1 and (total == total[0, 0]).all():
        return accuracy_interval(np.arange(total[0, 0]) < correct[0][:, None])
    shares = correct / total.mean()
    found = paired_interval(shares, np.zeros_like(shares))
    return Interval(found.mean, max(found.low, 0.0), min(found.high, 1.0)), "bootstrap over runs and problems"


@lru_cache(maxsize=4096)
def _difference(first: bytes, second: bytes, shape: tuple[int, int]) -> Interval:
    one, other = (np.frombuffer(data, np.float64).reshape(shape) for data in (first, second))
    return paired_interval(one, other)


def _ranks(task: str, systems: dict[str, _Counts], names: Sequence[str]) -> dict[str, Any]:
    from scipy.stats import kendalltau, rankdata

    accuracy = {name: np.array([found.accuracy(name) for found in systems.values()]) for name in names}
    order = {}
    for name in names:
        ranks = rankdata(-accuracy[name], method="min")
        listed = sorted(zip(ranks.tolist(), systems, strict=True))
        order[name] = [{"system": system, "rank": int(rank)} for rank, system in listed]
    tau = []
    for first, second in combinations(names, 2):
        both = float(kendalltau(accuracy[first], accuracy[second]).statistic)
        tau.append({"graders": [first, second], "tau": None if np.isnan(both) else both})
    changes = []
    for (i, first_system), (j, second_system) in combinations(enumerate(systems), 2):
        signs = {float(np.sign(accuracy[name][i] - accuracy[name][j])) for name in names}
        if len(signs) > 1:
            kind = "reversed" if {-1, 1} <= signs else "tie"
            gap = {name: _gap(systems[first_system], systems[second_system], name, kind) for name in names}
            swing = float(np.ptp([accuracy[name][i] - accuracy[name][j] for name in names]))
            changes.append((kind, -swing, {"systems": [first_system, second_system], "kind": kind, "difference": gap}))
    return {"task": task, "order": order, "tau": tau, "changes": [change for _, _, change in sorted(changes, key=lambda c: c[:2])]}


def _gap(first: _Counts, second: _Counts, name: str, kind: str) -> dict[str, float | None]:
    mean = first.accuracy(name) - second.accuracy(name)
    if kind == "tie" or first.problems != second.problems or len(first.runs) != len(second.runs):  # one tie alone leaves hundreds of pairs
        return {"mean": mean, "low": None, "high": None}
    found = _difference(first.shares(name).tobytes(), second.shares(name).tobytes(), first.asked.shape)
    return {"mean": mean, "low": found.low, "high": found.high}


def _stored(records: Sequence[Record], ours: Sequence[Grade] | None) -> list[dict[str, Any]]:
    versions = sorted({record.stored[1] for record in records if record.stored})
    held = [(record.stored, ours[i].verdict if ours else None) for i, record in enumerate(records) if record.stored]
    return [
        {"grader": version, "records": sum(stored[1] == version for stored, _ in held),
         "moved": sum(stored[1] == version and stored[0] != verdict for stored, verdict in held) if ours else None}
        for version in versions
    ]  # fmt: skip


def _notes(records: Sequence[Record], tasks: dict[str, dict[str, _Counts]], stored: Sequence[dict[str, Any]]) -> list[str]:
    notes = [
        f"{entry['records']} records were graded with {entry['grader']}, {OURS} is now {GRADER}"
        + ("" if entry["moved"] is None else f": {entry['moved']} verdicts differ")
        for entry in stored
        if entry["grader"] != GRADER
    ]
    unknown = sum(record.truncated is None for record in records)
    if unknown:
        notes.append(
            f"{unknown} records do not say whether they were cut at the length limit: a cut one counts as unparsed or incorrect here"
        )
    for task, systems in tasks.items():
        if len({tuple(found.problems) for found in systems.values()}) > 1:
            notes.append(f"{task}: the systems did not answer the same problems; their ranks compare different questions")
    golds: dict[tuple[str, str], set[str]] = {}
    for record in records:
        golds.setdefault((record.task, record.problem), set()).add(record.gold)
    several = sorted(key for key, found in golds.items() if len(found) > 1)
    if several:
        notes.append(f"{len(several)} problems have different gold answers in different records, first {several[0][0]} {several[0][1]!r}")
    return notes
