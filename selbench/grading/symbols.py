"""The vocabulary of formulas, and the limits on the numbers in them that are checked before sympy computes."""

from __future__ import annotations

import re
from typing import Any

import sympy
from sympy import Integer
from sympy.core.expr import Expr

__all__ = [
    "ACCENTS",
    "DEPTH",
    "DIGIT_WORDS",
    "FACTORIAL",
    "FUNCTIONS",
    "GREEK",
    "INVERSE",
    "PAIRS",
    "SEVERAL",
    "TOKEN",
    "Unreadable",
    "power",
    "root",
]

DEPTH = 60  # of nested brackets and arguments
BITS = 4_000_000  # of a power of rational numbers; 10^1000000 is still computed
FACTORIAL = 5000  # largest argument of a factorial that is computed
EXPONENT = 10_000  # largest power of an expression with variables

GREEK = frozenset(
    re.findall(
        r"\w+",
        (
            "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
            "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar angle triangle"
        ),
    )
)
ACCENTS = frozenset(re.findall(r"\w+", "bar hat vec tilde overline overrightarrow widehat mathbf mathcal mathbb mathfrak dot"))
_INVERTIBLE = re.findall(r"\w+", "sin cos tan cot sec csc sinh cosh tanh coth")
INVERSE = {name: f"a{name}" for name in _INVERTIBLE}
FUNCTIONS: dict[str, Any] = {
    **{name: getattr(sympy, name) for name in _INVERTIBLE},
    **{prefix + name: getattr(sympy, f"a{name}") for name in _INVERTIBLE for prefix in ("a", "ar", "arc")},
    "ln": sympy.log, "exp": sympy.exp, "log": None, "lg": None, "sgn": sympy.sign, "abs": sympy.Abs, "floor": sympy.floor,
    "ceil": sympy.ceiling, "cbrt": lambda value: root(value, Integer(3)), "cis": lambda angle: sympy.exp(sympy.I * angle),
}  # fmt: skip
SEVERAL = {"gcd": sympy.gcd, "lcm": sympy.lcm, "max": sympy.Max, "min": sympy.Min}
PAIRS = {"(": ")", "[": "]", "{": "}", "⦃": "⦄", "⌊": "⌋", "⌈": "⌉"}
DIGIT_WORDS = re.findall(r"\w+", "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen")
_NAMES = "|".join(sorted([*FUNCTIONS, *SEVERAL, "sqrt", "pi", "infinity", "infty"], key=len, reverse=True))
TOKEN = re.compile(
    rf"\s*(?:(?P<number>[\dA-F]+(?=_\{{?1[1-6])|\d+\.?\d*|\.\d+|\.(?=\s*\\overline))|(?P<command>\\[A-Za-z]+)|(?P<name>{_NAMES})|(?P<text>\"[^\"]*\")|(?P<sign>[^\s]))"
)


class Unreadable(ValueError):
    """The text is no formula that this parser knows, or a number in it is too large to compute."""


def power(base: Expr, exponent: Expr) -> Expr:
    """base**exponent, or Unreadable where that would be too large to compute."""
    size = abs(exponent) if exponent.is_number else Integer(0)
    if base.is_Rational and base not in (0, 1, -1):
        bits = max(abs(base.p).bit_length(), base.q.bit_length())
        if exponent.is_number and bool(sympy.N(size, 5) * bits > BITS):
            raise Unreadable("a power too large to compute")
    elif not base.is_number and bool(sympy.N(size, 5) > EXPONENT):
        raise Unreadable("a power too large to compare")
    return sympy.Pow(base, exponent)


def root(value: Expr, index: Expr) -> Expr:
    """The real root where there is one: that of a negative number of odd index too."""
    if value.is_number and value.is_negative and index.is_Integer and index % 2:
        return -power(-value, 1 / index)
    return power(value, 1 / index)
