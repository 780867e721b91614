"""Opening hours, closing days and lengths of visits and meals."""

from __future__ import annotations

from .case import Activity, Case, Day
from .plan import amount, clock
from .world import Row

__all__ = [
    "attraction_visit_within_opening_hours", "avoidance_of_closure_days", "dining_within_service_hours", "open_during",
    "reasonable_duration_at_attractions", "reasonable_meal_duration",
]  # fmt: skip

ALL_DAY = ("Open 24 Hours", "全天开放")
WEEKDAYS = {
    name: number
    for names in ("monday tuesday wednesday thursday friday saturday sunday", "周一 周二 周三 周四 周五 周六 周日")
    for number, name in enumerate(names.split(), 1)
}


def open_during(start: int, end: int, opens: int, closes: int) -> bool:
    """Whether a place is open from `start` to `end`: minutes of the day, bounds included; closing before opening means past midnight."""
    if opens <= closes:
        return opens <= start <= end <= closes
    if end < start:
        return start >= opens and end <= closes
    return start >= opens or end <= closes


def attraction_visit_within_opening_hours(case: Case) -> str | None:
    if not case.world.last["attractions"]:
        return "no table of attractions"
    for day, act, row in _known(case, "attraction", "attractions"):
        opens, closes = row.get("opening_time", ""), row.get("closing_time", "")
        if opens in ALL_DAY and closes in ALL_DAY:
            continue
        if not act.timed or not _open(act, opens, closes):
            return f"day {day.number + 1}: {act.name} is open {opens or '?'} to {closes or '?'}"
    return None


def dining_within_service_hours(case: Case) -> str | None:
    """Unreadable hours of a restaurant are skipped; those of an attraction fail."""
    if not case.world.last["restaurants"]:
        return "no table of restaurants"
    for day, act, row in _known(case, "meal", "restaurants"):
        opens, closes = row.get("opening_time", ""), row.get("closing_time", "")
        if not act.timed or _open(act, opens, closes) is False:
            return f"day {day.number + 1}: {act.name} serves {opens or '?'} to {closes or '?'}"
    return None


def avoidance_of_closure_days(case: Case) -> str | None:
    if not case.world.last["attractions"]:
        return "no table of attractions"
    start = case.meta.get("depart_weekday")
    if not start:
        return None
    if not isinstance(start, int):
        return f"depart_weekday is {start!r}, no number of 1 to 7"
    for day, act, row in _known(case, "attraction", "attractions"):
        if not (dates := row.get("closing_dates")):
            continue
        closed = {WEEKDAYS.get(name.strip().lower()) for name in dates.split(",")}
        if (start - 1 + day.number) % 7 + 1 in closed:
            return f"day {day.number + 1}: {act.name} is closed that weekday"
    return None


def reasonable_duration_at_attractions(case: Case) -> str | None:
    if not case.world.last["attractions"]:
        return "no table of attractions"
    for day, act, row in _known(case, "attraction", "attractions"):
        least, most = amount(row.get("min_visit_hours")), amount(row.get("max_visit_hours"))
        if not act.timed or least is None or most is None or not least <= (act.end - act.start) / 60 <= most:
            return f"day {day.number + 1}: {act.name} takes {least} to {most} hours"
    return None


def reasonable_meal_duration(case: Case) -> str | None:
    for day, act in case.of("meal"):
        if act.name and not (act.timed and 30 <= act.end - act.start <= 150):
            return f"day {day.number + 1}: {act.name} takes 30 to 150 minutes"
    return None


def _open(act: Activity, opens: str, closes: str) -> bool | None:
    """Whether the hours cover an activity; None where they cannot be read."""
    first, last = clock(opens), clock(closes)
    return None if first is None or last is None else open_during(act.start, act.closes, first, last)


def _known(case: Case, kind: str, table: str) -> list[tuple[Day, Activity, Row]]:
    rows = case.world.last[table]
    return [(day, act, rows[act.name]) for day, act in case.of(kind) if act.name in rows]
