"""AIME 2025 I and II, 30 problems, integer answers. The published text is repaired: it holds LaTeX commands whose escape was eaten."""

from __future__ import annotations

import re
from typing import Any

from selbench import register_task
from selbench.task import TASKS, Benchmark, boxed, keep_all, share_correct, test_split

__all__ = ["boxed", "keep_all", "load", "rows", "share_correct"]

DATA = Benchmark("math-ai/aime25", "test", "aime2025/test.jsonl", 30, fields=("problem", "answer"))


@register_task(
    "aime25",
    version=1,
    samples=32,
    source="math-ai/aime25, split test",
    data=DATA,
    sha256="57a67c00d6b9b6d3723415f35342c8d941b072f86664b31504d2cd759151eb41",
)
def rows() -> list[dict[str, str]]:
    """id, problem and answer of the 30 problems."""
    return [{"id": str(row["id"]), "problem": repaired(row["problem"]), "answer": str(row["answer"])} for row in DATA.load()]


def repaired(text: str) -> str:
    """`\\frac` that became a form feed and `rac` (row 18), `\\triangle` that became a tab and `riangle` (row 19), and the line break
    of the `cases` in row 10 that lost one of its two backslashes."""
    text = text.replace("\x0c", "\\f").replace("\t", "\\t")
    return re.sub(r"(?<!\\)\\(?=\s)", r"\\\\", text) if "\\begin{cases}" in text else text


def load(**_: Any) -> Any:
    """What lm-eval reads."""
    return test_split(TASKS.get("aime25").load())
