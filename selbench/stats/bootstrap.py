"""Intervals by resampling, for one metric and for paired differences. Legend: S training seeds, P problems, k samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selbench.seeding import derive
from selbench.stats.estimators import Interval, matrix

__all__ = [
    "LEVELS", "accuracy_interval", "hierarchical_bootstrap", "hierarchical_ends", "paired_interval", "percentile_ends", "seed_spread"
]  # fmt: skip

LEVELS = ("seed", "problem", "sample")
Array = NDArray[np.float64]


def paired_interval(a: ArrayLike, b: ArrayLike, *, draws: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of a - b, and its crossed bootstrap percentile interval.

    a, b: (S, P), row i of both from the same training seed, column j from the same problem. Every draw resamples seeds and
    problems with replacement, the same ones on both sides, so what the two share (hard problems, a lucky seed) cancels.
    With S = 1 only the problems vary: the interval then speaks about that one run.

    Paired differences: Miller, arXiv:2411.00640, section 4; percentile interval: Efron and Tibshirani (1993), chapter 13;
    resampling both factors at once: Owen (2007), "The pigeonhole bootstrap". By the last, noise of single cells counts
    up to three times (conservative) and the variance between seeds (S - 1)/S times (optimistic at few seeds): `crossed`
    holds its level where this one does not.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape or first.size == 0:
        raise ValueError(f"paired_interval needs two equal, non-empty (seeds, problems) arrays, got {first.shape} and {second.shape}")
    difference = first - second
    if not np.isfinite(difference).all():
        raise ValueError("paired_interval got values that are not finite: leave incomplete runs out before comparing")
    low, high = percentile_ends(difference, draws=draws, level=level, seed=seed)
    return Interval(float(difference.mean()), float(low), float(high))


def percentile_ends(difference: Array, *, draws: int, level: float, seed: int) -> Any:
    """Lower and upper ends, (2, ...), for differences (..., S, P): leading axes are data sets under the same draws."""
    *_, seeds, problems = difference.shape
    generator = np.random.default_rng(derive(seed, 0, "paired bootstrap"))
    seed_counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    problem_counts = generator.multinomial(problems, np.full(problems, 1 / problems), size=draws)
    means = ((difference @ problem_counts.T) * seed_counts.T).sum(axis=-2) / (seeds * problems)
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=-1)


def seed_spread(per_seed: ArrayLike) -> float:
    """Sample standard deviation (ddof 1) over training seeds, (S,), in the unit of the data; nan for a single seed."""
    values = np.asarray(per_seed, dtype=np.float64)
    return float(values.std(ddof=1)) if values.size > 1 else float("nan")


def accuracy_interval(correct: ArrayLike, *, level: float = 0.95, seed: int = 0) -> tuple[Interval, str]:
    """avg@k with an interval for problems like these, and the name of its method.

    correct: (P, k). One sample: Wilson's score interval. Several: BCa bootstrap over problems (Efron 1987; scipy), 10,000 draws;
    Wilson's on the problems where all shares are equal and a bootstrap has nothing to resample.
    """
    from scipy.stats import binomtest, bootstrap

    shares = matrix(correct).mean(axis=1)
    mean = float(shares.mean())
    if matrix(correct).shape[1] > 1 and shares.max() > shares.min():
        generator = np.random.default_rng(derive(seed, 0, "accuracy interval"))
        ends = bootstrap((shares,), np.mean, n_resamples=10_000, confidence_level=level, method="BCa", rng=generator).confidence_interval
        return Interval(mean, float(ends.low), float(ends.high)), "BCa bootstrap over problems"
    ends = binomtest(round(float(shares.sum())), len(shares)).proportion_ci(level, method="wilson")
    return Interval(mean, float(ends.low), float(ends.high)), "Wilson"


def hierarchical_bootstrap(
    correct: ArrayLike, resample: Sequence[str] = ("seed", "problem"), *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """The mean of correct (S, P, k), 0 and 1, with the BCa interval of a bootstrap that resamples the named levels.

    ("seed", "problem") speaks of problems like these; the samples of a cell stay together, for drawing them again would count
    their noise twice (Davison and Hinkley 1997, section 3.8). ("seed", "sample") speaks of these problems. S = 1 has no
    seeds to resample, and the interval is one of that run. Below some ten seeds the draws hold too little of the variance
    between seeds ((S - 1)/S of it, and normal tails): `crossed.levels` is the interval to print there.
    """
    values = np.asarray(correct, dtype=np.float64)
    if values.ndim != 3 or values.size == 0 or not np.isin(values, (0, 1)).all():
        raise ValueError(f"a non-empty (seeds, problems, samples) array of 0 and 1 is needed, got shape {values.shape}")
    low, high = hierarchical_ends(values.mean(axis=2), values.shape[2], resample, level=level, draws=draws, seed=seed)
    return Interval(float(values.mean()), float(low), float(high))


def hierarchical_ends(
    shares: Array,
    samples: int,
    resample: Sequence[str],
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[Any, Any]:
    """Lower and upper ends (...) for shares (..., S, P) of `samples` answers: leading axes are data sets under the same draws.

    BCa: Efron (1987). The acceleration is the jackknife's over seeds and problems, each where it is resampled.
    """
    from scipy.stats import norm

    if unknown := [name for name in resample if name not in LEVELS]:
        raise ValueError(f"cannot resample {', '.join(unknown)}: use {', '.join(LEVELS)}")
    *_, seeds, problems = shares.shape
    generator = np.random.default_rng(derive(seed, 0, "hierarchical bootstrap"))
    by_seed, by_problem = "seed" in resample and seeds > 1, "problem" in resample and problems > 1
    seed_counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), draws) if by_seed else np.ones((draws, seeds), dtype=np.int64)
    problem_counts = (
        generator.multinomial(problems, np.full(problems, 1 / problems), draws)
        if by_problem
        else np.ones((draws, problems), dtype=np.int64)
    )
    if "sample" in resample:
        cells = (samples * np.outer(s, p) for s, p in zip(seed_counts, problem_counts, strict=True))  # a cell drawn twice: new answers
        means = np.stack([generator.binomial(count, shares).sum(axis=(-1, -2)) for count in cells], axis=-1) / (samples * seeds * problems)
    else:
        means = ((shares @ problem_counts.T) * seed_counts.T).sum(axis=-2) / (seeds * problems)
    means.sort(axis=-1)
    mean = shares.mean(axis=(-1, -2))
    below = (means < mean[..., None]).mean(axis=-1) + 0.5 * (np.isclose(means, mean[..., None], rtol=0, atol=1e-12)).mean(axis=-1)
    bias = norm.ppf(np.clip(below, 0.5 / draws, 1 - 0.5 / draws))
    factors = [shares.mean(axis=-1)] * by_seed + [shares.mean(axis=-2)] * by_problem
    cubes = sum(((f - f.mean(axis=-1, keepdims=True)) ** 3).sum(axis=-1) / f.shape[-1] ** 3 for f in factors)
    squares = sum(((f - f.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1) / f.shape[-1] ** 2 for f in factors)
    acceleration = np.where(np.asarray(squares) > 0, cubes / (6 * np.maximum(squares, 1e-100) ** 1.5), 0.0)
    wide = norm.ppf((1 + level) / 2)
    ends = []
    for z in (-wide, wide):
        place = norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        ends.append(_at(means, place))
    return ends[0], ends[1]


def _at(ordered: Array, place: Array) -> Array:
    """The quantile `place` (...) of each ordered row (..., draws), linear between draws."""
    where = np.clip(place * (ordered.shape[-1] + 1) - 1, 0, ordered.shape[-1] - 1)
    down = np.floor(where).astype(int)
    up = np.minimum(down + 1, ordered.shape[-1] - 1)
    low, high = (np.take_along_axis(ordered, index[..., None], axis=-1)[..., 0] for index in (down, up))
    return low + (where - down) * (high - low)
