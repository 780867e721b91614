"""The eight commonsense dimensions: 21 checks of a structured plan against the tables of its case.

A check is a pure function `(case) -> str | None`: why it fails, or None. A dimension scores 1 if all its checks pass, else 0, and weighs
1/8. Names that the tables do not have fail the `validated_*` checks alone; the checks of hours, closure and duration skip them.
Source: design of DeepPlanning (arXiv:2601.18137), as its evaluator decides, peculiarities included: each is noted where it acts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .case import Activity, Case, Day
from .cost import cost_calculation_correctness
from .coverage import essential_attraction_coverage, essential_meal_coverage
from .hours import (
    attraction_visit_within_opening_hours,
    avoidance_of_closure_days,
    dining_within_service_hours,
    reasonable_duration_at_attractions,
    reasonable_meal_duration,
)
from .plan import INTERCITY, amount, bare, equal_price, first_of
from .timing import no_time_overlaps, reasonable_transfer_time
from .world import World

__all__ = ["CHECKS", "DIMENSIONS", "check_all"]

DIMENSIONS: dict[str, tuple[str, ...]] = {
    "Route Consistency": ("valid_trip_duration", "closed_loop_route_structure", "seamless_intercity_transfers"),
    "Sandbox Compliance": ("validated_accommodation", "validated_attractions", "validated_meals", "validated_transportation"),
    "Itinerary Structure": (
        "traceable_accommodation", "ends_with_accommodation", "essential_meal_coverage", "essential_attraction_coverage",
    ),
    "Time Feasibility": ("no_time_overlaps", "reasonable_transfer_time"),
    "Business Hours": ("attraction_visit_within_opening_hours", "dining_within_service_hours", "avoidance_of_closure_days"),
    "Duration Rationality": ("reasonable_duration_at_attractions", "reasonable_meal_duration"),
    "Cost Calculation Accuracy": ("cost_calculation_correctness",),
    "Activity Diversity": ("diverse_meal_options", "diverse_attraction_options"),
}  # fmt: skip


def check_all(case: Case) -> dict[str, str | None]:
    """Why each check fails, None where it passes. Without days all fail but avoidance_of_closure_days, which is then absent."""
    if not case.days:
        return {name: "the plan has no days" for name in CHECKS if name != "avoidance_of_closure_days"}
    return {name: check(case) for name, check in CHECKS.items()}


def valid_trip_duration(case: Case) -> str | None:
    wanted = case.meta.get("days")
    return None if len(case.days) == wanted else f"the plan has {len(case.days)} days, the trip {wanted}"


def closed_loop_route_structure(case: Case) -> str | None:
    """Only where the first and last day say from where and to where: else there is nothing to violate."""
    org, first, last = bare(case.meta.get("org")), case.days[0], case.days[-1]
    if first.pair and first.origin != org:
        return f"the trip starts in {first.origin}, not in {org}"
    return f"the trip ends in {last.goal}, not in {org}" if last.pair and last.goal != org else None


def seamless_intercity_transfers(case: Case) -> str | None:
    here = bare(case.meta.get("org"))
    if not here:
        return "the task names no city of departure"
    for day in case.days:
        if day.pair is None:
            if not bare(day.city) or bare(day.city) != here:
                return f"day {day.number + 1}: in {day.city}, while the traveller is in {here}"
            continue
        if day.origin != here:
            return f"day {day.number + 1}: leaves {day.origin}, while the traveller is in {here}"
        if not any(_goes(case.world, act, day) for act in day.of(INTERCITY)):
            return f"day {day.number + 1}: no intercity journey from {day.origin} to {day.goal}"
        here = day.goal
    return None


def _goes(world: World, act: Activity, day: Day) -> bool:
    ends = bare(world.city_of(act.details.get("from"))), bare(world.city_of(act.details.get("to")))
    return ends == (day.origin, day.goal)


def validated_accommodation(case: Case) -> str | None:
    """Prices of accommodations only; names of the hotel activities too, those of the last day excepted."""
    hotels, last = case.world.last["hotels"], len(case.days) - 1
    if not hotels:
        return "no hotel table"
    for day in case.days:
        stay = day.entry.get("accommodation")
        if isinstance(stay, dict) and (name := stay.get("name")) and not (day.number == last and name == "-"):
            row = hotels.get(name) if isinstance(name, str) else None
            if row is None:
                return f"day {day.number + 1}: unknown hotel {name}"
            price = first_of(stay, "price", "cost", "price_per_night")
            if row.get("price") and not equal_price(price, row["price"]):
                return f"day {day.number + 1}: {name} costs {row['price']}, not {price}"
        for act in day.of("hotel") if day.number != last else []:
            if act.name not in hotels:
                return f"day {day.number + 1}: unknown hotel {act.name}"
    return None


def _validated(case: Case, kind: str, table: str, column: str) -> str | None:
    known = case.world.last[table]
    if not known:
        return f"no table of {table}"
    for day, act in case.of(kind):
        row = known.get(act.name)
        if row is None:
            return f"day {day.number + 1}: unknown {kind} {act.name}"
        if row.get(column) and not equal_price(act.details.get("cost"), row[column]):
            return f"day {day.number + 1}: {act.name} costs {row[column]}, not {act.details.get('cost')}"
    return None


def validated_attractions(case: Case) -> str | None:
    return _validated(case, "attraction", "attractions", "ticket_price")


def validated_meals(case: Case) -> str | None:
    return _validated(case, "meal", "restaurants", "price_per_person")


def validated_transportation(case: Case) -> str | None:
    """Number and price only: stops, dates and times are not compared, and a cost that is no number skips the price."""
    for day, act in case.of(INTERCITY):
        if lost := [key for key in ("number", "from", "to", "cost") if act.details.get(key) in (None, "")]:
            return f"day {day.number + 1}: intercity journey without {lost[0]}"
        rows = case.world.lines.get(act.details["number"])
        if rows is None:
            return f"day {day.number + 1}: unknown flight or train {act.details['number']}"
        cost = amount(act.details["cost"])
        if cost is not None and not any(equal_price(cost, row.get("price", "")) for row in rows):
            return f"day {day.number + 1}: {act.details['number']} does not cost {act.details['cost']}"
    return None


def traceable_accommodation(case: Case) -> str | None:
    *nights, last = case.days
    for day in nights:
        if not day.entry.get("accommodation") or not day.of("hotel"):
            return f"day {day.number + 1}: no accommodation or no hotel activity"
    stay = last.entry.get("accommodation")
    ended = not stay or (isinstance(stay, dict) and stay.get("name") in (None, "", "-"))
    return None if ended else "an accommodation on the last day"


def ends_with_accommodation(case: Case) -> str | None:
    """By order in the list, not by the clock."""
    for day in case.days[:-1]:
        if not day.acts or day.acts[-1].kind != "hotel":
            return f"day {day.number + 1}: its last activity is no hotel"
    return None


def _diverse(case: Case, kind: str) -> str | None:
    seen: set[Any] = set()
    for _, act in case.of(kind):
        if act.name and act.name in seen:
            return f"{act.name} occurs twice"
        seen.add(act.name)
    return None


def diverse_meal_options(case: Case) -> str | None:
    return _diverse(case, "meal")


def diverse_attraction_options(case: Case) -> str | None:
    return _diverse(case, "attraction")


Check = Callable[[Case], str | None]
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        valid_trip_duration, closed_loop_route_structure, seamless_intercity_transfers,
        validated_accommodation, validated_attractions, validated_meals, validated_transportation,
        traceable_accommodation, ends_with_accommodation, essential_meal_coverage, essential_attraction_coverage,
        no_time_overlaps, reasonable_transfer_time,
        attraction_visit_within_opening_hours, dining_within_service_hours, avoidance_of_closure_days,
        reasonable_duration_at_attractions, reasonable_meal_duration, cost_calculation_correctness,
        diverse_meal_options, diverse_attraction_options,
    )
}  # fmt: skip
