"""MATH-500: 500 problems of the MATH test set (Hendrycks et al., arXiv:2103.03874; split of Lightman et al., arXiv:2305.20050)."""

from __future__ import annotations

from typing import Any

from selbench import register_task
from selbench.task import TASKS, Benchmark, boxed, keep_all, share_correct, test_split

__all__ = ["boxed", "keep_all", "load", "rows", "share_correct"]

DATA = Benchmark("HuggingFaceH4/MATH-500", "test", "math500/test.jsonl", 500, fields=("problem", "answer", "unique_id"))


@register_task(
    "math500",
    version=1,
    samples=4,
    source="HuggingFaceH4/MATH-500, split test",
    data=DATA,
    sha256="d664a27288d67b4dc56b889a38e8a16fb82574f77dff92970121f9fa5fb47d3c",
)
def rows() -> list[dict[str, str]]:
    """id, problem and answer of the 500 problems."""
    return [{"id": row["unique_id"], "problem": row["problem"], "answer": row["answer"]} for row in DATA.load()]


def load(**_: Any) -> Any:
    """What lm-eval reads."""
    return test_split(TASKS.get("math500").load())
