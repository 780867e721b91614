"""AIME 2024 I and II, 30 problems, integer answers. The hub keeps them in a split named train; they are test problems."""

from __future__ import annotations

from typing import Any

from selbench import register_task
from selbench.task import TASKS, Benchmark, boxed, keep_all, share_correct, test_split

__all__ = ["boxed", "keep_all", "load", "rows", "share_correct"]

DATA = Benchmark("HuggingFaceH4/aime_2024", "train", "aime2024/test.jsonl", 30, fields=("problem", "answer"))


@register_task(
    "aime24",
    version=1,
    samples=32,
    source="HuggingFaceH4/aime_2024, split train",
    pool="aime",
    data=DATA,
    sha256="65aaccac0807fc4cd88e75fa159ca481d8996cd111d8435fe45bd9d70027f5f4",
)
def rows() -> list[dict[str, str]]:
    """id, problem and answer of the 30 problems."""
    return [{"id": str(row["id"]), "problem": row["problem"], "answer": str(row["answer"])} for row in DATA.load()]


def load(**_: Any) -> Any:
    """What lm-eval reads."""
    return test_split(TASKS.get("aime24").load())
