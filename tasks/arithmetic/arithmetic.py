"""200 held-out additions of two to four digits, none of them among the training prompts. Made by `selbench tiny build`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selbench import register_task
from selbench.task import keep_all, share_correct, test_split

__all__ = ["keep_all", "load", "rows", "share_correct"]

ROWS = 200


@register_task("arithmetic", version=1, samples=4, source="selbench/tiny/text.py")
def rows() -> list[dict[str, str]]:
    """id, problem and answer of the held-out problems."""
    lines = Path(__file__).with_name("test.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) == ROWS, f"test.jsonl has {len(found)} rows, expected {ROWS}"
    return [{"id": row["prompt"], "problem": row["prompt"], "answer": row["answer"]} for row in found]


def load(**_: Any) -> Any:
    """What lm-eval reads."""
    return test_split(rows())
