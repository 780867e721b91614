"""One form for LaTeX, plain typing and Unicode: one character for each operator and bracket, text in double quotes."""

from __future__ import annotations

import re

__all__ = ["CLOSING", "OPENING", "closing", "squash", "tidy", "unwrapped"]

_CHARACTERS = str.maketrans({
    "−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "∕": "/", "⁄": "/", "≤": "≤", "⩽": "≤", "⩾": "≥",
    "π": r"\pi ", "∅": "∅", "（": "(", "）": ")", "，": ",", "：": ":", "；": ";", "’": "'", "′": "'", "“": " ", "”": " ", '"': " ",
    "％": "%", "º": "°", "²": "^2", "³": "^3", "⁴": "^4", "⁻": "^-", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "φ": r"\phi ",
    "\t": " ", "\n": " ", "\xa0": " ", "\u202f": " ", "\u2009": " ",
})  # fmt: skip
_COMMANDS = {
    r"cdot|times|ast|cdotp": "*", r"div": "/", r"leqslant|leqq|leq|le": "≤", r"geqslant|geqq|geq|ge": "≥", r"lt": "<", r"gt": ">",
    r"neq|ne": "≠", r"pm": "±", r"mp": "∓", r"cup": "∪", r"cap": "∩", r"setminus|backslash": "∖", r"in": "∈", r"infty": "∞",
    r"emptyset|varnothing": "∅", r"langle": "⟨", r"rangle": "⟩", r"lfloor": "⌊", r"rfloor": "⌋", r"lceil": "⌈", r"rceil": "⌉",
    r"lvert|rvert|vert|mid": "|", r"degree": "°", r"equiv": "≡", r"lbrace": "⦃", r"rbrace": "⦄", r"lbrack": "[", r"rbrack": "]",
    r"land|wedge": " and ", r"lor|vee": " or ", r"colon": ":", r"R|reals": "ℝ", r"prime": "'", r"ldots|dots|cdots": "…", r"lg": r"\\log ",
    r"displaystyle|textstyle|limits|nolimits|left|right|middle|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg|rm|bf|it|quad|qquad"
    r"|space|hspace\{[^{}]*\}|thinspace|enspace|phantom\{[^{}]*\}|mathstrut|strut|nonumber|dfrac(?=X)": " ",
}  # fmt: skip
_COMMAND = [(re.compile(rf"\\(?:{names})(?![A-Za-z])"), sign) for names, sign in _COMMANDS.items()]
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|mbox|hbox|mathrm|mathit|mathsf|operatorname\*?|emph)\s*\{([^{}]*)\}")
_WRAPPER = re.compile(r"\\(?:boxed|fbox|boldsymbol|bm|pmb|mathbf(?!\s*\{\s*[ijk]\s*\})(?!\s*\{?\s*R\b))\s*\{")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\\[,;: ]|~|\\!|,\\!\s*|\{,\}|\s)\d{3})+(?![\d,])")
OPENING, CLOSING = "([{⦃⟨⌊⌈", ")]}⦄⟩⌋⌉"


def tidy(text: str) -> str:
    """One form for LaTeX, plain typing and Unicode: see the tables above. Text goes into double quotes, money is ¤."""
    text = text.translate(_CHARACTERS)
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
    text = re.sub(r"\\(?:le|ri|L|R)(?:ft|ght)(?![a-z])", " ", text)
    for pattern, sign in _COMMAND:
        text = pattern.sub(sign, text)
    text = re.sub(r"\\[,;:!() \[\]]|~", " ", text)
    text = re.sub(r"\\([%#&_])", r"\1", text)
    for _ in range(2):
        text = _TEXT.sub(_quoted, text)
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ|\{\s*°\s*\}|°)|\\circ", "°", text)
    text = re.sub(r"\^\s*\{?\s*\"(?:st|nd|rd|th)\"\s*\}?", "", text)
    text = re.sub(r"\*\*", "^", text)
    text = re.sub(r"(?<![\w.])(\d+\.\d+)[eE]([-+]?\d+)(?!\w)|(?<![\w.])(\d+)[eE](\d+)(?![\w.])", _scientific, text)
    text = re.sub(r"\{([^{}]*?)\\choose(?![a-z])([^{}]*)\}", r"\\binom{\1}{\2}", text)
    for typed, sign in (("<=", "≤"), (">=", "≥"), ("!=", "≠"), ("==", "="), ("+-", "±")):
        text = text.replace(typed, sign)
    text = re.sub(r"\((\d+)\)_", r"\1_", re.sub(r"\s+", " ", text)).strip()
    return unwrapped(re.sub(r"(?<!\.)[.,;]+$", "", text).strip())


def _quoted(match: re.Match[str]) -> str:
    inner = match[1].strip()
    if re.fullmatch(r"and|or|,", inner, re.IGNORECASE):
        return f" {inner.lower()} "
    named = r"[eid]|sin|cos|tan|cot|sec|csc|log|ln|arcsin|arccos|arctan|gcd|lcm|max|min"
    if re.fullmatch(named, inner) and not match[0].startswith("\\text"):
        return inner if len(inner) == 1 else f"\\{inner} "
    if re.fullmatch(r"[-+]?[\d.,/]+%?", inner):
        return f" {inner} "
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


def _scientific(match: re.Match[str]) -> str:
    """1.5e-3 and 2e5; but 2e-3, with a whole number and a sign, is twice Euler's number less three."""
    return f"({match[1] or match[3]}*10^{{{match[2] or match[4]}}})"


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
