"""What a plan costs by its own numbers, and whether its stated total says so."""

from __future__ import annotations

from .case import Case
from .plan import CITY, INTERCITY, amount, first_of

__all__ = ["calculated_cost", "cost_calculation_correctness"]


def calculated_cost(case: Case) -> float:
    """The plan's total by its own numbers, in yuan.

    Persons times tickets and meals; a car seats four; rooms times nights; of a day's intercity journeys the first with a cost alone.
    """
    if case.cost is None:
        case.cost = _cost(case)
    return case.cost


def _cost(case: Case) -> float:
    people, rooms = (1 if case.meta.get(key) is None else case.meta[key] for key in ("people_number", "room_number"))
    total = 0.0
    for day in case.days:
        costs = (amount(act.details.get("cost")) for act in day.of(INTERCITY))
        journey = next((cost for cost in costs if cost is not None), 0.0)
        total += (journey if journey > 0 else 0.0) * people
        stay = day.entry.get("accommodation")
        if day.number < len(case.days) - 1 and isinstance(stay, dict):
            total += (amount(first_of(stay, "price", "price_per_night", "cost")) or 0.0) * rooms
        for kind, times in (("meal", people), ("attraction", people), (CITY, -(-people // 4))):
            for act in day.of(kind):
                total += (amount(act.details.get("cost")) or 0.0) * times
    return total


def cost_calculation_correctness(case: Case) -> str | None:
    """Within 10 % of the stated total. A negative total passes, as published: the ratio is negative."""
    summary = case.plan.get("budget_summary")
    total = amount(summary.get("total_estimated_budget")) if isinstance(summary, dict) else None
    if total is None:
        return "no total budget"
    cost = calculated_cost(case)
    fits = cost == 0 if total == 0 else abs(cost - total) / total <= 0.10
    return None if fits else f"the plan costs {cost:g}, its total says {total:g}"
