"""Meals and attractions that a day must have, by when its traveller arrives and leaves.

Times are real hours, split from the slot; on a transfer day both come from the first intercity activity whose time reads, so the
arrival is that of the first leg.
"""

from __future__ import annotations

from collections.abc import Callable

from .case import Case, Day
from .plan import CITY, INTERCITY, bare

__all__ = ["essential_attraction_coverage", "essential_meal_coverage", "lacks_attractions", "lacks_meals"]

MEAL_GAP = 120  # minutes, end of the first meal to the start of the second
FULL_VISIT = 240  # minutes of one visit with its ways that stand for two attractions


def essential_meal_coverage(case: Case) -> str | None:
    return _every_day(case, lacks_meals)


def essential_attraction_coverage(case: Case) -> str | None:
    return _every_day(case, lacks_attractions)


def _every_day(case: Case, lacks: Callable[[Day, str], str | None]) -> str | None:
    org = bare(case.meta.get("org"))
    if not org:
        return "the task names no city of departure"
    for day in case.days:
        if fault := lacks(day, org):
            return f"day {day.number + 1}: {fault}"
    return None


def _hours(day: Day, org: str) -> tuple[float | None, float | None]:
    """Hours of the departure from a foreign city where the traveller is and of the arrival in one; None where there is none to judge."""
    for act in day.of(INTERCITY):
        if act.begin is not None and act.finish is not None:
            leaves = day.origin != org and day.origin == day.location
            return act.begin if leaves else None, act.finish if day.goal != org else None
    return None, None


def lacks_meals(day: Day, org: str) -> str | None:
    """What is wrong with a day's meals. Their kind does not matter; only the first two are held apart."""
    meals = sorted((act.begin, act.finish) for act in day.of("meal") if act.begin is not None and act.finish is not None)
    count = len(meals)
    tight = count > 1 and (meals[1][0] - meals[0][1]) * 60 < MEAL_GAP
    close = "its first two meals are less than 120 minutes apart" if tight else None
    if day.pair is None:
        return f"{count} meals on a full day, 2 needed" if count < 2 else close
    departure, arrival = _hours(day, org)
    if departure is not None:
        if departure < 9 and count:
            return f"{count} meals before a departure at {departure:.2f} h"
        if 9 <= departure < 15 and count > 1:
            return f"{count} meals before a departure at {departure:.2f} h, at most 1"
        if departure >= 15 and (count < 1 or close):
            return close or f"no meal before a departure at {departure:.2f} h"
    if arrival is not None:
        if arrival < 10 and (count < 2 or close):
            return close or f"{count} meals after an arrival at {arrival:.2f} h, 2 needed"
        if 10 <= arrival < 15 and (count < 1 or close):
            return close or f"no meal after an arrival at {arrival:.2f} h"
        if arrival >= 15 and count > 1:
            return f"{count} meals after an arrival at {arrival:.2f} h, at most 1"
    return None


def lacks_attractions(day: Day, org: str) -> str | None:
    """What is wrong with a day's attractions."""
    count = len(day.of("attraction"))
    if day.pair is None:
        full = count >= 2 or visiting_minutes(day) >= FULL_VISIT
        return None if full else f"{count} attractions on a full day: 2 needed, or 4 hours at one"
    departure, arrival = _hours(day, org)
    needed = (departure is not None and departure > 16) or (arrival is not None and arrival < 12)
    return "no attraction, with time for one" if needed and not count else None


def visiting_minutes(day: Day) -> int:
    """Minutes of a day's visits and of the ways to and from them.

    Each activity's minutes are truncated after subtracting hours in double precision, as published: 12:20-12:40 counts 19.
    """
    names = {act.name for act in day.of("attraction") if act.name}
    total = 0
    for act in day.acts:
        counts = act.kind == "attraction" or (act.kind == CITY and (act.details.get("from") in names or act.details.get("to") in names))
        if counts and act.begin is not None and act.finish is not None:
            hours = act.finish - act.begin
            total += int((hours + 24 if hours < 0 else hours) * 60)
    return total
