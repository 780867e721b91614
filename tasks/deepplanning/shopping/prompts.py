"""What an episode's messages say: a system prompt a level and the fixed message between its two phases.

The wording is our own; the content follows the published prompts, so scores are not to be set beside theirs without that note. The query
is the only text of a case that enters.
"""

from __future__ import annotations

from .world import Case

__all__ = ["CHECK", "opening", "system"]

ROLE = {
    1: "You are a shopping assistant. Put together the cart that meets the user's request at the lowest final price.",
    2: "You are a shopping assistant. Put together the cart that meets the user's request at the lowest final price within the budget.",
    3: "You are a shopping assistant. Choose products and coupons together, so that the cart meets the request at the lowest final price.",
}
REQUEST = (
    "First work out exactly which products are wanted and how many of each. Where a size or gender is not given, take it from the user's "
    "profile (get_user_info)."
)
LIMIT = {
    1: "",
    2: "The user's budget is a hard limit and comes before everything else.",
    3: "The lowest price comes first, the user's budget, if there is one, second. Read in the profile which coupons the user owns.",
}
SEARCH = {
    1: "Look for alternatives for every product and take the cheapest one that fits in all respects.",
    2: "Look for alternatives for every product, drop combinations over budget and take the cheapest. If none is within budget, say so and "
    "give the cheapest one and what it costs.",
    3: "Look for alternatives for every product: a dearer one may unlock a coupon. Try several coupon plans and take the cheapest within "
    "budget. If none is within budget, say so and give the cheapest one and what it costs.",
}
COUPON_RULES = """Coupons:
- A coupon can be used only by its owner, and no more often than it is owned.
- A cross-store coupon counts the whole cart, a same-brand coupon the products of one brand.
- It can be used when what it counts reaches its threshold; with several coupons, discounts already taken lower what remains.
Examples:
1. A cart of ¥1,250: "¥200 off every ¥1,200" saves more than three times "¥30 off every ¥300", so it is the better choice.
2. A cart of ¥1,800: "¥200 off every ¥1,200" leaves ¥1,600, and "¥60 off every ¥500" can be used as well; together ¥260.
3. Two products of one brand for ¥450 and one of another for ¥300: "Same-brand: ¥60 off every ¥400" fits the first brand only."""
TRUTH = {
    1: "The cart is the only result. Look at it with get_cart_info before you finish.",
    3: "The cart is the only result, and its coupons must be in it. Look at it with get_cart_info before you finish.",
}
ANSWER = {
    1: "Finish with what is in the cart, the final price and why you chose it.",
    2: "Finish with what is in the cart, the final price, how it stands to the budget and why you chose it.",
    3: "Finish with what is in the cart, the coupons used, the final price and why you chose it.",
}
CHECK = (
    "Check whether the cart now meets the whole request. Add what is missing; if several solutions meet it, keep the best one. The cart is "
    "the result that counts. If everything is done, stop."
)


def system(level: int) -> str:
    """The system prompt of a level, 1 to 3."""
    coupons, truth = COUPON_RULES if level == 3 else "", TRUTH.get(level, TRUTH[1])
    parts = [ROLE[level], REQUEST, LIMIT[level], SEARCH[level], coupons, truth, ANSWER[level]]
    return "\n\n".join(part for part in parts if part)


def opening(case: Case) -> list[dict[str, str]]:
    """The messages that an episode begins with."""
    return [{"role": "system", "content": system(case.level)}, {"role": "user", "content": case.query}]
