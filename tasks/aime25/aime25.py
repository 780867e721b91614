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
    version=2,
    samples=32,
    source="math-ai/aime25, split test",
    pool="aime",
    data=DATA,
    sha256="0eb3502ddb02fe1cdce289f60ff417c85762f2d5b50c95e7ff0595a834dc7443",
)
def rows() -> list[dict[str, str]]:
    """id, problem and answer of the 30 problems."""
    return [{"id": str(row["id"]), "problem": repaired(row["problem"]), "answer": str(row["answer"])} for row in DATA.load()]


def repaired(text: str) -> str:
    """`\\frac` that became a form feed and `rac` (rows 18, 27), `\\triangle` that became a tab and `riangle` (row 19), and the line
    breaks of `align*` and `cases` that lost one of their two backslashes (rows 7, 10; rows from 0)."""
    text = text.replace("\x0c", "\\f").replace("\t", "\\t")
    return re.sub(r"(?<!\\)\\(?=\s)", r"\\\\", text) if "\\begin{" in text else text


def load(**_: Any) -> Any:
    """What lm-eval reads."""
    return test_split(TASKS.get("aime25").load())
