"""What the model is told of the fifteen tools, in words of our own, with the names, types, enums and required keys of the published schema.

Where the published file is at hand, `data.schema("shopping", level)` is the text for numbers that are to be compared with others'.
"""

from __future__ import annotations

from typing import Any

from selbench import environment

__all__ = ["REQUIRED", "SCHEMA", "refuse"]

Parameter = dict[str, Any]


def _text(words: str, **beside: Any) -> Parameter:
    return {"type": "string", "description": words, **beside}


def _texts(words: str) -> Parameter:
    return {"type": "array", "items": {"type": "string"}, "description": words}


def _count(words: str) -> Parameter:
    return {"type": "integer", "description": words}


AMONG = _texts("Product ids to look among; the whole catalogue when left out.")
PRODUCT = _text("Id of a product in the catalogue.")
COUPON = _text("Exact name of a coupon, for example 'Cross-store: ¥30 off every ¥300'.")
NUMBERS = ["price", "stock_quantity", "sales_volume.monthly", "sales_volume.total", "rating.average_score", "rating.total_reviews"]
ORDERED = ["price", "sales_volume.monthly", "sales_volume.total", "rating.average_score", "stock_quantity", "name"]
ROUTE = "Province of the destination in pinyin, for example 'guangdong'."
TABLE: dict[str, tuple[str, dict[str, Parameter], list[str]]] = {
    "search_products": (
        "Finds products by words of their name, brand, colour, size and other properties, best match first.",
        {"query": _text("Words to look for."), "limit": _count("Most ids to return; 20 when left out.")}, ["query"],
    ),
    "filter_by_brand": (
        "Keeps products of any of the given brands.",
        {"product_ids": AMONG, "brand_names": _texts("Brands, spelt in full; case does not matter.")}, ["brand_names"],
    ),
    "filter_by_color": (
        "Keeps products of any of the given colours.",
        {"product_ids": AMONG, "colors": _texts("Colours, spelt in full; case does not matter.")}, ["colors"],
    ),
    "filter_by_size": (
        "Keeps products of any of the given sizes.",
        {"product_ids": AMONG, "sizes": _texts("Sizes as text, for example 'M' or '42'; case does not matter.")}, ["sizes"],
    ),
    "filter_by_applicable_coupons": (
        "Keeps products to which all of the given coupons apply.",
        {"product_ids": AMONG, "coupon_names": _texts("Exact names of coupons.")}, ["coupon_names"],
    ),
    "filter_by_range": (
        "Keeps products with a number above, below or equal to a value.",
        {
            "product_ids": AMONG, "condition_key": _text("The number to compare.", enum=NUMBERS),
            "operator": _text("How to compare.", enum=[">", ">=", "<", "<=", "=="]),
            "value": {"type": "number", "description": "The value to compare with."},
        }, ["condition_key", "operator", "value"],
    ),
    "sort_products": (
        "Puts products in order.",
        {
            "product_ids": AMONG, "sort_by": _text("What to order by.", enum=ORDERED),
            "order": _text("Ascending or descending; descending when left out.", enum=["asc", "desc"], default="desc"),
        }, ["sort_by"],
    ),
    "get_product_details": ("Gives all that the catalogue says of products.", {"product_ids": _texts("Product ids.")}, ["product_ids"]),
    "calculate_transport_time": (
        "Estimates the days that a product takes from where it ships to a province.",
        {"product_id": PRODUCT, "destination_address": _text(ROUTE), "provider": _text("Carrier, for example 'sf_express'.")},
        ["product_id", "destination_address"],
    ),
    "get_user_info": (
        "Gives the user's profile: measurements, sizes, address, coupons owned.",
        {"user_id": _text("Id of a user; the present one when left out.")}, [],
    ),
    "add_product_to_cart": (
        "Puts a product in the cart, within its stock. Gives the cart.",
        {"product_id": PRODUCT, "quantity": _count("How many to add; 1 when left out.")}, ["product_id"],
    ),
    "delete_product_from_cart": (
        "Takes a product out of the cart, or some of it. Gives the cart.",
        {"product_id": PRODUCT, "quantity": _count("How many to remove; 1 when left out.")}, ["product_id"],
    ),
    "get_cart_info": ("Gives the cart: items, coupons used, totals.", {}, []),
    "add_coupon_to_cart": (
        "Uses a coupon that the user owns and whose threshold the cart meets. Gives the cart with the price after discounts.",
        {"coupon_name": COUPON, "quantity": _count("How many to use; 1 when left out.")}, ["coupon_name"],
    ),
    "delete_coupon_from_cart": (
        "Takes a coupon back. Gives the cart with the price after discounts.",
        {"coupon_name": COUPON, "quantity": _count("How many to take back; 1 when left out.")}, ["coupon_name"],
    ),
}  # fmt: skip
REQUIRED = {name: required for name, (_, _, required) in TABLE.items()}
SCHEMA: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name, "description": words, "parameters": {"type": "object", "properties": properties, "required": required},
        },
    }
    for name, (words, properties, required) in TABLE.items()
]  # fmt: skip


def refuse(name: str, arguments: dict[str, Any]) -> None:
    """Check a call that a person typed, more strictly than the tools check a model's. Raises UserError, a line for each problem."""
    environment.refuse(SCHEMA, name, arguments)
