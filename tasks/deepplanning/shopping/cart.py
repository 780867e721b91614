"""The six tools of the cart and its coupons. Each reads the cart anew and writes it once all tests have passed.

Kept as published: product tools show a total without discounts, coupon tools one with them; removing a product never re-checks a coupon;
thresholds add up over all coupons against the undiscounted total; neither the brand nor `applicable_coupons` is tested.
"""

from __future__ import annotations

import math
from typing import Any

from .world import COUPONS, Json, ToolError, World, render

__all__ = ["add_coupon", "add_product", "delete_coupon", "delete_product", "info"]


def info(world: World, arguments: Json) -> str:
    """The cart as it is."""
    return render(world.cart(coupons=False))


def add_product(world: World, arguments: Json) -> str:
    """Put a product in the cart, at most as many as are in stock."""
    product = _product(world, arguments)
    asked = _quantity(arguments)
    cart = world.cart(coupons=False)
    row = _row(cart, "items", "product_id", product["product_id"])
    held, stock = (row["quantity"] if row else 0), product["stock_quantity"]
    if held + asked > stock:
        raise ToolError(f"{product['product_id']}: not enough stock (in stock {stock}, in cart {held}, asked for {asked})")
    if row:
        row["quantity"] = held + asked
    else:
        entry = {"product_id": product["product_id"], "name": product["name"], "quantity": asked, "price": float(product["price"])}
        cart["items"].append(entry)
    return _close(world, cart, discounts=False)


def delete_product(world: World, arguments: Json) -> str:
    """Take a product out of the cart."""
    product = _product(world, arguments)
    asked = _quantity(arguments)
    cart = world.cart(coupons=False)
    row = _row(cart, "items", "product_id", product["product_id"])
    if row is None:
        raise ToolError(f"product {product['product_id']!r} is not in the cart")
    _take(cart["items"], row, asked)
    return _close(world, cart, discounts=False)


def add_coupon(world: World, arguments: Json) -> str:
    """Use a coupon that the user owns, if the undiscounted total carries its threshold with those of all coupons used."""
    name = _coupon_given(arguments)
    asked = _quantity(arguments)
    _coupon_known(name)
    cart = world.cart(coupons=True)
    row = _row(cart, "used_coupons", "coupon_name", name)
    held = sum(entry["quantity"] for entry in cart["used_coupons"] if entry["coupon_name"] == name)
    owned = (world.case.user.get("coupons") or {}).get(name, 0)
    if held + asked > owned:
        raise ToolError(f"{name}: the user owns {owned} (in cart {held}, asked for {asked})")
    if name.startswith("VIP:") and not world.case.user.get("is_vip"):
        raise ToolError(f"{name}: the user is not a VIP")
    needed = _over_coupons(cart, "threshold") + COUPONS[name].threshold * asked
    total = _total(cart)
    if needed > total:
        raise ToolError(f"{name}: the coupons' thresholds add up to {needed}, more than the cart's {total}")
    if row:
        row["quantity"] += asked
    else:
        cart["used_coupons"].append({"coupon_name": name, "quantity": asked})
    return _close(world, cart, discounts=True)


def delete_coupon(world: World, arguments: Json) -> str:
    """Take back a coupon; more than are in the cart is an error, though the published description promises removal."""
    name = _coupon_given(arguments)
    asked = _quantity(arguments)
    _coupon_known(name)
    cart = world.cart(coupons=True)
    row = _row(cart, "used_coupons", "coupon_name", name)
    if row is None:
        raise ToolError(f"coupon {name!r} is not in the cart")
    if asked > row["quantity"]:
        raise ToolError(f"{name}: {row['quantity']} in the cart, asked to remove {asked}")
    _take(cart["used_coupons"], row, asked)
    return _close(world, cart, discounts=True)


def _product(world: World, arguments: Json) -> Json:
    key = arguments["product_id"]
    product = world.case.by_id.get(key) if isinstance(key, str) else None
    if product is None:
        raise ToolError(f"unknown product id {key!r}")
    return product


def _coupon_given(arguments: Json) -> Any:
    name = arguments["coupon_name"]
    if not name:
        raise ToolError(f"coupon_name is empty: {name!r}")
    return name


def _coupon_known(name: Any) -> None:
    if not isinstance(name, str) or name not in COUPONS:
        raise ToolError(f"unknown coupon {name!r}; coupons: {'; '.join(COUPONS)}")


def _quantity(arguments: Json) -> int:
    """A JSON number above 0, cut to an integer: a half passes and counts 0."""
    value = arguments.get("quantity", 1)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0 or value == math.inf:
        raise ToolError(f"quantity must be a number above 0, not {value!r}")
    return int(value)


def _row(cart: Json, table: str, key: str, wanted: str) -> Json | None:
    """The first row of that name; the table is made where the cart has none."""
    rows: list[Json] = cart.setdefault(table, [])
    return next((row for row in rows if row[key] == wanted), None)


def _take(rows: list[Json], row: Json, count: int) -> None:
    """Take `count` of a row; it goes when nothing is left of it."""
    row["quantity"] -= count
    if row["quantity"] <= 0:
        rows.remove(row)


def _total(cart: Json) -> float:
    """Price times quantity over the cart, in yuan to the fen, no discount."""
    return round(sum(row["price"] * row["quantity"] for row in cart.get("items", [])), 2)


def _over_coupons(cart: Json, amount: str) -> int:
    used = [row for row in cart["used_coupons"] if row["coupon_name"] in COUPONS]
    return sum(getattr(COUPONS[row["coupon_name"]], amount) * row["quantity"] for row in used)


def _close(world: World, cart: Json, *, discounts: bool) -> str:
    total = max(0.0, _total(cart) - _over_coupons(cart, "discount")) if discounts else _total(cart)
    count = sum(row["quantity"] for row in cart.get("items", []))
    cart["summary"] = {"total_items_count": count, "total_price": round(total, 2)}
    return world.put(cart)
