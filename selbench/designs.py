"""How many training seeds and samples find a wanted difference, and what they cost: what `selbench plan` answers.

The noise is that of stored runs, or a stated assumption where there are none; the formulas are those of `stats.planning`, which judge
as the leaderboard does: on problems like these, at the first step of Holm's over the table's comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from selbench.comparison import BASE_ROLES, OPPONENTS, Entry, stack
from selbench.errors import ConfigError, nearest
from selbench.leaderboard import read_group
from selbench.outcomes import Reader, Run, read_plan
from selbench.records import read_json, read_table
from selbench.scores import answer_matrices
from selbench.stats import LIKE, Components, detectable_effect, differences, required_seeds, variance_components

__all__ = ["ASSUMED", "Cost", "Designs", "MOST_SEEDS", "Setting", "assumed", "designs", "from_runs"]

SEEDS = (2, 3, 4, 5, 6, 8, 10, 16, 32)
SAMPLES = (1, 2, 4, 8, 16, 32, 64)
MOST_SEEDS = 64
SEED_POINTS, PROBLEM_POINTS = 1.0, 100 / 3
ASSUMED = (
    "assumed, not measured: answers to problems of evenly spread difficulty vary by 1/6 a side (arithmetic); between problems a "
    "difference varies by {problem:g} points (33.3, a variance of 1/9, unless given; less for strategies on one student; "
    "--problem-points), between training seeds by {seed:g} (--seed-points); no paper of the shipped protocols says either"
)


@dataclass(frozen=True)
class Cost:
    """training: seconds of one cell; answer: seconds of one evaluated answer; unit: CPU or GPU hours; source: where this is from."""

    training: float
    answer: float
    unit: str
    source: str

    def hours(self, cells: int, answers: int) -> float:
        """Of `cells` trainings with `answers` evaluated answers each, one cell at a time."""
        return cells * (self.training + self.answer * answers) / 3600


@dataclass(frozen=True)
class Setting:
    """One table to plan: components of a paired difference, problems, strategies trained, comparisons that Holm corrects together."""

    title: str
    components: Components
    problems: int
    strategies: int
    comparisons: int
    cost: Cost | None
    source: str
    judged: float | None = None  # points that the leaderboard says the stored runs would have shown, the mean of their comparisons

    def detectable(self, seeds: int, samples: int, power: float, scope: str = LIKE) -> float:
        """Points."""
        return 100 * detectable_effect(self.components, seeds, self.problems, samples, power=power, scope=scope, **self._family())

    def seeds_for(self, effect: float, samples: int, power: float, scope: str = LIKE) -> int | None:
        """The fewest seeds that find `effect` points with so many samples; None above MOST_SEEDS."""
        family = self._family()
        return required_seeds(
            self.components, effect / 100, self.problems, samples, power=power, scope=scope, most=MOST_SEEDS, **family
        )  # fmt: skip

    def hours(self, seeds: int, samples: int) -> float | None:
        return self.cost.hours(self.strategies * seeds, self.problems * samples) if self.cost else None

    def _family(self) -> dict[str, int]:
        return {"comparisons": self.comparisons, "strategies": self.strategies}


@dataclass(frozen=True)
class Designs:
    """points[i][j], hours[i][j] of seeds[i] x samples[j]; best: the cheapest (seeds, samples) that finds the effect, None where none does.

    problems_needed: where none does, how many problems would (MOST_SEEDS seeds, as many samples as are tried); None beyond a million.
    """

    seeds: tuple[int, ...]
    samples: tuple[int, ...]
    points: list[list[float]]
    hours: list[list[float | None]]
    best: tuple[int, int] | None
    problems_needed: int | None


def designs(setting: Setting, effect: float, power: float, scope: str = LIKE) -> Designs:
    """Every design of SEEDS x SAMPLES, and the cheapest of all up to MOST_SEEDS that finds `effect` points with this power.

    Without a cost the cheapest is the one with the fewest trainings, then the fewest answers.
    """
    found = [(seeds, samples) for samples in SAMPLES if (seeds := setting.seeds_for(effect, samples, power, scope)) is not None]
    best = min(found, key=lambda design: (setting.hours(*design) or 0.0, *design), default=None)
    rows = tuple(sorted({*SEEDS, *([best[0]] if best else [])}))
    points = [[setting.detectable(s, k, power, scope) for k in SAMPLES] for s in rows]
    hours = [[setting.hours(s, k) for k in SAMPLES] for s in rows]
    return Designs(rows, SAMPLES, points, hours, best, None if best else _problems_needed(setting, effect, power, scope))


def _problems_needed(setting: Setting, effect: float, power: float, scope: str) -> int | None:
    low, high = setting.problems, setting.problems
    while replace(setting, problems=high).detectable(MOST_SEEDS, SAMPLES[-1], power, scope) > effect:
        low, high = high, 2 * high
        if high > 1_000_000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = replace(setting, problems=middle).detectable(MOST_SEEDS, SAMPLES[-1], power, scope) <= effect
        low, high = (low, middle) if enough else (middle, high)
    return high


def assumed(
    title: str, problems: int, strategies: int, comparisons: int, cost: Cost | None, *, seed_points: float | None = None,
    problem_points: float | None = None,
) -> Setting:  # fmt: skip
    """A setting without records: ASSUMED says what is assumed of the noise. Points are standard deviations of a difference."""
    seed = SEED_POINTS if seed_points is None else seed_points
    problem = PROBLEM_POINTS if problem_points is None else problem_points
    components = Components(seed=(seed / 100) ** 2, problem=(problem / 100) ** 2, interaction=0.0, sample=2 / 6)
    said = ASSUMED.format(seed=round(seed, 1), problem=round(problem, 1))
    return Setting(title, components, problems, strategies, comparisons, cost, said)


def from_runs(
    folder: Path, power: float, *, pair: str | None = None, task: str | None = None, strategy: str | None = None
) -> list[Setting]:
    """A setting for each pair and task of a protocol's folder, or the ones named; strategy: only its differences to the baseline.

    The noise is pooled over all strategies, as for the verdicts: that is what gives them their degrees of freedom.
    Raises ConfigError where a name is unknown, or where fewer than two seeds are complete: nothing then says how much seeds differ.
    """
    plan = read_plan(folder)
    problems = [
        f"--{option} {given!r}: not in {folder}; {nearest(given, plan[names])}"
        for option, given, names in (("pair", pair, "pairs"), ("task", task, "tasks")) if given and given not in plan[names]
    ]  # fmt: skip
    if problems:
        raise ConfigError(*problems)
    reader = Reader(folder, plan)
    places = [(p, t) for p in sorted(plan["pairs"]) for t in plan["tasks"] if p == (pair or p) and t == (task or t)]
    settings = [_setting(folder, reader, plan, p, t, strategy, power) for p, t in places]
    if reader.problems:
        raise ConfigError(*(f"{folder}: {problem}" for problem in reader.problems))
    return settings


def _setting(folder: Path, reader: Reader, plan: Mapping[str, Any], pair: str, task: str, strategy: str | None, power: float) -> Setting:
    group = read_group(reader, plan, pair, task)
    trained = [entry for entry, _ in group if entry.role not in BASE_ROLES and entry.shares]
    baseline = next((entry for role in OPPONENTS for entry in trained if entry.role == role), None)
    others = chosen = [entry for entry in trained if entry is not baseline]
    if strategy:
        names = [entry.strategy for entry in others]
        chosen = [entry for entry in others if entry.strategy == strategy or entry.strategy.startswith(f"{strategy}-v")]
        if not chosen:
            raise ConfigError(f"--strategy {strategy!r}: not complete in {folder}, or the baseline; {nearest(strategy, names)}")
    if baseline is None or not chosen:
        raise ConfigError(f"{folder}, {pair}, {task}: no complete baseline and strategy to compare; run the reference and another strategy")
    seeds = sorted(set(baseline.shares).intersection(*(entry.shares for entry in chosen)))
    if len(seeds) < 2:
        raise ConfigError(f"{folder}, {pair}, {task}: {len(seeds)} seeds in common: nothing says how much seeds differ; run --seeds 0-2")
    theirs = _correct(folder, pair, baseline, task, seeds)
    parts = [variance_components(_correct(folder, pair, entry, task, seeds), theirs) for entry in chosen]
    pooled = Components(**{part.name: float(np.mean([getattr(one, part.name) for one in parts])) for part in fields(Components)})
    comparisons = _comparisons(trained, plan)
    seen = differences(stack([baseline, *chosen], seeds)).detectable(comparisons, power)
    _, problems, samples = theirs.shape
    runs = [run for entry, (_, read) in group if entry in trained for run in read.values() if isinstance(run, Run)]
    what = f"{len(chosen)} differences" if len(chosen) > 1 else f"difference of {chosen[0].strategy}"
    source = f"{folder}: {what} to {baseline.strategy}, {len(seeds)} seeds x {problems} problems x {samples} samples"
    cost = _cost(folder, plan, runs, problems * samples)
    return Setting(f"{pair}, {task}", pooled, problems, len(trained), comparisons, cost, source, 100 * float(np.mean(seen)))


def _comparisons(trained: Sequence[Entry], plan: Mapping[str, Any]) -> int:
    """What Holm corrects together: the contenders against both baselines, or against one of them."""
    contenders = sum(entry.role not in OPPONENTS for entry in trained)
    baselines = len({entry.role for entry in trained if entry.role in OPPONENTS})
    return max(1, contenders * (max(1, baselines) if plan.get("family", "both") == "both" else 1))


def _correct(folder: Path, pair: str, entry: Entry, task: str, seeds: Sequence[str]) -> np.ndarray[Any, Any]:
    """(S, P, k) of 0 and 1."""
    files = [folder / pair / entry.strategy / seed / "eval" / task / "samples.parquet" for seed in seeds]
    return np.stack([answer_matrices(read_table(file))[0] for file in files])


def _cost(folder: Path, plan: Mapping[str, Any], runs: Sequence[Run], answers: int) -> Cost | None:
    """Means over the runs; None where their records hold no seconds."""
    evaluation = float(np.mean([run.numbers["evaluation_seconds"] for run in runs]))
    training = float(np.mean([run.numbers["total_seconds"] for run in runs])) - evaluation
    if not math.isfinite(training) or training <= 0:
        return None
    passport = read_json(folder / plan["cells"][0]["folder"] / "passport.json")
    hardware, device = passport["hardware"], (passport.get("roofline") or {}).get("device")
    on_gpu = bool(hardware.get("gpus")) and device != "cpu"
    name = ", ".join(sorted(set(hardware["gpus"]))) if on_gpu else hardware["processor"]
    return Cost(training, evaluation / answers, "GPU hours" if on_gpu else "CPU hours", f"mean of {len(runs)} runs on {name}")
