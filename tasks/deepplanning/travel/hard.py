"""The hard constraints of a task: 38 keys, of which the prefix selects the rule and the resolved names are what is tested.

Superlatives (cheapest, highest rated, ...) were resolved when the data were made. All comparisons are exact strings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .case import Case
from .cost import calculated_cost
from .plan import INTERCITY, amount

__all__ = ["BUDGET", "KEYS", "check_constraints", "personalised"]

BUDGET = "budget_constraint"
KEYS: tuple[str, ...] = (
    "flight_cheapest_direct", "flight_seat_status", "flight_arrival_time_range", "flight_cheapest_airline_direct",
    "flight_cheapest_manufacturer_direct", "flight_earliest_departure_direct", "flight_shortest_duration_direct",
    "flight_departure_time_range", "flight_seat_class", "flight_earliest_airline_direct",
    "train_departure_time_range", "train_cheapest_direct", "train_earliest_departure_direct", "train_latest_arrival_direct",
    "train_seat_class", "train_cheapest_train_type", "train_seat_status", "train_shortest_duration_direct",
    "hotel_star_service_required", "hotel_cheapest_brand", "hotel_price_range", "hotel_newest_decoration", "hotel_cheapest_star",
    "hotel_star_highest_rated", "hotel_brand_highest_rated", "hotel_highest_rated",
    "restaurant_specific_tag_nearby", "restaurant_must_eat_named", "restaurant_highest_rated", "restaurant_cheapest_nearby_attraction",
    "restaurant_specific_cuisine_nearby", "restaurant_closest_to_attraction",
    "attraction_type_highest_rated", "attraction_top_rated_must_visit", "attraction_must_visit_named", "attraction_all_of_type",
    "attraction_all_free_attractions", BUDGET,
)  # fmt: skip
FLIGHT = ("flight", "飞机", "airplane", "plane")
TRAIN = ("train", "火车", "railway", "高铁", "gaotie")


def check_constraints(case: Case) -> dict[str, str | None]:
    """Why each evaluated constraint fails, None where it holds. Keys with another prefix are not evaluated and left out."""
    found: dict[str, str | None] = {}
    for key, wanted in (case.meta.get("hard_constraints") or {}).items():
        rule = _budget if key == BUDGET else next((rule for prefix, rule in RULES.items() if key.startswith(prefix)), None)
        if rule is not None:
            found[key] = _judged(rule, case, wanted)
    return found


def personalised(constraints: dict[str, str | None]) -> int:
    """1 if at least one constraint was evaluated and all hold, else 0."""
    return int(bool(constraints) and not any(constraints.values()))


def _judged(rule: Callable[[Case, dict[str, Any]], str | None], case: Case, wanted: Any) -> str | None:
    """A constraint or a plan of another shape than a rule can read fails that rule, as published."""
    try:
        return rule(case, wanted)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"cannot be evaluated ({error})"


def _journeys(case: Case, wanted: dict[str, Any], modes: tuple[str, ...], kind: str) -> str | None:
    taken = {act.details.get("number") for _, act in case.of(INTERCITY) if (act.details.get("mode") or "").lower() in modes}
    for key in (f"outbound_{kind}_no", f"inbound_{kind}_no"):
        if key in wanted and wanted[key] not in taken:
            return f"{kind} {wanted[key]} is not in the plan"
    return None


def _flights(case: Case, wanted: dict[str, Any]) -> str | None:
    return _journeys(case, wanted, FLIGHT, "flight")


def _trains(case: Case, wanted: dict[str, Any]) -> str | None:
    return _journeys(case, wanted, TRAIN, "train")


def _hotel(case: Case, wanted: dict[str, Any]) -> str | None:
    """Any night counts, the last day included; an accommodation that is no object cannot be evaluated."""
    stays = [stay for day in case.days if (stay := day.entry.get("accommodation"))]
    names = [stay.get("name") for stay in stays]
    return _one_of(wanted.get("hotel_name"), names, "hotel")


def _restaurant(case: Case, wanted: dict[str, Any]) -> str | None:
    return _one_of(wanted.get("restaurant_name"), [act.name for _, act in case.of("meal")], "restaurant")


def _one_of(name: Any, names: list[Any], kind: str) -> str | None:
    return f"the constraint names no {kind}" if not name else None if name in names else f"{kind} {name} is not in the plan"


def _attractions(case: Case, wanted: dict[str, Any]) -> str | None:
    names = wanted.get("attraction_names")
    if not names:
        return "the constraint names no attractions"
    visited = {act.name for _, act in case.of("attraction")}
    lost = [name for name in names if name not in visited]
    return f"attraction {lost[0]} is not in the plan" if lost else None


def _budget(case: Case, wanted: dict[str, Any]) -> str | None:
    most = amount(wanted.get("max_budget"))
    if most is None or not case.days:
        return "no budget to compare" if most is None else "the plan has no days"
    cost = calculated_cost(case)
    return None if cost <= most else f"the plan costs {cost:g}, the budget is {most:g}"


RULES: dict[str, Callable[[Case, dict[str, Any]], str | None]] = {
    "flight_": _flights, "train_": _trains, "hotel_": _hotel, "restaurant_": _restaurant, "attraction_": _attractions,
}  # fmt: skip
