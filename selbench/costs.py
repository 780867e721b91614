"""What a cell cost, for the leaderboard: seconds, FLOPs and memory of its records, and what it saved against the full-token reference.

A column that the records of an older run do not have stays empty: nothing here stands in for a measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from selbench import records
from selbench.ledger import summarise

__all__ = ["COLUMNS", "TITLE", "largest", "layout", "number", "of_training", "saved", "with_evaluation"]

NAN = float("nan")
SECONDS = tuple(f"{phase}_seconds" for phase in (*records.PHASES, "evaluation", "total"))
PEAKS = tuple(f"{phase}_peak_mb" for phase in ("rollout", "teacher", "score", "distil", "optimiser"))
SAVED = ("saved_flops_percent", "saved_seconds_percent", "saved_memory_dense_percent", "saved_memory_full_percent")
COLUMNS = (*SECONDS, "peak_memory_mb", *PEAKS, "update_tflop", "update_mfu_percent", *SAVED)
SHOWN = {  # column of the text tables: of the board, format
    "peak MB": ("peak_memory_mb", ".0f"),
    "distil peak MB": ("distil_peak_mb", ".0f"),
    "update TFLOP": ("update_tflop", ".3g"),
    "update MFU %": ("update_mfu_percent", ".1f"),
    "saved FLOPs % vs full": ("saved_flops_percent", "z.1f"),
    "saved seconds % vs full": ("saved_seconds_percent", "z.1f"),
    "saved memory % vs full": ("saved_memory_full_percent", "z.1f"),
    "saved memory % vs dense": ("saved_memory_dense_percent", "z.1f"),
}
TITLE = (
    "Cost in seconds, summed over the steps, mean over seeds; peaks are the largest of any seed. Update: teacher, score, select and distil "
    "together; MFU: its share of the matmul rate measured on the machine. Saved, negative where it cost more: FLOPs of the update "
    "against those of chunked full-token steps on the same batches; its measured seconds and the peak of distil against the reference "
    "run's, same seeds; that peak against the one predicted with a dense full-token loss in place of the chunks."
)


def of_training(steps: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, float]:
    """Numbers of one trained cell from its step records; NaN where these do not say. The machine's rates come from ledger.json there."""
    ledger = folder / "ledger.json"
    found = summarise(steps, records.read_json(ledger)["roofline"] if ledger.exists() else None)
    phases, update = found["phases"], found["update"]
    numbers = {f"{phase}_seconds": _scaled(phases.get(phase, {}).get("seconds")) for phase in records.PHASES}
    numbers |= {name: _scaled(phases.get(name.removesuffix("_peak_mb"), {}).get("peak_bytes"), 1e-6) for name in PEAKS}
    numbers["peak_memory_mb"] = max((step.get("peak_memory_bytes") or 0 for step in steps), default=0) / 1e6
    return numbers | {
        "update_seconds": _scaled(update["seconds"]), "update_tflop": _scaled(update["flops"], 1e-12),
        "update_mfu_percent": _scaled(update["share_of_matmul_rate"], 100),
        "saved_flops_percent": _scaled(found["saved"]["flops_vs_full"], 100),
        "saved_memory_dense_percent": _scaled(found["saved"]["memory_vs_dense"], 100),
    }  # fmt: skip


def with_evaluation(training: Mapping[str, float], meta: Mapping[str, Any]) -> dict[str, float]:
    """evaluation_seconds, total_seconds and peak_memory_mb of a cell and one task. training: empty for an untrained model."""
    own = float(meta["seconds"])
    total = own + sum(seconds for name in SECONDS if not pd.isna(seconds := training.get(name, NAN)))
    peak = max(training.get("peak_memory_mb", 0.0), (meta.get("peak_memory_bytes") or 0) / 1e6) or NAN
    return {"evaluation_seconds": own, "total_seconds": total, "peak_memory_mb": peak}


def largest(frame: pd.DataFrame) -> dict[str, float]:
    """Peaks of a row of the board: the largest of its seeds, NaN if one is missing. frame: a row of numbers per seed."""
    return {name: float(frame[name].max(skipna=False)) for name in ("peak_memory_mb", *PEAKS) if name in frame}


def saved(ours: Sequence[Mapping[str, float]], reference: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Measured savings of cells against the reference's of the same seeds, percent: of the sum of seconds, of the largest peak."""
    seconds, theirs = (sum(numbers["update_seconds"] for numbers in side) for side in (ours, reference))
    peak, full = (max((numbers["distil_peak_mb"] for numbers in side), key=lambda x: (x != x, x)) for side in (ours, reference))
    return {"saved_seconds_percent": 100 * (1 - seconds / theirs) if theirs else NAN, "saved_memory_full_percent": 100 * (1 - peak / full)}


def layout(head: pd.DataFrame, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The cost table as text: head's columns, then the costs of the board's rows."""
    table = head.copy()
    for name in SECONDS:
        table[name.removesuffix("_seconds") + " s"] = [number(row[name]) for row in rows]
    for title, (name, form) in SHOWN.items():
        table[title] = [number(row[name], form) for row in rows]
    return table


def number(value: float, form: str = "") -> str:
    """One decimal unless `form` says otherwise; small costs keep two digits, so that a phase never reads as free."""
    return "–" if pd.isna(value) else format(value, form or (".1f" if value >= 1 or value == 0 else ".2g"))


def _scaled(value: float | None, factor: float = 1.0) -> float:
    return NAN if value is None else factor * value
