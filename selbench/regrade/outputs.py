"""Stored outputs from whatever wrote them: runs of selbench, lm-eval's logged samples, plain JSON lines, CSV or Parquet.

A plain file has `response` and `gold` (or `answer`) in every row and optionally `id` or `problem`, `sample`, `task`, `system` (`model`,
`strategy`; several are joined), `truncated` or `finish`. Without a system the folder of the cell, lm-eval's model folder or the file's
name stands for it; without an id the row number; without a sample the how-manieth record of the problem it is. Nothing is guessed
beyond that, no row is left out, and what cannot be read is named.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from selbench.errors import ConfigError
from selbench.records import BASE, EPISODES, read_table

__all__ = ["Record", "has_outputs", "read_outputs"]

Rows = list[tuple[int, dict[str, Any]]]  # row number from 1, fields
_LOGGED = re.compile(r"samples_(.+?)(?:_\d{4}-\d\d-\d\dT[\d.-]+)?")  # lm-eval: samples_<task>_<date>.jsonl


@dataclass(frozen=True)
class Record:
    """One stored output. source, row (from 1): where it stands; truncated: None where nobody noted it; stored: its (verdict, grader)."""

    task: str
    system: str
    run: str
    problem: str
    sample: int
    response: str
    gold: str
    truncated: bool | None
    source: Path
    row: int
    stored: tuple[str, str] | None


def read_outputs(paths: Sequence[Path], *, by: str = "cell") -> list[Record]:
    """All records of files and folders in a fixed order. by: "cell", or "strategy", which makes the seeds of a strategy one system.

    Raises ConfigError or RecordError (file and line named) on anything that is missing, empty, ambiguous or of another shape.
    """
    if by not in ("cell", "strategy"):
        raise ConfigError(f"--by {by!r}: cell or strategy")
    files = [file for path in paths for file in _files(path)]
    twice = [str(file) for file, count in Counter(file.resolve() for file in files).items() if count > 1]
    if twice:
        raise ConfigError(f"{twice[0]}: given twice; name every file once")
    places = [_place(file, by) for file in files]
    clashing = Counter((short, task, run) for short, _, task, run in places)
    records: list[Record] = []
    seen: dict[tuple[Any, ...], Record] = {}
    counted: Counter[tuple[str, ...]] = Counter()
    for file, (short, long, task, run) in zip(files, places, strict=True):
        name = long if clashing[short, task, run] > 1 else short
        for number, row in _rows(file):
            where = f"{file} row {number}"
            system = "/".join(str(row[key]) for key in ("system", "model", "strategy") if not _absent(row, key)) or name
            problem = str(next((row[key] for key in ("id", "problem") if not _absent(row, key)), number))
            key = (str(row["task"]) if not _absent(row, "task") else task or "unnamed", system, run, problem)
            sample = counted[key] if _absent(row, "sample") else _sample(row, where)
            counted[key] += 1
            if (*key, sample) in seen:
                other = seen[*key, sample]
                again = f"problem {problem!r}, sample {sample} of {system} stands in {other.source} row {other.row} too"
                raise ConfigError(f"{where}: {again}; give the systems different names in a field `system`")
            stored = None if _absent(row, "verdict") or _absent(row, "grader") else (str(row["verdict"]), str(row["grader"]))
            response, gold = _text(row, ("response",), where), _text(row, ("gold", "answer"), where)
            record = Record(*key, sample, response, gold, _truncated(row, where), file, number, stored)
            seen[*key, sample] = record
            records.append(record)
    return records


def has_outputs(paths: Sequence[Path]) -> bool:
    """Whether any of these holds responses to grade; what is missing is for `read_outputs` to name."""
    return any(not path.is_dir() or _stored(path) for path in paths)


def _stored(folder: Path) -> list[Path]:
    """Files of responses below a folder; beside episodes stand records of a task that judges for itself."""
    found = sorted({*folder.rglob("samples.parquet"), *folder.rglob("samples_*.jsonl")})
    return [file for file in found if not file.with_name(EPISODES).exists()]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found = _stored(path)
        if not found:
            raise ConfigError(f"{path}: no samples.parquet or samples_*.jsonl below it; give a run folder, or the file itself")
        return found
    close = get_close_matches(path.name, os.listdir(path.parent) if path.parent.is_dir() else [], n=1)
    raise ConfigError(f"{path}: no such file or folder" + (f"; did you mean {path.parent / close[0]}?" if close else ""))


def _place(file: Path, by: str) -> tuple[str, str, str, str]:
    """A short and a long name of the system a file belongs to, its task and run as far as the path tells."""
    whole = file.resolve()
    if whole.parent.parent.name == "eval":
        cell, run = whole.parents[2], ""
        seeded = re.fullmatch(r"seed\d+", cell.name) is not None
        parts = cell.parts[-3 if seeded else -2 if cell.name in BASE else -1 :]
        if seeded and by == "strategy":
            parts, cell, run = parts[:-1], cell.parent, cell.name
        return "/".join(parts), os.path.relpath(cell), whole.parent.name, run
    long = os.path.relpath(whole.with_suffix(""))
    logged = _LOGGED.fullmatch(whole.stem)
    if logged:
        return whole.parent.name, long, logged[1], ""
    return whole.parent.name if whole.stem == "samples" else whole.stem, long, "", ""


def _rows(file: Path) -> Rows:
    rows: Rows
    try:
        if file.suffix == ".parquet":
            rows = list(enumerate(read_table(file).to_dict("records"), 1))  # type: ignore[arg-type]
        elif file.suffix == ".jsonl":
            # not splitlines: lm-eval leaves U+2028 and its like unescaped inside strings
            with file.open(encoding="utf-8-sig", newline="\n") as lines:
                rows = [(number, _object(line, f"{file} row {number}")) for number, line in enumerate(lines, 1) if line.strip()]
        elif file.suffix == ".csv":
            csv.field_size_limit(sys.maxsize)
            with file.open(encoding="utf-8-sig", newline="") as lines:
                rows = list(enumerate((dict(row) for row in csv.DictReader(lines, strict=True)), 1))
        else:
            raise ConfigError(f"{file}: not a .parquet, .jsonl or .csv file")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file}: not readable as {file.suffix[1:]} in UTF-8 ({error})") from error
    if not rows:
        raise ConfigError(f"{file}: no records in it; it is empty or was never finished")
    return _from_lm_eval(file, rows) if "doc" in rows[0][1] and {"resps", "filtered_resps"} & set(rows[0][1]) else rows


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: a JSON {type(content).__name__} where an object with response and gold is due")
    return content


def _from_lm_eval(file: Path, rows: Rows) -> Rows:
    """lm-eval's logged samples as plain rows: the whole responses, not what its filters cut out; one line per doc and filter there."""
    plain: Rows = []
    held: dict[str, list[str]] = {}
    for number, row in rows:
        where, doc = f"{file} row {number}", row.get("doc") or {}
        asked = row.get("resps") or row.get("filtered_resps") or []
        texts = [text for request in asked for text in (request if isinstance(request, list) else [request])]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"{where}: no generated text in resps; only tasks that generate can be graded, not log-likelihoods")
        problem = str(row.get("doc_id", number))
        if held.setdefault(problem, texts) is not texts:
            if held[problem] == texts or "resps" not in row:
                continue
            raise ConfigError(f"{where}: doc {problem} has other responses further up; two runs are in one file, split them")
        golds = [row.get("target"), *(doc.get(key) for key in ("gold", "answer", "Answer", "solution"))]
        gold = next((gold for gold in golds if gold not in (None, "", "None")), None)
        plain += [(number, {"id": problem, "sample": index, "response": text, "gold": gold}) for index, text in enumerate(texts)]
    return plain


