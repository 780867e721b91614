"""A formula, in LaTeX or as plainly typed, to sympy: recursive descent over the whole text, or `Unreadable`.

Written here because of what grading needs and `latex2sympy2` was measured not to give: decimals as exact rationals (it makes
floats), upper and lower case kept apart (it merges them), all of the text or nothing, limits on depth and on the size of numbers
before sympy computes them, and under a millisecond a formula (it takes 5 to 150 ms). Sums, products, integrals and limits are
handed to it. The text is `tidy.tidy`'s output: one character for each operator, text in double quotes.
"""

from __future__ import annotations

import re
from fractions import Fraction

import sympy
from sympy import I, Integer, Rational, Symbol, pi
from sympy.core.expr import Expr

from selbench.grading import symbols
from selbench.grading.library import by_library
from selbench.grading.symbols import Unreadable, power, root

__all__ = ["formula"]

_HANDED_ON = re.compile(r"\\(?:int|sum|prod|lim)(?![a-z])|\\frac\s*\{\s*d\s*\}\s*\{\s*d")
_PROPER = re.compile(r"\s*\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))|\s+(\d+)\s*/\s*(\d+)(?![\d.])")


def formula(text: str, sign: int = 1) -> Expr:
    """The text as a sympy expression; ± is `sign`, ∓ is minus it. Raises Unreadable."""
    if _HANDED_ON.search(text):
        return by_library(text)
    parser = _Parser(text, sign)
    value = parser.sum()
    if parser.kind is not None:
        raise Unreadable(f"{text!r}: what does {parser.now!r} mean there?")
    if value.has(sympy.zoo, sympy.nan):
        raise Unreadable(f"{text!r} is undefined")
    return value


