"""Means over training seeds and problems, with what both contribute to their error: intervals and p-values that hold at three seeds.

Model: value[s, j] = mean + seed_s + problem_j + (seed, problem and sampling noise)_sj, both factors random, S seeds crossed with
P problems. Two questions get two answers: THESE (these problems: other seeds, the same problems) and LIKE (problems like these:
other seeds, other problems from the same source).

At three seeds a comparison has two degrees of freedom of its own, and a lucky draw of three close seeds would look like
certainty: too many families of eight then claim a difference where there is none (`selbench bench calibration` counts them). So
seeds are judged by the whole table, whose M strategies have (M - 1)(S - 1) degrees of freedom, and by the comparison's own, for one
strategy may be noisier than the rest: p-values take the larger of the two variances (false claims stay rare), intervals the middle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selbench.stats.estimators import Interval

__all__ = ["LIKE", "SCOPES", "THESE", "Effects", "differences", "join", "levels", "mean_squares"]

THESE, LIKE = "these problems", "problems like these"
SCOPES = (THESE, LIKE)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Effects:
    """Means with the two parts of their variance. Arrays (..., M), a number for each strategy or comparison.

    seed_variance holds the noise of cells too; nan with one seed; seed_ceiling is what p-values take it for. bounds: the smallest
    and largest value a cell can take.
    """

    mean: Array
    seed_variance: Array
    seed_ceiling: Array
    problem_variance: Array
    seed_df: Array
    seeds: int
    problems: int
    bounds: tuple[float, float]

    def error(self, scope: str = LIKE) -> Array:
        """Standard error of the mean, (..., M). Raises ValueError for an unknown scope. nan: these problems, one seed."""
        return np.sqrt(sum(self._parts(scope)))

    def above(self, value: float = 0.0, scope: str = LIKE) -> Array:
        """One-sided p-value of "the true mean is at most `value`", (..., M): small where it lies above."""
        careful = self._careful()
        error = careful.error(scope)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = careful._tail((self.mean - value) / error, scope)
        return np.where(error > 0, p, np.where(np.isnan(error), np.nan, self._constant(value, scope)))

    def below(self, value: float = 0.0, scope: str = LIKE) -> Array:
        """One-sided p-value of "the true mean is at least `value`"."""
        return self._negated().above(-value, scope)

    def differs(self, value: float = 0.0, scope: str = LIKE) -> Array:
        """Two-sided p-value of "the true mean is `value`"."""
        return np.minimum(1.0, 2 * np.minimum(self.above(value, scope), self.below(value, scope)))

    def equivalent(self, margin: float, scope: str = LIKE) -> Array:
        """TOST (Schuirmann 1987): p-value of "the true mean is at least `margin` away from 0"."""
        return np.maximum(self.above(-margin, scope), self.below(margin, scope))

    def interval(self, level: float = 0.95, scope: str = LIKE) -> tuple[Array, Array]:
        """Lower and upper ends, (..., M) each."""
        error, outside = self.error(scope), (1 - level) / 2
        half = error * self.quantile(outside, scope)
        shrink = outside ** (1 / self._independent(scope))
        low = np.where(error == 0, self.bounds[0] + (self.mean - self.bounds[0]) * shrink, self.mean - half)
        high = np.where(error == 0, self.bounds[1] - (self.bounds[1] - self.mean) * shrink, self.mean + half)
        return low, high

    def quantile(self, outside: float, scope: str = LIKE) -> Array:
        """t with P(T > t) = outside under the distribution of `_mixture`, (..., M). Newton's steps."""
        from scipy.special import stdtrit

        t = np.broadcast_to(stdtrit(np.float64(1e6), 1 - outside), self.mean.shape).astype(float)  # the normal's: below any t's
        for _ in range(60):
            step = np.nan_to_num((self._tail(t, scope) - outside) / self._density(t, scope))
            t = t + step
            if np.max(np.abs(step), initial=0) < 1e-9:
                break
        return t

    def detectable(self, comparisons: int = 1, power: float = 0.8, level: float = 0.95, scope: str = LIKE) -> Array:
        """The true difference that these data would have shown with this power, (..., M), at the first step of Holm's."""
        careful, outside = self._careful(), (1 - level) / comparisons / 2
        error = careful.error(scope)
        seen = error * (careful.quantile(outside, scope) + careful.quantile(1 - power, scope))
        return np.where(error == 0, 1 - outside ** (1 / self._independent(scope)), seen)

    def at(self, place: int, level: float = 0.95, scope: str = LIKE) -> Interval:
        """Mean and interval of one of M."""
        low, high = self.interval(level, scope)
        return Interval(float(self.mean[place]), float(low[place]), float(high[place]))

    def _parts(self, scope: str) -> tuple[Array, Array]:
        if scope not in SCOPES:
            raise ValueError(f"unknown scope {scope!r}: use one of {', '.join(SCOPES)}")
        if scope == THESE:
            return self.seed_variance, np.zeros_like(self.seed_variance)
        return np.nan_to_num(self.seed_variance), self.problem_variance

    def _mixture(self, scope: str) -> list[tuple[Array, Any]]:
        """Weights and degrees of freedom of the t distributions that the statistic is judged by: the parts' own, by their variance.

        After Cochran and Cox (1957), section 4.14, who weight critical values so. Satterthwaite's single t is liberal here: it
        takes many degrees of freedom just where three seeds came out too close.
        """
        seed, problem = self._parts(scope)
        share = seed / np.where(seed + problem > 0, seed + problem, 1.0)
        return [(share, self.seed_df), (1 - share, float(self.problems - 1))]

    def _tail(self, t: Array, scope: str) -> Array:
        from scipy.special import stdtr

        return sum(weight * stdtr(df, -t) for weight, df in self._mixture(scope))  # type: ignore[return-value]

    def _density(self, t: Array, scope: str) -> Array:
        from scipy.special import beta

        parts = self._mixture(scope)
        return sum(w * (1 + t**2 / df) ** (-(df + 1) / 2) / (np.sqrt(df) * beta(0.5, df / 2)) for w, df in parts)  # type: ignore[return-value]

    def _independent(self, scope: str) -> int:
        return self.problems if scope == LIKE else self.seeds

    def _constant(self, value: float, scope: str) -> Array:
        """p-value where no cell differs from the mean c: at most (value - lowest)/(c - lowest) of the units can then be at c."""
        lowest = self.bounds[0]
        share = np.divide(value - lowest, self.mean - lowest, out=np.ones_like(self.mean), where=self.mean > lowest)
        return np.clip(share, 0, 1) ** self._independent(scope)

    def _negated(self) -> Effects:
        low, high = self.bounds
        return replace(self, mean=-self.mean, bounds=(-high, -low))

    def _careful(self) -> Effects:
        return replace(self, seed_variance=self.seed_ceiling)


