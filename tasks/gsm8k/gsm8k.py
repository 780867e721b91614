"""GSM8K test split (openai/gsm8k, 1,319 problems; Cobbe et al., arXiv:2110.14168). The gold answer follows `####`."""

from __future__ import annotations

from typing import Any

from selbench import register_task
from selbench.grading import gold_answer
from selbench.task import TASKS, Benchmark, boxed, keep_all, share_correct, test_split

__all__ = ["boxed", "keep_all", "load", "rows", "share_correct"]

DATA = Benchmark("openai/gsm8k", "test", "gsm8k/test.jsonl", 1319, config="main", fields=("question", "answer"))


@register_task(
    "gsm8k",
    version=2,
    samples=1,
    source="openai/gsm8k, config main, split test",
    data=DATA,
    sha256="371c3dc022d454a463cdb4f8378d97d2dcea7b2ee9020a6cf65034010f6f91de",
)
def rows() -> list[dict[str, str]]:
    """id, problem and answer of the 1,319 problems."""
    return [{"id": str(n), "problem": row["question"], "answer": gold_answer(row["answer"])} for n, row in enumerate(DATA.load())]


def load(**_: Any) -> Any:
    """What lm-eval reads."""
    return test_split(TASKS.get("gsm8k").load())
