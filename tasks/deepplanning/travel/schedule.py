"""Lays out the days of a trip of which everything is known: depth-first over what comes next, the required places first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from math import ceil
from typing import Any

from .case import read_case
from .cost import calculated_cost
from .hours import WEEKDAYS, open_during
from .plan import CITY, INTERCITY, Plan, clock
from .world import World

__all__ = ["Hours", "Journey", "Place", "Roads", "Trip", "lay_out"]

NODES = 200_000  # steps of the search before it gives up
MEAL, CHECK, BUFFER = 60, 30, 30  # minutes of a meal, at the hotel's desk, after a flight
APART = 121  # minutes between meals: 120 exactly is lost by truncating arithmetic at times
LUNCH, DINNER, NIGHT, MORNING = 11 * 60, 17 * 60, 23 * 60, 8 * 60 + 30
WORDS = {
    "en": ("Lunch", "Dinner", "Check-in", "Check-out", "Rest", "wait"), "zh": ("午餐", "晚餐", "办理入住", "退房", "休息", "等待"),
}  # fmt: skip


@dataclass(frozen=True)
class Hours:
    """Opening hours in minutes of the day."""

    opens: int
    closes: int

    @classmethod
    def of(cls, *texts: str) -> Hours | None:
        """From "HH:MM" twice, or one text holding both; None where both are blank (nan) or a half is unreadable; else all day."""
        text = " ".join(texts)
        times = [clock(found) for found in re.findall(r"\d{1,2}:\d{2}", text)]
        if not times:
            return None if "nan" in text.split() else cls(0, 24 * 60)
        return cls(times[0], times[1]) if len(times) == 2 and times[0] is not None and times[1] is not None else None


@dataclass(frozen=True)
class Journey:
    """A leg between cities."""

    mode: str
    number: str
    origin: str
    goal: str
    leaves: str
    comes: str
    cost: float

    def end(self, side: int) -> str:
        return (self.origin, self.goal)[side]


@dataclass(frozen=True)
class Place:
    """An attraction or a restaurant; hours of a visit."""

    name: str
    spot: str
    hours: Hours | None
    cost: float
    closed: str
    least: float
    most: float


@dataclass(frozen=True)
class Roads:
    """Answers about roads by pair of coordinates, coordinates by name."""

    spots: dict[str, str]
    ways: dict[tuple[str, str], dict[str, Any]]

    def of(self, here: str, there: str) -> tuple[float, int, int]:
        """Kilometres, minutes, cost; where no road is known, ten minutes on foot."""
        way = self.ways.get((self.spots.get(here, ""), self.spots.get(there, "")))
        return (way["distance_in_meters"] / 1000, way["duration_in_minutes"], way["cost"]) if way else (0.5, 10, 0)


@dataclass(frozen=True)
class Trip:
    """All that is known: the task, where from and to, both journeys, the hotel, places to choose from, those required, roads."""

    meta: dict[str, Any]
    language: str
    cities: tuple[str, str]
    routes: tuple[list[Journey], list[Journey]]
    hotel: str
    price: float
    sights: list[Place]
    tables: list[Place]
    must_see: frozenset[str]
    must_eat: frozenset[str]
    roads: Roads


@dataclass(frozen=True)
class State:
    """Where a day stands: minute, place, lines so far, meals as their ends, visits, names used on the trip."""

    time: int
    place: str
    acts: tuple[dict[str, Any], ...]
    meals: tuple[int, ...]
    visits: int
    used: frozenset[str]


def lay_out(trip: Trip) -> Plan | None:
    """A plan that visits all required places and keeps the rules, or None if the search does not find one."""
    days = trip.meta["days"]
    steps = iter(range(NODES))

    def rest(number: int, used: frozenset[str]) -> list[tuple[dict[str, Any], ...]] | None:
        if number == days:
            return [] if trip.must_see | trip.must_eat <= used else None
        for state in _day(trip, number, used, steps):
            if (later := rest(number + 1, state.used)) is not None:
                return [state.acts, *later]
        return None

    found = rest(0, frozenset())
    return None if found is None else _plan(trip, found)


def _plan(trip: Trip, days: list[tuple[dict[str, Any], ...]]) -> Plan:
    home, there = trip.cities
    entries = []
    for number, acts in enumerate(days):
        last = number == len(days) - 1
        city = f"from {home} to {there}" if number == 0 else f"from {there} to {home}" if last else there
        stay = {} if last else {"accommodation": {"name": trip.hotel, "price_per_night": trip.price}}
        for act in acts:
            if act["type"] == "attraction":
                act["details"]["city"] = city
        entries.append({"day_number": number + 1, "current_city": city, **stay, "activities": list(acts)})
    plan: Plan = {"budget_summary": {}, "daily_plans": entries}
    plan["budget_summary"]["total_estimated_budget"] = calculated_cost(read_case(plan, trip.meta, World(trip.language, {}, None)))
    return plan


def _act(start: int, end: int, kind: str, **details: Any) -> dict[str, Any]:
    return {"time_slot": f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}", "type": kind, "details": details}


def _go(trip: Trip, state: State, place: str, not_before: int = 0) -> tuple[int, list[dict[str, Any]]]:
    """Arrival at a place, waiting included, and the lines that lead there."""
    time, lines = state.time, []
    if place != state.place:
        km, minutes, cost = trip.roads.of(state.place, place)
        lines.append(_act(time, time + minutes, CITY, **{"from": state.place, "to": place}, distance=km, duration=minutes, cost=cost))
        time += minutes
    if time < not_before:
        lines.append(_act(time, not_before, "buffer", description=WORDS[trip.language][5]))
        time = not_before
    return time, lines


def _day(trip: Trip, number: int, used: frozenset[str], steps: Iterator[int]) -> Iterator[State]:
    """All ways to spend a day that the search gets to."""
    words = WORDS[trip.language]
    meals, visits, until = (2, 2), 2, NIGHT
    state = State(MORNING, trip.hotel, (_act(MORNING - CHECK, MORNING, "hotel", activity=words[4], name=trip.hotel),), (), 0, used)
    if number == 0:
        legs = trip.routes[0]
        first = (clock(legs[0].comes) or 0) / 60
        meals = (2, 2) if first < 10 else (1, 2) if first < 15 else (0, 1)
        visits = int(first < 12)
        acts = _ride(legs, words)
        arrived = clock(legs[-1].comes) or 0
        if legs[-1].mode == "flight":
            acts.append(_act(arrived, arrived + BUFFER, "buffer", description=words[5]))
            arrived += BUFFER
        state = State(arrived, legs[-1].goal, tuple(acts), (), 0, used)
        time, lines = _go(trip, state, trip.hotel)
        desk = _act(time, time + CHECK, "hotel", activity=words[2], name=trip.hotel)
        state = State(time + CHECK, trip.hotel, (*acts, *lines, desk), (), 0, used)
    if number == trip.meta["days"] - 1:
        leaves = clock(trip.routes[1][0].leaves) or 0
        meals = (0, 0) if leaves < 9 * 60 else (0, 1) if leaves < 15 * 60 else (1, 2)
        visits, until = int(leaves > 16 * 60), leaves
        out = min(MORNING, leaves - trip.roads.of(trip.hotel, trip.routes[1][0].origin)[1] - 10)
        state = State(out, trip.hotel, (_act(max(0, out - CHECK), out, "hotel", activity=words[3], name=trip.hotel),), (), 0, used)
    yield from _extend(trip, number, state, meals, visits, until, steps)


def _ride(legs: list[Journey], words: tuple[str, ...]) -> list[dict[str, Any]]:
    acts: list[dict[str, Any]] = []
    for number, leg in enumerate(legs):
        start, end = clock(leg.leaves) or 0, clock(leg.comes) or 0
        if number:
            acts.append(_act(clock(legs[number - 1].comes) or 0, start, "buffer", description=words[5]))
        acts.append(_act(start, end, INTERCITY, mode=leg.mode, number=leg.number, **{"from": leg.origin, "to": leg.goal}, cost=leg.cost))
    return acts


def _extend(
    trip: Trip, number: int, state: State, meals: tuple[int, int], visits: int, until: int, steps: Iterator[int]
) -> Iterator[State]:
    if next(steps, None) is None:
        return
    todo = [sight for sight in trip.sights if sight.name not in state.used]
    required = [sight for sight in todo if sight.name in trip.must_see]
    hungry = len(state.meals) < meals[1]
    options: list[Iterator[State]] = []
    if hungry and state.time >= LUNCH - 40:
        options.append(_meal(trip, state))
    options.append(_visits(trip, number, state, required))
    if state.visits < visits:
        options.append(_visits(trip, number, state, [sight for sight in todo if sight not in required][:5]))
    if hungry:
        options.append(_meal(trip, state))
    for option in options:
        for later in option:
            if later.time < until:
                yield from _extend(trip, number, later, meals, visits, until, steps)
    if len(state.meals) >= meals[0] and state.visits >= visits and (closed := _close(trip, number, state, until)):
        yield closed


def _close(trip: Trip, number: int, state: State, until: int) -> State | None:
    """The day's end: the hotel until midnight, or the station and the journey home."""
    words = WORDS[trip.language]
    if number == trip.meta["days"] - 1:
        legs = trip.routes[1]
        time, lines = _go(trip, state, legs[0].origin, until)
        return State(time, "", (*state.acts, *lines, *_ride(legs, words)), (), 0, state.used) if time == until else None
    time, lines = _go(trip, state, trip.hotel)
    if time > NIGHT + 40:
        return None
    return State(
        time, trip.hotel, (*state.acts, *lines, _act(time, 24 * 60, "hotel", activity=words[4], name=trip.hotel)), (), 0, state.used
    )


