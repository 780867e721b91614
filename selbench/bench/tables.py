"""Tables of the benchmarks: a name in the first column, numbers in the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["markdown_table", "rich_table"]


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return [f"| {' | '.join(line)} |" for line in lines]


def rich_table(title: str, head: Sequence[str], body: Iterable[Sequence[str]]) -> Table:
    """The same for a terminal."""
    from rich.table import Table

    table = Table(title=title)
    for place, name in enumerate(head):
        table.add_column(name, justify="right" if place else "left", no_wrap=place == 0)
    for row in body:
        table.add_row(*row)
    return table
