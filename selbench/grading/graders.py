"""The named graders. All but "exact" judge in killable workers; all but "math_verify" judge what `extract` found.

sympy        ours: `equivalence.equal`
math_verify  math-verify as its README says: parse and verify, on the whole response
hendrycks    the string normalisation of Hendrycks et al. (MATH), as lm-eval installs it
exact        equal strings
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, get_args

from selbench.grading import workers as pool
from selbench.grading.extract import LONGEST, exact, extract, gold_answer, is_number

__all__ = ["GRADER", "GRADERS", "Grade", "Item", "Verdict", "grade", "grade_many"]

GRADER = "selbench-sympy-2"  # rises whenever a verdict may change; stands in every record
Verdict = Literal["correct", "incorrect", "truncated", "unparsed_answer", "unparsed_gold", "timeout", "error"]
Item = tuple[str, str] | tuple[str, str, bool]  # response, gold answer, truncated at the length limit
CACHED = 50_000  # verdicts kept in this process


def _version(package: str) -> str:
    try:
        return f"{package}-{version(package)}"
    except PackageNotFoundError:
        return f"{package}-absent"


GRADERS: dict[str, str] = {
    "sympy": f"{GRADER}+{_version('sympy')}",
    "math_verify": f"{_version('math-verify')}+{_version('latex2sympy2-extended')}",
    "hendrycks": f"hendrycks-is_equiv+{_version('lm-eval')}",
    "exact": "exact-string-1",
}
_JUDGES = {name: f"selbench.grading.graders:judge_{name}" for name in ("sympy", "math_verify", "hendrycks")}


@dataclass(frozen=True)
class Grade:
    """One verdict: the extracted answer (None if there is none), the method that decided, seconds of wall clock."""

    verdict: Verdict
    extracted: str | None
    method: str
    seconds: float


_cache: OrderedDict[tuple[str, str, str], tuple[Verdict, str | None, str]] = OrderedDict()


def grade(response: str, gold: str, *, truncated: bool = False, timeout: float = 5.0, grader: str = "sympy") -> Grade:
    """Judge a response against the gold answer.

    truncated: the response was cut at its length limit. It never makes a verdict right or wrong: without a stated answer (a box,
    "answer is", `####`) what would be "unparsed_answer", or a wrong last number, is called "truncated".
    timeout: wall-clock seconds for one comparison; beyond it the verdict is "timeout", never "incorrect".
    grader: a name in GRADERS; raises ValueError otherwise.
    """
    return grade_many([(response, gold, truncated)], grader=grader, workers=1, timeout=timeout)[0]


def grade_many(
    items: Sequence[Item], *, grader: str = "sympy", workers: int | None = None, timeout: float = 5.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Grade]:  # fmt: skip
    """Judge many (response, gold) or (response, gold, truncated) in parallel; the grades come in the order of the items.

    Equal (gold, extracted) pairs are judged once. workers: processes (default: usable cores). timeout: seconds of wall clock for
    one comparison; a comparison that hangs costs one worker that long and the others nothing. progress is called with
    (judged, all). Raises ValueError for an unknown grader.
    """
    if grader not in GRADERS:
        raise ValueError(f"no grader {grader!r}; known: {', '.join(GRADERS)}")
    grades: list[Grade | None] = [None] * len(items)
    groups: dict[tuple[str, str], list[tuple[int, str | None, bool]]] = {}
    done = 0
    for index, item in enumerate(items):
        began = time.perf_counter()
        response, gold, truncated = item[0], gold_answer(item[1]), len(item) == 3 and bool(item[2])
        answer = extract(response, number=is_number(gold))
        cut = truncated and extract(response, number=False) is None  # nothing stated: what stands last is where it was cut
        found = _at_once(grader, answer, gold, cut)
        if found is None:
            shown = response if grader == "math_verify" else answer or ""
            groups.setdefault((gold, shown), []).append((index, answer, cut))
            continue
        grades[index] = Grade(*found, time.perf_counter() - began)
        done += 1
        if progress is not None and done % 100 == 0:
            progress(done, len(items))

    def settle(key: tuple[str, str], verdict: Verdict, method: str, seconds: float) -> None:
        nonlocal done
        for index, answer, cut in groups[key]:
            mine: Verdict = "truncated" if cut and verdict in ("unparsed_answer", "incorrect") else verdict
            grades[index] = Grade(mine, answer, method, seconds)
        done += len(groups[key])
        if progress is not None:
            progress(done, len(items))

    _judge(grader, list(groups), timeout, workers or pool.usable_cores(), settle)
    return [judged for judged in grades if judged is not None]


def _at_once(grader: str, answer: str | None, gold: str, cut: bool) -> tuple[Verdict, str | None, str] | None:
    """(verdict, extracted, method) where no worker is needed."""
    if grader == "math_verify":
        return None
    if not gold:
        return "unparsed_gold", answer, "extraction"
    if answer is None:
        return ("truncated" if cut else "unparsed_answer"), None, "extraction"
    if len(answer) > LONGEST:
        return "unparsed_answer", answer, "extraction"
    if grader == "exact":
        return _named(answer.strip() == gold.strip(), cut), answer, "exact"
    if grader == "sympy":
        left, right = exact(answer), exact(gold)
        if left is not None and right is not None:
            return _named(left == right, cut), answer, "exact"
    return None


def _named(equal: bool, cut: bool) -> Verdict:
    return "correct" if equal else "truncated" if cut else "incorrect"


def _judge(
    grader: str, keys: list[tuple[str, str]], timeout: float, workers: int, settle: Callable[[tuple[str, str], Verdict, str, float], None]
) -> None:
    """Judge each (gold, answer) from the cache or in the workers; `settle` gets each verdict as it comes."""
    asked: list[tuple[str, str]] = []
    for key in keys:
        known = _cache.get((*key, grader))
        if known is None:
            asked.append(key)
        else:
            _cache.move_to_end((*key, grader))
            settle(key, known[0], known[2], 0.0)

    def on_done(place: int, outcome: pool.Outcome) -> None:
        key = asked[place]
        verdict: Verdict = outcome.value if outcome.kind == "done" else "timeout" if outcome.kind == "timeout" else "error"
        if verdict not in get_args(Verdict):
            raise RuntimeError(f"grader {grader}: no verdict {verdict!r}")
        method = grader if outcome.kind == "done" else f"{grader}: {outcome.value}"
        if outcome.kind == "done" and len(key[1]) <= 4 * LONGEST:
            _cache[(*key, grader)] = (verdict, None, method)
            while len(_cache) > CACHED:
                _cache.popitem(last=False)
        settle(key, verdict, method, outcome.seconds)

    if asked:
        pool.run(_JUDGES[grader], asked, timeout=timeout, workers=workers, on_done=on_done)


def prepare_judge_sympy() -> None:
    """Imports of the worker, before its memory limit is set."""
    import selbench.grading.equivalence  # noqa: F401


def judge_sympy(pair: tuple[str, str]) -> Verdict:
    """Runs in a worker: (gold, answer) by `equivalence.judge`."""
    from selbench.grading.equivalence import judge

    return judge(*pair)


def prepare_judge_math_verify() -> None:
    """Imports of the worker, before its memory limit is set."""
    import math_verify  # noqa: F401


def judge_math_verify(pair: tuple[str, str]) -> Verdict:
    """Runs in a worker: (gold, whole response). The gold answer is wrapped in a box, the form the library looks for."""
    from math_verify import parse, verify

    gold, answer = parse(f"\\boxed{{{pair[0]}}}", parsing_timeout=None), parse(pair[1], parsing_timeout=None)
    if not gold:
        return "unparsed_gold"
    if not answer:
        return "unparsed_answer"
    return "correct" if verify(gold, answer, timeout_seconds=None) else "incorrect"


def prepare_judge_hendrycks() -> None:
    """Imports of the worker, before its memory limit is set."""
    import lm_eval.tasks.hendrycks_math.utils  # noqa: F401


def judge_hendrycks(pair: tuple[str, str]) -> Verdict:
    """Runs in a worker: (gold, extracted answer) by lm-eval's `is_equiv`."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    return "correct" if is_equiv(pair[1], pair[0]) else "incorrect"
