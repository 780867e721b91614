"""Means over training seeds and problems, with what both contribute to their error: intervals and p-values that hold at three seeds.

Model: value[s, j] = mean + seed_s + problem_j + (seed, problem and sampling noise)_sj, both factors random, S seeds crossed with
P problems. Two questions get two answers: THESE (these problems: other seeds, the same problems) and LIKE (problems like these:
other seeds, other problems from the same source).

A strategy may be noisier than the rest, the baseline too, and at three seeds it has two degrees of freedom of its own to show it. So
the variances of runs are estimated one by one (Grubbs 1948: what is left of each after the mean of all), and used twice:

- Intervals take each strategy's own, moved towards the table's mean as if that were worth `TABLE` degrees of freedom (after Smyth
  2004, who fits that number; three seeds cannot), with Satterthwaite's degrees of freedom. They cover where variances differ.
- p-values take the largest of four estimates (the table's, the comparison's, the baseline's and the interval's), at the table's
  degrees of freedom less what unequal variances cost (Box 1954): a lucky draw of close seeds is then no claim, and the power of the
  whole table is kept. They are for families; `verdicts` claims nothing that the interval of the comparison alone contradicts.

`selbench bench calibration` counts what both hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selbench.stats.estimators import Interval

__all__ = ["LIKE", "SCOPES", "THESE", "Effects", "differences", "join", "levels", "mean_squares", "only", "run_variances"]

TABLE = 0.5  # degrees of freedom: with fewer, intervals are wide for luck alone; with more, they miss a noisy baseline
THESE, LIKE = "these problems", "problems like these"
SCOPES = (THESE, LIKE)
ARRAYS = ("mean", "seed_variance", "seed_ceiling", "problem_variance", "seed_df", "ceiling_df")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Effects:
    """Means with the two parts of their variance. Arrays (..., M), a number for each strategy or comparison.

    seed_variance holds the noise of cells too; nan with one seed. seed_ceiling with ceiling_df is what p-values take it for. bounds:
    the smallest and largest value a cell can take.
    """

    mean: Array
    seed_variance: Array
    seed_ceiling: Array
    problem_variance: Array
    seed_df: Array
    ceiling_df: Array
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
        outside = (1 - level) / comparisons / 2
        tests = ((self._careful(), outside), (self, (1 - level) / 2))
        seen = [test.error(scope) * (test.quantile(tail, scope) + test.quantile(1 - power, scope)) for test, tail in tests]
        return np.where(seen[0] == 0, 1 - outside ** (1 / self._independent(scope)), np.maximum(*seen))

    def alone(self) -> Effects:
        """The same, with p-values from the variance of the intervals: `differs` is 1 - level where an interval ends."""
        return replace(self, seed_ceiling=self.seed_variance, ceiling_df=self.seed_df)

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
        return replace(self, seed_variance=self.seed_ceiling, seed_df=self.ceiling_df)


def join(*parts: Effects) -> Effects:
    """Comparisons of the same runs, one set after the other: a family of several baselines. Raises ValueError for other runs."""
    first = parts[0]
    if any((part.seeds, part.problems, part.bounds) != (first.seeds, first.problems, first.bounds) for part in parts):
        raise ValueError("comparisons of one family need the same seeds and problems")
    return replace(first, **{name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in ARRAYS})


def only(effects: Effects, places: Sequence[int]) -> Effects:
    """Some of the comparisons: what is tested together, though all strategies tell of the noise."""
    return replace(effects, **{name: getattr(effects, name)[..., list(places)] for name in ARRAYS})


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
    seed, pooled = _not_certain(seed, noise), _not_certain(pooled[..., None], noise)
    ceiling = np.maximum(pooled, seed)
    return _effects(x, (ceiling + pooled) / 2, df, ceiling, df, problem, noise, (0.0, 1.0))


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
    runs = run_variances(x)
    mixed = 2 * _seed_squares(x)[1][..., None]  # of a difference, were all strategies as noisy as the average one
    shared = seed.mean(axis=-1, keepdims=True)  # as noisy as this baseline is
    share, own = TABLE / (TABLE + seeds - 1), np.zeros((strategies - 1, strategies))
    own[range(strategies - 1), others] = own[:, baseline] = 1
    weights = share * 2 / strategies + (1 - share) * own
    apart = runs @ weights.T
    most = (strategies - 1) * (seeds - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        df = (seeds - 1) * apart**2 / (runs**2 @ (weights**2).T)
        equal = (seeds + 1) / max(seeds - 1, 1) * runs.mean(axis=-1, keepdims=True) ** 2 / (runs**2).mean(axis=-1, keepdims=True)
    ceiling_df = most * np.minimum(equal, 1)  # squares of estimates are (S + 1)/(S - 1) times the squares of what they estimate
    df, ceiling_df = (np.clip(np.where(np.isfinite(each), each, most), seeds - 1, most) for each in (df, ceiling_df))
    apart, mixed, largest = (_not_certain(part, noise) for part in (apart, mixed, np.maximum(seed, shared)))
    ceiling = np.maximum(np.maximum(mixed, largest), apart)
    return _effects(contrast, apart, df, ceiling, ceiling_df, problem, noise, (-1.0, 1.0))


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


def run_variances(x: Array) -> Array:
    """(..., M) for x (..., M, S, P): how much each strategy's runs vary about what the seed does to all, in mean squares.

    Unbiased before the cut at zero, whatever the others' are (Grubbs 1948). Two strategies share theirs: nothing tells them apart.
    """
    strategies, seeds, problems = x.shape[-3:]
    if seeds == 1:
        return np.full(x.shape[:-2], np.nan)
    rest = x.mean(axis=-1)
    rest = rest - rest.mean(axis=-1, keepdims=True)
    rest = rest - rest.mean(axis=-2, keepdims=True)
    squares = problems * (rest**2).sum(axis=-1) / (seeds - 1)
    squares = np.where(squares > 1e-18 * problems * seeds, squares, 0.0)  # rounding, as in mean_squares
    if strategies == 2:
        return 2 * squares
    total = squares.sum(axis=-1, keepdims=True)
    return np.maximum(squares - total / (strategies * (strategies - 1)), 0) * strategies / (strategies - 2)


def _not_certain(squares: Array, noise: Array) -> Array:
    """Mean squares of seeds; where they are zero and cells differ, those of the cells: equal means by chance are not no noise."""
    return np.where((squares == 0) & (noise > 0), noise, squares)


def _effects(
    x: Array, seed: Array, seed_df: Array, ceiling: Array, ceiling_df: Array, problem: Array, noise: Array, bounds: tuple[float, float]
) -> Effects:  # fmt: skip
    """Effects of x (..., M, S, P) from mean squares: of the seeds, for intervals and for p-values, of the problems and of the rest."""
    seeds, problems = x.shape[-2:]
    cells = seeds * problems
    by_problem = problem / cells if seeds == 1 else np.maximum(problem - noise, 0) / cells  # one seed: noise has nowhere else to be
    mean = x.mean(axis=(-1, -2))
    seed_df, ceiling_df = (np.broadcast_to(np.maximum(df, 1.0), mean.shape) for df in (seed_df, ceiling_df))
    return Effects(mean, seed / cells, ceiling / cells, by_problem, seed_df, ceiling_df, seeds, problems, bounds)


def _checked(values: ArrayLike) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim < 3 or 0 in x.shape or x.shape[-1] < 2:
        raise ValueError(f"(strategies, seeds, problems) with two problems or more are needed, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("values that are not finite: leave incomplete runs out before comparing")
    return x
