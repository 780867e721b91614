"""The tables of a travel case, read once and indexed: seven CSV files, every value a text, a blank or absent one empty.

Where a table repeats a name, scoring takes the last row and the tools the first: both are kept.
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from selbench import ConfigError

from .plan import amount

__all__ = ["LANGUAGES", "TABLES", "Road", "Row", "World", "load_world"]

Row = dict[str, str]
Road = tuple[str, str, str]  # metres, minutes, cost, as stored
LANGUAGES = ("en", "zh")
TABLES = {
    "trains": "trains/trains.csv",
    "flights": "flights/flights.csv",
    "hotels": "hotels/hotels.csv",
    "attractions": "attractions/attractions.csv",
    "restaurants": "restaurants/restaurants.csv",
    "locations": "locations/locations_coords.csv",
    "roads": "transportation/distance_matrix.csv",
}
NUMBERS = {"flights": "flight_no", "trains": "train_no"}
NAMES = {"hotels": "name", "attractions": "attraction_name", "restaurants": "restaurant_name", "locations": "poi_name"}
COORDINATES = re.compile(r"-?\d+(?:\.\d+)?,-?\d+(?:\.\d+)?")
CHINESE = re.compile("[\u4e00-\u9fa5]{2}")


@dataclass(frozen=True)
class World:
    """What a case's database says. Read-only: nothing here writes.

    Attributes:
        tables: rows by table, in file order, without the roads; a missing or unreadable file is no key.
        first, last: by table of `NAMES`, the first and the last row of each trimmed name.
        lines: by flight or train number, all its rows; of flights where both tables have it.
        stations: station to city, of flights then trains, later rows overwriting.
        roads: origin to destination to `Road`, coordinates as "latitude,longitude"; None where the file is missing.
    """

    language: str
    tables: dict[str, list[Row]]
    roads: dict[str, dict[str, Road]] | None
    first: dict[str, dict[str, Row]] = field(default_factory=dict)
    last: dict[str, dict[str, Row]] = field(default_factory=dict)
    lines: dict[str, list[Row]] = field(default_factory=dict)
    stations: dict[str, str] = field(default_factory=dict)
    spots: dict[str, str] = field(default_factory=dict)
    ends: frozenset[str] = frozenset()
    known: dict[tuple[object, object], float] = field(default_factory=dict)  # minutes already looked up

    def __post_init__(self) -> None:
        for table, column in NAMES.items():
            first, last = self.first.setdefault(table, {}), self.last.setdefault(table, {})
            for row in self.tables.get(table, ()):
                if name := row.get(column, "").strip():
                    first.setdefault(name, row)
                    last[name] = row
        for name, row in self.last["locations"].items():
            self.spots[name] = f"{row.get('latitude', '')},{row.get('longitude', '')}"
        for table in ("trains", "flights"):
            found: dict[str, list[Row]] = {}
            for row in self.tables.get(table, ()):
                if number := row.get(NUMBERS[table], "").strip():
                    found.setdefault(number, []).append(row)
            self.lines.update(found)
        for table in ("flights", "trains"):
            for row in self.tables.get(table, ()):
                for station, city in (("dep_station_name", "origin_city"), ("arr_station_name", "destination_city")):
                    if name := row.get(station, "").strip():
                        self.stations[name] = row.get(city, "")
        ends = {end for origin, goals in (self.roads or {}).items() for end in (origin, *goals)}
        object.__setattr__(self, "ends", frozenset(ends))

    def city_of(self, station: object) -> str | None:
        """The city of a station by the tables, else its first two characters if both are Chinese, else None."""
        if not isinstance(station, str):
            return None
        known = self.stations.get(station)
        return known if known is not None else station[:2] if CHINESE.match(station) else None

    def spot(self, place: object) -> str | None:
        """Coordinates "latitude,longitude" of a place by name, or of coordinates themselves; None if unknown."""
        if not isinstance(place, str):
            return None
        return self.spots.get(place) or (place if COORDINATES.fullmatch(place) else None)

    def minutes(self, origin: object, goal: object) -> float | None:
        """Travel time of the directed road between two places, or None where the tables do not have it."""
        if (known := self.known.get((origin, goal))) is not None:
            return known
        here, there = self.spot(origin), self.spot(goal)
        road = (self.roads or {}).get(here, {}).get(there) if here and there else None
        minutes = amount(road[1]) if road else None
        if minutes is None or not math.isfinite(minutes):
            return None
        return self.known.setdefault((origin, goal), minutes)


def load_world(folder: Path, language: str) -> World:
    """The database of one case, the folder `database_<language>/id_<n>`. Raises ConfigError where there is no such folder or language."""
    if language not in LANGUAGES:
        raise ConfigError(f"language {language!r}: unknown; known: {', '.join(LANGUAGES)}")
    if not folder.is_dir():
        siblings = folder.parent.glob("id_*") if folder.parent.is_dir() else ()
        there = sorted((place.name.removeprefix("id_") for place in siblings), key=lambda name: (len(name), name))
        raise ConfigError(f"{folder}: no travel database; cases there: {', '.join(there) or 'none'}; unpack Qwen/DeepPlanning there")
    tables = {name: rows for name, file in TABLES.items() if name != "roads" and (rows := _rows(folder / file)) is not None}
    return World(language, tables, _roads(folder / TABLES["roads"]))


def _cells(path: Path) -> list[list[str]] | None:
    """All lines of a CSV file, the heading first, or None if it is missing or unreadable. A byte-order mark is accepted."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            return [line for line in csv.reader(handle) if line] or None
    except (OSError, ValueError, csv.Error):
        return None


def _rows(path: Path) -> list[Row] | None:
    cells = _cells(path)
    if cells is None:
        return None
    head, *lines = cells
    return [dict(zip(head, line, strict=False)) for line in lines]


def _roads(path: Path) -> dict[str, dict[str, Road]] | None:
    cells = _cells(path)
    if cells is None:
        return None
    head, *lines = cells
    wanted = ("origin", "destination", "distance_meters", "duration_minutes", "cost")
    places = [head.index(name) if name in head else len(head) for name in wanted]
    roads: dict[str, dict[str, Road]] = {}
    for line in lines:
        cell = [*line[: len(head)], *[""] * (len(head) + 1 - min(len(line), len(head)))]  # one more: that of an absent column
        origin, goal, metres, minutes, cost = (cell[place] for place in places)
        if origin and goal:
            roads.setdefault(origin, {})[goal] = (metres, minutes, cost)
    return roads
