"""Time within a day: no overlaps, and gaps between places that fit the road between them."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from math import ceil, floor
from operator import attrgetter

from .case import Activity, Case, Day
from .plan import INTERCITY, MIDNIGHT
from .world import World

__all__ = ["gap_bounds", "no_time_overlaps", "reasonable_transfer_time"]

ANCHORS = frozenset(("hotel", "attraction", "meal", INTERCITY))
START = attrgetter("start")
HALF_DAY = 720  # minutes: a step back by more is taken for midnight


def no_time_overlaps(case: Case) -> str | None:
    """By the clock, whatever the order in the list; idle time is allowed."""
    for day in case.days:
        until = -1
        for act in sorted([act for act in day.acts if act.start >= 0], key=START):
            if act.start < until:
                return f"day {day.number + 1}: {act.kind} at {act.start // 60:02}:{act.start % 60:02} starts before the last one ends"
            until = act.end
    return None


def reasonable_transfer_time(case: Case) -> str | None:
    """The road's minutes, give or take, between neighbouring places; ways without coordinates or road are skipped.

    The plan's own travel_city lines are never looked at: time that is not written as a buffer must fit the table's road.
    """
    for day in case.days:
        anchors = [act for act in day.acts if act.kind in ANCHORS and act.start >= 0]
        for here, there in pairwise(anchors):
            if fault := _misfit(day, here, there, case.world):
                return f"day {day.number + 1}: {fault}"
    return None


def _misfit(day: Day, here: Activity, there: Activity, world: World) -> str | None:
    origin = here.details.get("to") if here.kind == INTERCITY else here.name
    goal = there.details.get("from") if there.kind == INTERCITY else there.name
    if origin == goal:
        return None
    gap, until = there.start - here.end, there.start
    if gap < 0:
        if -gap <= HALF_DAY or gap + MIDNIGHT < 0:
            return None
        gap, until = gap + MIDNIGHT, until + MIDNIGHT
    minutes = world.minutes(origin, goal)
    if minutes is None:
        return None
    gap -= sum(_inside(act, here.end, until) for act in day.of("buffer") if act.timed)
    least, most = gap_bounds(minutes)
    return None if least <= gap <= most else f"{gap} minutes from {origin} to {goal}, {least:g} to {most:g} expected"


def _inside(buffer: Activity, since: int, until: int) -> int:
    """A buffer's minutes if it lies within, one day later where it starts before; else 0."""
    later = MIDNIGHT if buffer.start < since else 0
    return buffer.end - buffer.start if since <= buffer.start + later and buffer.end + later <= until else 0


@lru_cache(maxsize=4096)
def gap_bounds(minutes: float) -> tuple[float, float]:
    """Least and most minutes between two places that a road of so many minutes allows: 20 gives 15 and 25, 8 gives 0 and 13."""
    return min(max(0, minutes - 5), 10 * floor(minutes / 10)), max(minutes + 5, 10 * ceil(minutes / 10))
