"""The command behind `selbench grade`: read stored outputs, grade them, compare, write, and on demand put the verdicts back."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selbench.errors import ConfigError, nearest
from selbench.grading import GRADER, GRADERS, Grade, grade_many
from selbench.records import SAMPLE_COLUMNS, read_json, read_table, write_json, write_table, write_text
from selbench.regrade.comparison import OURS, Grades, compare, disagreements
from selbench.regrade.outputs import Record, read_outputs
from selbench.regrade.tables import markdown

__all__ = ["Report", "regrade", "update"]

FILES = ("grades.json", "grades.md", "disagreements.jsonl")


@dataclass(frozen=True)
class Report:
    """content: of grades.json; disagreements: the lines of disagreements.jsonl; written: the three files."""

    content: dict[str, Any]
    disagreements: list[dict[str, Any]]
    written: tuple[Path, ...]


def regrade(
    paths: Sequence[Path], *, graders: Sequence[str] | None = None, output: Path | None = None, rewrite: bool = False, by: str = "cell",
    workers: int | None = None, timeout: float = 5.0, quiet: bool = False,
) -> Report:  # fmt: skip
    """Grade stored outputs with several graders and write the three files.

    graders: names, None for all. output: a folder, None for the first path's own. rewrite: put the verdicts of the sympy grader into
    the samples.parquet they were read from. timeout: seconds for one comparison. Raises ConfigError before anything is graded.
    """
    names = list(dict.fromkeys(GRADERS if graders is None else graders))
    unknown = [f"--graders: unknown grader {name!r}: {nearest(name, GRADERS)}" for name in names if name not in GRADERS]
    if unknown or not names:
        raise ConfigError(*unknown or [f"--graders: none given; known: {', '.join(GRADERS)}"])
    if not timeout > 0:
        raise ConfigError(f"--timeout {timeout:g}: not more than 0 seconds")
    records = read_outputs(paths, by=by)
    folder = output or (paths[0] if paths[0].is_dir() else paths[0].parent)
    sources = list(dict.fromkeys(record.source for record in records))
    own = [path for path in sources if path.resolve() in {(folder / name).resolve() for name in FILES}]
    if own:
        raise ConfigError(f"{own[0]}: would be overwritten by what is written; choose another --output")
    if rewrite:
        _refuse_update(sources, names)
    _refuse_folder(folder)
    grades = _grade_all(records, names, workers, timeout, quiet)
    content = compare(records, grades) | {"timeout_seconds": timeout, "by": by}
    differing = disagreements(records, grades)
    if rewrite:
        content["update"] = update(records, grades[OURS])
    write_json(folder / FILES[0], content)
    write_text(folder / FILES[1], markdown(content, differing))
    write_text(folder / FILES[2], "".join(json.dumps(row, sort_keys=True) + "\n" for row in differing))
    return Report(content, differing, tuple(folder / name for name in FILES))


def _grade_all(records: Sequence[Record], names: Sequence[str], workers: int | None, timeout: float, quiet: bool) -> Grades:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    items = [(record.response, record.gold, bool(record.truncated)) for record in records]
    grades: Grades = {}
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as shown:
        for name in names:
            bar = shown.add_task(name, total=len(items))

            def advance(done: int, total: int, bar: Any = bar) -> None:
                shown.update(bar, completed=done, total=total)

            grades[name] = grade_many(items, grader=name, workers=workers, timeout=timeout, progress=advance)
            if len(grades[name]) != len(items):
                raise RuntimeError(f"grader {name}: {len(grades[name])} verdicts for {len(items)} records")
    return grades


def _refuse_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ({error.strerror}); choose another --output") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder}: not writable; choose another --output")


def _refuse_update(sources: Sequence[Path], names: Sequence[str]) -> None:
    problems = [] if OURS in names else [f"--update writes the verdicts of the {OURS} grader; add it to --graders"]
    for source in sources:
        whole = source.name == "samples.parquet" and (source.parent / "meta.json").is_file()
        if not whole or not set(SAMPLE_COLUMNS) <= set(read_table(source).columns):
            problems.append(f"--update rewrites the samples.parquet of evaluations, with their meta.json beside; {source} is not one")
    if problems:
        raise ConfigError(*problems)


def update(records: Sequence[Record], judged: Sequence[Grade]) -> list[dict[str, Any]]:
    """Put new verdicts into the samples.parquet they were read from, and the accuracy into meta.json; says what changed.

    Each file is written beside and renamed. Raises ConfigError when a file is no longer what was graded.
    """
    changes = []
    for source in dict.fromkeys(record.source for record in records):
        chosen = [i for i, record in enumerate(records) if record.source == source]
        rows = read_table(source).to_dict("records")
        if [(row["response"], row["gold"]) for row in rows] != [(records[i].response, records[i].gold) for i in chosen]:
            raise ConfigError(f"{source}: changed while it was graded; run again")
        moved, before = 0, sum(row["verdict"] == "correct" for row in rows)
        versions = sorted({str(row["grader"]) for row in rows})
        for row, grade in zip(rows, (judged[i] for i in chosen), strict=True):
            moved += row["verdict"] != grade.verdict
            row |= {"verdict": grade.verdict, "extracted": grade.extracted, "method": grade.method, "grader": GRADER}
        after = sum(row["verdict"] == "correct" for row in rows)
        meta = read_json(source.parent / "meta.json")
        write_table(source, rows)  # type: ignore[arg-type]
        write_json(source.parent / "meta.json", meta | {"accuracy": after / len(rows), "grader": GRADER})
        changes.append({"path": str(source), "records": len(rows), "moved": moved, "graders_before": versions,
                        "accuracy_before": before / len(rows), "accuracy_after": after / len(rows)})  # fmt: skip
    return changes
