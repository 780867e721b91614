"""The deterministic reader of the official free-text plan: what it cannot read is left out and listed, never mended.

A field that a line does not give is null or empty, which fails its checks; each value comes with the line and the text that it was
read from. The names of the case's places choose where a text is split ("A - B - C", a comma inside a name); they never change one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from .plan import CITY, DETAILS, INTERCITY, Plan

__all__ = ["VERSION", "Parsed", "Source", "parse"]

VERSION = 1  # of the reader; rises whenever a plan may read otherwise
SAME = tuple(zip("｜：，￥", "|:,¥", strict=True))  # one character for one: positions stay
NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
DAY = re.compile(r"Day\s*(\d+)\b[^|]*")
LABEL = re.compile(r"(Current City|Accommodation)\s*:")
ACTIVITY = re.compile(r"(\d{1,2}:\d{2}\s*[-–—~～]\s*\d{1,2}:\d{2})\s*\|([^|]*)\|")
PRICE = re.compile(rf",\s*¥\s*({NUMBER})")
AMOUNT = re.compile(NUMBER)
DISTANCE = re.compile(rf"({NUMBER})\s*(?:km|m|公里|米)")
DURATION = re.compile(rf"({NUMBER})\s*(?:min|分钟)")
FREE = ("free", "免费", "免票")
NOTHING = ("", "-", "–", "—", "－", "无")
BUDGET = {
    "Transportation": "transportation", "Accommodation": "accommodation", "Meals": "meals",
    "Attractions & Tickets": "attractions_and_tickets", "Other": "other",
    **dict.fromkeys(("Total Estimated Budget", "总预算", "总预算估算", "总计", "总计预算", "预算总计"), "total_estimated_budget"),
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where a value was read: line of the plan text, counted from 1, and the text there."""

    line: int
    text: str


@dataclass
class Parsed:
    """A plan, the source of each of its values by path ("daily_plans[0].activities[3].details.cost"), and the lines left unread."""

    plan: Plan = field(default_factory=lambda: {"daily_plans": []})
    sources: dict[str, Source] = field(default_factory=dict)
    unread: list[Source] = field(default_factory=list)


def parse(text: str, places: Collection[str]) -> Parsed:
    """Reads a plan text, the contents of one `<plan>` block.

    Args:
        text: one block a day, then the budget summary. places: names of the case's locations.

    Returns:
        The plan, perhaps without days. Nothing is raised: a text that holds no plan has all its lines in `unread`.
    """
    reader = _Reader(places)
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"^[\s#]*(?:-\s+)?[\s#]*", "", raw.replace("**", "")).strip()
        if line and not reader.read(number, line):
            reader.found.unread.append(Source(number, raw))
    return reader.found


