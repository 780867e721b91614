"""A scripted agent that knows a task's constraints and plans through the tools alone, and the loop that plays any agent.

It proves that a case can be solved and that the scorer reaches 1.0. What it asks: journeys, hotel, attractions, restaurants, coordinates,
roads; the days are laid out by schedule.py.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from ..scripted import Agent, Calls, Message, Script, scripted
from .plan import amount
from .schedule import Hours, Journey, Place, Roads, Trip, lay_out
from .tools import Tools
from .write import write_plan

__all__ = ["MAX_CALLS", "Agent", "Episode", "oracle", "play"]

MAX_CALLS = 400  # model calls an episode, as in the published scripts
NUMBERS = (("outbound_train_no", "outbound_flight_no"), ("inbound_train_no", "inbound_flight_no"))
NEARBY = 24  # restaurants that are considered beside the required ones


@dataclass(frozen=True)
class Episode:
    """A played episode: all messages, the last reply's text, whether the budget of model calls ended it."""

    history: list[Message]
    reply: str
    limit: bool


def play(tools: Tools, agent: Agent, opening: list[Message], *, max_calls: int = MAX_CALLS) -> Episode:
    """One episode: all tool calls of a reply in order, until a reply without tool calls or `max_calls` model calls."""
    history = [dict(message) for message in opening]
    for _ in range(max_calls):
        reply = agent(history)
        history.append(reply)
        if not reply.get("tool_calls"):
            return Episode(history, reply.get("content") or "", False)
        for asked in reply["tool_calls"]:
            function = asked["function"]
            content = tools.call(function["name"], function["arguments"])
            history.append({"role": "tool", "tool_call_id": asked["id"], "name": function["name"], "content": content})
    return Episode(history, "", True)


def oracle(meta: dict[str, Any], language: str, plan_format: str = "text") -> Agent:
    """An agent that works towards a task's `meta_info`; one episode each. `plan_format`: text or json."""
    return scripted(_script(meta, language, plan_format))


def _script(meta: dict[str, Any], language: str, plan_format: str) -> Script:
    """Turns of tool calls; receives each turn's results. Returns the last reply."""
    home, there, leaves, returns = meta["org"], meta["dest"][0], meta["depart_date"], meta["return_date"]
    rules = meta.get("hard_constraints") or {}
    hotels, eat, see = (_required(rules, kind) for kind in ("hotel", "restaurant", "attraction"))
    days = [{"origin": home, "destination": there, "depDate": leaves}, {"origin": there, "destination": home, "depDate": returns}]
    found = yield [
        *((f"query_{mode}_info", day) for mode in ("train", "flight") for day in days),
        ("query_hotel_info", {"destination": there, "checkinDate": leaves, "checkoutDate": returns}),
        ("recommend_attractions", {"city": there}),
    ]  # fmt: skip
    both = [[*_routes(found[side], "train"), *_routes(found[2 + side], "flight")] for side in (0, 1)]
    routes = [_journey(both[side], [rule[key] for rule in rules.values() for key in NUMBERS[side] if key in rule], side) for side in (0, 1)]
    hotel = _pick(json.loads(found[4]), hotels)
    listed = [line.partition("：" if language == "zh" else ": ")[0] for line in found[5].splitlines()[2:]]
    sights = [_sight(text) for text in (yield [("query_attraction_details", {"attraction_name": name}) for name in listed])]
    asked = yield [
        *(("recommend_restaurants", dict(zip(("latitude", "longitude"), sight.spot.split(","), strict=True))) for sight in sights),
        *(("query_restaurant_details", {"restaurant_name": name}) for name in eat),
    ]  # fmt: skip
    tables = _tables([row for text in asked for row in _entries(text)], eat)
    stations = [leg.end(side) for route in routes for leg in route for side in (0, 1)]
    roads = yield from _roads([hotel["name"], *stations, *(place.name for place in (*sights, *tables))])
    trip = Trip(
        meta, language, (home, there), (routes[0], routes[1]), hotel["name"], float(hotel["price"]), sights, tables, frozenset(see),
        frozenset(eat), roads,
    )  # fmt: skip
    plan = lay_out(trip)
    if plan is None:
        return "No plan fits all of it."
    content = write_plan(plan, language) if plan_format == "text" else json.dumps(plan, ensure_ascii=False)
    return f"<plan>\n{content}\n</plan>"


