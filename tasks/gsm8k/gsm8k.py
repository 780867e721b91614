"""GSM8K test split (openai/gsm8k, 1,319 problems; Cobbe et al., arXiv:2110.14168). The gold answer follows `####`."""

from __future__ import annotations

from typing import Any

from selbench import register_task
from selbench.grading import gold_answer
from selbench.task import keep_all, load_rows, share_correct, test_split

__all__ = ["keep_all", "load", "rows", "share_correct"]


@register_task("gsm8k", version=1, samples=1, source="openai/gsm8k, config main, split test")
def rows() -> list[dict[str, str]]:
    """id, problem and final answer of the test problems."""
    found = load_rows("openai/gsm8k", config="main", split="test", mirror="gsm8k/test.jsonl", rows=1319)
    return [{"id": str(n), "problem": row["question"], "answer": gold_answer(row["answer"])} for n, row in enumerate(found)]


def load(**_: Any) -> Any:
    """What lm-eval reads."""
    return test_split(rows())
