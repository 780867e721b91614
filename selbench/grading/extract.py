"""The final answer of a response, found without recursion and in time linear in its length; plain numbers as exact rationals."""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["LONGEST", "exact", "extract", "gold_answer", "is_number"]

LONGEST = 2000  # characters of an extracted answer that are still looked at
_EXACT_LONGEST = 200

_BOX = re.compile(r"\\f?box(?:ed)?(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\\[A-Za-z]+|[A-Za-z])")
_JOINT = re.compile(r"(?:[\s$;,*]|\\[()\[\],;:!]|\\q?quad|\\text\{|\}|\b(?:and|or)\b)*")
_CONNECTIVE = re.compile(r"[,;]|\b(?:and|or)\b")
_MARK = re.compile(r"\banswer\W{0,4}\s*(?:is|:|=)[\s:*]*|####\s*", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_TAG = re.compile(r"<answer>([^<]*)</answer>")
_SENTENCE_END = re.compile(r"\.(?=\s+[A-Z]|\s*$)|\*\*|\s+(?=I hope\b)")
_MATH_SPAN = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_MOST_BOXES = 20  # joined into one list
_FINISHED = re.compile(r"(?:[.!?]|\d(?:\s*(?:%|[a-zA-Z]+))?)[\s$*)\]}\"'°]*$")
_CLOSING = 60  # characters that show how a text ends
_TAIL = 4000  # the last number is nearly always here; the whole text is searched only if not

_PLAIN = re.compile(r"([+-]?)\s*(\d+|\d{1,3}(?:,\d{3})+|(?=\.\d))(?:\.(\d+))?(?:\s*/\s*(\d+))?")
_FRAC = re.compile(r"(-?)\s*\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_THOUSANDS = re.compile(r",\\!\s*|\{,\}")
_DROPPED = re.compile(r"\\!|\{\}|\\left(?![a-z])|\\right(?![a-z])")


def extract(response: str, *, number: bool = True) -> str | None:
    """The final answer a response states, or None. It depends on the text alone, so that every evaluator finds the same one.

    In this order: the last \\boxed{…} or \\fbox{…} (also `\\boxed 5`; boxes joined by a comma, "and" or "or" are one answer, a
    list); the last <answer>…</answer>; what follows the last "answer is", "Answer:" or `####`; and, only if `number` (the gold
    answer is a number) and the text ends like a finished one (a full stop, or that very number), its last number. Only what
    follows a closed </think> counts: a draft inside an unclosed think block is no answer, nor is anything before a box cut off.
    """
    if response.rfind("<think>") > response.rfind("</think>"):
        return None
    text = response[response.rfind("</think>") + len("</think>") :] if "</think>" in response else response
    boxed, cut = _last_boxes(text)
    if boxed or cut:
        return boxed
    if tag := _TAG.search(text, max(0, text.rfind("<answer>"))):
        text = f"The answer is {tag[1]}" if tag[1].strip() else text
    marked = _marked(text, number)
    if marked:
        return marked
    return _last_number(text) if number and _FINISHED.search(text[-_CLOSING:]) else None


def gold_answer(answer: str) -> str:
    """The final answer of a data set's solution field: what follows `####` (GSM8K), else the last box, else the text itself."""
    if "####" in answer:
        return answer.rsplit("####", 1)[1].strip()
    return _last_boxes(answer)[0] or answer.strip()


def is_number(gold: str) -> bool:
    """Whether a gold answer is a plain number (money, per cent and degree signs aside): only then may a bare last number count."""
    return exact(re.sub(r"\\?[$%]|\^\s*\{?\\circ\}?", "", gold)) is not None


def exact(text: str) -> Fraction | None:
    """A plain integer, decimal, fraction a/b or \\frac{a}{b} as an exact rational, or None if it is anything else."""
    if len(text) > _EXACT_LONGEST:
        return None
    bare = _DROPPED.sub("", _THOUSANDS.sub(",", text.replace("−", "-"))).strip().strip("$").strip()
    if match := _PLAIN.fullmatch(bare):
        sign, whole, decimals, denominator = match.groups()
        if not match[0].isascii() or (denominator and not int(denominator)) or (decimals and denominator):
            return None
        value = Fraction(f"{whole.replace(',', '') or '0'}.{decimals or '0'}") / int(denominator or 1)
        return -value if sign == "-" else value
    if match := _FRAC.fullmatch(bare):
        above, below = match[2] or match[3], match[4] or match[5]
        if not match[0].isascii() or not int(below):
            return None
        value = Fraction(int(above), int(below))
        return -value if match[1] else value
    return None


def _last_boxes(text: str) -> tuple[str | None, bool]:
    """The content of the last box, or of the last boxes where connectives alone stand between them; and whether one is cut off."""
    place = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if place < 0:
        return None, False
    end, content = _box_at(text, place)
    if content is None:
        return None, end >= len(text)
    found = [content]
    for _ in range(_MOST_BOXES):
        before = max(text.rfind("\\boxed", 0, place), text.rfind("\\fbox", 0, place))
        if before < 0:
            break
        end, content = _box_at(text, before, place)
        if content is None or not _JOINT.fullmatch(text, end, place) or not _CONNECTIVE.search(text, end, place):
            break
        if content not in found:
            found.insert(0, content)
        place = before
    return ", ".join(found) or None, False


def _box_at(text: str, place: int, stop: int | None = None) -> tuple[int, str | None]:
    """(Where the box that starts at `place` ends, its content); no content if it is empty or not closed before `stop`."""
    stop = len(text) if stop is None else stop
    head = _BOX.match(text, place)
    if head is None:
        return place, None
    begin, depth = head.end(), 0
    if text[begin : begin + 1] != "{":
        bare = _BARE_BOX.match(text, begin, stop)
        return (bare.end(), bare[0].rstrip(",")) if bare else (stop, None)
    for brace in _BRACE.finditer(text, begin, stop):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.end(), text[begin + 1 : brace.start()].strip() or None
    return stop, None


def _marked(text: str, number: bool) -> str | None:
    """What follows the last "answer is" or `####`, on that line or the next: its formula, its number or its first sentence."""
    lower, match, place = text.lower(), None, len(text)
    while match is None and (place := max(text.rfind("####", 0, place), lower.rfind("answer", 0, place))) >= 0:
        match = _MARK.match(text, place)
    if match is None:
        return None
    rest = text[match.end() : match.end() + 2 * LONGEST].lstrip()
    display = _MATH_SPAN.match(rest)
    line = rest[: rest.find("\n", display.end() if display else 0) % (len(rest) + 1)]
    spans = list(_MATH_SPAN.finditer(line))
    if spans and not _NUMBER.search(line, 0, spans[0].start()):
        kept = [spans[0]]
        for span in spans[1:_MOST_BOXES]:
            if not _JOINT.fullmatch(line, kept[-1].end(), span.start()):
                break
            kept.append(span)
        return ", ".join(part.strip() for span in kept for part in span.groups() if part) or None
    value = _SENTENCE_END.split(line, maxsplit=1)[0].strip().rstrip(".,").strip("$* ")
    found = _NUMBER.search(value.rsplit("=", 1)[-1]) if number and "\\" not in value and exact(value) is None else None
    return (found[0].rstrip(",") if found else value) or None


def _last_number(text: str) -> str | None:
    for begin in (max(0, len(text) - _TAIL), 0):
        begin = 0 if begin == 0 else text.find(" ", begin)
        numbers = _NUMBER.findall(text, begin) if begin >= 0 else []
        if numbers:
            last: str = numbers[-1].rstrip(",")
            return last
    return None
