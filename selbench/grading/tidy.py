"""One form for LaTeX, plain typing and Unicode: one character for each operator and bracket, text in double quotes."""

from __future__ import annotations

import re
import unicodedata

from selbench.grading.symbols import FUNCTIONS, SEVERAL

__all__ = ["CLOSING", "OPENING", "closing", "scientific", "squash", "tidy", "unwrapped"]

_CHARACTERS = str.maketrans({
    "−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "∕": "/", "⁄": "/", "⩽": "≤", "⩾": "≥",
    "’": "'", "′": "'", "“": " ", "”": " ", '"': " ",
    "º": "°", "˚": "°", "∛": "cbrt ", "\t": " ", "\n": " ", "\xa0": " ", "\u202f": " ", "\u2009": " ",
})  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_UNUSUAL = re.compile(r"(?P<raised>[⁰¹²³⁴-⁹⁺⁻ⁿ]+)|(?P<lowered>[₀-₉]+)|(?P<fraction>[¼-¾⅐-⅞])|(?P<greek>[Α-Ωα-ω])|[！-～𝐀-𝟿]")
_COMMANDS = {
    r"cdot|times|ast|cdotp": "*", r"div": "/", r"leqslant|leqq|leq|le": "≤", r"geqslant|geqq|geq|ge": "≥", r"lt": "<", r"gt": ">",
    r"neq|ne": "≠", r"pm": "±", r"mp": "∓", r"cup": "∪", r"cap": "∩", r"setminus|backslash": "∖", r"in": "∈", r"infty": "∞",
    r"emptyset|varnothing": "∅", r"langle": "⟨", r"rangle": "⟩", r"lfloor": "⌊", r"rfloor": "⌋", r"lceil": "⌈", r"rceil": "⌉",
    r"lvert|rvert|vert|mid": "|", r"degree": "°", r"equiv": "≡", r"lbrace": "⦃", r"rbrace": "⦄", r"lbrack": "[", r"rbrack": "]",
    r"land|wedge": " and ", r"lor|vee": " or ", r"colon": ":", r"R|reals": "ℝ", r"prime": "'", r"ldots|dots|cdots": "…", r"lg": r"\log ",
    r"approx": "≈",
    r"displaystyle|textstyle|limits|nolimits|left|right|middle|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg|rm|bf|it|quad|qquad"
    r"|tiny|small|normalsize|large|Large|LARGE|huge|Huge|scriptstyle"
    r"|space|thinspace|enspace|mathstrut|strut|nonumber": " ",
}  # fmt: skip
_COMMAND = {name: sign for names, sign in _COMMANDS.items() for name in names.split("|")}
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|mbox|hbox|mathrm|mathit|mathsf|operatorname\*?|emph)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
)
_LETTERS = re.compile(r"\(?[A-Z]\)?(?:\s*(?:,|&|\band\b|\bor\b)\s*\(?[A-Z]\)?)+")
_WHOLE = re.compile(r"\s*[,;(]?\s*(?:\"[^\"]*\"\s*)?\b[a-z]\s*∈\s*(?:\\mathbb\s*\{?\s*[ZN]\s*\}?|[ℤℕ])\s*\)?$")
_WRAPPER = re.compile(
    r"\\(?:boxed|fbox|underline|(?:text)?color\s*\{\w*\}|ensuremath|boldsymbol|bm|pmb|mathbf(?!\s*\{\s*[ijk]\s*\})(?!\s*\{?\s*R\b))\s*\{"
)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\\[,;: ]|~|\\!|,\\!\s*|\{,\}|\s)\d{3})+(?![\d,])")
OPENING, CLOSING = "([{⦃⟨⌊⌈", ")]}⦄⟩⌋⌉"


def tidy(text: str) -> str:
    """One form for LaTeX, plain typing and Unicode: see the tables above. Text goes into double quotes, money is ¤."""
    text = text.translate(_CHARACTERS)
    text = text if text.isascii() else _UNUSUAL.sub(_usual, text)
    text = re.sub(r"^(\\text\{)?[^{}]*\banswer\s*(?:is|:|=)\s*:?", r"\1", text, flags=re.IGNORECASE)
    text = re.sub(r"\\\\(?:\[[^\]]*\])?|\\cr(?![a-z])|\\tabularnewline", " ¶ ", text)
    text = re.sub(r"\\?[dt]frac(?![a-z])|\\cfrac", r"\\frac", text)
    text = re.sub(r"\\[dt]binom", r"\\binom", text)
    text = _bared(text.strip())
    text = re.sub(r"^\*\*(.*)\*\*$|\{([:;,=+*/])\}", r"\1\2", text)
    text = re.sub(r"\\\$|[€£¥]|\bUSD\b", "¤", text)
    text = text.replace("$", "¤") if text.count("$") == 1 and re.search(r"\$\s*-?[\d.]", text) else text.replace("$", " ")
    text = _GROUPED.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    text = re.sub(r"\\math(?:bb|bf)\s*\{?\s*R\s*\}?|\\Bbb\s*\{?R\}?", "ℝ", text)
    text = re.sub(r"\\[{]", "⦃", text)
    text = re.sub(r"\\[}]", "⦄", text)
    text = re.sub(r"\\[|]", "|", text)
    text = re.sub(r"\\(?:left|right)\s*\.", " ", text)
    text = re.sub(r"\\(?:h?(?:space|phantom)|color)\s*\{[^{}]*\}", " ", text)
    text = re.sub(r"\\([A-Za-z]+)", lambda match: _COMMAND.get(match[1], match[0]), text)
    text = re.sub(r"\\[,;:!() \[\]]|~", " ", text)
    text = re.sub(r"\\([%#&_])", r"\1", text)
    for _ in range(2):
        text = _TEXT.sub(_quoted, text)
    text = re.sub(r"\\frac\s*\{\s*(\"[^\"]*\"[^{}]*)\}\s*\{\s*(\"[^\"]*\"[^{}]*)\}", r"\1/\2", text)
    text = re.sub(r"\"([\dA-F]+)\"(?=\s*_\s*\{?\s*1[1-6])", r"\1", text)
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ|\{\s*°\s*\}|°)|\\circ", "°", text)
    text = re.sub(r"\^\s*\{?\s*\"(?:st|nd|rd|th)\"\s*\}?", "", text)
    text = re.sub(r"\*\*", "^", text)
    text = re.sub(r"(?<![\w.])(\d+\.\d+[eE][-+]?|\d+(?:e|E[-+]?))(\d+)(?!\w|\.\d)", scientific, text)
    text = re.sub(r"(?<![A-Za-z\\])factorial(\([^()]*\))", r"\1!", text)
    text = re.sub(r"(?<![A-Za-z\\])binom(?:ial)?\s*\(([^(),]*),([^(),]*)\)", r"\\binom{\1}{\2}", _infix(text))
    for typed, sign in (("<=", "≤"), (">=", "≥"), ("!=", "≠"), ("==", "="), ("+/-", "±"), ("+-", "±")):
        text = text.replace(typed, sign)
    text = re.sub(r"(?<![A-Za-z\\])(?:inf|oo)(?![A-Za-z])", "∞", text)
    text = re.sub(r"(?<=[A-Za-z]) in (?=[\[({⦃ℝ])", "∈", text)
    text = _WHOLE.sub("", re.sub(r"\((\d+)\)_", r"\1_", re.sub(r"\s+", " ", text)).strip())
    return unwrapped(re.sub(r"(?<!\.)[.,;]+$", "", text).strip())


