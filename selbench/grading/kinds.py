"""What an answer can be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sympy.core.expr import Expr

from selbench.grading.units import Unit

__all__ = ["Choice", "Matrix", "Ratio", "Reading", "Region", "Relation", "Scalar", "Several", "Words"]


@dataclass(frozen=True)
class Scalar:
    """A number or expression, and its unit if one is given."""

    value: Expr
    unit: Unit | None = None


@dataclass(frozen=True)
class Several:
    """Items in brackets; `opening` and `closing` are empty for a bare list, braces for a set."""

    items: tuple[Any, ...]
    opening: str = ""
    closing: str = ""


@dataclass(frozen=True)
class Matrix:
    """Rows of expressions."""

    rows: tuple[tuple[Expr, ...], ...]


@dataclass(frozen=True)
class Region:
    """A set of real numbers; of which variable, if it says so."""

    points: Any
    variable: str | None = None


@dataclass(frozen=True)
class Relation:
    """left op right. named: the left side only names the right one, as in x = 5, f(x) = 2x or Area = 5."""

    op: str
    left: Any
    right: Any
    named: bool = False


@dataclass(frozen=True)
class Ratio:
    """a : b : …"""

    terms: tuple[Expr, ...]


@dataclass(frozen=True)
class Choice:
    """A lettered option, and what stands after the letter."""

    letter: str
    rest: Any = None


@dataclass(frozen=True)
class Words:
    """Text, in lower case without punctuation and articles."""

    text: str = field(default="")


Reading = Scalar | Several | Matrix | Region | Relation | Ratio | Choice | Words
