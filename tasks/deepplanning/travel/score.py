"""Scores of one plan, of a set of tasks, and of the languages together. Pure functions of plans, meta_info and tables.

Every task of the query file stays in every denominator. A task without a plan, a plan that cannot be walked and a task without tables
score 0 and are counted apart, by status: evaluated, error, undelivered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selbench import UserError

from .case import read_case
from .commonsense import DIMENSIONS, check_all
from .hard import check_constraints, personalised
from .plan import Plan, PlanError
from .world import World

__all__ = ["METRICS", "WEIGHT", "Score", "aggregate", "average_accuracy", "read_plans", "score_plan", "score_set"]

WEIGHT = 1 / len(DIMENSIONS)
METRICS = ("commonsense_score", "personalized_score", "composite_score", "case_acc")


@dataclass(frozen=True)
class Score:
    """One plan's outcome.

    Attributes:
        checks: why each of the 21 checks fails, None where it passes; empty after an error.
        constraints: the same for each evaluated hard constraint.
        status: "evaluated", "error" (delivered, not evaluated: `error` says why) or "undelivered".
    """

    checks: dict[str, str | None] = field(default_factory=dict)
    constraints: dict[str, str | None] = field(default_factory=dict)
    status: str = "evaluated"
    error: str | None = None

    @property
    def dimensions(self) -> dict[str, int]:
        """1 or 0 by dimension: 1 if all its recorded checks pass, at least one being recorded."""
        found = {}
        for name, checks in DIMENSIONS.items():
            outcomes = [self.checks[check] for check in checks if check in self.checks]
            found[name] = int(bool(outcomes) and not any(outcomes))
        return found

    @property
    def commonsense_score(self) -> float:
        return WEIGHT * sum(self.dimensions.values())

    @property
    def personalized_score(self) -> float:
        return float(personalised(self.constraints))

    @property
    def composite_score(self) -> float:
        return (self.commonsense_score + self.personalized_score) / 2

    @property
    def case_acc(self) -> int:
        return int(self.commonsense_score == 1 and self.personalized_score == 1)

    def failing(self) -> list[str]:
        """Names of the checks and constraints that fail, in their order."""
        return [name for name, fault in (*self.checks.items(), *self.constraints.items()) if fault]

    def record(self, sample_id: str) -> dict[str, Any]:
        """What `id_<n>_score.json` holds."""
        dimensions = self.dimensions
        details = {}
        for name, checks in DIMENSIONS.items():
            listed = [_outcome({"name": check}, self.checks[check]) for check in checks if check in self.checks]
            details[name] = {
                "passed": sum(check["passed"] for check in listed), "total": len(listed), "weight": WEIGHT, "score": dimensions[name],
                "weighted_score": WEIGHT * dimensions[name], "checks": listed,
            }  # fmt: skip
        constraints = {key: _outcome({}, fault) for key, fault in self.constraints.items()}
        return {
            "sample_id": sample_id,
            "scores": {
                "commonsense_weighted_score": self.commonsense_score,
                **{name: getattr(self, name) for name in METRICS[1:]},
            },
            "commonsense_dimension_scores": dimensions,
            "commonsense_dimension_details": details,
            "personalized_dimension_score": {"score": self.personalized_score, "constraints": constraints},
            "status": self.status, "error": self.error,
        }  # fmt: skip


def _outcome(entry: dict[str, Any], fault: str | None) -> dict[str, Any]:
    return {**entry, "passed": fault is None, "message": fault or "ok"}


def score_plan(plan: object, meta: dict[str, Any], world: World) -> Score:
    """Scores a converted plan. A plan that cannot be walked gives status "error", score 0."""
    try:
        case = read_case(plan, meta, world)
    except PlanError as error:
        return Score(status="error", error=str(error))
    return Score(check_all(case), check_constraints(case))


def read_plans(folder: Path) -> dict[str, Plan | UserError]:
    """Converted plans by id, from `id_<n>_converted.json`; a file that is not JSON gives the error. Raises UserError without the folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder with the files id_<n>_converted.json")
    found: dict[str, Plan | UserError] = {}
    for path in sorted(folder.glob("id_*_converted.json")):
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            plan = PlanError(f"{path.name}: not readable as JSON ({' '.join(str(error).split())})")
        found[path.name.removeprefix("id_").removesuffix("_converted.json")] = plan
    return found


