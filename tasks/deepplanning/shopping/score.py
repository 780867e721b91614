"""Shopping's score: the set of products in the final cart and its coupons, against the ground truth. The text answer is never read.

Kept as published: quantities of products are ignored, and what is in the cart beyond the ground truth costs nothing (a cart with the
whole catalogue scores 1), so `extra_products_count` stands beside every score. A case whose files cannot be read scores 0 and adds
nothing to either side of the match rate; it is an error with a reason, never a plain 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from selbench import ConfigError

from .. import data
from .world import CART, Json

__all__ = ["TRUTH", "across_levels", "case_report", "finished", "level_report", "score"]

TRUTH, MESSAGES = "validation_cases.json", "messages.json"
MOST_INCOMPLETE = 0.1  # share of cases above which a level is flagged as not valid; nothing is discarded
NOT_AN_OBJECT = "not a JSON object with content"


def score(cart: Any, truth: Any) -> Json:
    """Counts and scores of a final cart, both as parsed JSON.

    matched_count, expected_count: products and coupons. score: their ratio, 0 when nothing is expected. case_score: 1 if they are equal.
    coupon_score, extra_products_count: reported only. Raises ConfigError when either is no object, is empty or has rows of another kind.
    """
    for value, what in ((cart, "cart"), (truth, "ground truth")):
        if not isinstance(value, dict) or not value:
            raise ConfigError(f"{what}: {NOT_AN_OBJECT}")
    items = _rows(cart, "items", "product_id")
    coupons = _rows(cart, "used_coupons", "coupon_name")
    expected = {row["product_id"] for row in _rows(truth, "ground_truth_products", "product_id")}
    wanted = truth.get("ground_truth_coupons") or {}
    if not isinstance(wanted, dict):
        raise ConfigError("ground_truth_coupons: not an object of counts by name")
    coupons_matched = sum(row["coupon_name"] in wanted and row.get("quantity") == wanted[row["coupon_name"]] for row in coupons)
    products_matched = len({row["product_id"] for row in items} & expected)
    matched, total = products_matched + coupons_matched, len(expected) + len(wanted)
    return {
        "matched_count": matched, "expected_count": total, "score": matched / total if total else 0.0,
        "case_score": float(matched == total), "coupon_score": coupons_matched / len(wanted) if wanted else 0.0,
        "extra_products_count": sum(row["product_id"] not in expected for row in items),
    }  # fmt: skip


def finished(messages: Any) -> bool:
    """Whether an episode's history ends by itself: neither with a tool's answer nor with a reply that calls tools."""
    history = messages.get("messages") if isinstance(messages, dict) else messages
    if not isinstance(history, list) or not history:
        return False
    last = history[-1] if isinstance(history[-1], dict) else {}
    return last.get("role") != "tool" and not (last.get("role") == "assistant" and last.get("tool_calls"))


def case_report(folder: Path) -> Json:
    """The report of one case's folder (cart.json, validation_cases.json, messages.json).

    With `error`, one line, when cart or ground truth cannot be read; such a case is not completed.
    """
    name = folder.name.removeprefix("case_")
    try:
        cart = _object(folder / CART, "the cart is lost, play the case again")
        truth = _object(folder / TRUTH, "copy it from the case's database")
        found = score(cart, truth)
    except ConfigError as error:
        nothing = {"matched_count": 0, "expected_count": 0, "score": 0.0, "case_score": 0.0, "coupon_score": 0.0, "extra_products_count": 0}
        reason = str(error) if str(folder) in str(error) else f"{folder}: {error}"
        return {"case_id": name, **nothing, "completed": False, "error": reason}
    try:
        completed = finished(data.read_json(folder / MESSAGES))
    except ConfigError:
        completed = False
    return {"case_id": name, **found, "completed": completed, "error": None}


def level_report(reports: Iterable[Json]) -> Json:
    """A level's `overall_statistics` from its cases' reports; every case counts, whatever became of it."""
    cases = list(reports)
    total = len(cases)
    scores = [case["case_score"] for case in cases]
    matched, expected = (sum(case[key] for case in cases) for key in ("matched_count", "expected_count"))
    incomplete = sum(not case["completed"] for case in cases)
    successful = sum(each == 1 for each in scores)
    mean = sum(scores) / total if total else 0.0
    rate = incomplete / total if total else 0.0
    return {
        "total_cases": total, "successful_cases": successful, "failed_cases": total - successful, "average_case_score": mean,
        "average_score": mean, "max_score": max(scores, default=0.0), "min_score": min(scores, default=0.0),
        "total_matched_products": matched, "total_expected_products": expected,
        "total_extra_products": sum(case["extra_products_count"] for case in cases),
        "cases_with_extra_products": sum(case["extra_products_count"] > 0 for case in cases),
        "overall_match_rate": matched / expected if expected else 0.0, "incomplete_cases": incomplete, "incomplete_rate": rate,
        "error_cases": sum(case["error"] is not None for case in cases), "valid": rate <= MOST_INCOMPLETE,
    }  # fmt: skip


def across_levels(levels: Mapping[int, Json]) -> Json:
    """`total` over the levels found, each an `overall_statistics`: sums first, ratios after; missing levels are not filled in."""
    found = [levels[level] for level in sorted(levels)]
    cases, successful, matched, expected, extra = (
        sum(level[key] for level in found)
        for key in ("total_cases", "successful_cases", "total_matched_products", "total_expected_products", "total_extra_products")
    )
    weighted = sum(level["average_case_score"] * level["total_cases"] for level in found)
    return {
        "total_cases": cases, "successful_cases": successful, "successful_rate": successful / cases if cases else 0.0,
        "total_matched_products": matched, "total_expected_products": expected, "total_extra_products": extra,
        "match_rate": matched / expected if expected else 0.0, "weighted_average_case_score": weighted / cases if cases else 0.0,
        "valid": bool(found) and all(level["valid"] for level in found), "levels_completed": sorted(levels),
    }  # fmt: skip


def _object(path: Path, remedy: str) -> Json:
    found = data.read_json(path, remedy)
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{path}: {NOT_AN_OBJECT}; {remedy}")
    return found


def _rows(holder: Json, table: str, key: str) -> list[Json]:
    """The rows of a table, none when it is absent. Raises ConfigError when they are not objects with a text `key`."""
    rows = holder.get(table) or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get(key), str) for row in rows):
        raise ConfigError(f"{table}: not a list of objects with {key}")
    return rows
