"""Units behind (or, as money, before) a number: recognised, reduced to a dimension and an exact factor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["DEGREE", "PERCENT", "RADIAN", "Unit", "split_unit"]


@dataclass(frozen=True)
class Unit:
    """A product of powers of base words, and how many of it one such unit is; `words` are the letters it was written with."""

    dimension: tuple[tuple[str, int], ...]
    factor: Fraction
    words: frozenset[str] = frozenset()

    @property
    def letters(self) -> frozenset[str]:
        """The single letters that stand for such units: those it was written with and those of its dimension."""
        return frozenset(letter for word in self.words for letter in [word] if len(word) == 1) | frozenset(
            letter for base, _ in self.dimension for letter in _LETTERS.get(base, "")
        )


_LETTERS = {"m": "m", "s": "sh", "g": "g", "l": "lL"}
PERCENT = Unit((("%", 1),), Fraction(1))
DEGREE = Unit((("°", 1),), Fraction(1))
RADIAN = Unit((("rad", 1),), Fraction(1))

_TABLE = {
    "m": "meter metre m", "s": "second sec s", "g": "gram g", "money": "dollar usd buck ¤", "l": "liter litre l L", "°": "degree deg",
    "rad": "radian rad", "%": "percent percentage pct", "byte": "byte", "person": "person people", "unit": "unit", "inch": "inch in",
}  # fmt: skip
_FACTORS: dict[str, tuple[str, Fraction]] = {word: (base, Fraction(1)) for base, words in _TABLE.items() for word in words.split()}
for _base, _entries in {
    "m": "km 1000 kilometer 1000 kilometre 1000 cm 1/100 centimeter 1/100 centimetre 1/100 mm 1/1000 millimeter 1/1000 millimetre 1/1000",
    "inch": "foot 12 feet 12 ft 12 yard 36 yd 36 mile 63360 mi 63360 inche 1",
    "s": "minute 60 min 60 hour 3600 hr 3600 h 3600 day 86400 week 604800 ms 1/1000",
    "g": "kg 1000 kilogram 1000 mg 1/1000",
    "l": "ml 1/1000 mL 1/1000 milliliter 1/1000 millilitre 1/1000",
    "money": "cent 1/100 ¢ 1/100 penny 1/100 pennie 1/100",
}.items():
    _words = _entries.split()
    _FACTORS.update({word: (_base, Fraction(size)) for word, size in zip(_words[::2], _words[1::2], strict=True)})
_BARE = "|".join(sorted({f"{w}s?" for w in _FACTORS if len(w) > 1 and w.isalpha()} | {"mph", "sq", "inches"}, key=len, reverse=True))
_WORD = rf'"[^"]*"|(?<![A-Za-z\\])(?:{_BARE})(?![A-Za-z])|(?<![A-Za-z\\])per(?![A-Za-z])|(?<![A-Za-z\\])[A-Za-z]{{3,}}'
_NO_UNITS = frozenset(re.findall(r"\w+", "sin cos tan cot sec csc log exp sqrt max gcd lcm infinity infty and"))
_NOISE = frozenset(re.findall(r"\w+", "of the a an about approximately exactly total all"))


def split_unit(text: str, letters: frozenset[str] = frozenset()) -> tuple[str, Unit | None]:
    """(formula, unit) of a tidy text; `letters` are single letters that count as units behind a number."""
    text = text.strip()
    if re.search(r"(?:%|\"\s*percent\s*\"|\bpercent)$", text):
        return re.sub(r"\s*(?:%|\"\s*percent\s*\"|\bpercent)$", "", text), PERCENT
    if match := re.fullmatch(r"(-?)\s*¤\s*(.*)", text):
        body, more = split_unit(match[2], letters)
        return match[1] + body, more if more is not None and more.dimension == (("money", 1),) else _unit("dollar")
    if text.count("°") == 1 and (match := re.fullmatch(r"([^\\A-Za-z]*(?:\\(?:frac|pi|sqrt)[^\\A-Za-z]*)*)°\s*\"?\s*([CF]?)\s*\"?", text)):
        return match[1], _unit(f"deg{match[2]}") if match[2] else DEGREE
    single = "".join(re.escape(letter) for letter in letters)
    word = rf"(?:{_WORD}" + (rf"|(?<=[\d }}])[{single}](?![A-Za-z])" if single else "") + r")(?:\s*\^\s*\{?\s*-?\d\s*\}?)?"
    match = re.search(rf"(?:{word})(?:\s*(?:[/*]|\bper\b)?\s*(?:{word}|[a-z](?![a-z(])))*\s*¢?$|¢$", text)
    if match is None or not text[: match.start()].strip() or any(w in _NO_UNITS for w in re.findall(r"[a-z]{3,}", match[0])):
        return text, None
    body = text[: match.start()].strip()
    if not re.search(r"[\d)}\]A-Za-z!%]$", body) or re.search(r"[=^_]$", body):
        return text, None
    return body, _unit(match[0])


def _unit(text: str) -> Unit | None:
    """The unit that a phrase means, such as "square feet", cm^2, "miles per hour" or m/s."""
    dimension: dict[str, int] = {}
    factor, sign, pending = Fraction(1), 1, 1
    words: set[str] = set()
    last, size = "", Fraction(1)
    phrase = re.sub(r"\bmph\b", "miles per hour", text.replace('"', " "))
    for token in re.findall(r"[A-Za-z¢¤]+|/|\^\s*\{?\s*-?\d|[-\d]", phrase):
        word = token.lower() if len(token) > 1 else token
        if word in ("/", "per"):
            sign = -1
        elif word in ("square", "sq", "squared", "cubic", "cubed"):
            if word.endswith("ed") and words:
                dimension[last] = dimension[last] + sign * (1 if word == "squared" else 2)
                factor *= size ** (sign * (1 if word == "squared" else 2))
            else:
                pending = 2 if word.startswith("sq") else 3
        elif token.startswith("^"):
            more = int(re.sub(r"[^-\d]", "", token)) - 1
            if words:
                dimension[last] = dimension[last] + sign * more
                factor *= size ** (sign * more)
        elif token.isdigit() or token == "-" or word in _NOISE:
            continue
        else:
            words.add(word)
            single = word if word in _FACTORS else word[:-1] if word.endswith("s") and len(word) > 2 else word
            last, size = _FACTORS.get(single, (single, Fraction(1)))
            dimension[last] = dimension.get(last, 0) + sign * pending
            factor *= size ** (sign * pending)
            pending = 1
    if not words:
        return None
    if dimension == {"°": 1}:
        return DEGREE
    if dimension == {"%": 1}:
        return PERCENT
    return Unit(tuple(sorted((base, times) for base, times in dimension.items() if times)), factor, frozenset(words))