def _roads(names: list[str]) -> Generator[Calls, list[str], Roads]:
    """Coordinates of all places, then the roads between any two of them."""
    located = yield [("search_location", {"place_name": name}) for name in dict.fromkeys(names)]
    known = [json.loads(text) for text in located if text.startswith("{")]
    spots = {place["place_name"]: f"{place['latitude']},{place['longitude']}" for place in known}
    pairs = [(here, goal) for here in spots.values() for goal in spots.values() if here != goal]
    found = yield [("query_road_route_info", {"origin": here, "destination": goal}) for here, goal in pairs]
    return Roads(spots, {pair: json.loads(text) for pair, text in zip(pairs, found, strict=True) if text.startswith("{")})


def _required(rules: dict[str, Any], kind: str) -> list[str]:
    """Names of one kind that the constraints give."""
    given = [rule.get(f"{kind}_names") or [rule.get(f"{kind}_name")] for key, rule in rules.items() if key.startswith(kind)]
    return [name for names in given for name in names if name]


def _routes(text: str, mode: str) -> list[list[Journey]]:
    """Routes of a query's answer, each a list of legs."""
    if not text.startswith("["):
        return []
    entries = [entry[0] if isinstance(entry, list) else entry for entry in json.loads(text)]
    return [
        [
            Journey(
                mode, leg["marketingTransportNo"], leg["depStationName"], leg["arrStationName"], leg["depDateTime"][11:16],
                leg["arrDateTime"][11:16], entry["price"],
            )
            for leg in entry.values() if isinstance(leg, dict)
        ]
        for entry in entries
    ]  # fmt: skip


def _journey(routes: list[list[Journey]], numbers: list[str], side: int) -> list[Journey]:
    """The required route; else of those with the fewest legs the first one out (side 0) or the last one back. ValueError without any."""
    fitting = [route for route in routes if not numbers or any(leg.number in numbers for leg in route)]
    shortest = min(map(len, fitting))
    return sorted((route for route in fitting if len(route) == shortest), key=lambda route: route[0].leaves)[-side]


def _pick(hotels: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    fitting = [hotel for hotel in hotels if hotel["name"] in names or not names]
    return min(fitting, key=lambda hotel: amount(hotel["price"]) or 0)


def _sight(text: str) -> Place:
    """An attraction from its labelled lines, whose order is the same in both languages."""
    _, name, _, _, spot, _, _, opening, closed, least, most, ticket, _ = (line.partition("：")[2] for line in text.split("\n"))
    return Place(name, spot, Hours.of(opening), amount(ticket.replace("nan", "0")) or 0, closed, float(least), float(most))


def _entries(text: str) -> list[dict[str, Any]]:
    """Restaurants of an answer, be it a list or one."""
    found = json.loads(text) if text.startswith(("[", "{")) else []
    return [row for row in (found if isinstance(found, list) else [found]) if "name" in row]


def _tables(answers: list[dict[str, Any]], required: list[str]) -> list[Place]:
    """Restaurants with readable hours and price on which all rows of their name agree: the required ones, then the cheapest."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in answers:
        rows.setdefault(row["name"], []).append(row)
    tables = []
    for name, found in rows.items():
        facts = {(row["price_per_person"], str(row["opening_time"]), str(row["closing_time"])) for row in found}
        price, opens, closes = facts.pop()
        hours = Hours.of(opens, closes)
        if name in required or (not facts and hours and amount(price.replace("nan", "x")) is not None):
            tables.append(Place(name, "", hours, amount(price) or 0, "", 1, 1))
    return sorted(tables, key=lambda table: (table.name not in required, table.cost))[: NEARBY + len(required)]
