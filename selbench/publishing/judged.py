"""Stored answers judged again: which verdicts the grader would now give otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selbench.errors import UserError
from selbench.grading import GRADER, Grade, grade_many
from selbench.publishing.layout import expected
from selbench.records import EPISODES, read_json, read_table, write_json, write_table

__all__ = ["Judged", "contradictions", "episodes_again", "grading_seconds", "judge_again", "rewrite"]

ATTEMPTS = ("timeout", "error")  # depend on the machine's load: neither side of such a difference is wrong
CLOSE = 1e-9  # of mean scores
FIELDS = ("verdict", "extracted", "method", "grader")


@dataclass(frozen=True)
class Judged:
    """An answer whose record is not what the grader says now. file: relative; row: from 0; stored: its fields; now: the grade."""

    file: str
    row: int
    problem: str
    sample: int
    stored: Mapping[str, Any]
    now: Grade

    @property
    def same_grader(self) -> bool:
        """Whether the record claims to be this grader's: then one of the two is wrong."""
        return bool(self.stored["grader"] == GRADER)

    def sentence(self) -> str:
        stored, now = self.stored["verdict"], self.now.verdict
        what = f"verdict {stored}" if stored != now else f"extracted answer {self.stored['extracted']!r}"
        finds = now if stored != now else repr(self.now.extracted)
        return f"{self.file}: problem {self.problem}, sample {self.sample}: {what} is stored, {GRADER} finds {finds}"


def judge_again(folder: Path, plan: Mapping[str, Any], timeout: float, progress: Callable[[int, int], None] | None = None) -> list[Judged]:
    """Every stored answer of the planned runs, graded from response and gold answer; those whose verdict or extracted answer moved.

    timeout: seconds for one comparison, the protocol's. A verdict that was or is a timeout or an error counts as moved only where
    the record is an older grader's or the new verdict is a decided one.
    """
    places = [f"{run.folder}/eval/{task}" for run in expected(plan) for task in plan["tasks"]]
    files = [f"{place}/samples.parquet" for place in places if not (folder / place / EPISODES).exists()]
    rows = [(name, place, row) for name in files for place, row in enumerate(read_table(folder / name).to_dict("records"))]
    grades = grade_many([(row["response"], row["gold"], row["finish"] == "length") for *_, row in rows], timeout=timeout, progress=progress)
    moved = []
    for (name, place, row), grade in zip(rows, grades, strict=True):
        stored = {key: None if row[key] != row[key] else row[key] for key in FIELDS}  # a missing text is read as NaN
        if (stored["verdict"], stored["extracted"]) == (grade.verdict, grade.extracted) and stored["grader"] == GRADER:
            continue
        if stored["grader"] == GRADER and grade.verdict in ATTEMPTS:
            continue
        moved.append(Judged(name, place, str(row["problem"]), int(row["sample"]), stored, grade))
    return moved


def grading_seconds(folder: Path, plan: Mapping[str, Any]) -> float:
    """The protocol's time limit for one comparison."""
    run, task = expected(plan)[0], plan["tasks"][0]
    return float(read_json(folder / run.folder / "eval" / task / "meta.json")["settings"]["grader_timeout_seconds"])


def episodes_again(folder: Path, plan: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Stored episodes judged by their own task: a sentence for each evaluation that says otherwise, and for each that cannot be judged
    here (another version of the judge, or its database is not at hand)."""
    from selbench.arena import played_below, rescore

    wrong, unjudged = list[str](), list[str]()
    for place in played_below([folder / run.folder for run in expected(plan)]):
        name = (place / "samples.parquet").relative_to(folder).as_posix()
        try:
            found = rescore(place)
        except UserError as error:
            unjudged.append(f"{name}: {error.problems[0]}")
            continue
        if set(read_table(place / "samples.parquet")["grader"]) != {found["grader"]}:
            unjudged.append(f"{name}: not by {found['grader']}")
        elif found["moved"] or abs(found["score"] - found["score_before"]) > CLOSE:
            wrong.append(f"{name}: {found['moved']} verdicts and the mean score are not those of {found['grader']}")
    return wrong, unjudged


def contradictions(moved: Sequence[Judged]) -> list[str]:
    """A sentence for each record that claims to be this grader's and is not."""
    return [one.sentence() for one in moved if one.same_grader and one.stored["verdict"] not in ATTEMPTS]


def rewrite(folder: Path, moved: Sequence[Judged]) -> int:
    """Put the new grades into the records and the accuracy beside them; returns how many verdicts changed."""
    for name in dict.fromkeys(one.file for one in moved):
        rows = read_table(folder / name).to_dict("records")
        for one in (one for one in moved if one.file == name):
            rows[one.row] |= {"verdict": one.now.verdict, "extracted": one.now.extracted, "method": one.now.method, "grader": GRADER}
        write_table(folder / name, rows)  # type: ignore[arg-type]
        meta = (folder / name).with_name("meta.json")
        graders = "/".join(sorted({str(row["grader"]) for row in rows}))
        right = sum(row["verdict"] == "correct" for row in rows)
        write_json(meta, read_json(meta) | {"accuracy": right / len(rows), "grader": graders})
    return sum(one.stored["verdict"] != one.now.verdict for one in moved)
