"""An answer's structure: a number with its unit, a list, set, tuple, interval, matrix, relation, choice, or words.

`read` splits a tidy text at the top level of its brackets and leaves the formulas to `latex.formula`, the units to `units`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import sympy
from sympy.core.expr import Expr

from selbench.grading.kinds import Choice, Matrix, Ratio, Reading, Region, Relation, Scalar, Several, Words
from selbench.grading.latex import formula
from selbench.grading.symbols import DIGIT_WORDS, FUNCTIONS, SEVERAL, Unreadable
from selbench.grading.tidy import CLOSING, OPENING, closing, squash, unwrapped
from selbench.grading.units import Unit, split_unit

__all__ = ["as_region", "read"]


_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,]*\d)")
_MATRIX = re.compile(r"\\begin\{([pbBvV]?matrix|array|smallmatrix)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}")
_NAME = re.compile(  # what stands before = and only names what follows: x, AB, a_1, f'(x), |AB|, (x,y), f^-1(x)
    r"\\?[A-Za-z]+(?:_?[A-Za-z0-9]+)?'*(?:\([A-Za-z0-9,]*\))?|\|[A-Za-z]+\||[A-Za-z]\^-1\([a-z]\)|\([a-z](?:,[a-z])+\)|[A-Za-z]+°"
)
LARGEST_DETERMINANT = 6  # rows
_MATH_WORDS = {*FUNCTIONS, *SEVERAL, "sqrt", "frac", "infty", "infinity", "mod", "xyz", "abc"}
_SYNONYMS = {
    "no solution": "∅", "no solutions": "∅", "empty set": "∅", "no real solution": "∅", "no real solutions": "∅", "none": "∅",
    "all real numbers": "ℝ", "all reals": "ℝ", "real numbers": "ℝ", "all real": "ℝ", "infinity": "∞", "positive infinity": "∞",
    "negative infinity": "-∞", "dne": "does not exist",
    **{word: str(n) for n, word in enumerate(DIGIT_WORDS)},
}  # fmt: skip
_COMPOUND = re.compile(r'(\d+(?:\.\d+)?\s*(?:"[^"]*"|[A-Za-z]+))\s*(?<!\d)(\d+(?:\.\d+)?\s*(?:"[^"]*"|[A-Za-z]+))')  # 5 feet 6 inches
_SOLVED = {"<": sympy.Lt, "≤": sympy.Le, "≠": sympy.Ne}


def split_top(text: str, pattern: str) -> tuple[list[str], list[str]]:
    """Parts and separators where `pattern` matches outside all brackets and quotes."""
    compiled, place = re.compile(pattern), 0
    if compiled.search(text) is None:
        return [text.strip()], []
    depth, quoted, last = 0, False, 0
    parts: list[str] = []
    found: list[str] = []
    while place < len(text):
        sign = text[place]
        quoted ^= sign == '"'
        depth += (sign in OPENING) - (sign in CLOSING)
        match = compiled.match(text, place) if depth == 0 and not quoted else None
        if match and match.end() > place:
            parts.append(text[last:place].strip())
            found.append(match[0].strip())
            last = place = match.end()
        else:
            place += 1
    return [*parts, text[last:].strip()], found


def read(text: str, *, join: bool = True, units: frozenset[str] = frozenset()) -> Reading:
    """The structure of a tidy text. join: commas may separate thousands. units: letters that are units. Raises Unreadable."""
    text = unwrapped(text)
    if not text:
        raise Unreadable("empty")
    if choice := re.fullmatch(r'"?(?:option|choice)\s+\(?([A-Z])\)?"?', text, re.IGNORECASE):
        return Choice(choice[1].upper())
    if choice := re.fullmatch(r'"?\(?\s*"?([A-Za-z])"?\s*(?:\)"?[.:]?|[.:)]|")', text):
        return Choice(choice[1].upper())
    if choice := re.match(r'"?(?:\(([A-Z])\)|([A-Z])[.:)])"?[.:]?\s+(?!and\b|or\b)(?=\S)', text):
        return Choice(choice[1] or choice[2], read(text[choice.end() :].strip('" ') or text, join=join, units=units))
    if _wordy(text):
        words = squash(text)
        if words not in _SYNONYMS:
            return Words(words)
        text = _SYNONYMS[words]
        if _wordy(text):
            return Words(text)
    if join:
        text = _joined(text)
    for reader in (_compound, _congruence, _regions, _listed, _related, _bracketed):
        found = reader(text, join, units)
        if found is not None:
            return found
    terms, _ = split_top(text, ":")
    if len(terms) > 1:
        return Ratio(tuple(formula(term) for term in terms))
    return _scalar(text, units)


def _joined(text: str) -> str:
    """Thousands separators taken out; inside brackets only where a comma with a space shows what separates the items."""
    inside = text[0] in OPENING
    if inside and not (", " in text and re.search(r",\S", text)):
        return text
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def _wordy(text: str) -> bool:
    bare = re.sub(r'"[^"]*"', "", text)
    if re.fullmatch(r'\d{1,2}:(?:0\d|\d\d\s*"?\s*[AaPp]\.?\s*[Mm]\.?\s*"?)', text):
        return True
    if '"' in text and not re.search(r"[A-Za-z0-9\\=<>]", bare):
        return re.search(r"[A-Za-z]", text) is not None
    if re.search(r"[\\=<>≤≥≠^*+/|∈∪±\[\]{}⦃_:]", text):
        return False
    first = re.match(r"\W*([A-Za-z]+)", bare)
    if first is None or re.search(r"\d", bare[: first.start(1)]):
        return False
    letters = first[1]
    if letters.lower() in ("no", "not", "on", "up", "an") or (letters == "a" and re.match(r" [a-z]{3,}", bare[first.end(1) :])):
        return True
    return len(letters) >= 3 and letters not in _MATH_WORDS and not re.match(r"(?:sqrt|pi|infinity|sin|cos|tan|log|ln)(?![a-z])", letters)


def _compound(text: str, join: bool, units: frozenset[str]) -> Reading | None:
    """5 feet 6 inches, 2 hours and 15 minutes: of two units of one kind, the larger first."""
    match = _COMPOUND.fullmatch(re.sub(r"\s*\band\b\s*", " ", text))
    if match is None:
        return None
    (value, unit), (more, smaller) = (split_unit(part, units) for part in match.groups())
    if unit is None or smaller is None or unit.dimension != smaller.dimension or unit.factor <= smaller.factor:
        return None
    total = Fraction(value) * unit.factor + Fraction(more) * smaller.factor
    return Scalar(sympy.Rational(total.numerator, total.denominator), Unit(unit.dimension, Fraction(1)))


def _congruence(text: str, join: bool, units: frozenset[str]) -> Reading | None:
    match = re.fullmatch(r'(?:(.*?)≡)?(.*?)\(?\s*(?:\\p?mod|\\bmod|"?\bmod\b"?)\s*\{?(\d+)\}?\s*\)?', text)
    if match is None or not match[2].strip(" (") or "," in text:
        return None
    modulus, value = int(match[3]), formula(match[2].strip(" ("))
    return Relation("≡", match[1] and match[1].strip(), (value % modulus if value.is_Integer and modulus else value, modulus))


def _regions(text: str, join: bool, units: frozenset[str]) -> Reading | None:
    """Unions, intersections and differences of sets; x ∈ set; ℝ and ∅."""
    if text in ("ℝ", "∅"):
        return Region(sympy.S.Reals if text == "ℝ" else sympy.S.EmptySet)
    if text == "⦃⦄" or text == "⦃ ⦄":
        return Region(sympy.S.EmptySet)
    parts, _ = split_top(text, "∈")
    if len(parts) == 2 and not re.search(r"[|:]", text):
        inner = as_region(read(parts[1], join=join, units=units))
        return Region(inner.points, parts[0]) if inner is not None else None
    parts, signs = split_top(text, r"[∪∩∖]|(?<=[\])⦄ ])U(?=[\[(⦃ ])")
    if len(parts) == 1:
        return None
    found = [as_region(read(part, join=join, units=units)) for part in parts]
    total, variable = None, None
    for sign, part in zip(["", *signs], found, strict=True):
        if part is None:
            raise Unreadable(f"{text!r} joins what are no sets of numbers")
        variable = variable or part.variable
        points = part.points
        total = points if total is None else total & points if sign == "∩" else total - points if sign == "∖" else total | points
    return Region(total, variable)


def _listed(text: str, join: bool, units: frozenset[str]) -> Reading | None:
    """A bare list. Inequalities are one region: joined by "or" a union, else an intersection."""
    parts, signs = split_top(text, r",\s*(?:and|or)\b|[,;]|(?<![A-Za-z])(?:and|or)(?![A-Za-z])")
    parts = [part for part in parts if part]
    if len(parts) < 2:
        return None
    items = [read(part, join=join, units=units) for part in parts]
    regions = [item for item in items if isinstance(item, Region)]
    if len(regions) == len(items):
        union = any("or" in sign for sign in signs) or not any(region.variable for region in regions)
        combine = sympy.Union if union else sympy.Intersection
        return Region(combine(*(region.points for region in regions)), regions[0].variable)
    first = items[0]
    if isinstance(first, Relation) and first.named and all(isinstance(item, Scalar) for item in items[1:]):
        items[0] = first.right
    return Several(_spread(items))


def _spread(items: list[Any]) -> tuple[Any, ...]:
    return tuple(inner for item in items for inner in (item.items if isinstance(item, Several) and not item.opening else (item,)))


def _related(text: str, join: bool, units: frozenset[str]) -> Reading | None:
    """Equations, inequalities and chains of them."""
    parts, signs = split_top(text, r"[=<>≤≥≠≈]")
    if not signs or "≈" in signs:
        return None
    if set(signs) == {"="}:
        return _equation(parts, join, units)
    if "=" in signs:
        raise Unreadable(f"{text!r} mixes = with an order")
    sides = [formula(part) for part in parts]
    symbols = set().union(*(side.free_symbols for side in sides))
    relations = [_ordered(sign, left, right) for sign, left, right in zip(signs, sides, sides[1:], strict=False)]
    variable = next(iter(symbols), None)
    if len(symbols) == 1 and variable in sides:
        points = sympy.Intersection(*(_half_line(sign, left, right) for sign, left, right in relations))
        return Region(points, str(variable))
    if len(relations) == 1:
        sign, left, right = relations[0]
        return Relation(sign, left, right)
    raise Unreadable(f"{text!r}: a chain of more than one variable")


def _ordered(sign: str, left: Expr, right: Expr) -> tuple[str, Expr, Expr]:
    return ({">": "<", "≥": "≤"}[sign], right, left) if sign in ">≥" else (sign, left, right)


def _half_line(sign: str, left: Expr, right: Expr) -> Any:
    if left.is_number == right.is_number:
        raise Unreadable("an order between two variables or two numbers")
    bound = left if left.is_number else right
    if sign == "≠":
        return sympy.S.Reals - sympy.FiniteSet(bound)
    strict = sign == "<"
    return sympy.Interval(bound, sympy.oo, left_open=strict) if left.is_number else sympy.Interval(-sympy.oo, bound, right_open=strict)


def _equation(parts: list[str], join: bool, units: frozenset[str]) -> Reading:
    left, right = parts[0], read(parts[-1], join=join, units=units)
    name = re.sub(r'\\(?:angle|triangle|overline|vec|mathbf|text)(?![a-z])|["{}\s]', "", left)
    names_it = _NAME.fullmatch(name) is not None
    if not names_it:
        try:
            left_value = formula(left)
        except Unreadable:
            return Relation("=", None, right, named=True)
        if left_value.is_number and isinstance(right, Scalar) and right.value.is_number is False:
            return Relation("=", right.value, Scalar(left_value), named=right.value.is_Symbol)
        total = left_value.is_Add or left_value.is_Mul
        asked = total and len(left_value.free_symbols) > 1 and all(term.free_symbols for term in sympy.Add.make_args(left_value))
        number = isinstance(right, Scalar) and bool(right.value.is_number)
        return Relation("=", left_value, right, named=left_value.is_number or (asked and number and right.value != 0))  # type: ignore[union-attr]
    try:
        return Relation("=", formula(left), right, named=True)
    except Unreadable:
        return Relation("=", None, right, named=True)


def _bracketed(text: str, join: bool, units: frozenset[str]) -> Reading | None:
    """Sets, tuples, intervals, vectors, matrices."""
    if match := _MATRIX.fullmatch(text):
        rows = [[_matrix_entry(cell) for cell in row.split("&")] for row in match[2].split("¶") if row.strip()]
        if not rows or len({len(row) for row in rows}) != 1:
            raise Unreadable("a matrix of uneven rows")
        return _determinant(rows) if match[1] in ("vmatrix", "Vmatrix") else Matrix(tuple(map(tuple, rows)))
    if matrix := re.fullmatch(r"[(\[]\s*(\\begin\{([pb]?matrix|array)\}(?:(?!\\begin).)*\\end\{\2\})\s*[)\]]", text):
        return _bracketed(matrix[1], join, units)
    if matrix := re.fullmatch(r"([^&¶]*?)(\\begin\{[pb]?matrix\}.*)", text):
        scaled = _bracketed(matrix[2], join, units)
        scale = formula(matrix[1] + "1" if matrix[1] in ("-", "+") else re.sub(r"\*\s*$", "", matrix[1]))
        return Matrix(tuple(tuple(scale * cell for cell in row) for row in scaled.rows)) if isinstance(scaled, Matrix) else None
    if text[0] not in "([⦃⟨]" or text[-1] not in ")]⦄⟩[" or (text[0] != "]" and closing(text) != len(text) - 1):
        return None
    opening, inner, ending = text[0], text[1:-1].strip(), text[-1]
    if opening == "⦃":
        if match := re.fullmatch(r"([A-Za-z])\s*(?:∈\s*ℝ\s*)?[|:](.*)", inner):
            return as_region(read(match[2].strip(), join=join, units=units))
        parts, _ = split_top(inner, "[,;]")
        return Several(_spread([read(part, join=join, units=units) for part in parts if part]), "{", "}")
    parts, _ = split_top(inner, "[,;]")
    if len(parts) < 2:
        return read(inner, join=join, units=units) if inner and opening in "([" and ("±" in inner or re.search(r"[=<>≤≥]", inner)) else None
    opening, ending = {"⟨": "(", "]": "("}.get(opening, opening), {"⟩": ")", "[": ")"}.get(ending, ending)
    return Several(tuple(read(part, join=join, units=units) for part in parts), opening, ending)


def _matrix_entry(text: str) -> Expr:
    return formula(text.strip())


def _determinant(rows: list[list[Expr]]) -> Scalar:
    if len(rows) != len(rows[0]) or len(rows) > LARGEST_DETERMINANT:
        raise Unreadable("a determinant of rows that make no square, or of too many")
    return Scalar(sympy.Matrix(rows).det())


def _scalar(text: str, units: frozenset[str]) -> Reading:
    if "±" in text or "∓" in text:
        body, unit = split_unit(text, units)
        return Several((Scalar(formula(body, 1), unit), Scalar(formula(body, -1), unit)))
    body, unit = split_unit(text, units)
    return Scalar(formula(body), unit)


def as_region(found: Reading) -> Region | None:
    """An interval or a finite set as a set of real numbers, or None."""
    if isinstance(found, Region):
        return found
    if isinstance(found, Relation) and found.op in _SOLVED:
        symbols = found.left.free_symbols | found.right.free_symbols
        if len(symbols) == 1:
            (symbol,) = symbols
            return Region(sympy.solveset(_SOLVED[found.op](found.left, found.right), symbol, sympy.S.Reals), str(symbol))
    if not isinstance(found, Several) or not all(isinstance(item, Scalar) for item in found.items):
        return None
    values = [item.value for item in found.items]
    if found.opening == "{":
        return Region(sympy.FiniteSet(*values))
    if not found.opening or len(values) != 2 or not all(value.is_extended_real for value in values):
        return None
    low, high = values
    return Region(sympy.Interval(low, high, left_open=found.opening == "(", right_open=found.closing == ")"))
