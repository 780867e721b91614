"""Sums, products, integrals, limits and derivatives, which `latex2sympy2` reads and sympy computes."""

from __future__ import annotations

import re

import sympy
from sympy import Symbol
from sympy.core.expr import Expr

from selbench.grading.symbols import Unreadable

__all__ = ["by_library"]


def by_library(text: str) -> Expr:
    """The value of a tidy text with such an operator in it. Raises Unreadable, also where no closed form is found."""
    from latex2sympy2_extended.latex2sympy2 import latex2sympy

    braced = re.sub(r"(\\frac\{[^{}]*\})\s*(\w)", r"\1{\2}", re.sub(r"\\(frac|sqrt)\s*(\w)", r"\\\1{\2}", text))
    try:
        found = latex2sympy(braced.replace("∞", r"\infty "))
        value = found.doit()
    except Exception as error:  # the library raises bare Exceptions on what it cannot read
        raise Unreadable(f"{text!r}: {error}") from error
    if not isinstance(value, Expr) or value.has(sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit):
        raise Unreadable(f"{text!r} has no closed form here")
    named = {symbol: Symbol(symbol.name, real=True) for symbol in value.free_symbols}
    return sympy.nsimplify(value.xreplace(named), rational=True)
