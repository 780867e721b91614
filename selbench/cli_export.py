"""The verb `export`: records in the forms that others read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export"]


def export(
    folder: Annotated[Path, typer.Argument(help="A protocol's folder, a folder within it, or one of `selbench eval`.")] = Path("runs/tiny"),
    form: Annotated[str, typer.Option("--format", help="lm-eval (results file) or model-card (README.md), one a model.")] = "lm-eval",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where they go (default: FOLDER/export/FORMAT).")] = None,
) -> None:
    """Write the results of finished models as lm-eval's results files, or as Hugging Face model cards."""
    from selbench import export as exports

    written, left = exports.write(folder, form, output)
    for path in written:
        print(path)
    for sentence in left:
        print(f"selbench: {sentence}", file=sys.stderr)
