"""The cost bars of the HTML report: seconds, FLOPs and memory of each strategy by phase, with what they are measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selbench import records
from selbench.ledger import summarise
from selbench.report.sections import BY_ROLE, Group, rounded

__all__ = ["cost_views"]

Costed = Sequence[tuple[Group, list[dict[str, Any]]]]


def cost_views(folder: Path, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Per pair: seconds and FLOPs by phase and the peak of distil, beside the full-token run, the control and a dense loss."""
    found = []
    for pair in dict.fromkeys(group.pair for group in groups):
        costed = []
        for group in (group for group in groups if group.pair == pair):
            runs = [records.read_metrics(folder / cell["folder"] / "metrics.jsonl") for cell in group.done(folder)]
            ledgers = [summarise(steps) for steps in runs if steps]
            if ledgers:
                costed.append((group, ledgers))
        costed.sort(key=lambda entry: (entry[0].role != "reference", entry[0].role != "control", entry[0].label))
        views = [view for view in (_seconds(costed), _flops(costed), _memory(costed)) if view]
        if views:
            found.append({"pair": pair, "views": views})
    return found


def _stack(group: Group, ledgers: Sequence[Mapping[str, Any]], phases: Sequence[str], field: str, factor: float) -> dict[str, Any] | None:
    """A bar: means over the seeds; None where a phase that was entered has no such number, or no phase has one."""
    named = [phase for phase in phases if any(phase in ledger["phases"] for ledger in ledgers)]
    cells = {phase: [ledger["phases"].get(phase, {field: 0.0})[field] for ledger in ledgers] for phase in named}
    if not cells or any(value is None for values in cells.values() for value in values):
        return None
    parts = [[phase, rounded([factor * float(np.mean(values))])[0]] for phase, values in cells.items()]
    return {"label": group.label, "role": group.role, "seeds": len(ledgers), "planned": len(group.cells), "parts": parts}


def _view(name: str, unit: str, title: str, bars: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The bars, with a line across them at the total of each baseline; None where there are none."""
    totals = [(bar["label"], sum(value for _, value in bar["parts"])) for bar in bars if bar["role"] in BY_ROLE]
    lines = [{"label": label, "value": rounded([total])[0]} for label, total in totals]
    return {"name": name, "unit": unit, "title": title, "bars": bars, "lines": lines} if bars else None


def _seconds(costed: Costed) -> dict[str, Any] | None:
    bars = [bar for group, ledgers in costed if (bar := _stack(group, ledgers, records.PHASES, "seconds", 1.0))]
    title = "training seconds of all steps, mean over seeds; lines: the full-token run and random selection"
    return _view("seconds", "s", title, bars)


def _flops(costed: Costed) -> dict[str, Any] | None:
    bars = []
    for group, ledgers in costed:
        bar = _stack(group, ledgers, records.UPDATE, "flops", 1e-12)
        baseline = [ledger["update"]["baseline_flops"] for ledger in ledgers]
        if bar and None not in baseline:
            bars.append(bar | {"tick": rounded([1e-12 * float(np.mean(baseline))])[0]})
    title = (
        "FLOPs of the update, mean over seeds; ticks: full-token steps on the same batches; lines: the full-token run and random selection"
    )
    return _view("FLOPs", "TFLOP", title, bars)


def _memory(costed: Costed) -> dict[str, Any] | None:
    bars = []
    for group, ledgers in costed:
        peaks = [ledger["phases"].get("distil", {}).get("peak_bytes") for ledger in ledgers]
        dense = [ledger["dense_peak_bytes"] for ledger in ledgers]
        if None not in peaks:
            bar = {"label": group.label, "role": group.role, "seeds": len(ledgers), "planned": len(group.cells)}
            tick = None if None in dense else rounded([max(dense) / 1e6])[0]
            bars.append(bar | {"parts": [["distil", rounded([max(peaks) / 1e6])[0]]], "tick": tick})
    title = "largest memory held during distil, of any seed; ticks: predicted with a dense full-token loss; lines: full-token run, random"
    return _view("memory", "MB", title, bars)