def _quoted(match: re.Match[str]) -> str:
    inner = match[1].strip()
    if re.fullmatch(r"and|or|,", inner, re.IGNORECASE):
        return f" {inner.lower()} "
    applied = not match[0].startswith("\\text") or match.string[match.end() :].lstrip().startswith(("(", "⦃"))
    if applied and (inner in {"e", "i", "d"} or inner in FUNCTIONS or inner in SEVERAL):
        return inner if len(inner) == 1 else f"\\{inner} "
    if re.fullmatch(r"[-+]?[\d.,/]+%?", inner) or "\\" in inner or _LETTERS.fullmatch(inner):
        return f" {inner} "
    if counted := re.fullmatch(r"([-+]?\d[\d.,]*)\s+([A-Za-z][A-Za-z ]*)", inner):  # 12 apples
        return f' {counted[1]} "{counted[2]}" '
    return f'"{match[1]}"' if inner else " "


def _bared(text: str) -> str:
    """Without boxes and bold type around a part; bold i, j, k stay: they are vectors."""
    for _ in range(20):
        match = _WRAPPER.search(text)
        if match is None:
            break
        end = match.end() - 1 + closing(text[match.end() - 1 :])
        if end < match.end():
            break
        text = f"{text[: match.start()]} {text[match.end() : end]} {text[end + 1 :]}"
    return text


def scientific(match: re.Match[str]) -> str:
    """1.5e-3 and 2e5 as powers of ten; 2e-3, with a whole number and a sign, may be twice Euler's number less three: `judge` tries both."""
    mantissa, sign = re.split("[eE]", match[1])
    return f"({mantissa}*10^{{{sign}{match[2]}}})"


def _usual(match: re.Match[str]) -> str:
    """Raised and lowered digits, fractions in one character, Greek letters, full-width and styled letters, in LaTeX."""
    text, kind = unicodedata.normalize("NFKC", match[0]), match.lastgroup
    if kind in ("raised", "lowered"):
        text = match[0].translate(_RAISED) if kind == "raised" else text
        return ("^" if kind == "raised" else "_") + (text if len(text) == 1 else f"{{{text}}}")
    if kind == "fraction":
        return r"\frac{{{}}}{{{}}}".format(*text.split("⁄"))
    if kind == "greek":
        _, case, _, name = unicodedata.name(match[0]).replace("LAMDA", "LAMBDA").split(" ", 3)
        return f"\\{name.lower() if case == 'SMALL' else name.capitalize()} "
    return text


def _infix(text: str) -> str:
    r"""{a \over b} and {n \choose k} as commands with two arguments; without braces they reach as far as the text."""
    while match := re.search(r"\\(over|choose)(?![a-z])", text):
        begin, end, depth = match.start(), match.end(), 0
        while begin > 0 and (depth := depth + (text[begin - 1] == "}") - (text[begin - 1] == "{")) >= 0:
            begin -= 1
        depth = 0
        while end < len(text) and (depth := depth + (text[end] == "{") - (text[end] == "}")) >= 0:
            end += 1
        above, below = text[begin : match.start()], text[match.end() : end]
        text = f"{text[:begin]}\\{'frac' if match[1] == 'over' else 'binom'}{{{above}}}{{{below}}}{text[end:]}"
    return text


def unwrapped(text: str) -> str:
    while len(text) > 1 and text[0] == "{" and closing(text) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def closing(text: str) -> int:
    """Where the bracket that opens `text` closes; -1 if nowhere."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in OPENING) - (sign in CLOSING)
        if depth == 0:
            return place
    return -1


def squash(text: str) -> str:
    """A tidy text as words: lower case, no punctuation, quotes, articles."""
    text = re.sub(r"(?<=[a-z])\.", "", text.lower())
    text = re.sub(r"[\"'.,;:!?(){}\[\]¤]|\\[a-zA-Z]+", " ", text).replace("-", " ").replace("_", " ")
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))
