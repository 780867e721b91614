"""A structured plan written in the official text format: the inverse of parse.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .plan import CITY, INTERCITY, Plan

__all__ = ["write_plan"]

BUDGET = {
    "transportation": "Transportation", "accommodation": "Accommodation", "meals": "Meals",
    "attractions_and_tickets": "Attractions & Tickets", "other": "Other", "total_estimated_budget": "Total Estimated Budget",
}  # fmt: skip


def write_plan(plan: Plan, language: str) -> str:
    """The text of a whole plan, with the commas, signs and units of the language. Raises KeyError where a detail is missing."""
    comma, yen, person, night, unit = (
        (", ", "¥", "/person", "/room/night", " RMB") if language == "en" else ("，", "￥", "/人", "/间/晚", "元")
    )

    def join(*parts: str) -> str:
        return comma.join(parts)

    def price(cost: float, per: str = "") -> str:
        return f"{yen}{cost:.12g}{per}"

    lines: dict[str, Callable[[dict[str, Any]], str]] = {
        INTERCITY: lambda at: join(f"{at['mode']} {at['number']}", f"{at['from']} - {at['to']}", price(at["cost"], person)),
        CITY: lambda at: join(f"{at['from']} - {at['to']}", f"{at['distance']:.12g}km", f"{at['duration']:.12g}min", price(at["cost"])),
        "attraction": lambda at: join(at["name"], price(at["cost"], person)),
        "meal": lambda at: join(at["meal_type"], at["name"], price(at["cost"], person)),
        "hotel": lambda at: join(at["activity"], at["name"]),
        "buffer": lambda at: str(at["description"]),
    }
    blocks = []
    for day in plan["daily_plans"]:
        stay = day.get("accommodation")
        block = [f"Day {day['day_number']}:", f"Current City: {day['current_city']}"]
        block.append(f"Accommodation: {join(stay['name'], price(stay['price_per_night'], night)) if stay else '-'}")
        block += [f"{act['time_slot']} | {act['type']} | {lines[act['type']](act['details'])}" for act in day["activities"]]
        blocks.append("\n".join(block))
    summary = plan["budget_summary"]
    amounts = [f"{label}: {summary[key]:.12g}{unit}" for key, label in BUDGET.items() if key in summary]
    return "\n\n".join([*blocks, "\n".join(["Budget Summary:", *amounts])]) + "\n"
