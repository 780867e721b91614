"""`selbench verify`: is a published folder what was published, and do its numbers follow from its records?

In this order: every byte by its hash; the records of every run (selbench/publishing/audit.py); the verdicts, by the grader; the
tables, made again in a folder of their own and compared byte for byte. Pictures are held to their hash alone: another release
of the drawing library draws other bytes. Where a hash fails nothing is computed from the folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selbench import leaderboard
from selbench.errors import ConfigError, UserError
from selbench.outcomes import read_plan
from selbench.publishing.audit import Audit, audit
from selbench.publishing.judged import contradictions, episodes_again, grading_seconds, judge_again
from selbench.publishing.layout import MANIFEST, TABLES, expected, hash_file, read_manifest, sorted_files

__all__ = ["NOT_VERIFIABLE", "Report", "verify", "verify_folder"]

NOT_VERIFIABLE = f"not verifiable: no {MANIFEST}"


@dataclass
class Report:
    """One folder: `lines` of what was compared, `problems`, a sentence each; verifiable: whether there is a manifest."""

    folder: Path
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    verifiable: bool = True


def verify(places: list[Path], *, grade: bool = True) -> list[Report]:
    """A report on each published folder among `places` or directly below them. Folders without manifest are in it as not verifiable;
    one that was itself asked for and neither has a manifest nor holds a folder of results is a problem.

    Raises ConfigError for a place that does not exist.
    """
    if absent := [place for place in places if not place.is_dir()]:
        raise ConfigError(*(f"{place}: no such folder; give results/ or a folder in it" for place in absent))
    reports: list[Report] = []
    for place in places:
        below = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
        if _is_collection(place, below):
            for path in below:
                if (path / MANIFEST).exists():
                    reports.append(verify_folder(path, grade=grade))
                else:
                    reports.append(Report(path, verifiable=False))
        else:
            reports.append(verify_folder(place, grade=grade))
    return reports


def _is_collection(place: Path, below: list[Path]) -> bool:
    """Whether `place` holds folders of results rather than being one."""
    if (place / MANIFEST).exists() or (place / "plan.json").exists():
        return False
    return place.name == "results" or any((path / name).exists() for path in below for name in (MANIFEST, "plan.json"))


def verify_folder(folder: Path, *, grade: bool = True) -> Report:
    """Everything about one published folder. Reads and computes; writes nothing in it."""
    report = Report(folder)
    if not (folder / MANIFEST).exists():
        report.problems.append(f"{NOT_VERIFIABLE}; `selbench publish` writes one")
        report.verifiable = False
        return report
    try:
        manifest = read_manifest(folder)
        report.problems += _bytes(folder, manifest["files"])
        held = len(manifest["files"])
        report.lines.append(f"files    {held - len(report.problems)} of {held} as in the manifest")
        if report.problems:
            return report
        plan = read_plan(folder)
        found = audit(folder, plan)
        report.problems += [*found.problems, *_facts(found, plan, manifest)]
        report.lines.append(f"records  {found.runs} of {len(expected(plan))} runs, {found.answers.total():,} answers")
        if report.problems:
            return report
        if grade:
            _verdicts(report, plan)
        _tables(report)
    except UserError as error:
        report.problems += [" ".join(text.replace(f"{folder}/", "").split()) for text in error.problems]
    return report


def _bytes(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Files that are lost, changed, or not of the publication."""
    there = sorted_files(folder)
    problems = [f"{name}: in the manifest, but not there" for name in files if name not in set(there)]
    for name in there:
        path = folder / name
        if name not in files:
            problems.append(f"{name}: not in the manifest")
        elif path.is_symlink() or not path.is_file():
            problems.append(f"{name}: a link or no regular file")
        elif (found := hash_file(path)) != files[name].get("sha256"):
            problems.append(f"{name}: changed, its SHA-256 is {found[:12]}, in the manifest {str(files[name].get('sha256'))[:12]}")
    return problems


def _facts(found: Audit, plan: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    """What the manifest says of the runs beside the hashes."""
    problems = [f"{MANIFEST}: {name} is not what the runs say" for name, value in found.facts(plan).items() if manifest.get(name) != value]
    if plan.get("dirty", []) != found.dirty:
        problems.append("plan.json: dirty does not name the runs whose passports have no clean commit")
    return problems


def _verdicts(report: Report, plan: Mapping[str, Any]) -> None:
    moved = judge_again(report.folder, plan, grading_seconds(report.folder, plan))
    acted, unjudged = episodes_again(report.folder, plan)
    wrong = [*contradictions(moved), *acted]
    report.problems += wrong
    older = sum(not one.same_grader for one in moved)
    other = f"; {older} are of an older grader" if older else ""
    report.lines.append(f"verdicts {len(wrong)} are not those of the grader{other}")
    report.lines += [f"         not judged again: {sentence}" for sentence in unjudged]


def _tables(report: Report) -> None:
    """Made again from the records into a temporary folder, and compared."""
    board = leaderboard.collect(report.folder)
    report.problems += board.problems
    same = 0
    with tempfile.TemporaryDirectory() as place:
        for path in leaderboard.write(board, Path(place)):
            stored = report.folder / path.name
            ours, theirs = stored.read_bytes() if stored.exists() else b"", path.read_bytes()
            same += ours == theirs
            if ours != theirs:
                lines = zip([*ours.split(b"\n"), None], [*theirs.split(b"\n"), None], strict=False)
                number = next((n for n, (one, other) in enumerate(lines, 1) if one != other), 1)
                report.problems.append(f"{path.name}: differs from line {number} on when it is made again from the records")
    report.lines.append(f"tables   {same} of {len(TABLES)} byte for byte when made again")
