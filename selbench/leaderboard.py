"""Records to tables. Every number is recomputed from the files of the runs; nothing is averaged over what happens to exist.

`collect` reads `runs/<protocol>/` into a Board of raw numbers, `render` turns a Board into text. The same files give the
same bytes, in whatever order they lie there. What cannot be read is named in `Board.problems`, and its row says so in place
of an accuracy.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from selbench import comparison, costs, records
from selbench.comparison import BASE_ROLES, MARGIN_POINTS, OPPONENTS, Entry
from selbench.costs import number
from selbench.outcomes import RECALLS, Reader, Run, measured, read_plan
from selbench.stats import LIKE, THESE, seed_spread

__all__ = ["FORMATS", "Board", "collect", "groups_of", "read_group", "render", "write"]

FORMATS = {"markdown": "md", "csv": "csv", "latex": "tex", "json": "json"}
COUNTS = ("seeds_done", "seeds_planned", "problems", "samples", "rank_low", "rank_high")
COLUMNS = (
    "pair", "task", "strategy", "role", "source", "status", *COUNTS[:4], "accuracy_percent", "spread_points", *comparison.COLUMNS,
    "margin_points", "truncated_percent", "ungraded_percent", "kept_percent", *(f"{name}_percent" for name in RECALLS), *costs.COLUMNS,
    "grader", "engine", *(f"vs_{role}_reason" for role in OPPONENTS),
)  # fmt: skip
TEX: dict[str, str | int | None] = {sign: f"\\{sign}" for sign in "&%$#_{}"}
TEX |= {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}", "−": "$-$", "±": r"$\pm$", "–": "--"}
TEXTS = ("pair", "task", "grader", "engine", "strategy", "tie group")
SHARES = {  # column of the board: of the text tables
    "truncated_percent": "truncated %", "ungraded_percent": "unreadable %", "kept_percent": "kept %",
    "planted_recall_percent": "planted recall %",
}  # fmt: skip
MOST_NOTES = 20
LEGEND = (
    "Accuracy: mean over seeds of the share of correct answers, ± their standard deviation, with a 95 % interval for "
    f"{LIKE} (other seeds, other problems from the same source; the interval for {THESE} is in the CSV and JSON). Against a "
    "baseline: difference in points, paired by seed and problem, its 95 % interval, and the verdict: better, worse, equivalent (inside the "
    "margin) or undecided, by p-values after Holm over the family; the two baselines against each other are a family of their own. "
    "Detectable: the true difference to the reference (without one, to the control) that these data would have shown with 80 % power. "
    "Strategies that share a tie group cannot be told apart when all pairs are compared at once. Truncated and unreadable (unparsed, "
    "timeout, error) answers stay in the denominator."
)


@dataclass(frozen=True)
class Board:
    """`table`: one row per (pair, task, strategy) of raw numbers, units in the column names.

    `problems`: what cannot be read, `notes`: what a comparison lacks, a sentence each.
    """

    plan: dict[str, Any]
    table: pd.DataFrame
    problems: list[str]
    notes: list[str] = field(default_factory=list)


def collect(folder: Path) -> Board:
    """The leaderboard of one protocol folder. Raises RecordError when there is no readable plan to compare with."""
    plan = read_plan(folder)
    reader = Reader(folder, plan)
    rows: list[dict[str, Any]] = []
    notes: dict[str, list[str]] = {}
    for pair in sorted(plan["pairs"]):
        for task in measured(plan):
            group = read_group(reader, plan, pair, task)
            entries = [entry for entry, _ in group]
            margin = plan.get("margins", {}).get(task, MARGIN_POINTS)
            found = comparison.compare(entries, margin=margin, family=plan.get("family", "both"))
            for note in found.notes:
                notes.setdefault(note, []).append(f"{pair}, {task}")
            for entry, (source, read) in group:
                row = {"pair": pair, "task": task, "strategy": entry.strategy, "role": entry.role, "source": source}
                row |= _summary(read, entry.status) | found.columns[entry.strategy] | _saved(entry, group)
                rows.append(row | ({} if entry.role in BASE_ROLES else {"margin_points": margin}))
            rows[-len(group) :] = sorted(rows[-len(group) :], key=_order)
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(COUNTS, "Int64"))
    everywhere = len(plan["pairs"]) * len(measured(plan))
    lines = [note if len(places) == everywhere else f"{'; '.join(places)}: {note}" for note, places in notes.items()]
    return Board(plan, table, reader.problems, [*_uncommitted(plan), *lines])


def _uncommitted(plan: Mapping[str, Any]) -> list[str]:
    """What `selbench publish --allow-dirty` wrote into the plan: runs of code that no commit holds."""
    runs = plan.get("dirty", [])
    return [f"no commit holds the code of {len(runs)} runs, the first {runs[0]}: this table cannot be made again"] if runs else []


Group = list[tuple[Entry, tuple[str, dict[str, Run | str]]]]


def groups_of(plan: Mapping[str, Any], pair: str) -> dict[str, tuple[str, str, list[str]]]:
    """Role, source and folders of the runs of each strategy and untrained model, baselines first, seeds in order."""
    groups: dict[str, tuple[str, str, list[str]]] = {}
    cells = [cell for cell in plan["cells"] if cell["pair"] == pair]
    for cell in sorted(cells, key=lambda cell: (cell["role"] not in OPPONENTS, cell["folder"].rpartition("/")[0], int(cell["seed"]))):
        label = Path(cell["folder"]).parent.name
        folders = groups[label][2] if label in groups else []
        groups[label] = cell["role"], cell.get("source", ""), [*folders, cell["folder"]]
    return groups | {label: (role, "", [f"{pair}/base-{role}"]) for role, label in BASE_ROLES.items()}


def read_group(reader: Reader, plan: Mapping[str, Any], pair: str, task: str) -> Group:
    """Every strategy of a pair and task as it enters the comparison, with its source and runs (or why there is none) by seed."""
    group: Group = []
    for label, (role, source, cells) in groups_of(plan, pair).items():
        read = {Path(cell).name: reader.read(pair, task, cell) for cell in cells}
        runs = {seed: run.shares.to_numpy() for seed, run in read.items() if isinstance(run, Run)}
        wrong = Counter(word for word in read.values() if isinstance(word, str))
        status = ", ".join(f"{word} {count}/{len(read)}" for word, count in sorted(wrong.items())) or "complete"
        group.append((Entry(label, role, status, {} if wrong else runs), (source, read)))
    return group


def _summary(read: Mapping[str, Run | str], status: str) -> dict[str, Any]:
    """One row from all planned seeds: means over them, or only what is wrong."""
    runs = [run for run in read.values() if isinstance(run, Run)]
    row: dict[str, Any] = {"seeds_done": len(runs), "seeds_planned": len(read), "status": status}
    if status != "complete":
        return row
    frame = pd.DataFrame([run.numbers for run in runs])
    row |= {str(name): float(value) for name, value in frame.mean(skipna=False).items()}
    row |= {name: ", ".join(sorted({str(run.meta.get(name, "")) for run in runs})) for name in ("grader", "engine")}
    row |= {"problems": len(runs[0].shares), "samples": runs[0].samples}
    return row | costs.largest(frame) | {"spread_points": seed_spread(frame["accuracy_percent"])}


def _saved(entry: Entry, group: Group) -> dict[str, Any]:
    """What the reference's runs of the same seeds cost more, where both are complete."""
    trained = [other for other, _ in group if other.role not in BASE_ROLES]
    rival = None if entry.role in BASE_ROLES else comparison.opponent(entry, trained, "reference")
    if rival is None or not (shared := [seed for seed in entry.shares if seed in rival.shares]):
        return {}
    runs = {other.strategy: read for other, (_, read) in group}
    ours, theirs = ([runs[side.strategy][seed] for seed in shared] for side in (entry, rival))
    return costs.saved(*([run.numbers for run in side if isinstance(run, Run)] for side in (ours, theirs)))


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
        head |= {"margins": board.plan.get("margins", {}), "family": board.plan.get("family", "both")}
        head |= {"pools": pools} if (pools := board.plan.get("pools")) else {}
        return json.dumps(head | {"problems": board.problems, "notes": board.notes, "rows": rows}, indent=1, ensure_ascii=False) + "\n"
    if format not in FORMATS:
        raise ValueError(f"unknown table format {format!r}: use one of {', '.join(FORMATS)}")
    caption, tables = _layout(board)
    notes = [*board.notes, *_undecided(board.table)]
    return (_markdown if format == "markdown" else _latex)(caption, tables, notes, board.problems)


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
    caption += ["**uncommitted code**"] if board.plan.get("dirty") else []
    caption.append("seeds " + ", ".join(map(str, board.plan["seeds"])))
    caption += [f"{pool} is {' and '.join(members)} together" for pool, members in board.plan.get("pools", {}).items()]
    caption.append(_margins(board))
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
        if "detectable" not in results and table[f"vs_{role}_detectable_points"].notna().any():
            results["detectable"] = [number(row[f"vs_{role}_detectable_points"], ".1f") for row in rows]
    for name, title in SHARES.items():
        results[title] = [number(row[name], "z.1f") for row in rows]
    results["tie group"] = ["–" if pd.isna(row["tie_group"]) else row["tie_group"] for row in rows]
    cost = costs.layout(results.loc[:, :"strategy"], rows)
    text = "; ".join(caption) + f". Regenerate: `{board.plan['command']}`, then `selbench table`."
    return text, [frame.loc[:, (frame != "–").any()] for frame in (results, cost)]


