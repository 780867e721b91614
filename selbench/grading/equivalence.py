"""Are two answers equal? Runs in a worker. The gold answer decides what the other may leave out: units, names, brackets."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import sympy
from sympy.core.expr import Expr

from selbench.grading.equality import proportional, same
from selbench.grading.kinds import Choice, Matrix, Ratio, Reading, Region, Relation, Scalar, Several, Words
from selbench.grading.reading import as_region, read
from selbench.grading.symbols import Unreadable
from selbench.grading.tidy import scientific, squash, tidy
from selbench.grading.units import DEGREE, PERCENT, RADIAN, Unit

__all__ = ["equal", "judge"]


_POWER_OF_TEN = re.compile(r"(?<![\w.])(\d+e[-+])(\d+)(?!\w|\.\d)")
_LISTED_NAMES = re.compile(r"[A-Za-z\",& ]*\band\b[A-Za-z\",& ]*")
_BASED = re.compile(r"(?=[A-F]*\d)([\dA-F.]+)_\{?\"?\w+\"?\}?")
_SPACE = re.compile(r"(?<!\d)\s|\s(?!\d)|\"")  # 1 1/2 is not 11/2


def judge(gold: str, answer: str) -> Any:
    """The verdict on two texts: correct, incorrect, unparsed_gold or unparsed_answer."""
    verdicts = [_judge(wanted, given) for wanted in _alternatives(tidy(gold)) for given in _alternatives(tidy(answer))]
    return next(verdict for verdict in ("correct", "incorrect", *verdicts) if verdict in verdicts)


def _alternatives(text: str) -> list[str]:
    """What an ambiguous text may mean: the sides of an ≈, 2e-3 as a decimal or with Euler's number."""
    parts = [part.strip() for part in text.split("≈", 3)]
    if re.fullmatch(r"\\?\w*", parts[0]):  # x ≈ 3.14 names its value
        parts[0:2] = ["=".join(parts[:2])]
    return [form for part in parts for form in dict.fromkeys((part, _POWER_OF_TEN.sub(scientific, part)))]


def _judge(wanted: str, given: str) -> str:
    """One reading of each. A numeral whose base the gold names may come without it: the question has named the base."""
    based = _BASED.fullmatch(_SPACE.sub("", wanted))
    if _SPACE.sub("", given) in (_SPACE.sub("", wanted), based and based[1]):
        return "correct"
    try:
        right = read(wanted)
    except Unreadable:
        return "correct" if squash(wanted) == squash(given) != "" else "unparsed_gold"
    letters = _letters(right)
    found, failed = False, None
    for join in (True, False):
        try:
            found = found or equal(right, read(given, join=join, units=letters))
        except Unreadable as error:
            failed = error
        if found or "," not in given:
            break
    if not found and (isinstance(right, Words | Choice) or all(_LISTED_NAMES.fullmatch(text) for text in (wanted, given))):
        found = _as_words(right, wanted, given)
        failed = None
    if not found and not letters and not isinstance(right, Words):
        found = _with_letters(wanted, given)
    return "correct" if found else "incorrect" if failed is None else "unparsed_answer"


def _letters(reading: Reading) -> frozenset[str]:
    return reading.unit.letters if isinstance(reading, Scalar) and reading.unit is not None else frozenset()


def _with_letters(wanted: str, given: str) -> bool:
    """A gold answer "5 m" against "5\\text{ m}": the unit of the answer says that the gold's letter is one."""
    try:
        answer = read(given)
        letters = _letters(answer)
        return bool(letters) and equal(read(wanted, units=letters), answer)
    except Unreadable:
        return False


def _same_words(one: str, other: str) -> bool:
    """Equal words; names joined by "and" in any order."""
    return one == other or sorted(one.split(" and ")) == sorted(other.split(" and "))


def _as_words(gold: Reading, wanted: str, given: str) -> bool:
    if isinstance(gold, Choice):
        return re.fullmatch(r"[A-Za-z]", given) is not None and given.upper() == gold.letter
    return given != "" and _same_words(*(squash(re.sub(r"\s*,\s*(?:and\b)?|\s*&\s*", " and ", text)) for text in (wanted, given)))


