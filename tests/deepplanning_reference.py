"""A second, slow reading of the published travel rules: from the raw plan and the CSV rows, sharing no code with the package."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

from tests.deepplanning_reading import Json, Rows, city, hours, inside, last, number, pair, price_equal, read, slot, span

__all__ = ["Rules", "failures", "read"]


def failures(plan: Json, meta: Json, tables: dict[str, Rows]) -> set[str]:
    """Names of the checks and constraints that fail, by the rows of `read`."""
    bad = set()
    days, rule = plan["daily_plans"], Rules(plan, meta, tables)
    for name in [
        "valid_trip_duration",
        "closed_loop_route_structure",
        "seamless_intercity_transfers",
        "validated_accommodation",
        "validated_attractions",
        "validated_meals",
        "validated_transportation",
        "traceable_accommodation",
        "ends_with_accommodation",
        "essential_meal_coverage",
        "essential_attraction_coverage",
        "no_time_overlaps",
        "reasonable_transfer_time",
        "attraction_visit_within_opening_hours",
        "dining_within_service_hours",
        "avoidance_of_closure_days",
        "reasonable_duration_at_attractions",
        "reasonable_meal_duration",
        "cost_calculation_correctness",
        "diverse_meal_options",
        "diverse_attraction_options",
    ]:
        if not days or not getattr(rule, name)():
            bad.add(name)
    return bad | {key for key, wanted in meta["hard_constraints"].items() if rule.constraint(key, wanted) is False}


class Rules:
    def __init__(self, plan: Json, meta: Json, tables: dict[str, Rows]) -> None:
        self.plan, self.meta, self.tables = plan, meta, tables
        self.days = plan["daily_plans"]
        self.acts = [(number, act, act.get("details") or {}) for number, day in enumerate(self.days) for act in day["activities"]]
        self.where, here = [], meta["org"]
        for day in self.days:
            self.where.append(here)
            found = pair(day)
            here = found[1] if found else here

    def of(self, kind: str, day: int | None = None) -> list[tuple[int, Json, Json]]:
        return [entry for entry in self.acts if entry[1].get("type") == kind and day in (None, entry[0])]

    def valid_trip_duration(self) -> bool:
        return len(self.days) == self.meta["days"]

    def closed_loop_route_structure(self) -> bool:
        first, final = pair(self.days[0]), pair(self.days[-1])
        return (not first or first[0] == self.meta["org"]) and (not final or final[1] == self.meta["org"])

    def station(self, name: Any) -> str | None:
        found = None
        for table in ("flights", "trains"):
            for row in self.tables.get(table, []):
                found = row["origin_city"] if row["dep_station_name"] == name else found
                found = row["destination_city"] if row["arr_station_name"] == name else found
        chinese = isinstance(name, str) and re.match("[一-龥]{2}", name)
        return found or (name[:2] if chinese else None)

    def seamless_intercity_transfers(self) -> bool:
        here = self.meta["org"]
        for at_day, day in enumerate(self.days):
            ends = pair(day)
            if not ends:
                if city(day.get("current_city")) != here:
                    return False
                continue
            rides = [(self.station(at.get("from")), self.station(at.get("to"))) for _, _, at in self.of("travel_intercity_public", at_day)]
            if ends[0] != here or ends not in rides:
                return False
            here = ends[1]
        return True

    def validated_accommodation(self) -> bool:
        hotels, end = self.tables.get("hotels", []), len(self.days) - 1
        for at_day, day in enumerate(self.days):
            stay = day.get("accommodation")
            if isinstance(stay, dict) and stay.get("name") and (at_day < end or stay["name"] != "-"):
                row = last(hotels, "name", stay["name"])
                cost = stay.get("price") or stay.get("cost") or stay.get("price_per_night")
                if row is None or (row.get("price") and not price_equal(cost, row["price"])):
                    return False
            if at_day < end and any(last(hotels, "name", at.get("name")) is None for _, _, at in self.of("hotel", at_day)):
                return False
        return bool(hotels)

    def known(self, kind: str, table: str, column: str, price: str) -> bool:
        for _, _, at in self.of(kind):
            row = last(self.tables.get(table, []), column, at.get("name"))
            if row is None or (row.get(price) and not price_equal(at.get("cost"), row[price])):
                return False
        return bool(self.tables.get(table))

    def validated_attractions(self) -> bool:
        return self.known("attraction", "attractions", "attraction_name", "ticket_price")

    def validated_meals(self) -> bool:
        return self.known("meal", "restaurants", "restaurant_name", "price_per_person")

    def validated_transportation(self) -> bool:
        for _, _, at in self.of("travel_intercity_public"):
            if any(at.get(key) in (None, "") for key in ("number", "from", "to", "cost")):
                return False
            rows = [row for row in self.tables.get("flights", []) if row["flight_no"] == at["number"]]
            rows = rows or [row for row in self.tables.get("trains", []) if row["train_no"] == at["number"]]
            cost = number(at["cost"])
            if not rows or (cost is not None and round(cost) not in [round(float(row["price"])) for row in rows]):
                return False
        return True

    def traceable_accommodation(self) -> bool:
        nights = all(day.get("accommodation") and self.of("hotel", at_day) for at_day, day in enumerate(self.days[:-1]))
        stay = self.days[-1].get("accommodation")
        return nights and (not stay or (isinstance(stay, dict) and stay.get("name") in ("", "-", None)))

    def ends_with_accommodation(self) -> bool:
        return all(day["activities"] and day["activities"][-1].get("type") == "hotel" for day in self.days[:-1])

    def journey(self, day: int) -> tuple[float | None, float | None]:
        ends = pair(self.days[day])
        times = [found for _, act, _ in self.of("travel_intercity_public", day) if (found := hours(act))]
        if not ends or not times:
            return None, None
        leaves = ends[0] != self.meta["org"] and ends[0] == self.where[day]
        return times[0][0] if leaves else None, times[0][1] if ends[1] != self.meta["org"] else None

    def essential_meal_coverage(self) -> bool:
        return all(self.fed(day) for day in range(len(self.days)))

    def fed(self, day: int) -> bool:
        meals = sorted(found for _, act, _ in self.of("meal", day) if (found := hours(act)))
        n, apart = len(meals), len(meals) < 2 or (meals[1][0] - meals[0][1]) * 60 >= 120
        if not pair(self.days[day]):
            return n >= 2 and apart
        out, home = self.journey(day)
        left = out is None or (n == 0 if out < 9 else n <= 1 if out < 15 else n >= 1 and apart)
        return left and (home is None or (n >= 2 and apart if home < 10 else n >= 1 and apart if home < 15 else n <= 1))

    def essential_attraction_coverage(self) -> bool:
        for day in range(len(self.days)):
            visits = self.of("attraction", day)
            names = [at["name"] for _, _, at in visits if at.get("name")]
            if not pair(self.days[day]):
                ways = [act for _, act, at in self.of("travel_city", day) if at.get("from") in names or at.get("to") in names]
                spent = [found[1] - found[0] for act in [*(act for _, act, _ in visits), *ways] if (found := hours(act))]
                total = sum(math.trunc((lasts + 24 * (lasts < 0)) * 60) for lasts in spent)
                if len(visits) < 2 and total / 60 < 4:
                    return False
            out, home = self.journey(day)
            if not visits and ((out is not None and out > 16) or (home is not None and home < 12)):
                return False
        return True

    def no_time_overlaps(self) -> bool:
        for day in self.days:
            spans = sorted((found for act in day["activities"] if (found := span(act))), key=lambda times: times[0])
            if any(later[0] < earlier[1] for earlier, later in pairwise(spans)):
                return False
        return True

    def spot(self, name: Any) -> str | None:
        row = last(self.tables.get("locations_coords", []), "poi_name", name)
        return f"{row['latitude']},{row['longitude']}" if row else None

    def reasonable_transfer_time(self) -> bool:
        kinds = ("hotel", "attraction", "meal", "travel_intercity_public")
        for day in self.days:
            anchors = [act for act in day["activities"] if act.get("type") in kinds and span(act)]
            if not all(self.fits(day, here, there) for here, there in pairwise(anchors)):
                return False
        return True

    def fits(self, day: Json, here: Json, there: Json) -> bool:
        origin, goal = (
            (act.get("details") or {}).get(key if act["type"] == "travel_intercity_public" else "name")
            for act, key in ((here, "to"), (there, "from"))
        )
        (_, since), (until, _) = span(here), span(there)  # type: ignore[misc]
        gap = until - since
        if since > until:
            gap = gap + 1440 if since - until > 720 else -1
            until += 1440
        ends = [self.spot(origin), self.spot(goal)]
        roads = [row for row in self.tables.get("distance_matrix", []) if row["origin"] == ends[0] and row["destination"] == ends[1]]
        if gap < 0 or origin == goal or not roads:
            return True
        for act in day["activities"]:
            if act.get("type") == "buffer" and (times := span(act)):
                moved = [time + 1440 * (times[0] < since) for time in times]
                gap -= times[1] - times[0] if since <= moved[0] and moved[1] <= until else 0
        t = int(roads[-1]["duration_minutes"])
        return min(max(0, t - 5), t // 10 * 10) <= gap <= max(t + 5, -(-t // 10) * 10)

    def visits(self, kind: str, table: str, column: str) -> list[tuple[int, Json, Json]]:
        rows = self.tables.get(table, [])
        return [(day, act, row) for day, act, at in self.of(kind) if (row := last(rows, column, at.get("name")))]

    def attraction_visit_within_opening_hours(self) -> bool:
        visits = self.visits("attraction", "attractions", "attraction_name")
        return bool(self.tables.get("attractions")) and all(
            {row.get("opening_time"), row.get("closing_time")} <= {"Open 24 Hours", "全天开放"} or inside(act, row) is True
            for _, act, row in visits
        )

    def dining_within_service_hours(self) -> bool:
        visits = self.visits("meal", "restaurants", "restaurant_name")
        return bool(self.tables.get("restaurants")) and all(slot(act) and inside(act, row) is not False for _, act, row in visits)

    def avoidance_of_closure_days(self) -> bool:
        if not self.tables.get("attractions") or not self.meta.get("depart_weekday"):
            return bool(self.tables.get("attractions"))
        names = [
            {"monday", "周一"},
            {"tuesday", "周二"},
            {"wednesday", "周三"},
            {"thursday", "周四"},
            {"friday", "周五"},
            {"saturday", "周六"},
        ]
        names.append({"sunday", "周日"})
        visits = self.visits("attraction", "attractions", "attraction_name")
        return not any(
            names[(self.meta["depart_weekday"] + day - 1) % 7] & {part.strip().lower() for part in row.get("closing_dates", "").split(",")}
            for day, _, row in visits
        )

    def reasonable_duration_at_attractions(self) -> bool:
        for _, act, row in self.visits("attraction", "attractions", "attraction_name"):
            bounds, times = (number(row.get("min_visit_hours")), number(row.get("max_visit_hours"))), span(act)
            if None in bounds or not times or not bounds[0] * 60 <= times[1] - times[0] <= bounds[1] * 60:  # type: ignore[operator]
                return False
        return bool(self.tables.get("attractions"))

    def reasonable_meal_duration(self) -> bool:
        times = [span(act) for _, act, at in self.of("meal") if at.get("name")]
        return all(found and found[1] - found[0] in range(30, 151) for found in times)

    def total(self) -> float:
        p, r, total = self.meta.get("people_number", 1), self.meta.get("room_number", 1), 0.0
        for day in range(len(self.days)):
            fares = [cost for _, _, at in self.of("travel_intercity_public", day) if (cost := number(at.get("cost"))) is not None]
            total += fares[0] * p if fares and fares[0] > 0 else 0
            stay = self.days[day].get("accommodation")
            if isinstance(stay, dict) and day < len(self.days) - 1:
                total += (number(stay.get("price") or stay.get("price_per_night") or stay.get("cost")) or 0) * r
        for _, act, at in self.acts:
            each = {"meal": p, "attraction": p, "travel_city": math.ceil(p / 4)}.get(act.get("type", ""), 0)
            total += (number(at.get("cost")) or 0) * each
        return total

    def cost_calculation_correctness(self) -> bool:
        stated = number((self.plan.get("budget_summary") or {}).get("total_estimated_budget"))
        if not stated:
            return stated == 0 and self.total() == 0
        return abs(self.total() - stated) / stated <= 0.1

    def diverse_meal_options(self) -> bool:
        names = [at["name"] for _, _, at in self.of("meal") if at.get("name")]
        return len(names) == len(set(names))

    def diverse_attraction_options(self) -> bool:
        names = [at["name"] for _, _, at in self.of("attraction") if at.get("name")]
        return len(names) == len(set(names))

    def constraint(self, key: str, wanted: Json) -> bool | None:
        """None: not evaluated."""
        kind = key.split("_")[0]
        if kind in ("flight", "train"):
            modes = ("flight", "飞机", "airplane", "plane") if kind == "flight" else ("train", "火车", "railway", "高铁", "gaotie")
            rides = [at.get("number") for _, _, at in self.of("travel_intercity_public") if str(at.get("mode") or "").lower() in modes]
            return {wanted[way] for way in (f"outbound_{kind}_no", f"inbound_{kind}_no") if way in wanted} <= set(rides)
        if kind == "hotel":
            stays = [day["accommodation"] for day in self.days if day.get("accommodation")]
            named = all(isinstance(stay, dict) for stay in stays) and bool(wanted.get("hotel_name"))
            return named and wanted["hotel_name"] in [stay.get("name") for stay in stays]
        if kind in ("restaurant", "attraction"):
            names = [at.get("name") for _, _, at in self.of("meal" if kind == "restaurant" else kind)]
            asked = [wanted.get("restaurant_name")] if kind == "restaurant" else wanted.get("attraction_names") or [None]
            return all(name and name in names for name in asked)
        if key == "budget_constraint":
            most = number(wanted.get("max_budget"))
            return most is not None and bool(self.days) and self.total() <= most
        return None
