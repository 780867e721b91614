"""The nine tools of the travel agent, over the tables of one case; read-only.

Arguments are checked for required keys and for types, nothing else; a call that fails this, or an unknown tool, is answered by the JSON
object {"error": text}. What is not found is answered in plain text. As published, and kept: hotels ignore destination and dates,
attractions ignore the city, details come from the first row of a name (scoring takes the last), blank cells read `nan`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from .labels import LABELS, TOOLS
from .plan import amount
from .world import Row, World

__all__ = ["TOOLS", "Tools", "tool_schemas"]

SEGMENT = (
    ("arrCityName", "destination_city"), ("arrStationCode", "arr_station_code"), ("arrStationName", "arr_station_name"),
    ("depCityName", "origin_city"), ("depStationCode", "dep_station_code"), ("depStationName", "dep_station_name"),
    ("duration", "duration"), ("arrDateTime", "arr_datetime"), ("depDateTime", "dep_datetime"),
)  # fmt: skip
TRAIN = (("marketingTransportName", "train_type"), ("marketingTransportNo", "train_no"))
FLIGHT = (("marketingTransportName", "airline"), ("marketingTransportNo", "flight_no"))
PLANE = (("equipSize", "equip_size"), ("equipType", "equip_type"), ("manufacturer", "manufacturer"))
HOTEL = (
    ("name", "name"), ("address", "address"), ("latitude", "latitude"), ("longitude", "longitude"), ("decorationTime", "decoration_time"),
    ("hotelStar", "hotel_star"), ("price", "price"), ("score", "score"), ("brand", "brand"),
)  # fmt: skip
ATTRACTION = (
    "attraction_id", "attraction_name", "city", "address", "latitude", "longitude", "description", "rating", "opening_time",
    "closing_time", "closing_dates", "min_visit_hours", "max_visit_hours", "ticket_price", "attraction_type",
)  # fmt: skip
RESTAURANT = (
    "latitude", "longitude", "price_per_person", "cuisine", "opening_time", "closing_time", "nearby_attraction_name", "rating",
)  # fmt: skip


def tool_schemas(language: str) -> list[dict[str, Any]]:
    """The tools as a chat completion takes them, in selbench's own words; the published ones are the mirror's `tool_schema_<language>`."""
    schemas = []
    for name, tool in TOOLS.items():
        words = zip(tool["all"], tool[f"{language}_all"], strict=True)
        properties = {key: {"type": "string", "description": text} for key, text in words}
        parameters = {"type": "object", "properties": properties, "required": list(tool["required"])}
        schemas.append({"type": "function", "function": {"name": name, "description": tool[language], "parameters": parameters}})
    return schemas


class Tools:
    """The tools of one case. `call(name, arguments)` answers with the text that the model reads, and never raises."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.label = LABELS[world.language]
        self._near: dict[tuple[str, str], list[tuple[int, Row]]] = {}
        for number, row in enumerate(world.tables.get("restaurants", ())):
            self._near.setdefault((row.get("query_latitude", ""), row.get("query_longitude", "")), []).append((number, row))
        self._remembered = lru_cache(maxsize=4096)(self._answer)  # the tables never change, and the episodes of a case ask alike
        self._tools: dict[str, Callable[..., str]] = {
            "query_train_info": self._trains, "query_flight_info": self._flights, "query_hotel_info": self._hotels,
            "query_attraction_details": self._attraction, "recommend_attractions": self._attractions, "search_location": self._location,
            "query_road_route_info": self._road, "recommend_restaurants": self._restaurants, "query_restaurant_details": self._restaurant,
        }  # fmt: skip

    def call(self, name: str, arguments: str | dict[str, Any] | None) -> str:
        """The result of one call.

        Args:
            name: the tool. arguments: a JSON text, or the object itself; what does not parse counts as {} and lacks what is required.
        """
        if isinstance(name, str) and isinstance(arguments, str):
            return self._remembered(name, arguments)
        return self._answer(name, arguments)

    def _answer(self, name: str, arguments: str | dict[str, Any] | None) -> str:
        if not isinstance(name, str) or name not in self._tools:
            return _json({"error": f"unknown tool: {name}; available tools: {', '.join(self._tools)}"})
        given = _parsed(arguments)
        if fault := _fault(name, given):
            return _json({"error": f"invalid arguments for {name}: {fault}"})
        return self._tools[name](**{key: value for key, value in given.items() if key in TOOLS[name]["all"]})

    def _say(self, key: str, *values: str) -> str:
        return self.label[key].format(*values)

    def _trains(self, **wanted: str) -> str:
        if (routes := self._routes("trains", wanted)) is None:
            return self._say("no_trains")
        found = [[self._route(route, TRAIN, ())] for route in routes]
        return _json(found) if found else self._say("none_trains", wanted["origin"], wanted["destination"], wanted["depDate"])

    def _flights(self, **wanted: str) -> str:
        if (routes := self._routes("flights", wanted)) is None:
            return self._say("no_flights")
        found = [self._route(route, FLIGHT, PLANE) for route in routes]
        return _json(found) if found else self._say("none_flights", wanted["origin"], wanted["destination"], wanted["depDate"])

    def _routes(self, table: str, wanted: dict[str, str]) -> list[list[Row]] | None:
        """Fitting rows by route, routes in ascending order of their index as a text, rows by segment; None without the table."""
        rows = self.world.tables.get(table)
        if rows is None:
            return None
        keys = {"origin_city": "origin", "destination_city": "destination", "dep_date": "depDate"}
        needed = {column: wanted[key] for column, key in keys.items()}
        if seat := wanted.get("seatClassName"):
            needed["seat_class"] = seat
        routes: dict[str, list[Row]] = {}
        for row in rows:
            if all(row.get(column, "") == value for column, value in needed.items()) and row.get("route_index"):
                routes.setdefault(row["route_index"], []).append(row)
        return [sorted(routes[index], key=lambda row: row.get("segment_index", "")) for index in sorted(routes)]

    def _route(self, rows: list[Row], carrier: tuple[tuple[str, str], ...], plane: tuple[tuple[str, str], ...]) -> dict[str, Any]:
        route: dict[str, Any] = {}
        for number, row in enumerate(rows):
            segment: dict[str, Any] = {key: _text(row, column) for key, column in (*SEGMENT, *carrier)}
            segment["duration"] = int(_number(row.get("duration", "")))
            if number and not plane:  # a later train starts where the one before arrived
                segment["depCityName"] = _text(rows[number - 1], "arr_station_name").split(self.label["station"])[0]
            segment["seatClassName"] = _text(row, "seat_class")
            segment[self.label["seats"]] = row.get("seat_status") or self.label["available"]
            segment |= {key: _text(row, column) for key, column in plane}
            route[self._say("segment", str(number + 1))] = segment
        return {**route, "price": _number(rows[0].get("price", ""))}

    def _hotels(self, hotelStar: str = "", hotelBrands: str = "", **_: str) -> str:
        rows = self.world.tables.get("hotels")
        if rows is None:
            return self._say("no_hotels")
        found = [
            {**{key: _text(row, column) for key, column in HOTEL}, **_many("services", row)}
            for row in rows
            if hotelStar in ("", row.get("hotel_star", "")) and hotelBrands in ("", row.get("brand", ""))
        ]
        return _json(found) if found else self._say("none_hotels")

    def _attractions(self, city: str, attraction_type: str = "") -> str:
        rows = self.world.tables.get("attractions")
        if rows is None:
            return self._say("no_attractions")
        found = [row for row in rows if attraction_type in ("", row.get("attraction_type", ""))]
        lines = [
            self._say("attraction", *(_text(row, column) for column in ("attraction_name", "description", "attraction_type")))
            for row in found
        ]
        return "\n".join([self._say("attractions", city), "", *lines]) if found else self._say("none_attractions", city)

    def _attraction(self, attraction_name: str) -> str:
        if "attractions" not in self.world.tables:
            return self._say("no_attractions")
        row = self.world.first["attractions"].get(attraction_name)
        if row is None:
            return self._say("none_attraction", attraction_name)
        cell = {column: _text(row, column) for column in ATTRACTION}
        opens, closes = cell["opening_time"], cell["closing_time"]
        cell["latitude"] = f"{cell['latitude']},{cell.pop('longitude')}"
        cell["opening_time"] = opens if opens == cell.pop("closing_time") else self._say("hours", opens, closes)
        return "\n".join(f"{label}：{value}" for label, value in zip(self.label["details"].split("|"), cell.values(), strict=True))

    def _location(self, place_name: str) -> str:
        if "locations" not in self.world.tables:
            return self._say("no_locations")
        row = self.world.first["locations"].get(place_name)
        if row is None:
            return self._say("none_location", place_name)
        return _json({"place_name": place_name, "latitude": _text(row, "latitude"), "longitude": _text(row, "longitude")})

    def _road(self, origin: str, destination: str) -> str:
        if self.world.roads is None:
            return self._say("no_roads")
        for place in (origin, destination):
            if place not in self.world.ends:
                return self._say("none_coordinate", place)
        road = self.world.roads.get(origin, {}).get(destination)
        if road is None:
            return self._say("none_road", origin, destination)
        metres, minutes, cost = (int(_number(cell)) for cell in road)
        return _json(
            {"origin": origin, "destination": destination, "distance_in_meters": metres, "duration_in_minutes": minutes, "cost": cost}
        )

    def _restaurants(self, latitude: str, longitude: str) -> str:
        if "restaurants" not in self.world.tables:
            return self._say("no_restaurants")
        found = [_table_entry(row) for _, row in self._near.get((latitude, longitude), ())]
        return _json(found) if found else self._say("none_restaurants", latitude, longitude)

    def _restaurant(self, restaurant_name: str) -> str:
        if "restaurants" not in self.world.tables:
            return self._say("no_restaurants")
        row = self.world.first["restaurants"].get(restaurant_name)
        if row is None:
            return _json({"message": self._say("none_restaurant"), "restaurant_name": restaurant_name})
        return _json({"id": row.get("restaurant_id", ""), **_table_entry(row)})


