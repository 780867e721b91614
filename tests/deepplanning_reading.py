"""How the second implementation of the travel rules reads files, slots, hours, amounts and cities."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Rows = list[dict[str, str]]


def read(folder: Path) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for path in folder.rglob("*.csv"):
        with path.open(encoding="utf-8-sig", newline="") as handle:
            found[path.stem] = [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(handle)]
    return found


def number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def minutes(text: Any) -> int | None:
    if not isinstance(text, str) or not re.fullmatch(r"\d{1,2}:\d\d", text):
        return None
    h, m = map(int, text.split(":"))
    return 1439 if (h, m) == (24, 0) else h * 60 + m if h <= 23 and m <= 59 else None


def slot(act: Json) -> tuple[int, int] | None:
    found = re.match(r"(\d{1,2}:\d\d) *- *(\d{1,2}:\d\d)", str(act.get("time_slot")))
    times = [minutes(part) for part in found.groups()] if found else [None]
    return None if None in times else (times[0], times[1])  # type: ignore[return-value]


def span(act: Json) -> tuple[int, int] | None:
    found = slot(act)
    return None if found is None else (found[0], found[1] + 1440 * (found[1] < found[0]))


def hours(act: Json) -> tuple[float, float] | None:
    try:
        left, right = str(act["time_slot"]).split("-")
        (a, b), (c, d) = (map(int, half.split(":")) for half in (left, right))
    except (KeyError, ValueError):
        return None
    return a + b / 60, c + d / 60


def price_equal(value: Any, cell: str) -> bool:
    return type(value) in (int, float) and round(value) == round(float(cell))


def last(rows: Rows, column: str, name: Any) -> Json | None:
    fitting = [row for row in rows if row.get(column, "").strip() == name]
    return fitting[-1] if name and fitting else None


def city(text: Any) -> str | None:
    return re.sub(r"\(.*?\)|（.*?）", "", text).strip() if isinstance(text, str) else None


def pair(day: Json) -> tuple[str, str] | None:
    found = re.search(r"from\s+(.+?)\s+to\s+([^,]+)", day["current_city"]) if isinstance(day.get("current_city"), str) else None
    return (str(city(found[1].strip())), str(city(found[2].strip()))) if found else None


def inside(act: Json, row: Json) -> bool | None:
    """Whether a visit lies in the hours; None where they cannot be read, False where the slot cannot."""
    o, c, times = minutes(row.get("opening_time")), minutes(row.get("closing_time")), slot(act)
    if o is None or c is None:
        return None
    if times is None:
        return False
    s, e = times
    if o <= c:
        return s <= e and s >= o and e <= c
    return (s >= o and e <= c) if e < s else (s >= o and e >= o) or (s <= c and e <= c)