def equal(gold: Any, answer: Any) -> bool:
    """Whether two readings mean the same; the gold decides what may be left out (units, names, brackets)."""
    if isinstance(gold, Choice) or isinstance(answer, Choice):
        return _equal_choice(gold, answer)
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _equal_relations(gold, answer)
    if isinstance(answer, Relation) and answer.named:
        return equal(gold, answer.right)
    if isinstance(gold, Relation) and gold.named:
        return equal(gold.right, answer)
    if isinstance(gold, Relation) and gold.op == "≡" and gold.left is None and isinstance(answer, Scalar):  # 17 mod 5 is 2
        return same(gold.right[0], answer.value)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return isinstance(gold, Words) and isinstance(answer, Words) and _same_words(gold.text, answer.text)
    if isinstance(gold, Region) != isinstance(answer, Region) and isinstance(gold, Several) != isinstance(answer, Several):
        gold, answer = _as_set(gold), _as_set(answer)
    if isinstance(gold, Region | Relation) or isinstance(answer, Region | Relation):  # two intervals are compared as pairs, below
        return _equal_regions(gold, answer)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _equal_matrices(gold, answer)
    if isinstance(gold, Several) or isinstance(answer, Several):
        return _equal_several(gold, answer)
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _equal_ratios(gold, answer)
    return isinstance(gold, Scalar) and isinstance(answer, Scalar) and _equal_scalars(gold, answer)


def _as_set(reading: Any) -> Any:
    """A finite set of numbers and a bare list of solutions as a set of items; anything else as it is."""
    if isinstance(reading, Region) and isinstance(reading.points, sympy.FiniteSet):
        return Several(tuple(Scalar(point) for point in reading.points), "{", "}")
    if isinstance(reading, Several) and reading.opening in ("", "{"):
        return Several(tuple(_bare(item) for item in reading.items), "{", "}")
    return reading


def _equal_choice(gold: Any, answer: Any) -> bool:
    if isinstance(gold, Choice) and isinstance(answer, Choice):
        return gold.letter == answer.letter
    choice, other = (gold, answer) if isinstance(gold, Choice) else (answer, gold)
    if isinstance(other, Scalar) and other.value.is_Symbol and str(other.value) == choice.letter:
        return True
    if isinstance(other, Words) and other.text == choice.letter.lower():
        return True
    return choice.rest is not None and equal(*((choice.rest, other) if choice is gold else (other, choice.rest)))


def _equal_scalars(gold: Scalar, answer: Scalar) -> bool:
    left, right = gold.unit, answer.unit
    a, b = gold.value, answer.value
    if left == right:
        return same(a, b)
    if PERCENT in (left, right):
        if left is not None and right is not None:
            return False
        if left == PERCENT:
            return same(a, b) or same(a / 100, b)
        return same(a, b / 100) or (bool(a.is_number) and bool(a.is_real) and bool(a > 1) and same(a, b))
    if DEGREE in (left, right) and {left, right} <= {DEGREE, RADIAN, None}:
        in_radians = [value * sympy.pi / 180 if unit == DEGREE else value for value, unit in ((a, left), (b, right))]
        return same(*in_radians) or (None in (left, right) and same(a, b))
    if left is None or right is None:
        return same(a, b)
    return left.dimension == right.dimension and same(a * _rational(left), b * _rational(right))


def _rational(unit: Unit) -> Expr:
    return sympy.Rational(unit.factor.numerator, unit.factor.denominator)