def _table_entry(row: Row) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": _text(row, "restaurant_name")}
    for column in RESTAURANT:
        entry[column] = row.get(column) or math.nan if column in ("opening_time", "closing_time") else _text(row, column)
    return {**entry, **_many("tags", row)}


def _parsed(arguments: str | dict[str, Any] | None) -> Any:
    if arguments is None or isinstance(arguments, dict):
        return arguments or {}
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError, TypeError):
        return {}


def _fault(name: str, given: Any) -> str:
    """What is wrong with the arguments, or an empty text."""
    if not isinstance(given, dict):
        return f"{given!r:.80} is not of type 'object'"
    if lost := [key for key in TOOLS[name]["required"] if key not in given]:
        return f"{lost[0]!r} is a required property"
    odd = [key for key in TOOLS[name]["all"] if key in given and not isinstance(given[key], str)]
    return f"{odd[0]}: {given[odd[0]]!r:.80} is not of type 'string'" if odd else ""


def _text(row: Row, column: str) -> str:
    return row.get(column) or "nan"


def _many(column: str, row: Row) -> dict[str, list[str]]:
    cell = row.get(column)
    return {column: [part.strip() for part in cell.split(";") if part.strip()]} if cell else {}


def _number(cell: str) -> float:
    number = amount(cell)
    return number if number is not None and math.isfinite(number) else 0


def _json(result: Any) -> str:
    return json.dumps(result, ensure_ascii=False, indent=2)
