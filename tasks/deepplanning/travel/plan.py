"""The structured plan and how its fields are read: slots, hours, amounts, cities.

A plan is a JSON object:

    {"budget_summary": {"transportation", "accommodation", "meals", "attractions_and_tickets", "other", "total_estimated_budget": number},
     "daily_plans": [{"day_number": number, "current_city": "from A to B" | "B",
                      "accommodation": {"name": str, "price_per_night": number},      # absent where the text says "-"
                      "activities": [{"time_slot": "HH:MM-HH:MM", "type": str, "details": {...}}]}]}

`DETAILS` lists the types and their details. Amounts are bare numbers. What is absent or odd fails the checks that need it; what
cannot be walked at all (a list for a plan, a day that is a number) raises PlanError: delivered, not evaluated, counted apart.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any

from selbench import UserError

__all__ = [
    "CITY", "DETAILS", "INTERCITY", "MIDNIGHT", "Plan", "PlanError", "amount", "bare", "clock", "equal_price", "first_of", "from_to",
    "hour", "hours", "slot", "strict", "times",
]  # fmt: skip

Plan = dict[str, Any]
INTERCITY, CITY = "travel_intercity_public", "travel_city"
DETAILS: dict[str, tuple[str, ...]] = {
    INTERCITY: ("mode", "number", "from", "to", "cost"),
    CITY: ("from", "to", "distance", "duration", "cost"),
    "attraction": ("name", "city", "cost"),
    "meal": ("meal_type", "name", "cost"),
    "hotel": ("activity", "name"),
    "buffer": ("description",),
}
MIDNIGHT = 24 * 60  # minutes
SLOT = re.compile(r"(\d{1,2}:\d{2})\s*-\s*(\d{1,2}:\d{2})")
FROM = re.compile(r"from\s+")
TO = re.compile(r"\sto\s+([^,]+)")
ASIDE = re.compile(r"\([^)]*\)|（[^）]*）")


class PlanError(UserError):
    """A plan that cannot be read or walked; says where."""


def strict(text: str) -> Plan:
    """The plan that a text is: one JSON object with a list `daily_plans`, one code fence around it allowed.

    Strict JSON: no NaN, comments or trailing commas. Nothing else is validated, and nothing is mended. Raises PlanError.
    """
    content = text.strip()
    if content.startswith("```") and content.endswith("```"):
        mark, _, inside = content[3:-3].partition("\n")
        content = inside if mark.strip() == "" or mark.strip().isalpha() else content
    try:
        plan = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"plan: not strict JSON ({' '.join(str(error).split())})") from error
    if not isinstance(plan, dict):
        raise PlanError(f"plan: a JSON {type(plan).__name__}, expected an object")
    if not isinstance(plan.get("daily_plans"), list):
        raise PlanError("plan: daily_plans is no list")
    return plan


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def amount(value: object) -> float | None:
    """A number or a text that is one, as float; None for anything else."""
    if value is None:
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def first_of(entry: dict[str, Any], *keys: str) -> Any:
    """The first truthy value under `keys`, else the last key's."""
    value = None
    for key in keys:
        if value := entry.get(key):
            break
    return value


def equal_price(value: object, cell: str) -> bool:
    """Whether a plan's JSON number and a table's price round to one integer, ties to even: 420.5 equals 420. A text never does."""
    price = amount(cell)
    if isinstance(value, bool) or not isinstance(value, int | float) or price is None:
        return False
    finite = isinstance(value, int) or math.isfinite(value)
    return finite and math.isfinite(price) and round(value) == round(price)


@lru_cache(maxsize=4096)
def _pair(city: str) -> tuple[str, str] | None:
    start = FROM.search(city)
    if start is None:
        return None
    for end in TO.finditer(city, start.end()):
        if origin := city[start.end() : end.start()].strip():
            return origin, end[1].strip()
    return None


def from_to(city: object) -> tuple[str, str] | None:
    """A and B of "from A to B", up to the next comma; None for other texts ("From A to B" too) and for what is no text."""
    return _pair(city) if isinstance(city, str) else None


@lru_cache(maxsize=4096)
def _bare(city: str) -> str:
    last = max(city.rfind(")"), city.rfind("）")) + 1  # up to there only: brackets that never close take quadratic time
    return (ASIDE.sub("", city[:last]) + city[last:]).strip()


def bare(city: object) -> str | None:
    """A city's name without its asides in brackets; None for what is no text."""
    return _bare(city) if isinstance(city, str) else None


@lru_cache(maxsize=1 << 14)
def clock(text: str) -> int | None:
    """Minutes since midnight of "H:MM" or "HH:MM"; 24:00 counts as 23:59; None if it is no time of day."""
    found = re.fullmatch(r"(\d{1,2}):(\d{2})", text.strip())
    if found is None:
        return None
    hours, minutes = int(found[1]), int(found[2])
    if (hours, minutes) == (24, 0):
        return MIDNIGHT - 1
    return hours * 60 + minutes if hours < 24 and minutes < 60 else None


@lru_cache(maxsize=1 << 16)
def slot(text: str) -> tuple[int, int] | None:
    """Start and end of "HH:MM-HH:MM" as minutes of the day, each below 1440; what follows is ignored. None where either is unreadable."""
    found = SLOT.match(text)
    if found is None:
        return None
    start, end = clock(found[1]), clock(found[2])
    return None if start is None or end is None else (start, end)


@lru_cache(maxsize=1 << 16)
def hour(text: str) -> float | None:
    """A time as real hours, split at its colon: 24:00 is 24.0. None if it has other parts."""
    parts = text.split(":")
    try:
        return int(parts[0]) + int(parts[1]) / 60 if len(parts) == 2 else None
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=1 << 16)
def hours(text: str) -> tuple[float | None, float | None]:
    """Start and end of a slot as real hours, split at its one hyphen."""
    halves = text.split("-")
    return (hour(halves[0]), hour(halves[1])) if len(halves) == 2 else (None, None)


@lru_cache(maxsize=1 << 16)
def times(text: str) -> tuple[int, int, int, float | None, float | None]:
    """A slot read both ways: start and end in minutes (-1 where unreadable; past midnight the end counts on), the end's clock, `hours`."""
    start, end = slot(text) or (-1, -1)
    return start, end + MIDNIGHT if end < start else end, end, *hours(text)