def join(*parts: Effects) -> Effects:
    """Comparisons of the same runs, one set after the other: a family of several baselines. Raises ValueError for other runs."""
    first = parts[0]
    if any((part.seeds, part.problems, part.bounds) != (first.seeds, first.problems, first.bounds) for part in parts):
        raise ValueError("comparisons of one family need the same seeds and problems")
    arrays = ("mean", "seed_variance", "seed_ceiling", "problem_variance", "seed_df")
    return replace(first, **{name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in arrays})


def levels(values: ArrayLike) -> Effects:
    """The mean of each of M strategies. values: (..., M, S, P) shares of right answers, row s from seed s in all."""
    x = _checked(values)
    strategies, seeds, _ = x.shape[-3:]
    seed, problem, noise = mean_squares(x)
    main, mixed = _seed_squares(x)
    pooled = (main + (strategies - 1) * mixed) / strategies
    with np.errstate(divide="ignore", invalid="ignore"):
        df = (seeds - 1) * (main + (strategies - 1) * mixed) ** 2 / (main**2 + (strategies - 1) * mixed**2)
    df = np.where(np.isfinite(df), df, seeds - 1)[..., None]
    return _effects(x, pooled[..., None], seed, problem, noise, df, (0.0, 1.0))


def differences(values: ArrayLike, baseline: int = 0) -> Effects:
    """The mean differences of the other M - 1 strategies to one of them, in their order; paired by seed and by problem.

    values: (..., M, S, P) shares of right answers, row s of every strategy from the same seed, column j from the same problem.
    Give all strategies of a table at once: their seeds are what the noise is learnt from.
    """
    x = _checked(values)
    strategies, seeds, _ = x.shape[-3:]
    if strategies < 2:
        raise ValueError("a difference needs two strategies or more")
    others = [place for place in range(strategies) if place != baseline % strategies]
    contrast = x[..., others, :, :] - x[..., [baseline], :, :]
    seed, problem, noise = mean_squares(contrast)
    mixed = 2 * _seed_squares(x)[1][..., None]  # of a difference, were all strategies as noisy as the average one
    shared = seed.mean(axis=-1, keepdims=True)  # as noisy as this baseline is
    df = np.full((1,), float((strategies - 1) * (seeds - 1)))
    return _effects(contrast, mixed, np.maximum(seed, shared), problem, noise, df, (-1.0, 1.0))


