"""The numbers behind the charts of the HTML report, as JSON-ready dictionaries; the page draws them and computes none of its own.

A strategy has the same colour and dashes in all charts: ink for the full-token reference, grey for the control, then the Okabe-Ito
colours in the order of the plan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selbench import costs, leaderboard, records
from selbench.errors import RecordError

__all__ = ["Group", "BY_ROLE", "atlas", "budgets", "frame", "groups_of", "learning", "rounded", "table"]

COLOURS, DASHES = 6, 4
BY_ROLE = {"reference": {"colour": "ink", "dash": 0}, "control": {"colour": "grey", "dash": 1}}
TRAILING_STEPS = 5
MOST_STEPS = 400  # points of a learning curve; longer ones are thinned after smoothing
MOST_TOKENS = 1500  # points of an atlas panel; medians and shares are of all tokens
METRICS = {  # field of a step's record: words, unit, factor
    "response_accuracy": ("correct training rollouts", "%", 100.0),
    "loss": ("loss", "nats per token", 1.0),
    "planted_recall": ("planted tokens kept", "%", 100.0),
    "student_entropy": ("mean student entropy", "nats", 1.0),
    "reverse_kl": ("mean reverse KL", "nats", 1.0),
    "gradient_norm": ("gradient norm", "", 1.0),
}
UNITS = {"percent": "%", "points": "points", "seconds": "s", "mb": "MB", "tflop": "TFLOP"}
WORDS = {"vs reference": "vs full", "vs control": "vs random"}


@dataclass(frozen=True)
class Group:
    """One strategy at one budget on one pair: its cells by seed, as the plan lists them, and how it is drawn."""

    pair: str
    label: str
    role: str
    cells: tuple[dict[str, Any], ...]
    look: dict[str, Any]

    def done(self, folder: Path) -> list[dict[str, Any]]:
        """Its finished cells."""
        return [cell for cell in self.cells if (folder / cell["folder"] / "DONE").exists()]


def groups_of(plan: Mapping[str, Any]) -> list[Group]:
    """The strategies of a plan, pair by pair."""
    found: list[Group] = []
    for pair in plan["pairs"]:
        cells: dict[str, list[dict[str, Any]]] = {}
        for cell in sorted((cell for cell in plan["cells"] if cell["pair"] == pair), key=lambda cell: int(cell["seed"])):
            cells.setdefault(Path(cell["folder"]).parent.name, []).append(cell)
        free = 0
        for label, mine in cells.items():
            look = BY_ROLE.get(mine[0]["role"])
            if look is None:
                look, free = {"colour": f"s{free % COLOURS + 1}", "dash": free // COLOURS % DASHES}, free + 1
            found.append(Group(pair, label, mine[0]["role"], tuple(mine), look))
    return found


def frame(path: Path) -> pd.DataFrame:
    """Its rows; empty when the file is missing or torn, which the leaderboard says in words."""
    try:
        return pd.DataFrame(records.read_metrics(path)) if path.suffix == ".jsonl" else records.read_table(path)
    except RecordError:
        return pd.DataFrame()


def rounded(values: Iterable[Any], digits: int = 4) -> list[float | None]:
    """Significant digits that a screen can show; what is not a finite number is null."""
    found = (float("nan") if value is None else float(value) for value in values)
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in found]


def table(board: leaderboard.Board) -> dict[str, Any]:
    """The leaderboard: columns with words, unit and kind, whatever they are, and the rows as leaderboard.json has them.

    `x_low_unit` and `x_high_unit` are shown as the interval of `x_unit` where that column exists.
    """
    rows = json.loads(leaderboard.render(board, "json"))["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row))
    ends = {name: _ends(name, names) for name in names}
    inside = {end for pair in ends.values() if pair for end in pair}
    columns = [_column(name, rows, ends[name]) for name in names if name not in inside]
    columns.sort(key=lambda column: column["name"] != "strategy")
    return {"columns": columns, "rows": rows, "legend": leaderboard.LEGEND, "costs": costs.TITLE}


def _ends(name: str, names: Sequence[str]) -> list[str] | None:
    """The columns with the ends of its interval: `x_points` has `x_low_points` and `x_high_points`."""
    stem, _, unit = name.rpartition("_")
    found = [next((n for n in (f"{stem}_{end}_{unit}", f"{name}_{end}") if n in names), None) for end in ("low", "high")]
    return None if None in found else [str(end) for end in found]


def _column(name: str, rows: Sequence[Mapping[str, Any]], ends: list[str] | None) -> dict[str, Any]:
    present = [row[name] for row in rows if row.get(name) is not None]
    text = any(isinstance(value, str) for value in present)
    stem, _, last = name.rpartition("_")
    unit = UNITS.get(last, "") if stem else ""
    words = (stem if unit else name).replace("_", " ")
    varied = len({str(row.get(name)) for row in rows}) > 1
    varied &= name != "seeds_planned" or any(row[name] != row.get("seeds_done") for row in rows)
    hidden = {*costs.COLUMNS, "spread_points", "role", "source", "reference", "control", "rank_low", "rank_high", "margin_points"}
    detail = name.endswith(("_p", "_reason", "_detectable_points")) or "_these_problems_" in name
    return {
        "name": name, "label": WORDS.get(words, words), "unit": unit, "ends": ends, "empty": not present,
        "group": "costs" if name in costs.COLUMNS else "results",
        "kind": "text" if text else {"percent": "percent", "points": "points"}.get(last, "number"),
        "shown": name == "strategy" or (bool(present) and varied and name not in hidden and not detail),
        "spread": "spread_points" if name == "accuracy_percent" and "spread_points" in rows[0] else None,
    }  # fmt: skip


def learning(folder: Path, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Per pair and metric: trailing means over the steps, with mean, lowest and highest seed; levels of the untrained models."""
    found = []
    for pair in dict.fromkeys(group.pair for group in groups):
        lines = [_line(folder, group) for group in groups if group.pair == pair]
        lines = [line for line in lines if line["values"]]
        if not lines:
            continue
        known = [name for name in METRICS if any(name in line["values"] for line in lines)]
        levels = []
        for base in records.BASE:
            for path in sorted((folder / pair / base).glob("eval/*/samples.parquet")):
                if len(rows := frame(path)):
                    share = 100 * float(records.worth(rows).mean())
                    levels.append({"label": f"{base.removeprefix('base-')}, evaluated on {path.parts[-2]}", "value": rounded([share])[0]})
        metrics = [dict(zip(("name", "label", "unit"), (name, *METRICS[name][:2]), strict=True)) for name in known]
        found.append({"pair": pair, "metrics": metrics, "lines": lines, "levels": {"response_accuracy": levels}})
    return found


