"""A second shopping environment, small and slow, written from the published rules alone: what the first is compared with."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable
from functools import reduce
from typing import Any

Json = dict[str, Any]
AMOUNTS = {
    "Cross-store": [(30, "300"), (60, "500"), (120, "900"), (200, "1,200"), (300, "1,500")],
    "Same-brand": [(25, "200"), (60, "400"), (180, "1,000"), (300, "1,200")],
    "VIP": [(200, "1,000")],
}
COUPONS = {
    f"{kind}: ¥{off} off every ¥{every}": (off, int(every.replace(",", ""))) for kind, row in AMOUNTS.items() for off, every in row
}  # name: discount, threshold
REGIONS = """1 beijing bj 北京 NC|2 shanghai sh 上海 EC|3 tianjin tj 天津 NC|4 chongqing cq 重庆 SW|5 hebei ji 河北 NC|6 shanxi jin 山西 NC
7 liaoning liao 辽宁 NE|8 jilin ji_ln 吉林 NE|9 heilongjiang hei 黑龙江 NE|10 jiangsu su 江苏 EC|11 zhejiang zhe 浙江 EC
12 anhui wan 安徽 EC|13 fujian min 福建 EC|14 jiangxi gan 江西 EC|15 shandong lu 山东 EC
16 henan yu 河南 CC|17 hubei e 湖北 CC|18 hunan xiang 湖南 CC
19 guangdong yue gd 广东 SC|20 hainan qiong 海南 SC|21 sichuan chuan shu 四川 SW|22 guizhou qian gui_gz 贵州 SW|23 yunnan yun dian 云南 SW
24 shaanxi shan qin 陕西 NW|25 gansu gan_gs 甘肃 NW|26 qinghai qing 青海 NW|27 neimenggu meng 内蒙古 NC|28 guangxi gui 广西 SC
29 tibet xizang zang 西藏 SW|30 ningxia ning 宁夏 NW|31 xinjiang xin 新疆 NW|32 hongkong hk xianggang 香港 SC|33 macau mo aomen 澳门 SC
34 taiwan tw 台湾 SC"""
PLACES = [entry.split() for line in REGIONS.split("\n") for entry in line.split("|")]
FAR = {"26", "27", "29", "31"}
MATRIX = """
1 2 2 2 3 3 3
2 1 3 3 4 4 4
2 3 1 2 2 3 4
2 3 2 1 2 2 3
3 4 2 2 1 3 4
3 4 3 2 3 1 3
3 4 4 3 4 3 1"""
ZONES = ["NC", "NE", "EC", "CC", "SC", "SW", "NW"]
CARRIERS = {"sf express": -2, "sf": -2, "jd logistics": -1, "china post": 2} | dict.fromkeys(
    ["yto express", "zto express", "sto express", "yunda express", "cainiao"], 1
)
WORDS = (
    "brand", "color", "size", "thickness", "elasticity", "version_type", "collar_type", "suitable_season", "target_demographic", "name",
)  # fmt: skip
NEEDED = {
    "search_products": ["query"], "filter_by_brand": ["brand_names"], "filter_by_color": ["colors"], "filter_by_size": ["sizes"],
    "filter_by_applicable_coupons": ["coupon_names"], "filter_by_range": ["condition_key", "operator", "value"],
    "sort_products": ["sort_by"], "get_product_details": ["product_ids"],
    "calculate_transport_time": ["product_id", "destination_address"], "add_product_to_cart": ["product_id"],
    "delete_product_from_cart": ["product_id"], "add_coupon_to_cart": ["coupon_name"], "delete_coupon_from_cart": ["coupon_name"],
}  # fmt: skip


class Bad(Exception):
    """The call is answered with an error."""


def require(condition: object) -> None:
    if not condition:
        raise Bad


def added(values: Iterable[float]) -> float:
    """From left to right: equal scores must be equal to the last bit, and `sum` compensates from Python 3.12 on."""
    return reduce(operator.add, values, 0.0)


class Shop:
    """The same world: `answer(tool, arguments)` gives the result, or raises (anything) where an error is due. `rows`, `used`: the cart."""

    def __init__(self, products: list[Json], user: Json) -> None:
        self.products, self.user = products, user
        self.ids = [product["product_id"] for product in products]
        self.rows: dict[str, int] = {}
        self.used: dict[str, int] = {}
        self.shown = 0.0

    def answer(self, tool: str, given: Json) -> Any:
        for key in NEEDED.get(tool, []):
            require(key in given)
        return getattr(self, tool)(given)

    def product(self, key: str) -> Json:
        return self.products[self.ids.index(key)]

    def among(self, given: Json) -> list[Json]:
        ids = given.get("product_ids")
        require(ids is None or type(ids) in (list, str))
        require(all(key in self.ids for key in ids or []))
        return [self.product(key) for key in ids] if ids else self.products

    def search_products(self, given: Json) -> Any:
        query, limit = given["query"], given.get("limit")
        limit = 20 if limit is None else limit
        require(type(limit) is int and (query is None or isinstance(query, str)))
        words = (query or "").lower().split()
        values = [["" if row.get(field) is None else str(row[field]) for field in WORDS] for row in self.products]
        texts = [Counter(" ".join(row).lower().split()) for row in values]
        lengths = [text.total() for text in texts]
        mean, total = sum(lengths) / len(lengths), len(texts)
        holding = Counter(word for text in texts for word in text)
        raw = {word: math.log(total - n + 0.5) - math.log(n + 0.5) for word, n in holding.items()}
        floor = 0.25 * added(raw.values()) / len(raw)
        scored = []
        for place, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            parts = [(raw.get(w, 0) if raw.get(w, 0) >= 0 else floor, text[w] * 2.5, text[w]) for w in words]
            score = added(idf * (gain / (f + 1.5 * (0.25 + 0.75 * length / mean))) for idf, gain, f in parts)
            scored.append((-score, place))
        return [self.ids[place] for score, place in sorted(scored) if -score > 2][: max(limit, 0)]

    def equal(self, given: Json, field: str, key: str) -> Any:
        require(type(given[key]) in (list, str))
        wanted = [each.lower() for each in given[key]]
        return [row["product_id"] for row in self.among(given) if str(row.get(field) or "").lower() in wanted]

    def filter_by_brand(self, given: Json) -> Any:
        return self.equal(given, "brand", "brand_names")

    def filter_by_color(self, given: Json) -> Any:
        return self.equal(given, "color", "colors")

    def filter_by_size(self, given: Json) -> Any:
        return self.equal(given, "size", "sizes")

    def filter_by_applicable_coupons(self, given: Json) -> Any:
        rows, names = self.among(given), given["coupon_names"]
        require(type(names) in (list, str) and all(name in COUPONS for name in names))
        return [row["product_id"] for row in rows if names and all(name in (row.get("applicable_coupons") or []) for name in names)]

    def filter_by_range(self, given: Json) -> Any:
        key, sign, bound = given["condition_key"], given["operator"], float(given["value"])
        require(key and sign)
        kept = []
        for row in self.among(given):
            value: Any = row
            for part in key.split("."):
                value = value[part]
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue
            tests = {">": number > bound, ">=": number >= bound, "<": number < bound, "<=": number <= bound, "==": number == bound}
            if isinstance(sign, str) and tests.get(sign):
                kept.append(row["product_id"])
        return kept

    def sort_products(self, given: Json) -> Any:
        key, order = given["sort_by"].lower(), given.get("order", "desc")
        require(order in ("asc", "desc"))
        ids = given.get("product_ids") or self.ids
        require(type(ids) in (list, str))
        rows = [self.product(each) for each in ids if each in self.ids]

        def value(row: Any) -> Any:
            for part in key.split("."):
                row = row.get(part) if isinstance(row, dict) else None
            return row.lower() if isinstance(row, str) else row

        require(not rows or value(rows[0]) is not None)
        there = [row for row in rows if value(row) is not None]
        ordered = sorted(there, key=value, reverse=order == "desc")
        return [row["product_id"] for row in ordered + [row for row in rows if value(row) is None]]

    def get_product_details(self, given: Json) -> Any:
        require(type(given["product_ids"]) in (list, str))
        return [self.product(key) for key in given["product_ids"] if key in self.ids]

    def place(self, address: str) -> list[str]:
        plain = address.lower().replace(" ", "").replace("province", "").replace("city", "")
        exact = [place for place in PLACES if plain in place[1:-1]]
        return (exact or [place for place in PLACES if any(alias in plain for alias in place[1:-1])])[0]

    def calculate_transport_time(self, given: Json) -> Any:
        shipping = self.product(given["product_id"])["shipping_info"]
        ends = self.place(shipping["origin"]), self.place(given["destination_address"])
        across, down = (ZONES.index(place[-1]) for place in ends)
        base = int(MATRIX.split()[7 * across + down])
        carrier = CARRIERS.get((shipping.get("provider") or "default").lower(), 0)
        return max(1, base + 2 * any(place[0] in FAR for place in ends) + carrier)

    def get_user_info(self, given: Json) -> Any:
        require(not given.get("user_id") or given["user_id"] == self.user["user_id"])
        return self.user

    def count(self, given: Json) -> int:
        value = given.get("quantity", 1)
        require(type(value) in (int, float) and value > 0)
        return int(value)

    def price(self) -> float:
        return round(sum(self.product(key)["price"] * n for key, n in self.rows.items()), 2)

    def add_product_to_cart(self, given: Json) -> Any:
        row, asked = self.product(given["product_id"]), self.count(given)
        held = self.rows.get(row["product_id"], 0)
        require(held + asked <= row["stock_quantity"] and isinstance(row["name"], str) and float(row["price"]) >= 0)
        self.rows[row["product_id"]] = held + asked
        self.shown = self.price()

    def delete_product_from_cart(self, given: Json) -> Any:
        key, asked = self.product(given["product_id"])["product_id"], self.count(given)
        self.rows[key] -= asked
        if self.rows[key] <= 0:
            del self.rows[key]
        self.shown = self.price()

    def get_cart_info(self, given: Json) -> Any:
        return None

    def add_coupon_to_cart(self, given: Json) -> Any:
        name, asked = given["coupon_name"], self.count(given)
        after = dict(self.used) | {name: self.used.get(name, 0) + asked}
        require(name in COUPONS and after[name] <= self.user["coupons"].get(name, 0))
        require(self.user["is_vip"] or name[:4] != "VIP:")
        require(sum(COUPONS[each][1] * n for each, n in after.items()) <= self.price())
        self.used = after
        self.discounted()

    def delete_coupon_from_cart(self, given: Json) -> Any:
        name, asked = given["coupon_name"], self.count(given)
        require(name in COUPONS and self.used[name] >= asked)
        self.used[name] -= asked
        if not self.used[name]:
            del self.used[name]
        self.discounted()

    def discounted(self) -> None:
        self.shown = round(max(0.0, self.price() - sum(COUPONS[name][0] * n for name, n in self.used.items())), 2)
