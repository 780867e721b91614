"""The benchmark's files for a shopping run: a copy of the databases to run on, the finished run, its reports and statistics.

database_run_{model}_level{L}_{runid}/case_{id}/                     the copy, with messages.json; never the original
database_infered/database_{model}_level{L}_{YYYYmmddHHMM}/          the finished run
result_report/database_{model}_level{L}_{YYYYmmddHHMM}/             summary_report.json, case_{id}_report.json
result_report/{model}_statistics.json                               the newest run of each level, and the total
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from selbench import ConfigError

from .. import data
from .score import across_levels, case_report, level_report
from .world import LEVELS, Json

__all__ = ["evaluate", "finish", "newest", "prepare", "statistics"]

FINISHED, REPORTS, SUMMARY = "database_infered", "result_report", "summary_report.json"
STAMP = re.compile(r"\d{12}")


def prepare(root: Path, model: str, level: int, run: str, cases: Iterable[str] | None = None) -> Path:
    """Copy a level's cases (all that are there, unless named) to run on. Raises ConfigError for a case without database or a used name."""
    place = root / f"database_run_{_plain(model)}_level{level}_{_plain(run)}"
    if place.exists():
        raise ConfigError(f"{place}: this run exists; name another run or remove the folder")
    sources = [data.database("shopping", level, case) for case in (data.present("shopping", level) if cases is None else cases)]
    for source in sources:
        for file in sorted(path for path in source.iterdir() if path.is_file()):
            data.write_text(place / source.name / file.name, file.read_text(encoding="utf-8"))
    return place


def finish(root: Path, run: Path, model: str, level: int, stamp: str) -> Path:
    """Move a run to the finished ones; `stamp` is its time as YYYYmmddHHMM. Raises ConfigError for another form or a taken place."""
    if not STAMP.fullmatch(stamp):
        raise ConfigError(f"time {stamp!r} of a finished run: expected twelve digits, YYYYmmddHHMM")
    place = root / FINISHED / f"database_{_plain(model)}_level{level}_{stamp}"
    if place.exists():
        raise ConfigError(f"{place}: a run of this minute exists; give another time")
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(run, place)
    return place


def evaluate(root: Path, finished: Path) -> Json:
    """Score a finished run and write its reports. Returns the summary. Raises ConfigError when the folder holds no case."""
    folders = sorted((path for path in finished.glob("case_*") if path.is_dir()), key=lambda path: (len(path.name), path.name))
    if not folders:
        raise ConfigError(f"{finished}: no folder case_<id> there; give the folder of a finished run")
    reports = [case_report(folder) for folder in folders]
    place = root / REPORTS / finished.name
    for report in reports:
        _write(place / f"case_{report['case_id']}_report.json", report)
    summary = {"run": finished.name, "data_version": data.VERSION, "overall_statistics": level_report(reports), "cases": reports}
    _write(place / SUMMARY, summary)
    return summary


def newest(root: Path, model: str) -> dict[int, Path]:
    """Each level's last evaluated run, by the time in its name."""
    pattern = re.compile(rf"database_{re.escape(_plain(model))}_level([123])_(\d+)")
    found: dict[int, tuple[int, Path]] = {}
    for path in sorted((root / REPORTS).glob("database_*")):
        match = pattern.fullmatch(path.name)
        if match and (path / SUMMARY).is_file():
            level, stamp = int(match[1]), int(match[2])
            found[level] = max(found.get(level, (-1, path)), (stamp, path))
    return {level: found[level][1] for level in sorted(found)}


def statistics(root: Path, model: str) -> Json:
    """The newest run of each level and the total over them, written and returned. Raises ConfigError when there is none."""
    runs = newest(root, model)
    if not runs:
        raise ConfigError(f"{root / REPORTS}: no evaluated run of {model!r}; evaluate one first")
    levels = {level: data.read_json(path / SUMMARY)["overall_statistics"] for level, path in runs.items()}
    cases = {level: found["total_cases"] for level, found in levels.items()}
    summary = {
        "model": model, "data_version": data.VERSION, "levels": {str(level): levels[level] for level in levels},
        "total": across_levels(levels), "runs": {str(level): path.name for level, path in runs.items()},
        "coverage": {str(level): f"{cases.get(level, 0)} of {data.part('shopping', level).tasks} cases" for level in LEVELS},
        "missing_levels": [level for level in LEVELS if level not in levels],
        "disputed": {str(level): data.DISPUTED["shopping", str(level)] for level in levels if ("shopping", str(level)) in data.DISPUTED},
    }  # fmt: skip
    _write(root / REPORTS / f"{_plain(model)}_statistics.json", summary)
    return summary


def _plain(name: str) -> str:
    return re.sub(r"[/\\\s]+", "_", name)


def _write(path: Path, content: Json) -> None:
    data.write_text(path, json.dumps(content, ensure_ascii=False, indent=2))