def mean_squares(x: Array) -> tuple[Array, Array, Array]:
    """Mean squares of seeds, problems and the rest, (...) each, of x (..., S, P). Seeds and rest are nan with S = 1."""
    seeds, problems = x.shape[-2:]
    by_seed, by_problem = x.mean(axis=-1), x.mean(axis=-2)
    mean = by_seed.mean(axis=-1, keepdims=True)
    seed = problems * ((by_seed - mean) ** 2).sum(axis=-1)
    problem = seeds * ((by_problem - mean) ** 2).sum(axis=-1)
    rest = ((x - mean[..., None]) ** 2).sum(axis=(-1, -2)) - seed - problem
    tiny = 1e-18 * x.shape[-1] * x.shape[-2]  # below what shares can differ by: rounding
    seed, problem, rest = (np.where(part > tiny, part, 0.0) for part in (seed, problem, rest))
    if seeds == 1:
        nothing = np.full_like(problem, np.nan)
        return nothing, problem / (problems - 1), nothing
    return seed / (seeds - 1), problem / (problems - 1), rest / ((seeds - 1) * (problems - 1))


def _seed_squares(x: Array) -> tuple[Array, Array]:
    """Mean squares of the seeds' main effect and of seed x strategy, (...) each, of x (..., M, S, P)."""
    strategies, seeds, problems = x.shape[-3:]
    by_seed = x.mean(axis=-1)
    own = by_seed - by_seed.mean(axis=-1, keepdims=True)
    common = own.mean(axis=-2, keepdims=True)
    if seeds == 1:
        return np.full(x.shape[:-3], np.nan), np.full(x.shape[:-3], np.nan)
    main = strategies * problems * (common**2).sum(axis=(-1, -2)) / (seeds - 1)
    mixed = problems * ((own - common) ** 2).sum(axis=(-1, -2)) / max((strategies - 1) * (seeds - 1), 1)
    return main, mixed


def _effects(x: Array, pooled: Array, own: Array, problem: Array, noise: Array, df: Array, bounds: tuple[float, float]) -> Effects:
    """Effects of x (..., M, S, P) from mean squares: of the seeds, pooled and own, of the problems and of the rest."""
    seeds, problems = x.shape[-2:]
    cells = seeds * problems
    own, pooled = (np.where((part == 0) & (noise > 0), noise, part) for part in (own, pooled))  # equal means by chance: not no noise
    ceiling = np.maximum(pooled, own) / cells
    by_problem = problem / cells if seeds == 1 else np.maximum(problem - noise, 0) / cells  # one seed: noise has nowhere else to be
    mean = x.mean(axis=(-1, -2))
    df = np.broadcast_to(np.maximum(df, 1.0), mean.shape)
    return Effects(mean, (ceiling + pooled / cells) / 2, ceiling, by_problem, df, seeds, problems, bounds)


def _checked(values: ArrayLike) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim < 3 or 0 in x.shape or x.shape[-1] < 2:
        raise ValueError(f"(strategies, seeds, problems) with two problems or more are needed, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("values that are not finite: leave incomplete runs out before comparing")
    return x
