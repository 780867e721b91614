"""The verb `report`: a run folder as one HTML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from selbench.cli_answers import Plugins, device_at_hand, plug
from selbench.errors import ConfigError

__all__ = ["report"]

MOST_BYTES = 5_000_000


def report(
    folder: Annotated[Path, typer.Argument(help="A protocol's folder, as in runs/tiny.")] = Path("runs/tiny"),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page (default: report.html in the folder).")] = None,
    models: Annotated[
        bool, typer.Option(help="Load the pair, if it is on this machine, for texts, candidates and verdicts of the rollouts.")
    ] = True,
    rollouts: Annotated[int, typer.Option(min=0, help="In the token viewer, of each pair at most.")] = 200,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, for the models (default: cuda where there is one).")] = None,
    plugin: Plugins = None,
) -> None:
    """Write one self-contained HTML page: leaderboard, curves, costs, overlap of the strategies, and every kept token."""
    from selbench.report import html, tokens

    if not (folder / "plan.json").is_file():
        raise ConfigError(f"{folder}: no plan.json there; give the folder of a protocol, as in runs/tiny")
    page = output or folder / "report.html"
    if not page.parent.is_dir():
        raise ConfigError(f"--output {page}: no folder {page.parent}; create it first")
    plug(plugin)
    chosen = (device or device_at_hand()) if models else "cpu"
    told = tokens.tell(folder, rollouts=rollouts, tokens=html.TOKENS, device=chosen, models=models)
    content = html.collect(folder, told.rows, told.missing, rollouts=rollouts)
    html.write(page, content)
    size = page.stat().st_size
    print(f"wrote {page} ({size / 1e6:.2f} MB, {sum(len(view['rollouts']) for view in content['viewer'])} rollouts): open it in a browser")
    problems = [*content["problems"], *told.missing]
    if size > MOST_BYTES:
        problems.append(f"{page}: larger than {MOST_BYTES / 1e6:.0f} MB; --rollouts {max(1, rollouts // 2)} makes it smaller")
    for problem in problems:
        print(f"selbench: {problem}", file=sys.stderr)
    if content["problems"]:
        sys.exit(2)
