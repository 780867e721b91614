"""Random changes of the full-mark travel plan, of its task and of its tables, near the edges of the rules more often than not."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selbench.tasks.deepplanning.travel.hard import KEYS

from tests.deepplanning_scenarios import Json
from tests.deepplanning_world import ATTRACTIONS, RESTAURANTS, SPOTS, base_plan, meta

__all__ = ["buffer", "damage", "drop_act", "move", "mutated", "push", "swap", "visit"]

COLUMNS = (
    "price",
    "ticket_price",
    "price_per_person",
    "opening_time",
    "closing_time",
    "min_visit_hours",
    "max_visit_hours",
    "closing_dates",
)
PLACES = [*SPOTS, "Hidden Cove", "Midway Station", "Nowhere", "", None]
CITIES = [
    "from Northvale to Southport", "from Southport to Northvale", "from Southport to Eastvale", "Southport", "Southport (old town)",
    "Northvale", "From Southport to Northvale", "from Northvale to Southport, by train", "", None,
]  # fmt: skip
AMOUNTS: list[Any] = [0, -1, 50, 80.4, 420.5, 1e9, "80", "", None, "about 80", True, [], 10**400]


def shifted(slot: str, source: random.Random) -> str:
    """A slot with one end moved, on the edges of the rules more often than not."""
    start, end = (int(part[:2]) * 60 + int(part[3:5]) for part in slot.split("-"))
    by = source.choice([-1, 1, -5, 5, 6, -6, 10, 20, 30, 60, -60, 119, 120, 121, 300, 720, -720])
    start, end = (start + by, end) if source.random() < 0.3 else (start, end + by) if source.random() < 0.6 else (start + by, end + by)
    start, end = (time if time == 1440 else time % 1440 for time in (start, end))
    return f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"


def mutated(source: random.Random) -> tuple[Json, Json]:
    """The full-mark plan and its task after one to four changes."""
    plan, info = base_plan(), meta()
    for _ in range(source.randint(1, 4)):
        source.choice(CHANGES)(plan, info, source)
    return plan, info


def any_act(plan: Json, source: random.Random) -> Json:
    days = [day for day in plan["daily_plans"] if day["activities"]]
    found: Json = source.choice(source.choice(days)["activities"]) if days else {"details": {}, "time_slot": "08:00-09:00"}
    return found


def move(plan: Json, _: Json, source: random.Random) -> None:
    act = any_act(plan, source)
    if isinstance(act.get("time_slot"), str) and len(act["time_slot"]) == 11 and act["time_slot"].count("-") == 1:
        act["time_slot"] = shifted(act["time_slot"], source)


def push(plan: Json, _: Json, source: random.Random) -> None:
    """A day's activities later or earlier from one on."""
    acts = source.choice(plan["daily_plans"] or [{"activities": []}])["activities"]
    at, by = source.randint(0, len(acts)), source.choice([-30, -10, -5, 5, 10, 30, 90])
    for act in acts[at:]:
        parts = str(act.get("time_slot")).split("-")
        if len(parts) == 2 and all(part[:2].isdigit() and part[3:5].isdigit() for part in parts):
            times = [min(1439, max(0, int(part[:2]) * 60 + int(part[3:5]) + by)) for part in parts]
            act["time_slot"] = "-".join(f"{time // 60:02}:{time % 60:02}" for time in times)


def spoil_slot(plan: Json, _: Json, source: random.Random) -> None:
    odd = ["9:00-10:00", "25:00-26:00", "09:00–10:00", "09:00 - 10:00", "", None, "09:00-10:00 (late)", "24:00-01:00", "23:30-00:30", 900]
    any_act(plan, source)["time_slot"] = source.choice(odd)


def rename(plan: Json, _: Json, source: random.Random) -> None:
    details = any_act(plan, source).setdefault("details", {})
    details[source.choice(["name", "from", "to"])] = source.choice(PLACES)


def price(plan: Json, _: Json, source: random.Random) -> None:
    details = any_act(plan, source).setdefault("details", {})
    cost = details.get("cost")
    near = [cost + by for by in (-1, -0.5, 0.4, 0.5, 1)] if isinstance(cost, int | float) and abs(cost) < 1e6 else []
    details["cost"] = source.choice([*near, *AMOUNTS])


def visit(plan: Json, _: Json, source: random.Random) -> None:
    """Another attraction or restaurant with its price."""
    act = any_act(plan, source)
    rows: dict[Any, list[tuple[str, str]]] = {
        "attraction": [(row[0], row[6]) for row in ATTRACTIONS], "meal": [(row[0], row[3]) for row in RESTAURANTS],
    }  # fmt: skip
    if choices := rows.get(act.get("type")):
        name, cost = source.choice(choices)
        act.setdefault("details", {}).update(name=name, cost=float(cost or 7))


def ride(plan: Json, _: Json, source: random.Random) -> None:
    rides = [act for day in plan["daily_plans"] for act in day["activities"] if act.get("type") == "travel_intercity_public"]
    for act in rides[-1:]:
        key = source.choice(["number", "mode", "cost", "from", "to"])
        values = {
            "number": ["G103", "D111", "ZZ900", "G9", "", None],
            "mode": ["Train", "高铁", "flight", "bus", None, ""],
            "cost": AMOUNTS[:9],
        }
        act.setdefault("details", {})[key] = source.choice(values.get(key, PLACES))