def _margins(board: Board) -> str:
    """The margin of equivalence and the family, as they were declared."""
    margins = board.plan.get("margins", {})
    given = {task: margins.get(task, MARGIN_POINTS) for task in measured(board.plan)}
    each = ", ".join(f"±{value:g} ({task})" for task, value in given.items())
    text = f"margin ±{next(iter(given.values()), MARGIN_POINTS):g}" if len(set(given.values())) < 2 else f"margins {each}"
    over = "both baselines" if board.plan.get("family", "both") == "both" else "each baseline"
    return f"{text} points; family: all strategies of a pair and task against {over}"


def _accuracy(row: Mapping[str, Any]) -> str:
    if row["status"] != "complete":
        return str(row["status"])
    spread = "" if pd.isna(row["spread_points"]) else f" ± {row['spread_points']:.1f}"
    low, high = row["accuracy_low_percent"], row["accuracy_high_percent"]
    return f"{row['accuracy_percent']:.1f}{spread}" + ("" if pd.isna(low) else f" [{low:.1f}, {high:.1f}]")


def _difference(row: Mapping[str, Any], role: str) -> str:
    """Difference, interval and verdict; the baseline's own row says what it is."""
    if row["role"] == role:
        return role
    mean, low, high = (row[f"vs_{role}_{part}points"] for part in ("", "low_", "high_"))
    word = row[f"vs_{role}_verdict"]
    parts = ([] if pd.isna(mean) else [f"{mean:+z.1f} [{low:z.1f}, {high:z.1f}]"]) + ([] if pd.isna(word) else [word])
    return " ".join(parts) or "–"


