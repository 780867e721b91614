"""The simulation behind the intervals and verdicts, a verb of `selbench bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from selbench.cli_answers import bench
from selbench.cli_bench import told, writable

__all__ = ["bench_calibration"]


@bench.command("calibration")
def bench_calibration(
    replicates: Annotated[int, typer.Option(min=1, help="Simulated tables of each case.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated answers.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for every number; a figure goes beside it.")] = None,
) -> None:
    """Intervals and verdicts on tables of known truth: coverage, false claims, power at AIME and MATH-500 sizes. Minutes."""
    from selbench.bench import calibration, calibration_report

    writable(output)
    found = told(calibration.measure(replicates, seed))
    calibration_report.render(found)
    if output is not None:
        output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        calibration_report.figure(found, output.with_suffix(".svg"))
