"""Estimators and intervals over per-problem correctness: numpy and scipy, no files.

Legend: S training seeds, P problems. Entries are shares in [0, 1] (means over the k samples of one problem); what goes in
as shares comes out as shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selbench.seeding import derive

__all__ = ["Interval", "accuracy_interval", "average_at_k", "majority_at_k", "paired_interval", "pass_at_k", "seed_spread"]


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


def average_at_k(correct: ArrayLike) -> float:
    """Mean over problems of the share of a problem's k samples that are right. correct: (P, k) of 0 and 1."""
    return float(_matrix(correct).mean())


def pass_at_k(correct: ArrayLike, k: int) -> float:
    """Chance that at least one of k samples is right, without bias from n >= k stored ones: mean of 1 - C(n-c, k) / C(n, k).

    correct: (P, n). Chen et al., arXiv:2107.03374, section 2.1. Raises ValueError unless 1 <= k <= n.
    """
    matrix = _matrix(correct)
    n = matrix.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs between 1 and {n} samples, the number stored")
    wrong = n - matrix.sum(axis=1)
    return float(1 - np.prod([np.clip(wrong - i, 0, None) / (n - i) for i in range(k)], axis=0).mean())


def majority_at_k(votes: ArrayLike, correct: ArrayLike) -> float:
    """Mean over problems of the chance that the most frequent answer is right, ties drawn evenly.

    votes: (P, k) integers, equal for equal answers of a problem, negative where no answer could be read (no vote); correct:
    (P, k). A problem without any vote counts as wrong. Wang et al., arXiv:2203.11171.
    """
    labels, right = np.asarray(votes), _matrix(correct)
    if labels.shape != right.shape:
        raise ValueError(f"votes {labels.shape} and correct {right.shape} differ in shape")
    shares = []
    for row, good in zip(labels, right, strict=True):
        names, counts = np.unique(row[row >= 0], return_counts=True)
        winners = names[counts == counts.max()] if len(names) else names
        shares.append(float(np.mean([good[row == name].mean() for name in winners])) if len(winners) else 0.0)
    return float(np.mean(shares))


def accuracy_interval(correct: ArrayLike, *, level: float = 0.95, seed: int = 0) -> tuple[Interval, str]:
    """avg@k with an interval for problems like these, and the name of its method.

    correct: (P, k). One sample: Wilson's score interval. Several: BCa bootstrap over problems (Efron 1987; scipy), 10,000 draws;
    Wilson's on the problems where all shares are equal and a bootstrap has nothing to resample.
    """
    from scipy.stats import binomtest, bootstrap

    shares = _matrix(correct).mean(axis=1)
    mean = float(shares.mean())
    if _matrix(correct).shape[1] > 1 and shares.max() > shares.min():
        generator = np.random.default_rng(derive(seed, 0, "accuracy interval"))
        ends = bootstrap((shares,), np.mean, n_resamples=10_000, confidence_level=level, method="BCa", rng=generator).confidence_interval
        return Interval(mean, float(ends.low), float(ends.high)), "BCa bootstrap over problems"
    ends = binomtest(round(float(shares.sum())), len(shares)).proportion_ci(level, method="wilson")
    return Interval(mean, float(ends.low), float(ends.high)), "Wilson"


def _matrix(correct: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(correct, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0 or not np.isin(matrix, (0, 1)).all():
        raise ValueError(f"a non-empty (problems, samples) array of 0 and 1 is needed, got shape {matrix.shape}")
    return matrix
