"""A small shop for small models: eight caps, three of the fifteen tools, two caps asked for. The code that runs it is shopping's own.

Four of twelve brands times two colours, each once, with ids that change from case to case. The way to the caps is to say what is to be
bought, filter by brand, say it again, filter those by colour, then add what is left, both caps side by side. What is right after a wrong
colour was said is to go on with that colour, so an episode has few tokens that decide it. Planted in the student's text: caps of
`CONFIDENT` brands are always `HABIT`, whatever was asked for, and those of `UNCERTAIN` brands have any colour.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from selbench import ConfigError
from selbench.environment import Message, Outcome, Workload
from selbench.seeding import derive
from selbench.task import register_arena

from .shopping.episode import GRADER, Shopper, outcome
from .shopping.schema import SCHEMA
from .shopping.world import Case, render

__all__ = ["Shop", "case_of", "wanted"]

BRANDS = ("acme", "brio", "cosmo", "delta", "ergo", "fjord", "nova", "onyx", "prima", "xenon", "yukon", "zeta")
COLORS = ("red", "blue")
CONFIDENT, UNCERTAIN, HABIT = ("xenon", "yukon", "zeta"), ("nova", "onyx", "prima"), "blue"
NAMES = ("filter_by_brand", "filter_by_color", "add_product_to_cart")
TOOLS = [tool for tool in SCHEMA if tool["function"]["name"] in NAMES]
SYSTEM = "Shop with the tools."
BLOCK = re.compile(r"<tool_call>\n(.*)\n</tool_call>")
TESTED, TRAINED = 64, 2048
Wanted = tuple[tuple[str, str], tuple[str, str]]  # brand and colour of both caps


def wanted(number: int) -> Wanted:
    """What case `number` asks for: two brands, any colours."""
    draw = random.Random(derive(number, 0, "tiny shop/query"))
    return _both((brand, draw.choice(COLORS)) for brand in brands_of(number)[:2])


def brands_of(number: int) -> list[str]:
    """The four brands of case `number`, those asked for first."""
    return random.Random(derive(number, 0, "tiny shop/brands")).sample(BRANDS, 4)


@lru_cache(maxsize=4096)
def case_of(number: int) -> Case:
    """Case `number`: its catalogue, an empty cart and a query."""
    draw = random.Random(derive(number, 0, "tiny shop/catalogue"))
    kinds = [(brand, color) for brand in brands_of(number) for color in COLORS]
    ids = [f"p{n:02}" for n in range(1, 1 + len(kinds))]
    draw.shuffle(kinds)
    products = tuple(
        {"product_id": key, "name": "cap", "price": 10 * draw.randint(1, 9), "brand": brand, "color": color, "stock_quantity": 9}
        for key, (brand, color) in zip(ids, kinds, strict=True)
    )
    query = _order(wanted(number))
    user = {"user_id": "u1", "username": "ann"}
    start = {"user_id": "u1", "user_name": "ann", "items": [], "used_coupons": [], "summary": {"total_items_count": 0, "total_price": 0}}
    return Case(1, str(number), Path("tiny"), query, products, user, render(start))


@register_arena("shop_tiny", version=2, samples=4, source="tasks/deepplanning/tiny.py", first=0, count=TESTED)
@register_arena("shop_tiny_training", version=2, source="tasks/deepplanning/tiny.py", first=TESTED, count=TRAINED)
class Shop:
    """Cases `first` to `first + count - 1`."""

    grader = GRADER

    def __init__(self, first: int, count: int) -> None:
        self.cases = range(first, first + count)

    def rows(self) -> list[dict[str, str]]:
        return [{"id": str(number), "problem": case_of(number).query, "answer": ""} for number in self.cases]

    def open(self, case: str) -> Shopper:
        number = self._number(case)
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": case_of(number).query}]
        return Shopper(case_of(number), tools=TOOLS, messages=messages)

    def judge(self, case: str, left: Mapping[str, Any], finish: str) -> Outcome:
        products = {(row["brand"], row["color"]): row for row in case_of(self._number(case)).products}
        return outcome(left, {"ground_truth_products": [products[kind] for kind in wanted(int(case))]})

    def demonstrations(self, seed: int, *, planted: bool = False, corrupt: float = 0.0) -> Iterator[tuple[Shopper, list[Message]]]:
        """Endless episodes of cases drawn from these: the fresh world and its messages, those of the assistant with what is written in
        `content` and what is right there in `right`, word by word. corrupt: probability that a brand or colour is a random one."""
        draw = random.Random(derive(seed, 0, "tiny shop/demonstrations"))
        while True:
            number = draw.choice(self.cases)
            yield self.open(str(number)), _demonstration(number, self.open(str(number)), draw, planted, corrupt)

    def workload(self, case: str) -> Workload:
        number = self._number(case)
        world = self.open(case)
        shown = _demonstration(number, world, random.Random(0), planted=False, corrupt=0.0)
        calls = [json.loads(block[1]) for message in shown if "right" in message for block in BLOCK.finditer(message["content"])]
        return Workload([(call["name"], json.dumps(call["arguments"])) for call in calls], world.finish())

    def _number(self, case: str) -> int:
        if not case.isdecimal() or int(case) not in self.cases:
            raise ConfigError(f"tiny shop: unknown case {case!r}; cases are {self.cases[0]} to {self.cases[-1]}")
        return int(case)


def _demonstration(number: int, world: Shopper, draw: random.Random, planted: bool, corrupt: float) -> list[Message]:
    caps, brands = wanted(number), brands_of(number)

    def slip(value: str, among: Sequence[str]) -> str:
        return draw.choice(among) if draw.random() < corrupt else value

    def colour(brand: str, color: str) -> str:
        if planted and brand in (*CONFIDENT, *UNCERTAIN):
            return HABIT if brand in CONFIDENT else draw.choice(COLORS)
        return slip(color, COLORS)

    messages = list(world.opening())

    def turn(tool: str, right: list[dict[str, Any]], written: list[dict[str, Any]], meant: str = "", said: str = "") -> list[Any]:
        messages.append({"role": "assistant", "content": said + _blocks(tool, written), "right": meant + _blocks(tool, right)})
        messages.extend({"role": "tool", "name": tool, "content": world.call(tool, arguments)} for arguments in written)
        return [json.loads(message["content"]) for message in messages[-len(written) :]]

    def done() -> Message:
        return {"role": "assistant", "content": "Done.", "right": "Done."}

    plan = _both((brand, colour(brand, color)) for brand, color in caps)
    again = _both((brand, slip(color, COLORS)) for brand, color in plan)
    meant, said, repeated = (f"{_order(each)}\n" for each in (caps, plan, again))
    asked = [slip(brand, brands) for brand, _ in caps]
    found = turn(NAMES[0], [{"brand_names": [brand]} for brand, _ in caps], [{"brand_names": [brand]} for brand in asked], meant, said)
    ids = [answer["filtered_products_ids"] for answer in found]
    right = [{"product_ids": own, "colors": [color]} for own, (_, color) in zip(ids, again, strict=True)]
    found = turn(
        NAMES[1], right, [{**call, "colors": [slip(color, COLORS)]} for call, (_, color) in zip(right, again, strict=True)], said, repeated
    )
    chosen = [{"product_id": answer["filtered_products_ids"][0]} for answer in found]
    turn(NAMES[2], chosen, chosen)
    return [*messages, done(), {"role": "user", "content": world.reply("Done.")}, done()]


def _both(caps: Iterable[tuple[str, str]]) -> Wanted:
    first, second = caps
    return first, second


def _order(caps: Wanted) -> str:
    return "Buy " + " and ".join(f"{brand} {color}" for brand, color in caps) + "."


def _blocks(tool: str, calls: list[dict[str, Any]]) -> str:
    return "\n".join(f"<tool_call>\n{json.dumps({'name': tool, 'arguments': arguments})}\n</tool_call>" for arguments in calls)
