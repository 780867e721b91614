"""A shopping case (catalogue, profile, query: shared, never changed) and one episode's world (its own cart, copied on the first write).

The ground truth stands in `validation_cases.json`, which nothing in this module opens.
Source: DeepPlanning (arXiv:2601.18137), data version 1.1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from json.encoder import encode_basestring as quoted
from pathlib import Path
from typing import Any

from selbench import ConfigError

from .. import data
from .search import Index

__all__ = ["COUPONS", "LEVELS", "Case", "Coupon", "Json", "ToolError", "World", "load", "open_case", "render"]

Json = dict[str, Any]
LEVELS = (1, 2, 3)
CART = "cart.json"


class ToolError(Exception):
    """What a tool answers instead of a result: `text`, and keys beside it."""

    def __init__(self, text: str, **beside: Any) -> None:
        super().__init__(text)
        self.beside = beside


@dataclass(frozen=True)
class Coupon:
    """A kind of coupon; amounts in yuan."""

    discount: int
    threshold: int


COUPONS = {
    f"{kind}: ¥{discount} off every ¥{threshold:,}": Coupon(discount, threshold)
    for kind, discount, threshold in [
        ("Cross-store", 30, 300), ("Cross-store", 60, 500), ("Cross-store", 120, 900), ("Cross-store", 200, 1200),
        ("Cross-store", 300, 1500),
        ("Same-brand", 25, 200), ("Same-brand", 60, 400), ("Same-brand", 180, 1000), ("Same-brand", 300, 1200), ("VIP", 200, 1000),
    ]
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What all episodes of a case share. `products` in catalogue order; `start` is the text of the untouched cart, None without one."""

    level: int
    name: str
    folder: Path
    query: str
    products: tuple[Json, ...]
    user: Json
    start: str | None

    @cached_property
    def by_id(self) -> dict[str, Json]:
        return {product["product_id"]: product for product in self.products}

    @cached_property
    def index(self) -> Index:
        """Raises ConfigError when rank-bm25 is not installed, ValueError when the catalogue has no word."""
        return Index(self.products)

    @cached_property
    def rendered(self) -> dict[str, str]:
        """Each product as it stands in a result: rendering them anew would be half of a tool call's time."""
        return {key: render(product).replace("\n", "\n    ") for key, product in self.by_id.items()}


class World:
    """One episode: a case and its own cart, in memory or, with `folder`, in the file `cart.json` there. The database is never written."""

    def __init__(self, case: Case, folder: Path | None = None) -> None:
        self.case = case
        self._file = None if folder is None else folder / CART
        self._own: str | None = None  # None until the first write: the case's cart is read

    @property
    def text(self) -> str | None:
        """The cart's present text; None when there is none."""
        if self._file is None:
            return self.case.start if self._own is None else self._own
        try:
            return self._file.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return self.case.start if self._own is None else None
        except (OSError, ValueError):
            return None

    def cart(self, *, coupons: bool) -> Json:
        """A fresh copy of the cart. A missing, empty or unreadable one is an empty cart, with `used_coupons` only if asked for."""
        try:
            found = json.loads(self.text or "")
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and found:
            return found
        user = self.case.user
        empty: Json = {"user_id": user.get("user_id"), "user_name": user.get("username"), "items": []}
        return empty | ({"used_coupons": []} if coupons else {}) | {"summary": {"total_items_count": 0, "total_price": 0.0}}

    def put(self, cart: Json) -> str:
        """Replace the cart, at once or not at all. Returns its text."""
        text = render(cart)
        if self._file is not None:
            data.write_text(self._file, text)
        self._own = text
        return text


def open_case(level: int | str, name: int | str) -> Case:
    """A case of the benchmark. Raises ConfigError for an unknown level or case and for a missing or broken database."""
    row = data.query("shopping", level, name)
    return load(data.database("shopping", level, name), level=int(level), query=row["query"])


def load(folder: Path, *, level: int, query: str) -> Case:
    """A case from its folder (products.jsonl, user_info.json, cart.json). Raises ConfigError, one line, naming file and line."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; a shopping case is a folder with products.jsonl, user_info.json and {CART}")
    user = data.read_json(folder / "user_info.json")
    if not isinstance(user, dict):
        raise ConfigError(f"{folder / 'user_info.json'}: not a JSON object; fetch it again")
    name = folder.name.removeprefix("case_")
    return Case(level, name, folder, query, _products(folder / "products.jsonl"), user, _text(folder / CART))


def _products(path: Path) -> tuple[Json, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not readable ({error}); a shopping case needs its catalogue there") from error
    found: dict[str, Json] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            product = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: line {number} is not JSON ({error}); fetch it again") from error
        key = product.get("product_id") if isinstance(product, dict) else None
        if not isinstance(key, str) or not key:
            raise ConfigError(f"{path}: line {number} is not an object with a product_id; fetch it again")
        if key in found:
            raise ConfigError(f"{path}: line {number} repeats product {key!r}; fetch it again")
        found[key] = product
    if not found:
        raise ConfigError(f"{path}: no product; fetch it again")
    return tuple(found.values())


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        return None


def render(value: Any) -> str:
    """A tool's answer as text: indented JSON, non-ASCII kept, half of a surrogate pair escaped (no file and no tokenizer takes one)."""
    text = _indented(value, "\n")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _indented(value: Any, line: str) -> str:
    """`json.dumps(value, ensure_ascii=False, indent=2)` to the letter, several times as fast: the library's C code does not indent."""
    if isinstance(value, str):
        return quoted(value)
    inner = line + "  "
    if isinstance(value, dict) and value:
        return f"{{{','.join([f'{inner}{quoted(key)}: {_indented(each, inner)}' for key, each in value.items()])}{line}}}"
    if isinstance(value, list | tuple) and value:
        return f"[{','.join([inner + _indented(each, inner) for each in value])}{line}]"
    return json.dumps(value)
