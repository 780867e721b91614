"""The published travel scenarios: edits of the full-mark plan or of its task, and what must fail after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selbench.tasks.deepplanning.travel.commonsense import CHECKS

from tests.deepplanning_world import base_plan, meta, translated, translated_plan

__all__ = [
    "ATTRACTION", "COST", "HOTEL", "OPEN", "REST", "ROUTE", "ROWS", "STAY", "TRAIN", "Edit", "Json", "act", "edit", "insert", "of_plan",
    "scenario", "task", "total",
]  # fmt: skip

Json = dict[str, Any]
Edit = Callable[[Json, Json], None]
TRAIN, HOTEL, ATTRACTION = "train_seat_status", "hotel_star_service_required", "attraction_must_visit_named"
REST, STAY = "reasonable_transfer_time", "validated_accommodation"
ROUTE, COST = "seamless_intercity_transfers", "cost_calculation_correctness"
OPEN = "attraction_visit_within_opening_hours"


def act(plan: Json, name: str) -> Json:
    """Activity "D1A5": the fifth of the first day."""
    day, number = map(int, name[1:].split("A"))
    found: Json = plan["daily_plans"][day - 1]["activities"][number - 1]
    return found


def edit(*, total: float | None = None, **changes: Any) -> Edit:
    """Edits by activity, or by day ("D1"): a dict updates its details or its keys, a text is a new slot, None removes it."""

    def apply(plan: Json, _: Json) -> None:
        days = plan["daily_plans"]
        gone = []
        for name, change in changes.items():
            if "A" not in name:
                days[int(name[1:]) - 1].update(change)
            elif change is None:
                gone.append(act(plan, name))
            elif isinstance(change, str):
                act(plan, name)["time_slot"] = change
            else:
                slot = change.pop("slot", None)
                act(plan, name)["details"].update(change)
                act(plan, name)["time_slot"] = slot or act(plan, name)["time_slot"]
                change |= {"slot": slot} if slot else {}
        for day in days:
            day["activities"] = [entry for entry in day["activities"] if not any(entry is lost for lost in gone)]
        if total is not None:
            plan["budget_summary"]["total_estimated_budget"] = total

    return apply


def insert(day: int, at: int, slot: str, then: Edit | None = None) -> Edit:
    """A buffer before the activity `at` of a day, after the edit `then`."""

    def apply(plan: Json, info: Json) -> None:
        if then:
            then(plan, info)
        plan["daily_plans"][day - 1]["activities"].insert(at - 1, {"time_slot": slot, "type": "buffer", "details": {"description": "wait"}})

    return apply


def both(price: Any, name: str = "Harbor Hotel", total: float | None = None) -> Edit:
    """The accommodation of both nights."""
    stay = {"name": name, "price_per_night": price}
    return edit(D1={"accommodation": stay}, D2={"accommodation": dict(stay)}, total=total)


def task(constraints: Json | None = None, **changes: Any) -> Edit:
    """Changes of meta_info; None removes a key."""

    def apply(_: Json, info: Json) -> None:
        info.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del info[key]
        if constraints is not None:
            info["hard_constraints"] = constraints

    return apply


def also(**changes: Any) -> Edit:
    """Changes of hard constraints, by key."""
    return lambda _, info: info["hard_constraints"].update(changes)


def of_plan(change: Callable[[Json], object]) -> Edit:
    def apply(plan: Json, _: Json) -> None:
        change(plan)

    return apply


def then(*edits: Edit) -> Edit:
    def apply(plan: Json, info: Json) -> None:
        for one in edits:
            one(plan, info)

    return apply


def swap(plan: Json, _: Json) -> None:
    acts = plan["daily_plans"][0]["activities"]
    acts[12], acts[13] = acts[13], acts[12]


def by_change(plan: Json, info: Json) -> None:
    """T82: a route of two trains, with a wait between them."""
    acts = plan["daily_plans"][0]["activities"]
    legs = [
        {"mode": "train", "number": number, "from": f"{origin} Station", "to": f"{goal} Station", "cost": 150}
        for number, origin, goal in (("D111", "Northvale", "Midway"), ("D112", "Midway", "Southport"))
    ]
    acts[:1] = [
        {"time_slot": "06:00-07:10", "type": "travel_intercity_public", "details": legs[0]},
        {"time_slot": "07:10-07:50", "type": "buffer", "details": {"description": "change"}},
        {"time_slot": "07:50-09:30", "type": "travel_intercity_public", "details": legs[1]},
    ]
    info["hard_constraints"][TRAIN]["outbound_train_no"] = "D111"
    plan["budget_summary"]["total_estimated_budget"] = 2489


def no_city_travel(plan: Json, _: Json) -> None:
    for day in plan["daily_plans"]:
        day["activities"] = [entry for entry in day["activities"] if entry["type"] != "travel_city"]
    plan["budget_summary"]["total_estimated_budget"] = 2309


def gap(until: str) -> Edit:
    return edit(D2A6=f"12:40-{until}", D2A7=f"{until}-15:00")


def lunch_late(until: str) -> Edit:
    return insert(2, 6, f"{until}-12:40", edit(D2A5=f"11:40-{until}"))


def dinner_until(until: str) -> Edit:
    hours, minutes = map(int, until.split(":"))
    home = f"{hours + (minutes + 20) // 60}:{(minutes + 20) % 60:02}"
    return edit(D1A12=f"17:00-{until}", D1A13=f"{until}-{home}", D1A14=f"{home}-24:00")


def total(value: Any) -> Edit:
    return of_plan(lambda plan: plan["budget_summary"].update(total_estimated_budget=value))


ROWS: list[tuple[str, Edit, list[str], float, int]] = [
    ("T00", edit(), [], 1, 1),
    ("T01", task(days=4), ["valid_trip_duration"], .875, 1),
    ("T02", edit(D1={"current_city": "from Eastvale to Southport"}), ["closed_loop_route_structure", ROUTE], .875, 1),
    ("T03", edit(D1={"current_city": "Southport"}), [ROUTE], .875, 1),
    ("T04", edit(D1={"current_city": "from Northvale to Southport (coast)"}), [], 1, 1),
    ("T05", edit(D1A1={"from": "Northvale Central"}), [ROUTE], .875, 1),
    ("T06", edit(D2={"current_city": "Eastvale"}), [ROUTE], .875, 1),
    ("T06-null", edit(D2={"current_city": None}), [ROUTE], .875, 1),
    ("T07", edit(D3={"current_city": "From Southport to Northvale"}), [ROUTE, "essential_meal_coverage"], .75, 1),
    ("T08", both(300, "Harbour Hotel"), [STAY, HOTEL], .875, 0),
    ("T09", both(310), [STAY], .875, 1),
    ("T10", both("300"), [STAY], .875, 1),
    ("T11", both(420, "Plaza Hotel", 2829), [HOTEL], 1, 0),
    ("T12", both(421, "Plaza Hotel", 2831), [STAY, HOTEL], .875, 0),
    ("T13", edit(D3A1={"name": "Unknown Inn"}), [], 1, 1),
    ("T14", edit(D1A5={"cost": 55}), ["validated_attractions"], .875, 1),
    ("T15", edit(D1A5={"cost": "50"}), ["validated_attractions"], .875, 1),
    ("T16", edit(D1A5={"name": "Museum"}), ["validated_attractions", ATTRACTION], .875, 0),
    ("T16-no-details", of_plan(lambda plan: act(plan, "D1A5").pop("details")), ["validated_attractions", ATTRACTION], .875, 0),
    ("T17", edit(D2A9={"cost": 45}), ["validated_meals"], .875, 1),
    ("T18", edit(D2A9={"cost": 44}), [], 1, 1),
    ("T19", edit(D3A5={"name": "Ghost Diner"}), ["validated_meals"], .875, 1),
    ("T20", edit(D3A5={"name": "Quiet Table"}), [], 1, 1),
    ("T21", edit(D1A1={"number": "G999"}), ["validated_transportation", TRAIN], .875, 0),
    ("T22", of_plan(lambda plan: act(plan, "D1A1")["details"].pop("cost")), ["validated_transportation", COST], .75, 1),
    ("T23", edit(D1A1={"cost": 210}), ["validated_transportation"], .875, 1),
    ("T24", edit(D1A1={"cost": "about 200"}), [COST], .875, 1),
    ("T25", edit(D1A1="07:30-09:30"), [], 1, 1),
    ("T26", of_plan(lambda plan: plan["daily_plans"][1].pop("accommodation")), ["traceable_accommodation", COST], .75, 1),
    ("T27", edit(D3={"accommodation": {"name": "Harbor Hotel", "price_per_night": 300}}), ["traceable_accommodation"], .875, 1),
    ("T28", edit(D3={"accommodation": {"name": "-"}}), [], 1, 1),
    ("T29", edit(D3={"accommodation": "-"}), ["traceable_accommodation", HOTEL], .875, 0),
    ("T30", edit(D1A14=None), ["ends_with_accommodation"], .875, 1),
    ("T31", swap, ["ends_with_accommodation"], .875, 1),
    ("T32", insert(2, 5, "11:40-12:10", edit(D2A5="12:10-13:40", D2A6="13:40-14:00", D2A7="14:00-15:00")),
     ["essential_meal_coverage"], .875, 1),
    ("T33", edit(D2A8={"to": "Harbor Hotel"}, D2A9=None, D2A10=None, D2A11="15:20-24:00", total=2480),
     ["essential_meal_coverage"], .875, 1),
    ("T34", edit(D2A7="12:30-15:00"), ["no_time_overlaps"], .875, 1),
    ("T35", edit(D2A11="18:00-24:00"), [REST], .875, 1),
    ("T36", insert(2, 11, "16:40-18:00", edit(D2A11="18:00-24:00")), [], 1, 1),
    ("T37", gap("12:54"), [REST], .875, 1),
    ("T38", gap("12:55"), [], 1, 1),
    ("T39", gap("13:05"), [], 1, 1),
    ("T40", gap("13:06"), [REST], .875, 1),
    ("T41", no_city_travel, [], 1, 1),
    ("T42", edit(D1A2={"from": "Nowhere", "to": "Moon", "distance": 99, "duration": 1}), [], 1, 1),
    ("T43", edit(D1A6=None, D1A7="12:40-13:48"), [], 1, 1),
    ("T44", edit(D2A7={"name": "Night Market"}), [OPEN], .875, 1),
    ("T45", edit(D2A7={"name": "Hidden Cove"}), [OPEN], .875, 1),
    ("T46", edit(D2A9={"name": "Garden Table", "cost": 60}, D3A5={"name": "Fort Cafe", "cost": 44.5}),
     ["dining_within_service_hours"], .875, 1),
    ("T47", task(depart_weekday=4), ["avoidance_of_closure_days"], .875, 1),
    ("T48", task(depart_weekday=6), ["avoidance_of_closure_days"], .875, 1),
    ("T49", task(depart_weekday=7), ["avoidance_of_closure_days"], .875, 1),
    ("T50", task(depart_weekday=None), [], 1, 1),
    ("T51", task(depart_weekday="Wed"), ["avoidance_of_closure_days"], .875, 1),
    ("T52", insert(1, 6, "11:55-12:40", edit(D1A5="10:40-11:55")), ["reasonable_duration_at_attractions"], .875, 1),
    ("T53", lunch_late("12:09"), ["reasonable_meal_duration"], .875, 1),
    ("T54", lunch_late("12:10"), [], 1, 1),
    ("T55", dinner_until("19:30"), [], 1, 1),
    ("T56", dinner_until("19:31"), ["reasonable_meal_duration"], .875, 1),
    ("T57", total(2354), [], 1, 1),
    ("T58", total(2353), [COST], .875, 1),
    ("T59", total("2589"), [], 1, 1),
    ("T60", total(0), [COST], .875, 1),
    ("T61", total(-2589), [], 1, 1),
    ("T62", of_plan(lambda plan: plan.pop("budget_summary")), [COST], .875, 1),
    ("T63", of_plan(lambda plan: plan["budget_summary"].update(meals=1, transportation=0, accommodation=9e9)), [], 1, 1),
    ("T64", then(task(people_number=5), also(budget_constraint={"max_budget": 6000}), total(5432.5)), [], 1, 1),
    ("T65", edit(D3A5={"name": "Noodle Corner", "cost": 40}), ["diverse_meal_options"], .875, 1),
    ("T66", edit(D3A3={"name": "Sea Garden", "cost": 30}), ["diverse_attraction_options"], .875, 1),
    ("T67", edit(D1A1={"number": "D111", "cost": 150}, total=2489), [TRAIN], 1, 0),
    ("T68", edit(D1A1={"mode": "Train"}), [], 1, 1),
    ("T69", edit(D1A1={"mode": "high-speed rail"}), [TRAIN], 1, 0),
    ("T69-null", edit(D1A1={"mode": None}), [TRAIN], 1, 0),
    ("T70", edit(D1={"accommodation": {"name": "Plaza Hotel", "price_per_night": 420.5}}, total=2710), [], 1, 1),
    ("T71", also(**{ATTRACTION: {"attraction_names": ["City Museum", "Old Fort", "Night Market"]}}), [ATTRACTION], 1, 0),
    ("T72-2588", also(budget_constraint={"max_budget": 2588}), ["budget_constraint"], 1, 0),
    ("T72-2589", also(budget_constraint={"max_budget": 2589}), [], 1, 1),
    ("T73", task({}), [], 1, 0),
    ("T74", task({"weather_sunny": {}}), [], 1, 0),
    ("T75", also(weather_sunny={}), [], 1, 1),
    ("T76", task({"flight_cheapest_direct": {}}), [], 1, 1),
    ("T77", task({"flight_cheapest_direct": {"outbound_flight_no": "G101"}}), ["flight_cheapest_direct"], 1, 0),
    ("T78", task({"hotel_price_range": {"min_price": 1}}), ["hotel_price_range"], 1, 0),
    ("T79", of_plan(lambda plan: plan.update(daily_plans=[])), [
        *(name for name in CHECKS if name != "avoidance_of_closure_days"), TRAIN, HOTEL, "restaurant_specific_tag_nearby", ATTRACTION,
        "budget_constraint"], 0, 0),
    ("T81", edit(D1A5="10:40–12:40"), [REST, OPEN, "reasonable_duration_at_attractions"], .625, 1),
    ("T82", by_change, [], 1, 1),
    ("T83", edit(D1={"accommodation": "Harbor Hotel"}), [COST, HOTEL], .875, 0),
]  # fmt: skip


def scenario(change: Edit, language: str) -> tuple[Json, Json]:
    """Plan and meta_info after an edit, in a language."""
    plan, info = base_plan(), meta()
    change(plan, info)
    return (plan, info) if language == "en" else (translated_plan(plan), translated(info))
