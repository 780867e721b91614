"""The fifteen tools as the model calls them: a name and JSON text in, JSON text out; failures are `{"error": text}`, never exceptions.

Kept as published: only the presence of required keys is checked, no types and no enums; a text where a list is expected is a list of its
characters; the provider asked for in `calculate_transport_time` is ignored.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from selbench import UserError
from selbench.errors import nearest

from . import cart
from .schema import REQUIRED
from .transport import days, province
from .world import COUPONS, Json, ToolError, World, render

__all__ = ["TOOLS", "call"]

Tool = Callable[[World, Json], Json | str]
COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq}
SEARCH_LIMIT = 20
MISSING = object()


def call(world: World, name: str, arguments: str | Json | None) -> str:
    """Run one tool call of the model. Returns JSON text, never raises but for what the user must fix (UserError)."""
    try:
        tool = TOOLS.get(name)
        if tool is None:
            raise ToolError(f"unknown tool {name[:80]!r}: {nearest(name[:80], TOOLS)}")
        answer = tool(world, _arguments(name, arguments))
        return answer if isinstance(answer, str) else render(answer)
    except UserError:
        raise
    except ToolError as error:
        return render({"error": str(error), **error.beside})
    except Exception as error:  # the model may send anything, and what a tool makes of it is its answer
        return render({"error": f"{name}: {type(error).__name__}: {error}"})


def _arguments(name: str, given: str | Json | None) -> Json:
    if name == "get_cart_info" and (given is None or (isinstance(given, str) and not given.strip())):
        return {}
    found: Any = given if isinstance(given, dict) else _parsed(name, given or "")
    if lost := [key for key in REQUIRED[name] if key not in found]:
        raise ToolError(f"{name}: missing required argument {', '.join(map(repr, lost))}")
    return found


def _parsed(name: str, text: str) -> Json:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ToolError(f"arguments of {name} are not valid JSON ({error}): {text[:200]!r}") from error
    if not isinstance(found, dict):
        raise ToolError(f"arguments of {name} must be a JSON object, not {text[:200]!r}")
    return found


def search_products(world: World, arguments: Json) -> Json:
    query, limit = arguments["query"], arguments.get("limit")
    if query is None:
        return {"product_ids": []}
    if not isinstance(query, str):
        raise ToolError(f"query must be a text, not {query!r}")
    if isinstance(limit, bool) or not isinstance(limit, int | None):
        raise ToolError(f"limit must be an integer, not {limit!r}")
    return {"product_ids": world.case.index.search(query, SEARCH_LIMIT if limit is None else limit)}


def filter_by_brand(world: World, arguments: Json) -> Json:
    return _equal(world, arguments, "brand", "brand_names")


def filter_by_color(world: World, arguments: Json) -> Json:
    return _equal(world, arguments, "color", "colors")


def filter_by_size(world: World, arguments: Json) -> Json:
    return _equal(world, arguments, "size", "sizes")


def _equal(world: World, arguments: Json, field: str, key: str) -> Json:
    products = _chosen(world, arguments)
    wanted = {_word(value, key).lower() for value in _sequence(arguments[key], key)}
    return _filtered(product for product in products if str(product.get(field) or "").lower() in wanted)


def filter_by_applicable_coupons(world: World, arguments: Json) -> Json:
    products = _chosen(world, arguments)
    names = _sequence(arguments["coupon_names"], "coupon_names")
    if unknown := [name for name in names if not isinstance(name, str) or name not in COUPONS]:
        raise ToolError(f"unknown coupons {', '.join(map(repr, unknown))}; coupons: {'; '.join(COUPONS)}")
    return _filtered(product for product in products if names and set(names) <= set(product.get("applicable_coupons") or ()))


def filter_by_range(world: World, arguments: Json) -> Json:
    key, sign, value = arguments["condition_key"], arguments["operator"], arguments["value"]
    if not key or not sign or value is None:
        raise ToolError(f"condition_key, operator and value must be given, not {key!r}, {sign!r}, {value!r}")
    products = _chosen(world, arguments)
    bound, test = _number(value), COMPARE.get(sign) if isinstance(sign, str) else None
    if bound is None:
        raise ToolError(f"value must be a number, not {value!r}")
    values = _values(products, key)
    if MISSING in values:
        raise ToolError(f"product {products[values.index(MISSING)]['product_id']} has no {key!r}")
    numbers = map(_number, values)
    return _filtered(each for each, number in zip(products, numbers, strict=True) if number is not None and test and test(number, bound))


def sort_products(world: World, arguments: Json) -> Json:
    order = arguments.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ToolError(f"order must be asc or desc, not {order!r}")
    key = _word(arguments["sort_by"], "sort_by").lower()
    ids = _sequence(arguments.get("product_ids") or [], "product_ids")
    by_id = world.case.by_id
    products = [by_id[each] for each in ids if isinstance(each, str) and each in by_id] if ids else list(world.case.products)
    if not products:
        return {"sorted_product_ids": []}
    rows = list(zip(_values(products, key), (product["product_id"] for product in products), strict=True))
    lacking = (MISSING, None)
    if rows[0][0] in lacking:
        raise ToolError(f"product {rows[0][1]} has no {key!r}")
    known = [(value.lower() if isinstance(value, str) else value, name) for value, name in rows if value not in lacking]
    known.sort(key=operator.itemgetter(0), reverse=order == "desc")
    return {"sorted_product_ids": [name for _, name in known] + [name for value, name in rows if value in lacking]}


def get_product_details(world: World, arguments: Json) -> str:
    rendered = world.case.rendered
    ids = _sequence(arguments["product_ids"], "product_ids")
    found = [rendered[each] for each in ids if isinstance(each, str) and each in rendered]
    return '{\n  "products": [\n    ' + ",\n    ".join(found) + "\n  ]\n}" if found else render({"products": []})


def calculate_transport_time(world: World, arguments: Json) -> Json:
    key, address = arguments["product_id"], arguments["destination_address"]
    product = world.case.by_id.get(key) if isinstance(key, str) else None
    if product is None:
        raise ToolError(f"unknown product id {key!r}")
    shipping = product.get("shipping_info") or {}
    origin = shipping.get("origin")
    if not origin:
        raise ToolError(f"product {key!r} has no place of shipping")
    start, end = province(origin), province(_word(address, "destination_address"))
    if start is None or end is None:
        raise ToolError(f"no province known for {origin if start is None else address!r}")
    provider = shipping.get("provider") or "default"
    return {
        "product_id": key, "origin": origin, "destination": address, "estimated_delivery_days": days(start, end, provider),
    }  # fmt: skip


def get_user_info(world: World, arguments: Json) -> Json:
    asked, user = arguments.get("user_id"), world.case.user
    if asked and asked != user.get("user_id"):
        raise ToolError(f"unknown user {asked!r}", user=None)
    return user


def _chosen(world: World, arguments: Json) -> Sequence[Json]:
    """The products of `product_ids`, in its order; the whole catalogue when it is absent, null or empty."""
    given = arguments.get("product_ids")
    ids = [] if given is None else _sequence(given, "product_ids")
    if not ids:
        return world.case.products
    by_id = world.case.by_id
    if unknown := [each for each in ids if not isinstance(each, str) or each not in by_id]:
        raise ToolError(f"unknown product ids: {', '.join(map(str, unknown))}")
    return [by_id[each] for each in ids]


def _filtered(products: Iterable[Json]) -> Json:
    return {"filtered_products_ids": [product["product_id"] for product in products]}


def _sequence(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | str):
        raise ToolError(f"{name} must be a list, not {value!r}")
    return list(value)


def _word(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ToolError(f"{name} takes text, not {value!r}")
    return value


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _values(products: Iterable[Json], path: Any) -> list[Any]:
    """The products' values at a dotted path, MISSING where one has none."""
    first, *rest = str(path).split(".")
    found = []
    for product in products:
        value: Any = product.get(first, MISSING)
        for key in rest:
            value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
        found.append(value)
    return found


TOOLS: dict[str, Tool] = {
    "search_products": search_products,
    "filter_by_brand": filter_by_brand,
    "filter_by_color": filter_by_color,
    "filter_by_size": filter_by_size,
    "filter_by_applicable_coupons": filter_by_applicable_coupons,
    "filter_by_range": filter_by_range,
    "sort_products": sort_products,
    "get_product_details": get_product_details,
    "calculate_transport_time": calculate_transport_time,
    "get_user_info": get_user_info,
    "add_product_to_cart": cart.add_product,
    "delete_product_from_cart": cart.delete_product,
    "get_cart_info": cart.info,
    "add_coupon_to_cart": cart.add_coupon,
    "delete_coupon_from_cart": cart.delete_coupon,
}
