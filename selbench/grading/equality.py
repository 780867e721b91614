"""Are two expressions equal? Exact arithmetic first; nowhere a tolerance alone.

Rational numbers: exactly. Other constants (radicals, logarithms, trigonometry): unequal as soon as their difference, which sympy
evaluates with as many digits as its cancellation needs, is known not to vanish; equal if expansion proves it zero, or if it
vanishes to `DIGITS` digits beyond those of the integers in it. Expressions with variables: at fixed random rational points, where
rational functions are exact; they must agree at every point at which both are real, the first to `DIGITS` digits.
"""

from __future__ import annotations

import random
from typing import Any

import sympy
from sympy.core.expr import Expr

__all__ = ["proportional", "same"]

DIGITS = 400
POINTS = 10  # at which expressions with variables are compared


def proportional(left: Expr, right: Expr, *, positive: bool) -> bool:
    """Whether left = c * right with a constant c other than zero; positive: of an order, whose direction a negative c turns."""
    if left.free_symbols != right.free_symbols:
        return False
    if not left.free_symbols:
        return same(left, sympy.Integer(0)) == same(right, sympy.Integer(0))
    for point in _points(left.free_symbols, 5, left, right):
        at, other = left.subs(point), right.subs(point)
        if other.is_number and at.is_number and not other.is_zero and not at.is_zero:
            factor = at / other
            return (not positive or bool(factor > 0)) and same(left, factor * right)
    return False


def _points(symbols: Any, count: int, *sides: Expr) -> list[dict[Any, Expr]]:
    """Fixed rational points: positive ones first, then of any sign. Symbols in exponents are small integers, those counted natural."""
    counted = _symbols_of(sides, sympy.factorial, sympy.factorial2, sympy.binomial)
    whole = counted | _symbols_of((power.exp for power in _parts(sides, sympy.Pow)), sympy.Basic)
    draw = random.Random(20240229)

    def coordinate(n: int, symbol: Any) -> Expr:
        value = sympy.Integer(draw.randint(2, 9)) if symbol in whole else sympy.Rational(draw.randint(100, 999), draw.randint(100, 999))
        return -value if n >= count // 2 and draw.random() < 0.5 and symbol not in counted else value

    return [{symbol: coordinate(n, symbol) for symbol in sorted(symbols, key=str)} for n in range(count)]


def _parts(sides: Any, *kinds: Any) -> list[Any]:
    return [part for side in sides for part in sympy.preorder_traversal(side) if isinstance(part, kinds)]


def _symbols_of(sides: Any, *kinds: Any) -> Any:
    return set().union(*(part.free_symbols for part in _parts(sides, *kinds)))


def same(a: Expr, b: Expr) -> bool:
    """Whether two expressions are equal: see the module's docstring. Raises Unreadable if they agree nowhere for lack of points."""
    if a == b:
        return True
    symbols = a.free_symbols | b.free_symbols
    functions = (a - b).atoms(sympy.core.function.AppliedUndef)
    if functions:
        names = {function: sympy.Dummy() for function in functions}
        return same(a.xreplace(names), b.xreplace(names))
    if not symbols:
        return _same_number(a, b)
    compared, exponents = 0, [part.exp for part in _parts((a, b), sympy.Pow)]
    signs_matter = (a - b).has(sympy.Abs, sympy.sign, sympy.log) or not all(exponent.is_Integer for exponent in exponents)
    complex_valued = a.has(sympy.I) or b.has(sympy.I)
    for point in _points(symbols, POINTS, a, b):
        left, right = a.subs(point), b.subs(point)
        if any(side.has(sympy.nan, sympy.zoo, sympy.oo) for side in (left, right)):
            continue
        if not complex_valued and not (_real_throughout(a, point) and _real_throughout(b, point)):
            continue
        if not _same_number(left, right, DIGITS if compared == 0 else 30):
            return False
        compared += 1
        if compared == POINTS // 2 and not signs_matter:
            return True
    if compared >= 3:
        return True
    return bool(sympy.simplify(a - b) == 0)


def _real_throughout(expression: Expr, point: dict[Any, Expr]) -> bool:
    """Whether no part of the expression leaves the real numbers at this point: there the principal branches say nothing."""
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, sympy.Pow | sympy.log | sympy.asin | sympy.acos) and part.subs(point).is_real is False:
            return False
    return True


def _same_number(a: Expr, b: Expr, digits: int = DIGITS) -> bool:
    """Whether two constants are equal, to `digits` digits beyond those of their integers where neither exact way decides."""
    if a.is_Rational and b.is_Rational:
        return bool(a == b)
    if any(side.has(sympy.oo, -sympy.oo, sympy.nan, sympy.zoo) for side in (a, b)):
        return bool(a == b)
    difference = a - b
    if difference == 0:
        return True
    longest = sum(len(str(number)) for number in difference.atoms(sympy.Rational))
    for allowed in (30, digits + longest):
        parts = difference.evalf(5, maxn=allowed).as_real_imag()
        if any(part.is_Float and part != 0 and part._prec > 1 for part in parts):  # significant digits are left: not zero
            return False
        if allowed == 30 and sympy.expand(difference) == 0:
            return True
    size = max(sympy.Integer(1), abs(a.evalf(5)))
    if all(bool(abs(part) < size * sympy.Float(10) ** (longest - allowed // 2)) for part in parts):
        return True
    raise ArithmeticError(f"cannot tell whether {a} and {b} are equal")