def _undecided(table: pd.DataFrame) -> list[str]:
    """Why a verdict is "undecided", a line for each reason."""
    several = {name: table[name].nunique() > 1 for name in ("pair", "task")}
    reasons: dict[str, list[str]] = {}
    for row in table.to_dict("records"):
        for role in (role for role in OPPONENTS if row[f"vs_{role}_verdict"] == "undecided"):
            place = "".join(f"{row[name]}, " for name, shown in several.items() if shown)
            reasons.setdefault(row[f"vs_{role}_reason"], []).append(f"{place}`{row['strategy']}` vs `{row[role]}`")
    lines = [f"undecided, {'; '.join(places)}: {reason}" for reason, places in reasons.items()]
    more = [f"{len(lines) - MOST_NOTES} more reasons: in the CSV and JSON"] if len(lines) > MOST_NOTES else []
    return lines[:MOST_NOTES] + more


def _markdown(caption: str, tables: Iterable[pd.DataFrame], notes: Sequence[str], problems: Sequence[str]) -> str:
    parts = [caption]
    below = [LEGEND, *(f"{title}:\n\n" + "\n".join(f"- {line}" for line in lines) for title, lines in (("Notes", notes),) if lines)]
    for title, frame, after in zip(("", costs.TITLE), tables, ("\n\n".join(below), ""), strict=True):
        lines = [frame.columns, ["---" if title in TEXTS else "---:" for title in frame.columns], *frame.to_numpy()]
        parts += [title, "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines), after]
    if problems:
        parts.append("Problems:\n\n" + "\n".join(f"- {problem}" for problem in problems))
    return "\n\n".join(part for part in parts if part) + "\n"


def _latex(caption: str, tables: Iterable[pd.DataFrame], notes: Sequence[str], problems: Sequence[str]) -> str:
    parts = [*(f"% problem: {problem}" for problem in problems), *(f"% note: {note}" for note in notes)]
    for title, frame in zip((f"{caption} {LEGEND}", costs.TITLE), tables, strict=True):
        head, *body = (" & ".join(_tex(str(cell)) for cell in line) + r" \\" for line in [frame.columns, *frame.to_numpy()])
        columns = "".join("l" if title in TEXTS else "r" for title in frame.columns)
        parts += [r"\begin{table}", r"\centering", rf"\caption{{{_tex(title)}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        parts += [head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(parts) + "\n"


def _tex(text: str) -> str:
    escaped = re.sub(r"(?<!\w)-(?=\d)", "−", text).translate(str.maketrans(TEX))
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", escaped)
