"""A small invented shopping case: six products, 24 fillers for the search, a user with coupons; and the ways to break its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REAL = [(1, "1"), (1, "2"), (1, "3"), (1, "4"), (2, "1"), (2, "2"), (2, "3"), (3, "1"), (3, "2"), (3, "3")]  # level, case
CS30, CS200 = "Cross-store: ¥30 off every ¥300", "Cross-store: ¥200 off every ¥1,200"
SB25, VIP = "Same-brand: ¥25 off every ¥200", "VIP: ¥200 off every ¥1,000"
CS60 = "Cross-store: ¥60 off every ¥500"
OWNED = {CS30: 2, CS200: 1, SB25: 3, VIP: 1}
EMPTY = {"user_id": "u1", "user_name": "Ann", "items": [], "used_coupons": [], "summary": {"total_items_count": 0, "total_price": 0.0}}
USER = {
    "user_id": "u1", "username": "Ann", "phone_number": "1", "is_vip": False, "coupons": OWNED,
    "shipping_addresses": {"phone": "1", "province": "Anhui", "city": "Hefei", "detail_address": "望江西路"},
}  # fmt: skip
FIELDS = ("name", "price", "brand", "color", "size", "stock_quantity", "monthly", "total", "score", "reviews", "origin", "provider")
ROWS: dict[str, tuple[Any, ...]] = {
    "p01": ("Trail Runner Shoes", 600, "Acme", "Black", "43", 12, 300, 4000, 4.6, 500, "Shanghai", "SF Express", [CS30, SB25]),
    "p02": ("Trail Runner Shoes", 650, "Acme", "Blue", "43", 5, 80, 900, 4.6, 500, "Shanghai", "SF Express", [CS30]),
    "p03": ("Fleece Jacket", 700, "Borealis", "Green", "L", 3, 210, 2100, 4.8, 500, "Zhejiang", "YTO Express", [CS30, SB25, VIP]),
    "p04": ("Rain Shell", 400, "Borealis", "green", "L", 0, 50, 300, 4.1, 90, "Shanghai", "SF Express", None),
    "p05": ("Wool Cap", 99.5, "Cirrus", "Grey", "M", 100, 500, 9000, 4.6, 1500, "Guangdong", "JD Logistics", None),
    "p06": ("Wool Cap", 99.5, "Cirrus", "Red", "M", 100, 20, 200, 3.9, 40, "Tibet", "China Post", None),
}
SPECIAL = {"p03": {"suitable_season": "Winter"}, "p05": {"target_demographic": "Unisex"}, "p06": {"target_demographic": "Unisex"}}


def product(key: str, row: tuple[Any, ...], **changes: Any) -> dict[str, Any]:
    """A catalogue row."""
    *values, coupons = row
    given = dict(zip(FIELDS, values, strict=True))
    stars = {f"{n}_star": given["reviews"] // (6 - n) for n in (5, 4, 3, 2, 1)}
    found = {
        "product_id": key, **{name: given[name] for name in FIELDS[:6]},
        "thickness": "Regular", "elasticity": "Non-stretch", "version_type": "Regular Fit", "collar_type": "Crew Neck",
        "suitable_season": "All Seasons", "target_demographic": "Men",
        "sales_volume": {"monthly": given["monthly"], "total": given["total"]},
        "rating": {"average_score": given["score"], "total_reviews": given["reviews"], "distribution": stars},
        "shipping_info": {"origin": given["origin"], "provider": given["provider"]},
    }  # fmt: skip
    return found | changes | ({} if coupons is None else {"applicable_coupons": coupons})


def catalogue(fillers: int = 0) -> list[dict[str, Any]]:
    """p01 to p06, then `fillers` products that share no word with them but the common ones."""
    found = [product(key, row, **SPECIAL.get(key, {})) for key, row in ROWS.items()]
    for n in range(1, fillers + 1):
        row = (f"Filler Item{n:02}", 10, f"Brand{n:02}", f"Tone{n:02}", f"S{n:02}", 1, 1, 1, 4.0, 10, "Hubei", "EMS", None)
        found.append(product(f"f{n:02}", row, target_demographic="Kids"))
    return found


def truth(products: tuple[str, ...] = ("p01", "p03", "p05"), coupons: dict[str, int] | None = None) -> dict[str, Any]:
    """The content of validation_cases.json."""
    rows = {row["product_id"]: row for row in catalogue()}
    wanted = {CS200: 1} if coupons is None else coupons
    found = {"query": "shoes", "ground_truth_products": [rows[key] for key in products], "meta_info": [{"sub_query": "s", "features": []}]}
    return found | ({"ground_truth_coupons": wanted} if wanted else {})


def write_case(folder: Path, products: list[dict[str, Any]] | None = None, user: dict[str, Any] | None = None, **files: Any) -> Path:
    """A case folder: `cart` and `truth` replace the empty cart and the ground truth; None leaves a file out, a text is written as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in (catalogue() if products is None else products)]
    (folder / "products.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "user_info.json").write_text(json.dumps(USER if user is None else user, ensure_ascii=False), encoding="utf-8")
    for name, content in (("cart", files.get("cart", EMPTY)), ("validation_cases", files.get("truth", truth()))):
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def answer_of(case: Any) -> dict[str, Any]:
    """A case's ground truth, read from its file."""
    return json.loads((case.folder / "validation_cases.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]
