"""A plan read for scoring: its days and activities with their times, once for all checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .plan import CITY, INTERCITY, Plan, PlanError, bare, from_to, hour, times
from .world import World

__all__ = ["Activity", "Case", "Day", "read_case"]

NAMED, ENDS = ("name",), ("from", "to")
LOOKED_UP: dict[str | None, tuple[str, ...]] = {  # details by which tables and sets are asked: no lists or objects
    "attraction": NAMED, "meal": NAMED, "hotel": NAMED, INTERCITY: (*ENDS, "number"), CITY: ENDS,
}  # fmt: skip


@dataclass(slots=True)
class Activity:
    """An activity with its times read twice, as the official rules do.

    `start`, `end`: minutes, `end` past midnight counts on; -1 both where the slot is unreadable. `opens`, `closes`: the clock times.
    `begin`, `finish`: real hours by splitting the slot, which accepts other texts than the former.
    """

    kind: str | None
    details: dict[str, Any]
    name: Any
    start: int
    end: int
    closes: int
    begin: float | None
    finish: float | None

    @property
    def timed(self) -> bool:
        return self.start >= 0


@dataclass(slots=True)
class Day:
    """A day: its entry, its activities in list order, A and B if it is a transfer day, and where it starts (bare names)."""

    number: int  # from 0, by position
    entry: Plan
    city: Any
    pair: tuple[str, str] | None
    origin: str | None  # A and B without asides
    goal: str | None
    location: str | None
    acts: list[Activity]
    kinds: dict[str, list[Activity]]

    def of(self, kind: str) -> list[Activity]:
        """Its activities of one type."""
        return self.kinds.get(kind, [])


@dataclass(slots=True)
class Case:
    """What the checks see: the plan with its days read, the task's meta_info, the tables. `cost` is filled in when it is asked for."""

    plan: Plan
    meta: dict[str, Any]
    world: World
    days: list[Day]
    cost: float | None = None

    def of(self, kind: str) -> list[tuple[Day, Activity]]:
        """All activities of one type, in plan order, with their days."""
        return [(day, act) for day in self.days for act in day.of(kind)]


def read_case(plan: object, meta: dict[str, Any], world: World) -> Case:
    """Reads the days of a plan, in order. Raises PlanError where it cannot be walked."""
    if not isinstance(plan, dict):
        raise PlanError(f"plan: a JSON {type(plan).__name__}, expected an object")
    entries = plan.get("daily_plans") or []
    if not isinstance(entries, list):
        raise PlanError("plan: daily_plans is no list")
    days: list[Day] = []
    location = bare(meta.get("org"))
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise PlanError(f"plan: day {number + 1} is a JSON {type(entry).__name__}, expected an object")
        city = entry.get("current_city")
        pair = from_to(city)
        origin, goal = (bare(pair[0]), bare(pair[1])) if pair else (None, None)
        acts = _activities(entry.get("activities") or [], number + 1)
        kinds: dict[str, list[Activity]] = {}
        for act in acts:
            if act.kind is not None:
                kinds.setdefault(act.kind, []).append(act)
        days.append(Day(number, entry, city, pair, origin, goal, location, acts, kinds))
        location = goal if pair else location
    return Case(plan, meta, world, days)


def _activities(entries: object, day: int) -> list[Activity]:
    if not isinstance(entries, list):
        raise PlanError(f"plan: the activities of day {day} are no list")
    return [_activity(entry, day, number) for number, entry in enumerate(entries, 1)]


def _activity(entry: object, day: int, number: int) -> Activity:
    if not isinstance(entry, dict):
        raise PlanError(f"plan: day {day}, activity {number} is a JSON {type(entry).__name__}, expected an object")
    details = entry.get("details") or {}
    if not isinstance(details, dict):
        raise PlanError(f"plan: day {day}, activity {number}: details are a JSON {type(details).__name__}, expected an object")
    kind = entry.get("type")
    kind = kind if isinstance(kind, str) else None
    for key in LOOKED_UP.get(kind, ()):
        if isinstance(value := details.get(key), list | dict):
            raise PlanError(f"plan: day {day}, activity {number}: {key} is a JSON {type(value).__name__}, expected a text")
    text = entry.get("time_slot")
    start, end, closes, begin, finish = times(text) if isinstance(text, str) else (-1, -1, -1, None, None)
    if "start_time" in entry or "end_time" in entry:
        begin, finish = (_hour(entry[key]) if key in entry else known for key, known in (("start_time", begin), ("end_time", finish)))
    return Activity(kind, details, details.get("name"), start, end, closes, begin, finish)


def _hour(value: object) -> float | None:
    return hour(value) if isinstance(value, str) else None
