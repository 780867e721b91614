"""DeepPlanning as tasks: every case of the query files whose database is there, under the id `<level>-<case>` or `<language>-<case>`.

Where databases are missing the task is a part of the benchmark, and its number of problems says which.
Travel's held-out split: 24 of 120 trips, the same in both languages, four of each length of 2 to 7 days, drawn by a hash of their id.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from selbench import ConfigError
from selbench.environment import Outcome, Workload
from selbench.errors import nearest
from selbench.seeding import derive
from selbench.task import MIRROR, register_arena

from . import data
from .shopping import episode as shopping
from .shopping import oracle as shopping_oracle
from .shopping import world
from .shopping.score import TRUTH
from .travel import episode as travel
from .travel import oracle as travel_oracle
from .travel.prompt import agent_messages

__all__ = ["SHOPPING_LEVELS", "Shopping", "Travel", "held_out"]

SOURCE = f"{data.HUB}, data version {data.VERSION}"
SHOPPING_LEVELS = tuple(map(str, world.LEVELS))
HELD_OUT_PER_LENGTH = 4
Split = Literal["all", "training", "held out"]


def _rows(domain: str, names: tuple[str, ...]) -> list[dict[str, str]]:
    found = []
    for name in names:
        there = set(data.present(domain, name))
        found += [
            {"id": f"{name}-{row['id']}", "problem": row["query"], "answer": ""} for row in data.queries(domain, name) if row["id"] in there
        ]
    if not found:
        raise ConfigError(f"deepplanning {domain}: no database of any case is there; unpack those of {data.HUB}")
    return found


def _parts(domain: str, case: str, names: tuple[str, ...]) -> tuple[str, str]:
    """Part and number of a case. Raises ConfigError for what is no such case."""
    name, _, number = case.partition("-")
    if name not in names or not number:
        example = f"{names[0]}-{data.part(domain, names[0]).first}"
        raise ConfigError(f"deepplanning {domain}: unknown case {case!r}; a case is as {example}: {nearest(name, names)}")
    return name, number


def _calls(history: list[dict[str, Any]]) -> list[tuple[str, str]]:
    asked = [call["function"] for message in history for call in message.get("tool_calls") or ()]
    return [(function["name"], function["arguments"]) for function in asked]


@register_arena("deepplanning_shopping", version=1, samples=4, source=SOURCE)
class Shopping:
    """Shopping, all levels. The score is the share of expected products and coupons in the cart, a case is solved with all of them."""

    grader = shopping.GRADER

    def rows(self) -> list[dict[str, str]]:
        return _rows("shopping", SHOPPING_LEVELS)

    def open(self, case: str) -> shopping.Shopper:
        return shopping.Shopper(_case(*_parts("shopping", case, SHOPPING_LEVELS)))

    def judge(self, case: str, left: Mapping[str, Any], finish: str) -> Outcome:
        folder = data.database("shopping", *_parts("shopping", case, SHOPPING_LEVELS))
        return shopping.outcome(left, data.read_json(folder / TRUTH, "copy it from the case's database"))

    def workload(self, case: str) -> Workload:
        """What the scripted agent does that knows the ground truth; no model comes near it."""
        level, number = _parts("shopping", case, SHOPPING_LEVELS)
        own = world.World(_case(level, number))
        truth = data.read_json(data.database("shopping", level, number) / TRUTH, "copy it from the case's database")
        history = shopping_oracle.play(own, shopping_oracle.oracle(truth))
        return Workload(_calls(history), {"cart": own.cart(coupons=True)})


@cache
def _case(level: str, number: str) -> world.Case:
    return world.open_case(level, number)


@register_arena("deepplanning_travel", version=1, samples=4, source=SOURCE, split="all")
@register_arena("deepplanning_travel_training", version=1, source=SOURCE, split="training")
@register_arena("deepplanning_travel_heldout", version=1, samples=16, source=f"{SOURCE}; our held-out split", split="held out")
class Travel:
    """Travel in both languages, plans read line by line. The score is the composite score, a case is solved with all checks passed."""

    grader = travel.GRADER

    def __init__(self, split: Split) -> None:
        self.split = split

    def rows(self) -> list[dict[str, str]]:
        rows = _rows("travel", travel.LANGUAGES)
        if self.split == "all":
            return rows
        return [row for row in rows if (row["id"].partition("-")[2] in held_out()) == (self.split == "held out")]

    def open(self, case: str) -> travel.Traveller:
        language, number = _parts("travel", case, travel.LANGUAGES)
        return travel.Traveller(_trip(language, number)["query"], travel.tools_of(language, number))

    def judge(self, case: str, left: Mapping[str, Any], finish: str) -> Outcome:
        language, number = _parts("travel", case, travel.LANGUAGES)
        meta = _trip(language, number)["meta_info"]
        return travel.outcome(left, finish, meta, travel.tools_of(language, number).world)

    def workload(self, case: str) -> Workload:
        """What the scripted agent does that knows the constraints; no model comes near it."""
        language, number = _parts("travel", case, travel.LANGUAGES)
        row = _trip(language, number)
        opening = agent_messages(row["query"], language, "text")
        played = travel_oracle.play(travel.tools_of(language, number), travel_oracle.oracle(row["meta_info"], language), list(opening))
        return Workload(_calls(played.history), {"reply": played.reply})


def _trip(language: str, number: str) -> dict[str, Any]:
    """The row of a trip: checking the whole file against its release takes longer than scoring a plan. Raises ConfigError."""
    return _trips(language, os.environ.get(MIRROR)).get(number) or data.query("travel", language, number)


@cache
def _trips(language: str, mirror: str | None) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in data.queries("travel", language)}


@cache
def held_out() -> frozenset[str]:
    """Ids of the held-out trips."""
    lengths: dict[int, list[str]] = defaultdict(list)
    for row in data.queries("travel", travel.LANGUAGES[0]):
        lengths[row["meta_info"]["days"]].append(row["id"])
    drawn = (sorted(ids, key=lambda each: derive(int(each), 0, "deepplanning travel/held out")) for ids in lengths.values())
    return frozenset(each for ids in drawn for each in ids[:HELD_OUT_PER_LENGTH])