def _visits(trip: Trip, number: int, state: State, sights: list[Place]) -> Iterator[State]:
    weekday = (date.fromisoformat(trip.meta["depart_date"]).isoweekday() - 1 + number) % 7 + 1
    for sight in sights:
        if sight.hours is None or weekday in {WEEKDAYS.get(name.strip().lower()) for name in sight.closed.split(",")}:
            continue
        early, _ = _go(trip, state, sight.name)
        start, lines = _go(trip, state, sight.name, max(early, sight.hours.opens))
        end = start + ceil(sight.least * 60)
        if end < NIGHT and open_during(start, end, sight.hours.opens, sight.hours.closes):
            act = _act(start, end, "attraction", name=sight.name, cost=sight.cost)
            yield State(end, sight.name, (*state.acts, *lines, act), state.meals, state.visits + 1, state.used | {sight.name})


def _meal(trip: Trip, state: State) -> Iterator[State]:
    words = WORDS[trip.language]
    early = LUNCH if not state.meals else max(DINNER, state.meals[-1] + APART)
    tables = [table for table in trip.tables if table.name not in state.used and table.hours]
    near = sorted(tables, key=lambda table: (table.name not in trip.must_eat, trip.roads.of(state.place, table.name)[1], table.cost))
    for table in near[: 4 + len(trip.must_eat)]:
        assert table.hours is not None
        start, lines = _go(trip, state, table.name, max(early, table.hours.opens))
        end = start + MEAL
        if end < NIGHT and open_during(start, end, table.hours.opens, table.hours.closes):
            kind = words[int(start >= 15 * 60)]
            act = _act(start, end, "meal", meal_type=kind, name=table.name, cost=table.cost)
            yield State(end, table.name, (*state.acts, *lines, act), (*state.meals, end), state.visits, state.used | {table.name})
