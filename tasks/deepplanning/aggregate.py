"""Both halves of DeepPlanning as one result: `avg_acc` and what stands beside it.

`successful_cases` counts perfect cases in shopping but merely evaluated plans in travel, as published: neither the sum nor the mixed rate
should be compared with anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import data

__all__ = ["aggregate", "write"]

SHOPPING = ("match_rate", "weighted_average_case_score")
TRAVEL = ("composite_score", "case_acc", "commonsense_score", "personalized_score")
Json = dict[str, Any]


def aggregate(shopping: Json | None, travel: Mapping[str, Json] | None) -> Json:
    """The aggregate of `total` of a shopping statistics file and of each language's `evaluation_summary.json`; None for a missing half.

    `overall.avg_acc` = (shopping weighted case score + travel case accuracy) / 2, None unless both halves are there.
    """
    domains: Json = {}
    if shopping:
        kept = ("total_cases", "successful_cases", "successful_rate", "valid", "levels_completed", *SHOPPING)
        domains["shopping"] = {key: shopping[key] for key in kept}
    if travel:
        domains["travel"] = _travel(travel)
    overall: Json = {
        "total_cases": sum(domain["total_cases"] for domain in domains.values()),
        "successful_cases": sum(domain["successful_cases"] for domain in domains.values()),
        "successful_rate": _mean([domain["successful_rate"] for domain in domains.values()]),
        "valid": bool(domains) and all(domain["valid"] for domain in domains.values()),
    }
    for name, keys in (("shopping", SHOPPING), ("travel", TRAVEL)):
        overall |= {f"{name}_{key}": domains[name][key] for key in keys if name in domains}
    both = {"shopping", "travel"} <= set(domains)
    overall["avg_acc"] = (overall["shopping_weighted_average_case_score"] + overall["travel_case_acc"]) / 2 if both else None
    return {"domains": domains, "overall": overall}


def write(root: Path, model: str, result: Json) -> Path:
    """Write `aggregated_results/{model}_aggregated.json`; returns its path."""
    path = root / "aggregated_results" / f"{model.replace('/', '_')}_aggregated.json"
    data.write_text(path, json.dumps({"model": model, "data_version": data.VERSION, **result}, ensure_ascii=False, indent=2))
    return path


def _travel(languages: Mapping[str, Json]) -> Json:
    """Counts are sums, metrics unweighted means over the languages."""
    details = {
        language: {
            "total_cases": found["total_test_samples"], "successful_cases": found["evaluation_success_count"],
            "successful_rate": found["evaluation_success_count"] / found["total_test_samples"] if found["total_test_samples"] else 0.0,
            **{key: found["metrics"][key] for key in TRAVEL},
        }
        for language, found in sorted(languages.items())
    }  # fmt: skip
    return {
        **{key: sum(each[key] for each in details.values()) for key in ("total_cases", "successful_cases")},
        **{key: _mean([each[key] for each in details.values()]) for key in ("successful_rate", *TRAVEL)},
        "valid": True, "languages_completed": sorted(details), "language_details": details,
    }  # fmt: skip


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
