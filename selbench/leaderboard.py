"""Records to tables. Every number is recomputed from the files of the runs; nothing is averaged over what happens to exist.

`collect` reads `runs/<protocol>/` into a Board of raw numbers, `render` turns a Board into text. The same files give the
same bytes. What cannot be read is named in `Board.problems`, and its row says so in place of an accuracy.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selbench import costs, records
from selbench.costs import number
from selbench.errors import RecordError
from selbench.stats import paired_interval, seed_spread

__all__ = ["FORMATS", "Board", "collect", "render", "write"]

FORMATS = {"markdown": "md", "csv": "csv", "latex": "tex", "json": "json"}
BASE_ROLES = {"student": "student (untrained)", "teacher": "teacher"}  # evaluated once, in base-<role>/
OPPONENTS = ("reference", "control")
RECALLS = ("planted_recall", "planted_recall_overconfident", "planted_recall_uncertain")
INTERVALS = tuple(f"vs_{role}_{part}points" for role in OPPONENTS for part in ("", "low_", "high_"))
COLUMNS = (
    "pair", "task", "strategy", "role", "source", "status", "seeds_done", "seeds_planned", "problems", "samples",
    "accuracy_percent", "spread_points", *OPPONENTS, *INTERVALS, "truncated_percent", "ungraded_percent", "kept_percent",
    *(f"{name}_percent" for name in RECALLS), *costs.COLUMNS, "grader", "engine",
)  # fmt: skip
TEX: dict[str, str | int | None] = {sign: f"\\{sign}" for sign in "&%$#_{}"}
TEX |= {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}", "−": "$-$", "±": r"$\pm$", "–": "--"}
TEXTS = ("pair", "task", "grader", "engine", "strategy")
LEGEND = (
    "Accuracy: mean over seeds of the share of correct answers, ± their standard deviation. Brackets are 95 % intervals of the "
    "difference in points: crossed paired bootstrap, 2000 draws, seeds and problems resampled together, the same on both sides. "
    "Truncated and ungraded (unparsed, timeout, error) answers stay in the denominator."
)


@dataclass(frozen=True)
class Board:
    """`table`: one row per (pair, task, strategy) of raw numbers, units in the column names. `problems`: a sentence each."""

    plan: dict[str, Any]
    table: pd.DataFrame
    problems: list[str]


@dataclass(frozen=True)
class _Run:
    """One finished cell on one task. correct: (P,) share of the k samples right, by problem id."""

    correct: pd.Series
    samples: int
    numbers: dict[str, float]
    meta: dict[str, Any]


def collect(folder: Path) -> Board:
    """The leaderboard of one protocol folder. Raises RecordError when there is no readable plan to compare with."""
    plan = records.read_json(folder / "plan.json")
    problems: list[str] = []
    rows: list[dict[str, Any]] = []
    for pair in plan["pairs"]:
        groups: dict[tuple[str, str, str], list[str]] = {}
        for cell in sorted((cell for cell in plan["cells"] if cell["pair"] == pair), key=lambda cell: int(cell["seed"])):
            label = Path(cell["folder"]).parent.name
            groups.setdefault((label, cell["role"], cell.get("source", "")), []).append(cell["folder"])
        groups |= {(label, role, ""): [f"{pair}/base-{role}"] for role, label in BASE_ROLES.items()}
        for task in plan["tasks"]:
            norm: list[_Run] = []
            group = []
            for (label, role, source), cells in groups.items():
                read = {Path(cell).name: _read(folder, cell, task, plan["fingerprint"], norm, problems) for cell in cells}
                row = {"pair": pair, "task": task, "strategy": label, "role": role, "source": source}
                group.append((row | _summary(read), {seed: run for seed, run in read.items() if isinstance(run, _Run)}))
            for row, runs in group:
                _compare(row, runs, group)
            rows += sorted((row for row, _ in group), key=_order)
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(("seeds_done", "seeds_planned", "problems", "samples"), "Int64"))
    return Board(plan, table, problems)


def _read(folder: Path, cell: str, task: str, fingerprint: str, norm: list[_Run], problems: list[str]) -> _Run | str:
    """The run, or why there is none: "missing", "failed" or "unreadable". norm: the first run read, whose problems all must share."""
    path, trained = folder / cell, Path(cell).name not in records.BASE
    try:
        if not records.is_done(path, fingerprint=fingerprint):
            if (path / "DONE").exists():
                raise RecordError(f"{path / 'DONE'}: finished under another protocol fingerprint; run it again")
            if not (path / "FAILED.json").exists():
                return "missing"
            _note(problems, folder, f"{path}: failed with {records.read_json(path / 'FAILED.json').get('error', 'an unnamed error')}")
            return "failed"
        numbers = _training(path / "metrics.jsonl") if trained else {}
        run = _evaluation(path / "eval" / task, numbers)
        if norm and not (run.samples == norm[0].samples and run.correct.index.equals(norm[0].correct.index)):
            raise RecordError(f"{path / 'eval' / task}: other problems or samples than the first run of this task; evaluate again")
    except RecordError as error:
        _note(problems, folder, str(error))
        return "unreadable"
    except (KeyError, TypeError) as error:
        _note(problems, folder, f"{path}: a record of another shape ({type(error).__name__}: {error}); delete its folder and run again")
        return "unreadable"
    norm.append(run)
    return run


def _note(problems: list[str], folder: Path, sentence: str) -> None:
    """One line, once, without the place of the runs on this machine."""
    line = " ".join(sentence.replace(f"{folder}/", "").split())
    if line not in problems:
        problems.append(line)


def _training(path: Path) -> dict[str, float]:
    steps = records.read_metrics(path)
    if not steps or [step["step"] for step in steps] != list(range(1, len(steps) + 1)):
        raise RecordError(f"{path}: not the steps 1, 2, ... of a finished run; delete its folder and run again")
    frame = pd.DataFrame(steps)
    numbers = costs.of_training(steps, path.parent)
    numbers["kept_percent"] = 100 * float(frame["kept"].sum() / frame["tokens"].sum())
    numbers |= {f"{name}_percent": 100 * float(frame[name].astype(float).mean()) for name in RECALLS if name in frame}
    return numbers


def _evaluation(path: Path, training: dict[str, float]) -> _Run:
    """Accuracy from the verdicts, over all n·k answers. Raises RecordError unless exactly n·k are there."""
    meta, rows = records.read_json(path / "meta.json"), records.read_table(path / "samples.parquet")
    n, k = int(meta["problems"]), int(meta["samples"])
    if unknown := sorted(set(rows["verdict"]) - set(records.VERDICTS)):
        raise RecordError(f"{path / 'samples.parquet'}: unknown verdicts {', '.join(map(str, unknown))}; evaluate again")
    correct = (rows["verdict"] == "correct").groupby(rows["problem"].astype(str)).agg(["mean", "size"])
    if len(rows) != n * k or len(correct) != n or (correct["size"] != k).any() or rows.duplicated(["problem", "sample"]).any():
        raise RecordError(f"{path / 'samples.parquet'}: {len(rows)} answers where {n} problems x {k} samples are due; evaluate again")
    right, truncated = (float((rows["verdict"] == verdict).mean()) for verdict in ("correct", "truncated"))
    ungraded = float((~rows["verdict"].isin(["correct", "incorrect", "truncated"])).mean())
    numbers = training | {"accuracy_percent": 100 * right, "truncated_percent": 100 * truncated, "ungraded_percent": 100 * ungraded}
    numbers |= costs.with_evaluation(training, meta)
    return _Run(correct["mean"], k, numbers, meta)


def _summary(read: dict[str, _Run | str]) -> dict[str, Any]:
    """One row from all planned seeds: means over them, or only what is wrong."""
    runs = [run for run in read.values() if isinstance(run, _Run)]
    row: dict[str, Any] = {"seeds_done": len(runs), "seeds_planned": len(read)}
    if len(runs) < len(read):
        wrong = Counter(word for word in read.values() if isinstance(word, str))
        return row | {"status": ", ".join(f"{word} {count}/{len(read)}" for word, count in sorted(wrong.items()))}
    frame = pd.DataFrame([run.numbers for run in runs])
    row |= {str(name): float(value) for name, value in frame.mean(skipna=False).items()}
    row |= {name: ", ".join(sorted({str(run.meta.get(name, "")) for run in runs})) for name in ("grader", "engine")}
    row |= {"problems": len(runs[0].correct), "samples": runs[0].samples}
    return row | costs.largest(frame) | {"status": "complete", "spread_points": seed_spread(frame["accuracy_percent"])}


def _compare(row: dict[str, Any], runs: dict[str, _Run], group: Sequence[tuple[dict[str, Any], dict[str, _Run]]]) -> None:
    """Fill in the paired differences to the reference and the control (of the same budget if there is one) over shared seeds."""
    for role in OPPONENTS:
        rivals = [rival for rival in group if rival[0]["role"] == role]
        rivals = [rival for rival in rivals if _budget(rival[0]) == _budget(row)] or rivals
        if row["role"] in (role, *BASE_ROLES) or len(rivals) != 1:
            continue
        rival, theirs = rivals[0]
        row[role] = rival["strategy"]
        shared = [seed for seed in runs if seed in theirs]
        if shared and row["status"] == rival["status"] == "complete":
            ours, base = (np.stack([side[seed].correct.to_numpy() for seed in shared]) for side in (runs, theirs))
            found = paired_interval(ours, base)
            ends = {"": found.mean, "low_": found.low, "high_": found.high}
            row |= {f"vs_{role}_{end}points": 100 * value for end, value in ends.items()}
            if role == "reference":
                row |= costs.saved([runs[seed].numbers for seed in shared], [theirs[seed].numbers for seed in shared])


def _budget(row: dict[str, Any]) -> str:
    return str(row["strategy"]).rpartition("@")[2]


def _order(row: dict[str, Any]) -> tuple[int, float, str]:
    """Teacher, strategies from the most accurate down, incomplete ones, student."""
    if row["role"] in BASE_ROLES:
        return (3 if row["role"] == "student" else 0), 0.0, ""
    complete = row["status"] == "complete"
    return (1 if complete else 2), (-_rounded(row["accuracy_percent"]) if complete else 0.0), row["strategy"]


def _rounded(value: float) -> float:
    """Six significant digits: below that, the last bits differ between machines."""
    return float(f"{value:.6g}")


def render(board: Board, format: str) -> str:
    """The board as "markdown", "csv", "latex" or "json"; the same board always gives the same bytes."""
    if format == "csv":
        return str(board.table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    if format == "json":
        head = {"schema": records.SCHEMA, **{name: board.plan[name] for name in ("protocol", "fingerprint", "command")}}
        rows = [{name: _plain(value) for name, value in row.items()} for row in board.table.to_dict("records")]
        return json.dumps(head | {"problems": board.problems, "rows": rows}, indent=1, ensure_ascii=False) + "\n"
    if format not in FORMATS:
        raise ValueError(f"unknown table format {format!r}: use one of {', '.join(FORMATS)}")
    caption, tables = _layout(board)
    return (_markdown if format == "markdown" else _latex)(caption, tables, board.problems)


def write(board: Board, folder: Path) -> list[Path]:
    """leaderboard.md, .csv, .tex and .json in `folder`; returns their paths."""
    paths = [folder / f"leaderboard.{suffix}" for suffix in FORMATS.values()]
    for path, format in zip(paths, FORMATS, strict=True):
        records.write_text(path, render(board, format))
    return paths


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    return _rounded(value) if isinstance(value, float) else value if isinstance(value, str) else int(value)


def _layout(board: Board) -> tuple[str, list[pd.DataFrame]]:
    """Caption, results and costs as text. What is the same in all rows moves to the caption, what no row has is left out."""
    table = board.table
    caption = [f"Protocol `{board.plan['protocol']}`, fingerprint `{board.plan['fingerprint'][:12]}`"]
    caption.append("seeds " + ", ".join(map(str, board.plan["seeds"])))
    varied = {}
    for name in ("pair", "task", "problems", "samples", "grader", "engine"):
        if len(present := table[name].dropna().unique()) > 1:
            varied[name] = table[name].astype(object).where(table[name].notna(), "–").astype(str)
        elif len(present) == 1:
            caption.append(f"{name} {present[0]}")
    rows = [dict(zip(COLUMNS, values, strict=True)) for values in table.itertuples(index=False)]
    results = pd.DataFrame(varied | {"strategy": [f"`{row['strategy']}`" for row in rows]}, dtype=object)
    results["seeds"] = ["–" if row["role"] in BASE_ROLES else f"{row['seeds_done']}/{row['seeds_planned']}" for row in rows]
    results["accuracy %"] = [_accuracy(row) for row in rows]
    for role in OPPONENTS:
        rivals = table[role].dropna().unique()
        results[f"vs `{rivals[0]}`" if len(rivals) == 1 else f"vs {role}"] = [_difference(row, role) for row in rows]
    for name in ("truncated", "ungraded", "kept", "planted_recall"):
        results[name.replace("_", " ") + " %"] = [number(row[f"{name}_percent"], "z.1f") for row in rows]
    cost = costs.layout(results.loc[:, :"strategy"], rows)
    text = "; ".join(caption) + f". Regenerate: `{board.plan['command']}`, then `selbench table`."
    return text, [frame.loc[:, (frame != "–").any()] for frame in (results, cost)]


def _accuracy(row: dict[str, Any]) -> str:
    if row["status"] != "complete":
        return str(row["status"])
    return f"{row['accuracy_percent']:.1f}" + ("" if pd.isna(row["spread_points"]) else f" ± {row['spread_points']:.1f}")


def _difference(row: dict[str, Any], role: str) -> str:
    mean, low, high = (row[f"vs_{role}_{part}points"] for part in ("", "low_", "high_"))
    return role if row["role"] == role else "–" if pd.isna(mean) else f"{mean:+z.1f} [{low:z.1f}, {high:z.1f}]"


def _markdown(caption: str, tables: Iterable[pd.DataFrame], problems: Sequence[str]) -> str:
    parts = [caption]
    for title, frame in zip(("", costs.TITLE), tables, strict=True):
        lines = [frame.columns, ["---" if title in TEXTS else "---:" for title in frame.columns], *frame.to_numpy()]
        parts += [title, "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)]
    parts.insert(3, LEGEND)
    if problems:
        parts.append("Problems:\n\n" + "\n".join(f"- {problem}" for problem in problems))
    return "\n\n".join(part for part in parts if part) + "\n"


def _latex(caption: str, tables: Iterable[pd.DataFrame], problems: Sequence[str]) -> str:
    parts = [f"% problem: {problem}" for problem in problems]
    for title, frame in zip((f"{caption} {LEGEND}", costs.TITLE), tables, strict=True):
        head, *body = (" & ".join(_tex(str(cell)) for cell in line) + r" \\" for line in [frame.columns, *frame.to_numpy()])
        columns = "".join("l" if title in TEXTS else "r" for title in frame.columns)
        parts += [r"\begin{table}", r"\centering", rf"\caption{{{_tex(title)}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        parts += [head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(parts) + "\n"


def _tex(text: str) -> str:
    escaped = re.sub(r"(?<!\w)-(?=\d)", "−", text).translate(str.maketrans(TEX))
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", escaped)
