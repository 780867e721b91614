"""Estimators and intervals over per-problem correctness: numpy only, no files.

Legend: S training seeds, P problems. Entries are shares in [0, 1] (means over the k samples of one problem); what goes in
as shares comes out as shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from selbench.seeding import derive

__all__ = ["Interval", "paired_interval", "seed_spread"]


@dataclass(frozen=True)
class Interval:
    """An estimate and the two ends of its interval, in the unit of the data."""

    mean: float
    low: float
    high: float


def paired_interval(a: ArrayLike, b: ArrayLike, *, draws: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of a - b, and its crossed bootstrap percentile interval.

    a, b: (S, P), row i of both from the same training seed, column j from the same problem. Every draw resamples seeds and
    problems with replacement, the same ones on both sides, so what the two share (hard problems, a lucky seed) cancels.
    With S = 1 only the problems vary: the interval then speaks about that one run.

    Paired differences: Miller, arXiv:2411.00640, section 4; percentile interval: Efron and Tibshirani (1993), chapter 13;
    resampling both factors at once: Owen (2007), "The pigeonhole bootstrap". By the last, noise of single cells counts
    up to three times (conservative) and the variance between seeds (S - 1)/S times (optimistic at few seeds).
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape or first.size == 0:
        raise ValueError(f"paired_interval needs two equal, non-empty (seeds, problems) arrays, got {first.shape} and {second.shape}")
    difference = first - second
    if not np.isfinite(difference).all():
        raise ValueError("paired_interval got values that are not finite: leave incomplete runs out before comparing")
    seeds, problems = difference.shape
    generator = np.random.default_rng(derive(seed, 0, "paired bootstrap"))
    seed_counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    problem_counts = generator.multinomial(problems, np.full(problems, 1 / problems), size=draws)
    means = ((seed_counts @ difference) * problem_counts).sum(axis=1) / (seeds * problems)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(difference.mean()), float(low), float(high))


def seed_spread(per_seed: ArrayLike) -> float:
    """Sample standard deviation (ddof 1) over training seeds, (S,), in the unit of the data; nan for a single seed."""
    values = np.asarray(per_seed, dtype=np.float64)
    return float(values.std(ddof=1)) if values.size > 1 else float("nan")
