"""Random tool calls, half of them sensible, for soak tests and for timing; a function of a case and a seed."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

from selbench.seeding import derive

from .schema import NUMBERS, ORDERED, TABLE
from .tools import TOOLS, call
from .world import COUPONS, Case, World

__all__ = ["calls_per_second", "random_calls"]

ODD: list[Any] = [None, "", "zz", [], ["zz"], 0, -1, 0.5, "2", True, 1e308, float("nan"), {}, [[]], "p01", "\ud800", "内蒙古"]


def random_calls(case: Case, *, seed: int, count: int, odd: float = 0.15) -> Iterator[tuple[str, str]]:
    """(tool, arguments as JSON text), `count` times; a share `odd` of the arguments is of another type, unknown or extreme."""
    draw = random.Random(derive(seed, 0, "deepplanning shopping calls"))
    ids = list(case.by_id)
    words = sorted({word for product in case.products for word in str(product.get("name", "")).split()})

    def some(values: list[str], most: int = 4) -> list[str]:
        return draw.sample(values, min(len(values), draw.randint(1, most)))

    def column(field: str) -> list[str]:
        return [str(case.by_id[key].get(field)) for key in some(ids)]

    def sensible(name: str) -> Any:
        kinds = {
            "query": lambda: " ".join(some(words)), "limit": lambda: draw.randint(0, 30), "brand_names": lambda: column("brand"),
            "colors": lambda: column("color"), "sizes": lambda: column("size"), "coupon_names": lambda: some(list(COUPONS), 2),
            "product_ids": lambda: some(ids, 12), "condition_key": lambda: draw.choice(NUMBERS),
            "order": lambda: draw.choice(["asc", "desc"]), "operator": lambda: draw.choice([">", ">=", "<", "<=", "=="]),
            "value": lambda: draw.choice([4.5, 10, 300, 600]),
            "sort_by": lambda: draw.choice(ORDERED), "product_id": lambda: draw.choice(ids), "quantity": lambda: draw.randint(1, 3),
            "destination_address": lambda: draw.choice(["guangdong", "Anhui Province", "beijing city", "tibet"]),
            "provider": lambda: "sf_express", "user_id": lambda: case.user.get("user_id"),
            "coupon_name": lambda: draw.choice([*(case.user.get("coupons") or COUPONS)]),
        }  # fmt: skip
        return kinds[name]()

    for _ in range(count):
        tool = draw.choice(list(TOOLS))
        _, properties, required = TABLE[tool]
        names = [name for name in properties if name in required or draw.random() < 0.5]
        arguments = {name: draw.choice(ODD) if draw.random() < odd else sensible(name) for name in names}
        text = json.dumps(arguments)
        yield tool, text[: draw.randint(0, len(text))] if draw.random() < odd / 5 else text


def calls_per_second(case: Case, *, seconds: float = 2.0, seed: int = 0) -> dict[str, float]:
    """Tool calls per second of processor time on one warm core, over all tools alike, and the mean microseconds of each tool.

    Episodes of 60 calls, a cart of their own each. Processor time, because a busy machine would be measured otherwise.
    """
    episodes = [list(random_calls(case, seed=seed + n, count=60, odd=0.0)) for n in range(40)]
    for each in episodes[0]:
        call(World(case), *each)
    spent, counts = dict.fromkeys(TOOLS, 0.0), dict.fromkeys(TOOLS, 0)
    until = time.process_time() + seconds
    while time.process_time() < until:
        for episode in episodes:
            now = World(case)
            for tool, arguments in episode:
                began = time.process_time()
                call(now, tool, arguments)
                spent[tool] += time.process_time() - began
                counts[tool] += 1
    total = sum(counts.values())
    return {"calls_per_second": total / sum(spent.values()), **{tool: 1e6 * spent[tool] / counts[tool] for tool in TOOLS}}