def _line(folder: Path, group: Group) -> dict[str, Any]:
    done = group.done(folder)
    runs = [rows for cell in done if len(rows := frame(folder / cell["folder"] / "metrics.jsonl"))]
    values, steps = {}, list[int]()
    for name, (_, _, factor) in METRICS.items():
        if not runs or not all(name in rows for rows in runs):
            continue
        each = [factor * rows.set_index("step")[name].astype(float).rolling(TRAILING_STEPS, min_periods=1).mean() for rows in runs]
        seeds = pd.concat(each, axis=1, join="inner")
        seeds = seeds.iloc[np.unique(np.linspace(0, len(seeds) - 1, min(len(seeds), MOST_STEPS)).round().astype(int))]
        steps = [int(step) for step in seeds.index]
        values[name] = [rounded(seeds.mean(axis=1)), rounded(seeds.min(axis=1)), rounded(seeds.max(axis=1))]
    return {"label": group.label, "look": group.look, "seeds": len(runs), "planned": len(group.cells), "steps": steps, "values": values}


def budgets(rows: Sequence[Mapping[str, Any]], groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Per pair and task: accuracy and seconds of the update against the kept share, a line per strategy that ran at several budgets."""
    looks = {(group.pair, group.label): group.look for group in groups}
    found = []
    for pair, task in dict.fromkeys((row["pair"], row["task"]) for row in rows):
        lines: dict[str, list[Mapping[str, Any]]] = {}
        whole = None
        for row in rows:
            if (row["pair"], row["task"]) != (pair, task) or row["status"] != "complete" or row.get("kept_percent") is None:
                continue
            if row["role"] == "reference":
                whole = row
            else:
                lines.setdefault(str(row["strategy"]).rpartition("@")[0], []).append(row)
        several = {name: sorted(mine, key=lambda row: row["kept_percent"]) for name, mine in lines.items() if len(mine) > 1}
        if several:
            found.append({
                "pair": pair, "task": task, "whole": whole and _point(whole),
                "lines": [
                    {"label": name, "look": looks[pair, mine[0]["strategy"]], "points": [_point(row) for row in mine]}
                    for name, mine in several.items()
                ],
            })  # fmt: skip
    return found


def _point(row: Mapping[str, Any]) -> dict[str, Any]:
    seconds = [row.get(f"{phase}_seconds") for phase in records.UPDATE]
    known = [value for value in seconds if value is not None]
    return {
        "kept": row["kept_percent"], "accuracy": row["accuracy_percent"], "spread": row.get("spread_points"),
        "seconds": rounded([sum(known)])[0] if known else None, "tflop": row.get("update_tflop"),
    }  # fmt: skip


def atlas(folder: Path, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Per pair: tokens of the first and the last step of each strategy's first finished seed by entropy and reverse KL.

    Quadrants by the medians of the batch, numbered as in TIP (arXiv:2604.14084): in Q3 the student is sure and disagrees.
    """
    found = []
    for pair in dict.fromkeys(group.pair for group in groups):
        clouds: dict[str, int] = {}
        panels = []
        for group in (group for group in groups if group.pair == pair):
            cell = next(iter(group.done(folder)), None)
            tokens = frame(folder / cell["folder"] / "tokens.parquet") if cell else pd.DataFrame()
            for place, step in enumerate((tokens["step"].min(), tokens["step"].max()) if len(tokens) else ()):
                panel = {"label": group.label, "look": group.look, "when": ("first", "last")[place], "step": int(step)}
                panels.append(panel | _panel(tokens[tokens["step"] == step], clouds) | {"seed": int(cell["seed"]) if cell else 0})
        if panels:
            found.append({"pair": pair, "clouds": [json.loads(cloud) for cloud in clouds], "panels": panels})
    return found


def _panel(tokens: pd.DataFrame, clouds: dict[str, int]) -> dict[str, Any]:
    """One panel; the same points are written once (the first step is the same for every strategy)."""
    x, y, kept = (tokens[name].to_numpy() for name in ("student_entropy", "reverse_kl", "kept"))
    kept = kept.astype(bool)
    drawn = np.arange(len(x)) % max(1, -(-len(x) // MOST_TOKENS)) == 0
    planted = tokens["planted"].to_numpy(dtype=int) if "planted" in tokens else np.zeros(len(x), dtype=int)
    cloud = {"x": rounded(x[drawn], 3), "y": rounded(y[drawn], 3), "planted": re.sub("[^0-9]", "", str(planted[drawn].tolist()))}
    middle = [float(np.median(values)) for values in (x, y)]
    right, up = x >= middle[0], y >= middle[1]
    shares = [
        100 * float((inside & kept).sum()) / max(1, int(kept.sum())) for inside in (right & up, right & ~up, ~right & up, ~right & ~up)
    ]
    return {
        "cloud": clouds.setdefault(json.dumps(cloud), len(clouds)), "kept": np.flatnonzero(kept[drawn]).tolist(),
        "medians": rounded(middle), "shares": rounded(shares, 3), "tokens": len(x), "tokens_kept": int(kept.sum()),
    }  # fmt: skip
