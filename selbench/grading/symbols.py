"""The vocabulary of formulas, and the limits on the numbers in them that are checked before sympy computes."""

from __future__ import annotations

import re

import sympy
from sympy import Integer
from sympy.core.expr import Expr

__all__ = ["ACCENTS", "DEPTH", "FACTORIAL", "FUNCTIONS", "GREEK", "INVERSE", "PAIRS", "SEVERAL", "TOKEN", "Unreadable", "power"]

DEPTH = 60  # of nested brackets and arguments
BITS = 2_000_000  # of a power of rational numbers; 2^1000000 is still computed
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
ACCENTS = frozenset(
    re.findall(r"\w+", "bar hat vec tilde overline overrightarrow widehat mathbf mathcal mathbb mathfrak boldsymbol underline dot")
)
FUNCTIONS = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "coth": sympy.coth, "arcsin": sympy.asin, "arccos": sympy.acos,
    "arctan": sympy.atan, "arccot": sympy.acot, "arcsec": sympy.asec, "arccsc": sympy.acsc, "asin": sympy.asin, "acos": sympy.acos,
    "atan": sympy.atan, "ln": sympy.log, "exp": sympy.exp, "log": None, "lg": None, "sgn": sympy.sign, "abs": sympy.Abs,
}  # fmt: skip
INVERSE = {"sin": "asin", "cos": "acos", "tan": "atan", "cot": "acot", "sec": "asec", "csc": "acsc",
            "sinh": "asinh", "cosh": "acosh", "tanh": "atanh", "coth": "acoth"}  # fmt: skip
SEVERAL = {"gcd": sympy.gcd, "lcm": sympy.lcm, "max": sympy.Max, "min": sympy.Min}
PAIRS = {"(": ")", "[": "]", "{": "}", "⌊": "⌋", "⌈": "⌉"}
_NAMES = "|".join(sorted([*FUNCTIONS, *SEVERAL, "sqrt", "pi", "infinity", "infty"], key=len, reverse=True))
TOKEN = re.compile(
    rf"\s*(?:(?P<number>\d+\.?\d*|\.\d+|\.(?=\s*\\overline))|(?P<command>\\[A-Za-z]+)|(?P<name>{_NAMES})|(?P<text>\"[^\"]*\")|(?P<sign>[^\s]))"
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
