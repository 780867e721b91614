"""A scripted agent that knows a case's ground truth and reaches it through the tools alone, and the loop that plays any agent.

It proves that a case can be solved, or says in its closing message of the first phase what is out of reach and what the tool answered.
"""

from __future__ import annotations

import json
from pathlib import Path

from .. import data
from ..scripted import Agent, Message, Script, scripted
from .prompts import CHECK, opening
from .score import MESSAGES
from .tools import call
from .world import Json, World, render

__all__ = ["Agent", "oracle", "play"]

MAX_CALLS = 400  # model calls a phase


def play(world: World, agent: Agent, *, max_calls: int = MAX_CALLS, folder: Path | None = None) -> list[Message]:
    """One episode: until a reply without tool calls, then the fixed check message, then once more with a fresh budget of model calls.

    Returns the history; with `folder` it is also in `messages.json` there, after every step. Several calls in a reply run in order.
    """
    history: list[Message] = [*opening(world.case)]
    _turns(world, agent, history, max_calls, folder, "shopping")
    history.append({"role": "user", "content": CHECK})
    _turns(world, agent, history, max_calls, folder, "check")
    return history


def _turns(world: World, agent: Agent, history: list[Message], max_calls: int, folder: Path | None, phase: str) -> None:
    for _ in range(max_calls):
        reply = agent(history)
        history.append(reply)
        for asked in reply.get("tool_calls") or []:
            function = asked["function"]
            answer = call(world, function["name"], function["arguments"])
            history.append({"role": "tool", "tool_call_id": asked["id"], "content": answer})
        if folder is not None:
            record = {"step": sum(each["role"] == "assistant" for each in history), "description": phase, "messages": history}
            data.write_text(folder / MESSAGES, render(record))
        if not reply.get("tool_calls"):
            return


def oracle(truth: Json) -> Agent:
    """An agent that works towards a parsed `validation_cases.json`; one episode each."""
    return scripted(_script(truth), read=json.loads, after="Nothing is missing.")


def _script(truth: Json) -> Script:
    """Turns of tool calls; receives each turn's results. Returns what to say at the end."""
    products = truth.get("ground_truth_products", [])
    coupons = truth.get("ground_truth_coupons") or {}
    missed: list[str] = []
    found = yield [("get_user_info", {}), *(("search_products", {"query": product["name"]}) for product in products)]
    for product, hits in zip(products, found[1:], strict=True):
        ids = hits.get("product_ids") or []
        for tool, key, field in (
            ("filter_by_brand", "brand_names", "brand"), ("filter_by_size", "sizes", "size"), ("filter_by_color", "colors", "color"),
        ):  # fmt: skip
            [kept] = yield [(tool, {"product_ids": ids, key: [product[field]]})]
            ids = kept.get("filtered_products_ids") or []
        [details] = yield [("get_product_details", {"product_ids": ids})]
        same = [each["product_id"] for each in details.get("products", []) if each == product]
        if not same:
            missed.append(f"{product['product_id']}: not among {', '.join(ids) or 'no product'} that the tools show")
            continue
        [answer] = yield [("add_product_to_cart", {"product_id": same[0]})]
        missed += [answer["error"]] if "error" in answer else []
    for name, count in coupons.items():
        [answer] = yield [("add_coupon_to_cart", {"coupon_name": name, "quantity": count})]
        missed += [answer["error"]] if "error" in answer else []
    [cart] = yield [("get_cart_info", {})]
    price = cart["summary"]["total_price"]
    return f"The cart costs {price}." + (f" Out of reach: {'; '.join(missed)}." if missed else "")