def drop_act(plan: Json, _: Json, source: random.Random) -> None:
    acts = source.choice(plan["daily_plans"] or [{"activities": []}])["activities"]
    if acts:
        acts.pop(source.randrange(len(acts)))


def drop_key(plan: Json, _: Json, source: random.Random) -> None:
    act = any_act(plan, source)
    holder = source.choice([act, act.get("details") or {}, source.choice(plan["daily_plans"] or [{}]), plan.get("budget_summary") or {}])
    keys = [key for key in holder if key not in ("activities", "daily_plans")]
    if keys:
        del holder[source.choice(keys)]


def swap(plan: Json, _: Json, source: random.Random) -> None:
    acts = source.choice(plan["daily_plans"] or [{"activities": []}])["activities"]
    if len(acts) > 1:
        a, b = source.sample(range(len(acts)), 2)
        acts[a], acts[b] = acts[b], acts[a]


def buffer(plan: Json, _: Json, source: random.Random) -> None:
    acts = source.choice(plan["daily_plans"] or [{"activities": []}])["activities"]
    start = source.randrange(0, 1440, 5)
    end = (start + source.choice([5, 20, 60, 300])) % 1440
    slot = f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    acts.insert(source.randint(0, len(acts)), {"time_slot": slot, "type": "buffer", "details": {"description": "wait"}})


def city(plan: Json, _: Json, source: random.Random) -> None:
    for day in plan["daily_plans"][source.randint(0, 2) :][:1]:
        day["current_city"] = source.choice(CITIES)


def stay(plan: Json, _: Json, source: random.Random) -> None:
    odd: list[Any] = [
        {"name": "Plaza Hotel", "price_per_night": 420}, {"name": "Plaza Hotel", "cost": 421}, {"name": "-"}, {"name": ""}, "-", {}, None,
        {"name": "Harbor Hotel", "price": 300}, {"name": "Harbor Hotel", "price_per_night": "300"}, {"name": "Nowhere", "price": 1},
    ]  # fmt: skip
    source.choice(plan["daily_plans"] or [{}])["accommodation"] = source.choice(odd)


def days(plan: Json, _: Json, source: random.Random) -> None:
    entries = plan["daily_plans"]
    if source.random() < 0.3:
        entries.clear()
    elif entries and source.random() < 0.5:
        entries.pop(source.randrange(len(entries)))
    elif entries:
        entries.insert(source.randint(0, len(entries)), copy.deepcopy(source.choice(entries)))


def money(plan: Json, _: Json, source: random.Random) -> None:
    total = 2589 * source.choice([0.91, 0.909, 0.9090909, 1.1, 1.11, 1.1111, 1.112, 1, -1])
    plan["budget_summary"] = source.choice([None, {}, {"total_estimated_budget": source.choice([total, *AMOUNTS])}])


def task(_: Json, info: Json, source: random.Random) -> None:
    change: Json = source.choice([
        {"days": source.randint(1, 4)}, {"people_number": source.randint(1, 9)}, {"room_number": source.randint(1, 4)},
        {"depart_weekday": source.randint(0, 7)},
    ])  # fmt: skip
    info.update(change)


def constraint(_: Json, info: Json, source: random.Random) -> None:
    rules: list[Json] = [
        {}, {"outbound_train_no": "G101"}, {"outbound_flight_no": "ZZ900"}, {"inbound_train_no": "G202", "outbound_train_no": "G103"},
        {"hotel_name": source.choice(PLACES)}, {"restaurant_name": source.choice(PLACES)},
        {"max_budget": source.choice([2589, 2588.9, "3000", None])},
        {"attraction_names": source.sample([row[0] for row in ATTRACTIONS], source.randint(0, 3))},
    ]  # fmt: skip
    info["hard_constraints"][source.choice([*KEYS, "weather_sunny"])] = source.choice(rules)


Change = Callable[[Json, Json, random.Random], None]
CHANGES: list[Change] = [
    move, move, push, spoil_slot, rename, price, visit, ride, drop_act, drop_key, swap, buffer, city, stay, days, money, task, constraint,
]  # fmt: skip


def damage(path: Path, source: random.Random) -> None:
    """A table without a column, with blank, odd or repeated cells, or without rows."""
    head, *rows = [line.split(",") for line in path.read_text().splitlines() if '"' not in line]
    kind = source.choice(["column", "cells", "repeat", "empty", "bad"])
    columns = (
        "price",
        "ticket_price",
        "price_per_person",
        "opening_time",
        "closing_time",
        "closing_dates",
        "min_visit_hours",
        "max_visit_hours",
    )
    at = source.choice([number for number, name in enumerate(head) if name in columns])
    if kind == "column":
        head[at] = f"{head[at]}_gone"
    elif kind == "cells":
        rows = [[*row[:at], "" if source.random() < 0.5 else row[at], *row[at + 1 :]] for row in rows]
    elif kind == "repeat":
        rows += [[*row[:at], "", *row[at + 1 :]] for row in source.sample(rows, min(2, len(rows)))]
    elif kind == "empty":
        rows = []
    elif head[at].endswith("_time"):
        rows = [[*row[:at], source.choice(["24:00", "25:00", "9:00", "noon", "00:00", "23:59"]), *row[at + 1 :]] for row in rows]
    path.write_text("\n".join(",".join(row) for row in [head, *rows]) + "\n")
