"""Extraction and equality: tables of cases, labelled sets, properties, every benchmark's gold answers."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selbench.grading import GRADER, GRADERS, Item, exact, extract, gold_answer, grade, grade_many

GOLDEN = Path(__file__).parent / "golden"
EXTRACTED = [
    (r"so \boxed{42}", "42"),
    (r"\boxed{1} no, \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\sqrt{a^{2}}}", r"\sqrt{a^{2}}"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{\left\{x \mid x>1\right\}}", r"\left\{x \mid x>1\right\}"),
    (r"\fbox{7}", "7"),
    (r"\boxed 5 and so on", "5"),
    (r"$x=\boxed{1}$ and $\boxed{2}$", "1, 2"),
    (r"$\boxed{1}$, $\boxed{2}$ or $\boxed{3}$.", "1, 2, 3"),
    ("first \\boxed{1}.\nNo: \\boxed{2}", "2"),
    ("\\boxed{5}\n\n\\boxed{5}", "5"),
    (r"cut in the box \boxed{4", None),
    ("5+8=13,#0131", "0131"),
    ("work\n#### 1,234", "1,234"),
    ("The answer is 42.", "42"),
    ("The answer is: $\\frac12$.", "\\frac12"),
    ("The final answer is $x=5$. I hope it is correct.", "x=5"),
    ("**Answer:** 17", "17"),
    ("**Answer: 3/4**", "3/4"),
    ("Answer:\n\\[ \\sqrt{2} \\]", "\\sqrt{2}"),
    ("The answer is \\(3\\), because \\(y=2\\).", "3"),
    ("The answer is 5 apples, as 2+3=5.", "5"),
    ("He pays 3 and 5, so 8 dollars.", "8"),
    ("<think>\\boxed{3}</think> It is 4", "4"),
    ("a draft \\boxed{3}</think> so \\boxed{4}", "4"),
    ("<think>\\boxed{3} and so on", None),
    ("<think>a</think> b <think>\\boxed{3}", None),
    ("no number here", None),
    (r"\boxed{}", None),
    ("", None),
]
HOSTILE = [
    "10^{10^{10}}", r"9^{9^{9^9}}", "9" * 1999, "7^{" + "9" * 1500 + "}", "{" * 900 + "}" * 900, "(" * 900 + ")" * 900, r"\frac{" * 300,
    "__import__('os').system('touch pwned')", "exec(open('/etc/passwd').read())", r"2^{2^{2^{2^{2^{2}}}}}!", "((5!)!)!", "99999999!",
    r"\binom{10^{9}}{5\cdot 10^8}", r"\sqrt{" * 200 + "2" + "}" * 200, r"\begin{pmatrix}" + "1&" * 900 + r"1\end{pmatrix}",
    "(x+y+z+w)^{9999}", r"\prod_{k=1}^{10000000} k", r"\sin" * 300 + "x", "x^" * 500 + "x", "|" * 500 + "x", "e^{e^{e^{e^{e^{5}}}}}",
    "a," * 999, "1\\pm" * 300 + "1", "0." + "9" * 1900, "1" + ",000" * 480, r"{1,2}\cup" * 150 + "{1}", "\x00\ud800", r"\text{" * 300,
]  # fmt: skip
LONG = [
    "a" * 2_000_000, "\\boxed{" * 280_000, "\\boxed{1}, " * 180_000, "answer is " * 200_000, "$" * 2_000_000, "1," * 1_000_000,
    "\\boxed{" + "{" * 2_000_000, "<think>" * 280_000, "\\(" * 500_000 + " answer is " + "\\(" * 500_000, "answer" + " " * 2_000_000,
    "answer is " + "1/" * 1_000_000, "\\boxed{1}" + " " * 2_000_000 + "\\boxed{2}", "#" * 2_000_000, "-" * 2_000_000,
]  # fmt: skip
EQUAL_TEXTS = {frozenset(pair) for pair in [("11", "11.0")]}  # different texts of MATH-500 that are equal; none is drawn below


def boxed(answer: str) -> str:
    return f"Therefore the answer is $\\boxed{{{answer}}}$."


def labelled(name: str) -> list[dict[str, Any]]:
    path = GOLDEN / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"no labelled set {path.name}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wrong(rows: list[dict[str, Any]], grader: str = "sympy") -> list[tuple[str, str, str]]:
    grades = grade_many([(boxed(row["answer"]), row["gold"]) for row in rows], grader=grader)
    return [
        (row["gold"], row["answer"], g.verdict) for row, g in zip(rows, grades, strict=True) if (g.verdict == "correct") != row["equal"]
    ]


@pytest.mark.parametrize(("response", "expected"), EXTRACTED)
def test_extraction(response: str, expected: str | None) -> None:
    assert extract(response) == expected


def test_the_gold_answer_and_the_end_of_the_text_decide_what_counts() -> None:
    assert extract("He has 5", number=False) is None
    assert extract("so 5 + 8 + 0 = 13 and then we carry the") is None
    assert extract("5 + 8 = 13, so 13 apples") == "13"
    assert extract("There are 13 of them. I hope it is clear.") == "13"
    assert extract(r"was \boxed{3}, now \boxed{4") is None
    assert extract(r"long, but \boxed{4} was said and") == "4"
    assert grade("so there are 5", "x+5").verdict == "unparsed_answer"
    assert grade("so there are 5", r"\$5").verdict == "correct"


@given(st.text(alphabet="\\boxedfrac{}()$#answer is:0123456789,./-<thk> \n", max_size=200), st.booleans())
def test_extraction_never_raises(text: str, number: bool) -> None:
    found = extract(text, number=number)
    assert found is None or found.strip()


@given(st.text(max_size=60))
def test_what_is_boxed_is_found(text: str) -> None:
    inner = text.replace("\\", "").replace("{", "").replace("}", "").replace("think", "").strip()
    assert extract(f"so \\boxed{{{inner}}}") == (inner or None) or not inner


@pytest.mark.slow
def test_long_responses_take_linear_time() -> None:
    for text in LONG:
        began = time.perf_counter()
        extract(text)
        assert time.perf_counter() - began < 10, text[:20]


@pytest.mark.parametrize("name", ["equivalence", "equivalence_heldout", "equivalence_audit"])
def test_labelled_pairs(name: str) -> None:
    rows = labelled(name)
    kinds = {row["kind"] for row in rows}
    assert len(rows) >= 300
    assert all({row["equal"] for row in rows if row["kind"] == kind} == {True, False} for kind in kinds)
    assert len(wrong(rows)) <= 0.02 * len(rows), wrong(rows)


def test_labelled_responses() -> None:
    rows = labelled("extraction_audit")
    grades = grade_many([(row["response"], row["gold"]) for row in rows])
    failed = [(row["response"], row["gold"], g) for row, g in zip(rows, grades, strict=True) if (g.verdict == "correct") != row["correct"]]
    assert len(rows) >= 60
    assert failed == []


def test_classes_of_notation() -> None:
    rows = labelled("notations")
    pairs = [{"gold": row["gold"], "answer": row[side], "equal": side == "equal"} for row in rows for side in ("equal", "unequal")]
    assert len({row["class"] for row in rows}) >= 20
    assert wrong(pairs) == []


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("So the answer is −12.", "−12"),
        ("The loss is −4 dollars.", "−4"),
        ("<answer> 3/4 </answer>", "3/4"),
        ("<answer>1</answer> or rather <answer>2</answer>", "2"),
        (r"<answer>so \boxed{9}</answer>", "9"),
        ("Hence the answer is:\n\n$$\nx^2\n+1\n$$\nas claimed", "x^2\n+1"),
        ("The answer is\n\\[\n\\frac{3}{4}\n\\]", "\\frac{3}{4}"),
    ],
)
def test_extraction_of_signs_tags_and_displays(response: str, expected: str) -> None:
    assert extract(response) == expected


@pytest.mark.slow
def test_at_least_as_good_as_the_libraries() -> None:
    rows = labelled("equivalence")
    ours = wrong(rows)
    for grader in ("math_verify", "hendrycks", "exact"):
        assert len(ours) <= len(wrong(rows, grader)), grader


RATIONALS = st.builds(Fraction, st.integers(-999, 999), st.integers(1, 999))


def notations(value: Fraction) -> list[str]:
    sign, above, below = "-" if value < 0 else "", abs(value.numerator), value.denominator
    whole, rest = divmod(above, below)
    shown = [f"{sign}\\frac{{{above}}}{{{below}}}", f"{sign}{above}/{below}", f"\\dfrac{{{sign}{above}}}{{{below}}}"]
    if whole and rest:
        shown.append(f"{sign}{whole}\\frac{{{rest}}}{{{below}}}")
    if 10**6 % below == 0:
        shown.append(f"{sign}{above * 10**6 // below / 10**6:f}")
    return [*shown, f"x = {shown[0]}", f"{shown[0]}\\text{{ cm}}"]


@settings(max_examples=10, deadline=None)
@given(st.lists(RATIONALS, min_size=2, max_size=5, unique=True))
def test_rationals_equal_themselves_in_any_notation_and_nothing_else(values: list[Fraction]) -> None:
    pairs = [(a, b, x == y) for x in values for y in values for a in notations(x)[:5] for b in notations(y)]
    grades = grade_many([(boxed(b), a) for a, b, _ in pairs])
    assert [(a, b) for (a, b, same), g in zip(pairs, grades, strict=True) if (g.verdict == "correct") != same] == []


def test_equality_is_reflexive_and_of_numbers_symmetric() -> None:
    rows = labelled("equivalence")
    texts = sorted({row[side] for row in rows for side in ("gold", "answer")})
    assert [text for text, g in zip(texts, grade_many([(boxed(t), t) for t in texts]), strict=True) if g.verdict != "correct"] == []
    numbers = [row for row in rows if row["kind"] in ("integer", "decimal", "fraction", "mixed number", "radical", "constant", "complex")]
    turned = [{"gold": row["answer"], "answer": row["gold"], "equal": row["equal"]} for row in numbers]
    assert wrong(turned) == []


@given(st.sampled_from(["so 5 + 8 = 13", "13.", r"\boxed{13", r"\boxed{13}", "13 and", "the answer is 13", "12 apples."]), st.booleans())
def test_truncation_names_a_failure_and_makes_none(response: str, cut: bool) -> None:
    assert (grade(response, "13", truncated=cut).verdict == "correct") == (grade(response, "13").verdict == "correct")


def test_outcomes_are_typed() -> None:
    assert grade("nothing", "4").verdict == "unparsed_answer"
    assert grade("so 5 + 8 = 13, carry 1 and", "13", truncated=True).verdict == "truncated"
    assert grade("5 + 8 = 13", "14", truncated=True).verdict == "truncated"
    assert grade("5 + 8 = 13", "14").verdict == "incorrect"
    assert grade(r"long, but \boxed{4} was said", "4", truncated=True).verdict == "correct"
    assert grade(r"\boxed{4}", "").verdict == "unparsed_gold"
    assert grade(r"\boxed{4}", r"\unknown{").verdict == "unparsed_gold"
    assert grade(r"\boxed{\frac{1}}", "x").verdict == "unparsed_answer"
    assert grade("x" * 10, "4").extracted is None
    with pytest.raises(ValueError, match="known: sympy"):
        grade("4", "4", grader="sumpy")


@pytest.mark.parametrize(
    "grader", ["sympy", "exact", *(pytest.param(name, marks=pytest.mark.slow) for name in ("math_verify", "hendrycks"))]
)
def test_many_keep_their_order_and_judge_equal_pairs_once(grader: str) -> None:
    items: list[Item] = [(boxed(str(n % 7)), "3") for n in range(50)] + [("nothing", "3", True)]
    seen: list[tuple[int, int]] = []
    grades = grade_many(items, grader=grader, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert [n for n, g in enumerate(grades) if g.verdict == "correct"] == [n for n in range(50) if n % 7 == 3]
    assert grades[-1].verdict == "truncated"
    assert seen == sorted(seen)
    assert GRADERS["sympy"].startswith(GRADER)


def test_importing_the_graders_imports_no_heavy_library() -> None:
    code = "import sys, selbench.grading; print([m for m in ('sympy', 'torch', 'lm_eval', 'math_verify') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_exact() -> None:
    assert exact("1,234") == 1234
    assert exact(".5") == exact(r"\frac12") == exact("1/2") == exact(r"\dfrac{1}{2}") == Fraction(1, 2)
    assert exact(r"-\frac{3}{8}") == exact("-3/8") == Fraction(-3, 8)
    assert [text for text in ("", "x", "1/0", "1,23", r"\frac{1}{0}", "1 2", "٣", "9" * 201, "1.5/2") if exact(text) is not None] == []


@pytest.mark.slow
def test_hostile_answers_cost_their_limit_and_nothing_else() -> None:
    for grader in ("sympy", "math_verify", "hendrycks"):
        began = time.perf_counter()
        items: list[Item] = [(boxed(text), "x+1") for text in HOSTILE]
        grades = grade_many(items, grader=grader, workers=2, timeout=2.0)
        assert all(g.verdict in ("incorrect", "timeout", "unparsed_answer", "error") for g in grades), grader
        assert time.perf_counter() - began < 2.0 * len(HOSTILE) + 30
        assert grade(boxed("x + 1"), "x+1", grader=grader).verdict == "correct"
    assert not Path("pwned").exists()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 2**20  # KiB: the largest worker so far, below 2 GiB


@pytest.mark.slow
def test_a_hang_delays_no_other_pair() -> None:
    grade_many([(boxed(rf"\sqrt{{{n}}}"), "7") for n in range(20)], workers=2)
    items: list[Item] = [(boxed(r"\prod_{k=1}^{100000000} k"), "x+1")]
    items += [(boxed(rf"\sqrt{{{4 * n}}}"), rf"2\sqrt{{{n}}}") for n in range(1, 200)]
    done: list[float] = []
    began = time.perf_counter()
    grades = grade_many(items, workers=2, timeout=15.0, progress=lambda *_: done.append(time.perf_counter() - began))
    assert grades[0].verdict == "timeout"
    assert all(g.verdict == "correct" for g in grades[1:])
    assert done[-2] < 15.0 <= done[-1]  # the others, seconds of work in all, were through while it hung


def test_memory_is_limited() -> None:
    from selbench.grading import workers

    (outcome,) = workers.run("tests.test_grading:take_memory", [4 * workers.MEMORY_LIMIT], timeout=60)
    assert (outcome.kind, outcome.value) == ("error", "out of memory")
    (after,) = workers.run("tests.test_grading:take_memory", [1000], timeout=60)
    assert (after.kind, after.value) == ("done", 1000)


def take_memory(size: int) -> int:
    """A job of the test above; runs in a worker."""
    return len(bytearray(size))


def test_gold_answers_of_gsm8k(benchmark_data: Path) -> None:
    rows = [json.loads(line) for line in (benchmark_data / "gsm8k" / "test.jsonl").read_text().splitlines()]
    golds = [gold_answer(row["answer"]) for row in rows]
    assert len(golds) == 1319
    assert all(g.verdict == "correct" for g in grade_many([(boxed(gold), row["answer"]) for gold, row in zip(golds, rows, strict=True)]))
    assert all(grade(f"The answer is {gold}.", gold).verdict == "correct" for gold in golds)


def test_gold_answers_of_math_and_aime(benchmark_data: Path) -> None:
    for name, count in (("math500", 500), ("aime2024", 30), ("aime2025", 30)):
        (path,) = (benchmark_data / name).glob("*.jsonl")
        golds = [str(json.loads(line)["answer"]) for line in path.read_text().splitlines()]
        grades = grade_many([(boxed(gold), gold) for gold in golds])
        assert [gold for gold, g in zip(golds, grades, strict=True) if g.verdict != "correct"] == []
        assert len(golds) == count


def test_no_other_answer_of_math_is_right(benchmark_data: Path) -> None:
    golds = [json.loads(line)["answer"] for line in (benchmark_data / "math500" / "test.jsonl").read_text().splitlines()]
    draw = random.Random(0)
    pairs: list[Item] = []
    while len(pairs) < 2000:
        one, other = draw.sample(golds, 2)
        if one != other and frozenset((one, other)) not in EQUAL_TEXTS:
            pairs.append((boxed(one), other))
    grades = grade_many(pairs)
    assert [pair for pair, g in zip(pairs, grades, strict=True) if g.verdict != "incorrect"] == []
