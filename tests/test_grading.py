"""Extraction and equality: a table of cases, hostile input, typed outcomes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from selbench.grading import extract, gold_answer, grade

EXTRACTED = [
    (r"so \boxed{42}", "42"),
    (r"\boxed{1} no, \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\sqrt{a^{2}}}", r"\sqrt{a^{2}}"),
    (r"cut in the box \boxed{4", "4"),
    ("5+8=13,#0131", "0131"),
    ("work\n#### 1,234", "1,234"),
    ("The answer is 42.", "42"),
    ("The answer is: $\\frac12$.", "\\frac12"),
    ("He pays 3 and 5, so 8 dollars.", "8"),
    ("<think>\\boxed{3}</think> It is 4", "4"),
    ("<think>\\boxed{3} and so on", None),
    ("no number here", None),
    ("", None),
]
EQUAL = [
    ("0131", "131"),
    ("1,234", "1234"),
    ("0.5", "1/2"),
    (r"\frac{1}{2}", "0.5"),
    (r"2\sqrt{2}", r"\sqrt{8}"),
    ("x+1", "1+x"),
    ("-3", "-3.0"),
]
DIFFERENT = [
    ("131", "132"),
    (r"\frac{1}{2}", r"\frac{1}{3}"),
    ("1/1267650600228229401496703205376", "1/633825300114114700748351602688"),
    ("x", "y"),
    ("-3", "3"),
]
HOSTILE = ["10^{10^{10}}", "9" * 1999, "{" * 900 + "}" * 900, "__import__('os').system('true')", r"\frac{" * 300, r"2^{2^{2^{2^{2^{2}}}}}!"]


@pytest.mark.parametrize(("response", "expected"), EXTRACTED)
def test_extraction(response: str, expected: str | None) -> None:
    assert extract(response) == expected


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_equal(answer: str, gold: str) -> None:
    assert grade(f"\\boxed{{{answer}}}", gold).verdict == "correct"


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_different(answer: str, gold: str) -> None:
    assert grade(f"\\boxed{{{answer}}}", gold).verdict == "incorrect"


def test_outcomes_are_typed() -> None:
    assert grade("nothing", "4").verdict == "unparsed_answer"
    assert grade("5+8+0=13,4", "4", truncated=True).verdict == "truncated"
    assert grade(r"long, but \boxed{4} was said", "4", truncated=True).verdict == "correct"
    assert grade("x" * 10, "4").extracted is None


@pytest.mark.slow
def test_hostile_answers_cost_their_limit_and_nothing_else() -> None:
    began = time.perf_counter()
    for text in HOSTILE:
        judged = grade(f"\\boxed{{{text}}}", "x+1", timeout=2.0)
        assert judged.verdict in ("incorrect", "timeout", "unparsed_answer", "error"), text
        assert judged.seconds < 30
    assert time.perf_counter() - began < 100
    assert grade(r"\boxed{\sqrt{4}}", "2").verdict == "correct"


def test_gold_answers_of_gsm8k(benchmark_data: Path) -> None:
    rows = [json.loads(line) for line in (benchmark_data / "gsm8k" / "test.jsonl").read_text().splitlines()]
    golds = [gold_answer(row["answer"]) for row in rows]
    assert len(golds) == 1319
    assert all(grade(f"so \\boxed{{{gold}}}", row["answer"]).verdict == "correct" for gold, row in zip(golds, rows, strict=True))
    assert all(grade(f"The answer is {gold}.", gold).verdict == "correct" for gold in golds)
