"""Where the noise comes from, and what seeds and samples a wanted effect takes. Shares in [0, 1], variances of shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from selbench.stats.crossed import LIKE, SCOPES, THESE, mean_squares

__all__ = ["Components", "detectable_effect", "required_samples", "required_seeds", "variance_components"]


@dataclass(frozen=True)
class Components:
    """Variances of one answer's share, or of one difference: between training seeds, problems, seed x problem, samples of a cell."""

    seed: float
    problem: float
    interaction: float
    sample: float

    def error(self, seeds: int, problems: int, samples: int, scope: str = LIKE) -> float:
        """Standard error of the mean over seeds x problems x samples answers."""
        if scope not in SCOPES:
            raise ValueError(f"unknown scope {scope!r}: use one of {', '.join(SCOPES)}")
        cells = (self.interaction + self.sample / samples) / (seeds * problems)
        return float(np.sqrt(self.seed / seeds + cells + (0.0 if scope == THESE else self.problem / problems)))


def variance_components(correct: ArrayLike, baseline: ArrayLike | None = None) -> Components:
    """Method of moments on the crossed design. correct, baseline: (S, P, k) of 0 and 1, S and P at least 2; with a baseline, of the
    paired differences. A negative estimate becomes 0; with k = 1 interaction and sample noise are one, given as sample.

    Searle, Casella and McCulloch (1992), "Variance components", chapter 4.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (correct, baseline) if side is not None]
    shape = sides[0].shape
    if len(shape) != 3 or min(shape[:2]) < 2 or any(side.shape != shape for side in sides):
        raise ValueError(f"equal (seeds, problems, samples) arrays, two seeds and problems or more, are needed, got {shape}")
    seeds, problems, samples = shape
    cells = sides[0].mean(axis=2) - (sides[1].mean(axis=2) if len(sides) > 1 else 0.0)
    seed, problem, rest = (float(square) for square in mean_squares(cells))
    sample = sum(float(side.var(axis=2, ddof=1).mean()) for side in sides) if samples > 1 else rest
    interaction = max(rest - sample / samples, 0.0) if samples > 1 else 0.0
    return Components(max(seed - rest, 0.0) / problems, max(problem - rest, 0.0) / seeds, interaction, sample)


def detectable_effect(
    of: Components, seeds: int, problems: int, samples: int, *, power: float = 0.8, level: float = 0.95, comparisons: int = 1,
    strategies: int = 2, scope: str = LIKE,
) -> float:  # fmt: skip
    """The smallest true difference that is found with this power: (t(1 - alpha/2) + t(power)) standard errors.

    of: components of a paired difference. alpha = (1 - level)/comparisons, the first step of Holm's. Degrees of freedom by
    Satterthwaite, with (strategies - 1)(seeds - 1) for the seeds, as `crossed.differences` has them; infinite with one seed.
    """
    from scipy.special import stdtrit

    if not (0 < power < 1 and 0 < level < 1 and comparisons >= 1 and problems >= 2 and samples >= 1 and strategies >= 2):
        raise ValueError("power and level lie inside (0, 1); one comparison, two problems, one sample and two strategies at least")
    if seeds < 2:
        return float("inf")
    error = of.error(seeds, problems, samples, scope)
    if error == 0:
        return 0.0
    share = of.error(seeds, problems, samples, THESE) ** 2 / error**2
    df = 1 / (share**2 / ((strategies - 1) * (seeds - 1)) + (1 - share) ** 2 / (problems - 1))
    return float((stdtrit(df, 1 - (1 - level) / comparisons / 2) + stdtrit(df, power)) * error)


def required_seeds(
    of: Components, effect: float, problems: int, samples: int, *, power: float = 0.8, level: float = 0.95, comparisons: int = 1,
    strategies: int = 2, scope: str = LIKE, most: int = 100,
) -> int | None:  # fmt: skip
    """The fewest training seeds that find a true difference of `effect`; None where even `most` do not: problems set the limit."""
    options = {"power": power, "level": level, "comparisons": comparisons, "strategies": strategies}
    for seeds in range(2, most + 1):
        if detectable_effect(of, seeds, problems, samples, scope=scope, **options) <= effect:  # type: ignore[arg-type]
            return seeds
    return None


def required_samples(
    of: Components, effect: float, seeds: int, problems: int, *, power: float = 0.8, level: float = 0.95, comparisons: int = 1,
    strategies: int = 2, scope: str = LIKE, most: int = 1024,
) -> int | None:  # fmt: skip
    """The fewest samples of a problem, a power of two, that find a true difference of `effect`; None where even `most` do not."""
    options = {"power": power, "level": level, "comparisons": comparisons, "strategies": strategies}
    samples = 1
    while samples <= most:
        if detectable_effect(of, seeds, problems, samples, scope=scope, **options) <= effect:  # type: ignore[arg-type]
            return samples
        samples *= 2
    return None