def _absent(row: Mapping[str, Any], key: str) -> bool:
    """Missing, null (Parquet's and JSON's NaN too) or blank; a response alone may be blank."""
    value = row.get(key)
    if isinstance(value, str):
        return key != "response" and not value.strip()
    return value is None or (isinstance(value, float) and value != value)


def _text(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    name = next((name for name in names if not _absent(row, name)), None)
    if name is None:
        known = ", ".join(map(str, row))
        raise ConfigError(f"{where}: no {' or '.join(names)}; needed are response and gold (or answer), the fields there are {known}")
    value = row[name]
    if not isinstance(value, str) and (name == "response" or isinstance(value, bool) or not isinstance(value, int | float)):
        raise ConfigError(f"{where}: {name} is a {type(value).__name__}, not text")
    return str(value)


def _sample(row: Mapping[str, Any], where: str) -> int:
    try:
        return int(row["sample"])
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: sample is {row['sample']!r}, not a number") from None


def _truncated(row: Mapping[str, Any], where: str) -> bool | None:
    if not _absent(row, "truncated"):
        found = {"true": True, "1": True, "false": False, "0": False}.get(str(row["truncated"]).strip().lower())
        if found is None:
            raise ConfigError(f"{where}: truncated is {row['truncated']!r}; true or false")
        return found
    return None if _absent(row, "finish") else row["finish"] == "length"