def _equal_several(gold: Any, answer: Any) -> bool:
    if not (isinstance(gold, Several) and isinstance(answer, Several)):
        several, other = (gold, answer) if isinstance(gold, Several) else (answer, gold)
        if several.opening not in ("", "{"):
            return False
        if several is answer:  # the same value said twice, as in 7 1/2 or 15/2
            return all(equal(gold, item) for item in several.items)
        return len(several.items) == 1 and equal(several.items[0], other)
    if "{" in (gold.opening, answer.opening):
        if any(side.opening not in ("", "{") for side in (gold, answer)):
            return False
        return all(any(equal(a, b) for b in answer.items) for a in gold.items) and all(
            any(equal(a, b) for a in gold.items) for b in answer.items
        )
    if len(gold.items) != len(answer.items):
        return False
    if not gold.opening and not answer.opening:
        return _in_some_order(gold.items, answer.items)
    if gold.opening and answer.opening and len(gold.items) == 2 and (gold.opening, gold.closing) != (answer.opening, answer.closing):
        return False
    return all(equal(_bare(a), _bare(b)) for a, b in zip(gold.items, answer.items, strict=True))


def _bare(item: Any) -> Any:
    return item.right if isinstance(item, Relation) and item.named else item


def _in_some_order(gold: Sequence[Any], answer: Sequence[Any]) -> bool:
    left = list(answer)
    for item in gold:
        place = next((n for n, other in enumerate(left) if equal(item, other)), None)
        if place is None:
            return False
        del left[place]
    return not left


def _equal_matrices(gold: Any, answer: Any) -> bool:
    shapes = []
    for side in (gold, answer):
        if isinstance(side, Matrix):
            shapes.append(side.rows)
        elif isinstance(side, Several) and side.opening in ("", "(", "[") and all(isinstance(item, Scalar) for item in side.items):
            other = answer if side is gold else gold
            values = [item.value for item in side.items]
            shapes.append((tuple(values),) if len(other.rows) == 1 else tuple((value,) for value in values))
        elif isinstance(side, Several) and all(isinstance(item, Several) for item in side.items):
            shapes.append(tuple(tuple(getattr(cell, "value", None) for cell in row.items) for row in side.items))
        else:
            return False
    left, right = shapes
    if [len(row) for row in left] != [len(row) for row in right]:
        return False
    cells = [cell for one, two in zip(left, right, strict=True) for cell in zip(one, two, strict=True)]
    return all(a is not None and b is not None and same(a, b) for a, b in cells)


def _equal_regions(gold: Any, answer: Any) -> bool:
    left, right = as_region(gold), as_region(answer)
    if left is None or right is None:
        return False
    if left.variable and right.variable and left.variable != right.variable:
        return False
    return bool(left.points == right.points or (left.points - right.points) | (right.points - left.points) == sympy.S.EmptySet)


def _equal_ratios(gold: Any, answer: Any) -> bool:
    terms = []
    for side in (gold, answer):
        if isinstance(side, Ratio):
            terms.append(side.terms)
        elif isinstance(side, Scalar) and side.unit is None:
            terms.append((side.value, sympy.Integer(1)))
        else:
            return False
    left, right = terms
    pairs = list(zip(left, right, strict=False))
    return len(left) == len(right) and all(same(a * d, b * c) for (a, b), (c, d) in itertools.combinations(pairs, 2))


def _equal_relations(gold: Relation, answer: Relation) -> bool:
    if gold.op != answer.op:
        return False
    if gold.op == "≡":
        (value, modulus), (other, other_modulus) = gold.right, answer.right
        return modulus == other_modulus and same(value, other) and (gold.left is None or answer.left is None or gold.left == answer.left)
    if not all(isinstance(side.left, Expr) and isinstance(_value(side.right), Expr) for side in (gold, answer)):
        named = gold.named and answer.named and (gold.left is None or answer.left is None or gold.left == answer.left)
        return named and equal(gold.right, answer.right)
    if gold.named and answer.named:
        applied = [isinstance(side.left, sympy.core.function.AppliedUndef) for side in (gold, answer)]
        if gold.left == answer.left or (any(applied) and not all(applied)):
            return equal(gold.right, answer.right)
    left, right = gold.left - _value(gold.right), answer.left - _value(answer.right)
    return proportional(left, right, positive=gold.op in ("<", "≤"))


def _value(side: Any) -> Any:
    return side.value if isinstance(side, Scalar) else side