def score_set(
    queries: Iterable[Mapping[str, Any]], plans: Mapping[str, Plan | UserError], world_of: Callable[[str], World]
) -> tuple[dict[str, Any], dict[str, Score]]:
    """Scores all tasks of a query file.

    Args:
        queries: rows with id and meta_info, all that count. plans: delivered plans by id, or why a delivered one cannot be read; ids
            outside the query file are ignored. world_of: tables of a case by id; a UserError of it is an evaluation error.

    Returns:
        The summary (`total_test_samples` ... `error_statistics`, counts and means over all tasks) and the score of every task.
    """
    scores = {row["id"]: _score(plans.get(row["id"]), row["meta_info"], row["id"], world_of) for row in queries}
    count = len(scores) or 1
    delivered = [name for name, score in scores.items() if score.status != "undelivered"]
    errors = {name: score.error or "" for name, score in scores.items() if score.status == "error"}
    dimensions = {
        name: {
            "score": sum(score.dimensions[name] for score in scores.values()) / count,
            "perfect_count": sum(score.dimensions[name] for score in scores.values()),
        }
        for name in DIMENSIONS
    }
    means = {name: sum(getattr(score, name) for score in scores.values()) / count for name in METRICS}
    summary = {
        "total_test_samples": len(scores),
        "plan_files_found": len(delivered),
        "evaluation_success_count": len(delivered) - len(errors),
        "evaluation_failed_count": len(errors),
        "metrics": {"delivery_rate": len(delivered) / count, **means, "commonsense_dimensions": dimensions},
        "error_statistics": _statistics(scores),
        "errors": errors,
    }
    return summary, scores


def _score(plan: Plan | UserError | None, meta: dict[str, Any], name: str, world_of: Callable[[str], World]) -> Score:
    if plan is None:
        return Score(status="undelivered")
    if isinstance(plan, UserError):
        return Score(status="error", error=str(plan))
    try:
        return score_plan(plan, meta, world_of(name))
    except UserError as error:
        return Score(status="error", error=str(error))


def _statistics(scores: Mapping[str, Score]) -> list[dict[str, Any]]:
    """Failing checks and constraints, the most frequent first, with their tasks and a few messages."""
    tasks: dict[str, list[tuple[str, str]]] = {}
    for name, score in scores.items():
        for check, fault in (*score.checks.items(), *score.constraints.items()):
            if fault:
                tasks.setdefault(check, []).append((name, fault))
    ranked = sorted(tasks.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            "rank": rank, "error_type": check, "count": len(found), "affected_samples": [name for name, _ in found],
            "sample_messages": [fault for _, fault in found[:3]],
        }
        for rank, (check, found) in enumerate(ranked, 1)
    ]  # fmt: skip


def aggregate(languages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Travel over its languages: each metric the unweighted mean of the summaries found. Raises UserError without any.

    `evaluated` counts plans that could be evaluated, not perfect cases: it is no success rate.
    """
    if not languages:
        raise UserError("deepplanning travel: no language was evaluated; nothing to aggregate")
    metrics = [summary["metrics"] for summary in languages.values()]
    return {
        "languages_completed": sorted(languages),
        "total_cases": sum(summary["total_test_samples"] for summary in languages.values()),
        "evaluated": sum(summary["evaluation_success_count"] for summary in languages.values()),
        **{name: sum(metric[name] for metric in metrics) / len(metrics) for name in ("delivery_rate", *METRICS)},
        "language_details": {name: summary["metrics"] for name, summary in languages.items()},
    }


def average_accuracy(shopping: float | None, travel: float | None) -> float | None:
    """`avg_acc`: mean of shopping's weighted case score and travel's case accuracy; None unless both domains were evaluated."""
    return None if shopping is None or travel is None else (shopping + travel) / 2
