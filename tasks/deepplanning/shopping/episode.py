"""Shopping as a world to act in: the tools on a cart of its own, and the fixed message that asks once to check the cart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selbench import ConfigError
from selbench.environment import Message, Outcome

from .prompts import CHECK, opening
from .schema import SCHEMA
from .score import score
from .tools import call
from .world import Case, World

__all__ = ["GRADER", "Shopper", "outcome"]

GRADER = "deepplanning-shopping-1"


class Shopper:
    """One episode of a case. tools, messages: none takes the benchmark's."""

    def __init__(self, case: Case, *, tools: Sequence[dict[str, Any]] = SCHEMA, messages: Sequence[Message] | None = None) -> None:
        self.tools, self.world = tools, World(case)
        self._messages = list(opening(case)) if messages is None else list(messages)
        self._checked = False

    def opening(self) -> list[Message]:
        return self._messages

    def call(self, name: str, arguments: str | dict[str, Any]) -> str:
        return call(self.world, name, arguments)

    def reply(self, text: str) -> str | None:
        """The check message once, whatever ended the first phase; then nothing."""
        if self._checked:
            return None
        self._checked = True
        return CHECK

    def finish(self) -> dict[str, Any]:
        """The cart alone is scored."""
        return {"cart": self.world.cart(coupons=True)}


def outcome(left: Mapping[str, Any], truth: Any) -> Outcome:
    """The score of a cart; an unreadable one is an error with a reason, never a plain 0."""
    cart = left.get("cart")
    try:
        found = score(cart, truth)
    except ConfigError as error:
        return Outcome(0.0, False, problem="error", reason=str(error), method="cart")
    ids = [row["product_id"] for row in (cart or {}).get("items", [])]
    coupons = [row["coupon_name"] for row in (cart or {}).get("used_coupons", [])]
    metrics = {key: float(value) for key, value in found.items()}
    return Outcome(found["score"], found["case_score"] == 1, metrics, answer=", ".join([*ids, *coupons]), method="cart")