class _Parser:
    """Tokens of one text and a place among them; each method reads one level of the grammar."""

    def __init__(self, text: str, sign: int) -> None:
        self.text = text
        self.tokens = [(match.lastgroup or "", match[match.lastgroup or 0], match) for match in symbols.TOKEN.finditer(text)]
        self.place, self.depth, self.bars, self.plus_minus = 0, 0, 0, sign

    @property
    def kind(self) -> str | None:
        return self.tokens[self.place][0] if self.place < len(self.tokens) else None

    @property
    def now(self) -> str:
        return self.tokens[self.place][1] if self.place < len(self.tokens) else ""

    def next(self) -> str:
        token = self.now
        if not token:
            raise Unreadable("the formula ends too early")
        self.place += 1
        return token

    def accept(self, *tokens: str) -> bool:
        if self.now in tokens and self.now:
            self.place += 1
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise Unreadable(f"{token!r} expected before {self.now!r}")

    def sum(self) -> Expr:
        self.depth += 1
        if self.depth > symbols.DEPTH:
            raise Unreadable("nested too deeply")
        total = self.product()
        while self.now and self.now in "+-±∓":
            sign = self.sign()
            total = total + sign * self.product()
        self.depth -= 1
        return total

    def product(self) -> Expr:
        value = self.signed()
        while True:
            if self.accept("*"):
                value = value * self.signed()
            elif self.accept("/"):
                value = value / self.nonzero(self.signed())
            elif self.starts_factor():
                if self.kind == "number" and self.tokens[self.place - 1][1] not in "!)}":  # "3 5" is no product
                    raise Unreadable("two numbers side by side")
                value = value * self.raised()
            else:
                return value

    def sign(self) -> int:
        return {"+": 1, "-": -1, "±": self.plus_minus, "∓": -self.plus_minus}[self.next()]

    def nonzero(self, value: Expr) -> Expr:
        if value.is_zero:
            raise Unreadable("division by zero")
        return value

    def signed(self) -> Expr:
        minus = 1
        while self.now and self.now in "+-±∓":
            minus *= self.sign()
        value = self.raised()
        return value if minus == 1 else -value

    def starts_factor(self) -> bool:
        if self.kind in ("number", "name"):
            return True
        if self.kind == "command":
            return self.now != "\\end"
        if self.now == "|":
            return not self.bars
        return self.kind == "sign" and (self.now.isalpha() or self.now in "([{⌊⌈∞√") and self.now not in "∪∩∈"

    def raised(self) -> Expr:
        """An atom with what follows it: factorials, degrees, per cent, powers."""
        base = self.atom()
        while self.now:
            if self.accept("!"):
                base = self.factorial(base)
            elif self.accept("°"):
                base = base * pi / 180
            elif self.accept("%"):
                base = base / 100
            elif self.accept("^"):
                base = power(base, self.exponent())
            else:
                break
        return base

    def exponent(self) -> Expr:
        if self.now and self.now in "+-":
            return self.sign() * self.exponent()
        value = self.atom()
        return power(value, self.exponent()) if self.accept("^") else value

    def factorial(self, value: Expr) -> Expr:
        double = self.accept("!")
        if value.is_Rational and (not value.is_Integer or not 0 <= value <= symbols.FACTORIAL):
            raise Unreadable("a factorial that is not computed")
        return sympy.factorial2(value) if double else sympy.factorial(value)

    def group(self, opening: str) -> Expr:
        value = self.sum()
        self.expect(symbols.PAIRS[opening])
        return value

    def argument(self) -> Expr:
        """What a command takes: a group, or one token, of a number its first digit."""
        if self.accept("{"):
            return self.group("{")
        if self.kind == "number" and len(self.now) > 1 and self.now.isdigit():
            _, text, match = self.tokens[self.place]
            self.tokens[self.place] = ("number", text[1:], match)
            return Integer(int(text[0]))
        return self.atom()

    def atom(self) -> Expr:
        self.depth += 1
        if self.depth > symbols.DEPTH:
            raise Unreadable("nested too deeply")
        kind, token = self.kind, self.next()
        if kind == "number":
            value = self.number(token)
        elif kind in ("command", "name"):
            value = self.command(token.lstrip("\\"))
        elif token in symbols.PAIRS:
            value = self.group(token)
            value = {"⌊": sympy.floor, "⌈": sympy.ceiling}.get(token, lambda same: same)(value)
        elif token == "|":
            self.bars += 1
            value = abs(self.sum())
            self.expect("|")
            self.bars -= 1
        elif token == "√":
            value = sympy.sqrt(self.atom())
        elif token == "∞":
            value = sympy.oo
        elif token.isalpha() and len(token) == 1 and token not in "ℝ∅":
            value = self.letter(token)
        else:
            raise Unreadable(f"{token!r} is not expected there")
        self.depth -= 1
        return value

    def number(self, token: str) -> Expr:
        """A number token and what belongs to it: repeating decimals, mixed numbers, a base."""
        if "." in token and self.now in ("\\overline", "\\dot", "\\bar"):
            self.next()
            self.expect("{")
            period = self.next()
            self.expect("}")
            if not period.isdigit():
                raise Unreadable("a period of digits expected")
            decimals = len(token.partition(".")[2])
            value = Fraction("0" + token + "0") + Fraction(int(period), (10 ** len(period) - 1) * 10**decimals)
            return Rational(value.numerator, value.denominator)
        if self.now == "_":
            return self.in_base(token)
        value = Rational(Fraction("0" + token + ("0" if token.endswith(".") else "")))
        before = self.tokens[self.place - 2][1] if self.place > 1 else ""
        if "." not in token and before not in ("^", "_"):
            part = self.proper_fraction()
            return value if part is None else value + part
        return value

    def proper_fraction(self) -> Expr | None:
        """The fraction of a mixed number, if one follows: \\frac{1}{2} or, after a space, 1/2."""
        match = _PROPER.match(self.text, self.tokens[self.place - 1][2].end())
        if match is None:
            return None
        ends = [place for place, (_, _, token) in enumerate(self.tokens) if token.end() == match.end()]
        above, below = (int(digits) for digits in match.groups() if digits)
        if not ends or not 0 < above < below:
            return None
        self.place = ends[0] + 1
        return Rational(above, below)

    def in_base(self, token: str) -> Expr:
        self.next()
        inner = self.accept("{")
        word = self.next().strip('"').strip()
        base = str(symbols.DIGIT_WORDS.index(word)) if word in symbols.DIGIT_WORDS else word
        if inner:
            self.expect("}")
        if not base.isdigit() or not 2 <= int(base) <= 36:
            raise Unreadable(f"no base {base!r}")
        whole, _, decimals = token.partition(".")
        try:
            digits = int(whole + decimals, int(base))
        except ValueError:
            raise Unreadable(f"{token} in base {base}") from None
        return Rational(digits, int(base) ** len(decimals))

    def letter(self, token: str) -> Expr:
        if token == "e" and self.now != "_":
            return sympy.E
        if token == "i" and self.now != "_":
            return I
        if token in "fgh" and self.now == "(":
            return sympy.Function(token, real=True)(*self.arguments())
        return self.symbol(token)

    def symbol(self, name: str) -> Expr:
        while self.now == "'":
            name += self.next()
        if self.accept("_"):
            inner = self.next()
            if inner == "{":
                inner, depth = "", 1
                while depth:
                    token = self.next()
                    depth += {"{": 1, "}": -1}.get(token, 0)
                    inner += token if depth else ""
            name += "_" + inner.strip('"')
        return Symbol(name, real=True)

    def arguments(self) -> list[Expr]:
        opening = self.next()
        if opening not in ("(", "{", "⦃"):
            raise Unreadable("arguments expected")
        found = [self.sum()]
        while self.accept(","):
            found.append(self.sum())
        self.expect(symbols.PAIRS[opening])
        return found

    def command(self, name: str) -> Expr:
        if name == "frac":
            above = self.argument()
            return above / self.nonzero(self.argument())
        if name == "sqrt":
            index = self.group("[") if self.accept("[") else Integer(2)
            plain = self.tokens[self.place - 1][0] == "name"  # sqrt 18; of \sqrt 18 TeX takes the first digit
            value = self.atom() if plain or self.now == "(" else self.argument()
            return root(value, self.nonzero(index))
        if name == "binom":
            above, below = self.argument(), self.argument()
            if above.is_Rational and abs(above) > symbols.FACTORIAL:
                raise Unreadable("a binomial coefficient too large to compute")
            return sympy.binomial(above, below)
        if name == "pi":
            return pi
        if name in ("infty", "infinity"):
            return sympy.oo
        if name in symbols.SEVERAL:
            return symbols.SEVERAL[name](*self.arguments())
        if name in symbols.FUNCTIONS:
            return self.function(name)
        if name in symbols.ACCENTS:
            self.expect("{")
            start = self.place
            if name in ("overline", "bar") and (conjugate := self.conjugate()) is not None:
                return conjugate
            while self.kind in ("sign", "number", "command") and self.now not in ("{", "}"):
                self.place += 1
            inner = "".join(token for _, token, _ in self.tokens[start : self.place])
            self.expect("}")
            return self.symbol(f"{name} {inner}")
        if name in symbols.GREEK:
            return self.symbol(name)
        raise Unreadable(f"\\{name} is not known")

    def conjugate(self) -> Expr | None:
        """The conjugate of a complex number under a bar; of a name the bar is part."""
        start = self.place
        try:
            value = self.group("{")
        except Unreadable:
            value = Integer(0)
        if value.is_number and value.has(I):
            return sympy.conjugate(value)
        self.place = start
        return None

    def function(self, name: str) -> Expr:
        """A function with its optional base and power, and its argument: a group, else the factors up to a sign or a function."""
        exponent: Expr = Integer(1)
        base: Expr | None = None
        while self.now and self.now in "^_":
            if self.next() == "_":
                base = self.argument()
            else:
                exponent = self.exponent()
        if exponent == -1 and name in symbols.INVERSE:
            name, exponent = symbols.INVERSE[name], Integer(1)
        if self.now in ("(", "[", "{"):
            value = self.group(self.next())
        else:
            value = self.signed()
            while self.starts_factor() and self.now.lstrip("\\") not in symbols.FUNCTIONS:
                value = value * self.raised()
        if name in ("log", "lg"):
            found = sympy.log(value) / sympy.log(self.nonzero(base if base is not None else Integer(10)))
        else:
            found = symbols.FUNCTIONS[name](value)
        return power(found, exponent)