class _Reader:
    """Reads line by line; each method says whether it could use the line."""

    def __init__(self, places: Collection[str]) -> None:
        self.places = places
        self.found = Parsed()
        self.day: dict[str, Any] | None = None
        self.path = ""
        self.line = 0
        self.in_budget = False
        self.kinds: dict[str, Callable[[str], dict[str, Any]]] = {
            INTERCITY: self._intercity, CITY: self._city, "attraction": self._attraction, "meal": self._meal, "hotel": self._hotel,
            "buffer": lambda rest: {"description": rest},
        }  # fmt: skip

    def read(self, number: int, line: str) -> bool:
        self.line = number
        same = _same(line)
        if opened := DAY.fullmatch(same):
            days = self.found.plan["daily_plans"]
            self.day, self.path, self.in_budget = {"day_number": int(opened[1]), "activities": []}, f"daily_plans[{len(days)}]", False
            days.append(self.day)
            return self._note(f"{self.path}.day_number", line)
        if same.startswith("Budget Summary"):
            self.day, self.in_budget = None, True
            self.found.plan.setdefault("budget_summary", {})
            return True
        if self.in_budget:
            return self._budget(line, same)
        if self.day is None:
            return False
        if label := LABEL.match(same):
            return self._label(label[1], line[label.end() :].strip())
        return self._activity(line, same)

    def _note(self, path: str, text: str) -> bool:
        self.found.sources[path] = Source(self.line, text)
        return True

    def _budget(self, line: str, same: str) -> bool:
        label, colon, rest = same.partition(":")
        key = BUDGET.get(label.strip())
        value = AMOUNT.search(rest.rpartition("=")[2]) if colon and key else None
        if key is None or value is None:
            return False
        self.found.plan["budget_summary"][key] = _number(value[0])
        return self._note(f"budget_summary.{key}", line)

    def _label(self, label: str, value: str) -> bool:
        assert self.day is not None
        if label == "Current City":
            self.day["current_city"] = value
            return self._note(f"{self.path}.current_city", value)
        if value in NOTHING:
            return True
        name, price = _priced(value)
        self.day["accommodation"] = {"name": self._name(name), "price_per_night": price}
        return self._note(f"{self.path}.accommodation", value)

    def _activity(self, line: str, same: str) -> bool:
        assert self.day is not None
        head = ACTIVITY.match(same)
        kind = head[2].strip() if head else ""
        if head is None or kind not in DETAILS:
            return False
        rest = line[head.end() :].strip()
        details = self.kinds[kind](rest)
        acts = self.day["activities"]
        path = f"{self.path}.activities[{len(acts)}]"
        acts.append({"time_slot": line[: head.end(1)], "type": kind, "details": details})
        self._note(f"{path}.time_slot", line[: head.end(1)])
        self._note(f"{path}.type", line[head.start(2) : head.end(2)].strip())
        for key, value in details.items():
            if value is not None and key != "city":
                self._note(f"{path}.details.{key}", rest)
        return True

    def _intercity(self, rest: str) -> dict[str, Any]:
        head, price = _priced(rest)
        ride, _, ends = _cut(head)
        mode, _, number = ride.partition(" ")
        origin, goal = self._ends(ends)
        return {"mode": mode, "number": number.strip(), "from": origin, "to": goal, "cost": price}

    def _city(self, rest: str) -> dict[str, Any]:
        ends, price = _priced(rest)
        found: dict[str, Any] = {"distance": None, "duration": None}
        for key, pattern in (("duration", DURATION), ("distance", DISTANCE), ("duration", DURATION)):  # either may stand last
            before, comma, last = _cut(ends, last=True)
            if comma and found[key] is None and (value := pattern.fullmatch(_same(last))):
                found[key], ends = _number(value[1]), before
        origin, goal = self._ends(ends)
        return {"from": origin, "to": goal, **found, "cost": price}

    def _attraction(self, rest: str) -> dict[str, Any]:
        assert self.day is not None
        name, price = _priced(rest)
        return {"name": self._name(name), "city": self.day.get("current_city"), "cost": price}

    def _meal(self, rest: str) -> dict[str, Any]:
        head, price = _priced(rest)
        kind, _, name = _cut(head)
        return {"meal_type": kind, "name": self._name(name), "cost": price}

    def _hotel(self, rest: str) -> dict[str, Any]:
        activity, _, name = _cut(rest)
        return {"activity": activity, "name": self._name(name)}

    def _ends(self, text: str) -> tuple[str | None, str | None]:
        """Both ends of "A - B": split where both are known places, else at the first dash; None twice without one."""
        cuts = [(text[: at.start()].strip(), text[at.end() :].strip()) for at in re.finditer(r"(?<=\s)-(?=\s)", text)]
        known = [cut for cut in cuts if cut[0] in self.places and self._name(cut[1]) in self.places]
        origin, goal = next(iter(known or cuts), (None, None))
        return origin, goal and self._name(goal)

    def _name(self, text: str) -> str:
        """A name, perhaps with a trailing field: cut at the last comma before which it is a known place, if the whole is none."""
        if text in self.places:
            return text
        same = _same(text)
        ends = [len(text), *(at for at in range(len(text) - 1, 0, -1) if same[at] == ",")]
        return next((name for end in ends if (name := text[:end].strip()) in self.places), text)


def _same(text: str) -> str:
    """The text with full-width bars, colons, commas and yen signs as ASCII ones, of the same length."""
    if not text.isascii():
        for wide, narrow in SAME:  # far faster than str.translate
            text = text.replace(wide, narrow)
    return text


def _cut(text: str, *, last: bool = False) -> tuple[str, str, str]:
    """A text around its first or last comma."""
    same = _same(text)
    at = same.rfind(",") if last else same.find(",")
    return (text[:at].strip(), ",", text[at + 1 :].strip()) if at >= 0 else (text, "", "")


def _priced(text: str) -> tuple[str, int | float | None]:
    """A text before its last ", ¥amount" and the amount; 0 if its last field says free; None where it has no price."""
    found = list(PRICE.finditer(_same(text)))
    if found:
        return text[: found[-1].start()].strip(), _number(found[-1][1])
    head, _, field_ = _cut(text, last=True)
    return (head, 0) if field_.lower() in FREE else (text, None)


def _number(text: str) -> int | float:
    value = float(text.replace(",", ""))
    return int(value) if value.is_integer() else value
