"""Do the intervals cover and the verdicts keep their promise? Simulated tables of known truth, judged by the code that judges runs.

Answers are drawn from logit P(right) = level + strategy + difficulty_j + seed_s + run_is + fit_ij + rest_isj, all normal, at the sizes
of AIME (30 problems) and MATH-500, one baseline and eight strategies. Strategies get the population mean that the case asks
for, whatever their noise.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selbench import stats, verdicts
from selbench.seeding import derive
from selbench.stats.bootstrap import hierarchical_ends, percentile_ends
from selbench.stats.estimators import posterior, sampling_error

__all__ = ["CASES", "NOISES", "SIZES", "Case", "Noise", "Size", "measure", "simulate"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
STRATEGIES, LEVEL, CHUNK, DRAWS = 8, 0.95, 100, 1000
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(61)
FEW_NODES, FEW_WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
LADDER = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15)  # true differences of the eight strategies, where power is measured


@dataclass(frozen=True)
class Size:
    """A benchmark: problems, samples of each, mean accuracy of the baseline, margin of equivalence."""

    problems: int
    samples: int
    accuracy: float
    margin: float


@dataclass(frozen=True)
class Noise:
    """Standard deviations on the logit scale; `factors`: of run and rest, by strategy, the baseline first (default: all 1).

    difficulty 2.4 puts about six tenths of an answer's variance between problems; run 0.15 is about 1.3 points of AIME accuracy.
    """

    difficulty: float = 2.4
    seed: float = 0.1
    run: float = 0.15
    fit: float = 0.4
    rest: float = 0.5
    factors: tuple[float, ...] = (1.0,) * (STRATEGIES + 1)


SIZES = {
    "AIME, k = 16": Size(30, 16, 0.3, 0.03), "AIME, k = 32": Size(30, 32, 0.3, 0.03), "MATH-500, k = 4": Size(500, 4, 0.7, 0.02),
}  # fmt: skip
NOISES = {
    "typical": Noise(),
    "no noise between runs": Noise(seed=0.0, run=0.0),
    "noisy runs": Noise(seed=0.3, run=0.4),
    "one strategy twice as noisy": Noise(factors=(1.0, 2.0, *(1.0,) * 7)),
    "baseline twice as noisy": Noise(factors=(2.0, *(1.0,) * 8)),
}
CASES = ("all equal", "all at the margin", "ladder")


@dataclass(frozen=True)
class Case:
    """One simulated setting."""

    size: str
    noise: str
    seeds: int
    truth: str


@dataclass(frozen=True)
class _Draw:
    """Data sets and what is true of them. shares (R, M, S, P); means (M,) of the population; fixed (R, M) of these problems;
    first (R,) of the baseline's first run on problems like these, here (R,) on these; answers (R,) right among its first samples."""

    shares: Array
    means: Array
    fixed: Array
    first: Array
    here: Array
    answers: NDArray[np.int64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _mean(level: Any, deviation: Any, nodes: Array = NODES, weights: Array = WEIGHTS) -> Any:
    """E sigmoid(level + deviation z), z standard normal."""
    total = sum(w * sigmoid(level + deviation * node) for node, w in zip(nodes, weights, strict=True))
    return total / weights.sum()


@cache
def _level(mean: float, deviation: float) -> float:
    """The logit around which answers are right with this mean."""
    from scipy.optimize import brentq

    return float(brentq(lambda level: float(_mean(level, deviation)) - mean, -20, 20))


def _draw(size: Size, noise: Noise, seeds: int, means: Array, count: int, generator: np.random.Generator) -> _Draw:
    strategies, factors = len(means), np.asarray(noise.factors)
    within = np.sqrt(noise.seed**2 + (factors * noise.run) ** 2 + (factors * noise.rest) ** 2)  # (M,) between runs at one problem
    across = np.sqrt(noise.difficulty**2 + noise.fit**2 + within**2)
    level = np.array([_level(float(m), float(d)) for m, d in zip(means, across, strict=True)])

    def normal(deviation: Any, *shape: int) -> NDArray[np.float32]:
        return generator.standard_normal((count, *shape), dtype=np.float32) * np.asarray(deviation, dtype=np.float32)

    place = normal(noise.difficulty, 1, 1, size.problems) + normal(noise.fit, strategies, 1, size.problems)
    run = normal(noise.seed, 1, seeds, 1) + normal(factors[:, None, None] * noise.run, strategies, seeds, 1)
    logit = level[:, None, None].astype(np.float32) + place + run
    logit += normal(factors[:, None, None] * noise.rest, strategies, seeds, size.problems)
    chance = 1 / (1 + np.exp(-logit))
    right = np.zeros(chance.shape, dtype=np.float32)
    answers = np.zeros(count, dtype=np.int64)
    for sample in range(size.samples):
        answer = generator.random(chance.shape, dtype=np.float32) < chance
        right += answer
        answers = answer[:, 0, 0].sum(axis=-1) if sample == 0 else answers
    fixed = _mean(level[:, None] + place[:, :, 0], within[:, None], FEW_NODES, FEW_WEIGHTS).mean(axis=-1)
    rest = np.sqrt(noise.difficulty**2 + noise.fit**2 + (factors[0] * noise.rest) ** 2)
    first = _mean(level[0] + run[:, 0, 0, 0].astype(float), rest)
    return _Draw(right.astype(float) / size.samples, means, fixed, first, chance[:, 0, 0].mean(axis=-1), answers)


def _covered(ends: tuple[Array, Array], truth: Array) -> Flags:
    return (ends[0] <= truth) & (truth <= ends[1])


def _coverage(draw: _Draw, size: Size, noise: Noise, seed: int) -> dict[str, Flags]:
    """Whether each interval holds its truth, (R, ...), by name."""
    x, found = draw.shares, {}
    effects, means = stats.differences(x), stats.levels(x)
    targets = {stats.LIKE: (draw.means[1:] - draw.means[0], draw.means), stats.THESE: (draw.fixed[:, 1:] - draw.fixed[:, :1], draw.fixed)}
    for scope, (apart, level) in targets.items():
        found[f"difference, {scope}"] = _covered(effects.interval(LEVEL, scope), apart)
        found[f"score, {scope}"] = _covered(means.interval(LEVEL, scope), level)
        if noise.factors[1] != noise.factors[2]:
            found[f"difference of the noisier strategy, {scope}"] = found[f"difference, {scope}"][:, 0]
    alone = stats.differences(x[:, :2])
    found["difference of a table of two, problems like these"] = _covered(alone.interval(), targets[stats.LIKE][0][:1])
    percentile = percentile_ends(x[:, 1] - x[:, 0], draws=DRAWS, level=LEVEL, seed=seed)
    found["difference, percentile bootstrap"] = _covered(tuple(percentile), targets[stats.LIKE][0][0])
    seeds_problems = hierarchical_ends(x[:, 0], size.samples, ("seed", "problem"), draws=DRAWS, seed=seed)
    found["score, BCa bootstrap of seeds and problems"] = _covered(seeds_problems, draw.means[0])
    run = x[:, 0, :1]
    one_run = hierarchical_ends(run, size.samples, ("problem",), draws=DRAWS, seed=seed)
    found["score of one run, BCa bootstrap over problems"] = _covered(one_run, draw.first)
    right = np.rint(run[:, 0] * size.samples)
    mean, half = posterior(right, size.samples, LEVEL, (1.0, 1.0))
    found["score of one run, Bayes@N, these problems"] = _covered((mean - half, mean + half), draw.here)
    mean, half = sampling_error(right, size.samples, LEVEL)
    found["score of one run, these problems"] = _covered((mean - half, mean + half), draw.here)
    wilson = {count: stats.accuracy_interval(np.arange(size.problems)[:, None] < count)[0] for count in set(draw.answers)}
    low, high = (np.array([getattr(wilson[count], end) for count in draw.answers]) for end in ("low", "high"))
    found["score of one run, one sample, Wilson"] = _covered((low, high), draw.first)
    return found


def _rivals(x: Array) -> dict[str, Flags]:
    """Whether any of the family is called different, (R,), by what is often done instead; all after Holm."""
    apart = x[:, 1:] - x[:, :1]
    alone = np.stack([stats.differences(x[:, [0, place]]).differs()[:, 0] for place in range(1, x.shape[1])], axis=-1)
    p = {
        "each comparison by its own seeds": alone,
        "sign flips over problems, all seeds": stats.sign_flip(apart.mean(axis=2)),
        "sign flips over problems, one seed": stats.sign_flip(apart[:, :, 0]),
    }
    return {name: np.any(stats.holm(values) <= 1 - LEVEL, axis=-1) for name, values in p.items()}


def simulate(case: Case, replicates: int, seed: int = 0) -> dict[str, Any]:
    """Shares over `replicates` tables: {"case", "replicates", "true_differences", "coverage": {interval: share}, "false": {claim: share of
    families}, "words": {word: share of each strategy}}."""
    size, noise = SIZES[case.size], NOISES[case.noise]
    away = {
        "all equal": np.zeros(STRATEGIES), "all at the margin": size.margin * np.resize([1.0, -1.0], STRATEGIES), "ladder": np.array(LADDER)
    }[case.truth]  # fmt: skip
    means = size.accuracy + np.concatenate([[0.0], away])
    gathered: dict[str, dict[str, list[Flags]]] = {"coverage": {}, "false": {}, "words": {}}
    for chunk, start in enumerate(range(0, replicates, CHUNK)):
        purpose = f"calibration {case.size} {case.noise} {case.seeds} {case.truth}"
        generator = np.random.default_rng(derive(seed, chunk, purpose))
        draw = _draw(size, noise, case.seeds, means, min(CHUNK, replicates - start), generator)
        codes = verdicts.decide(stats.differences(draw.shares), margin=size.margin, level=LEVEL)
        if case.truth == "all equal":
            parts = {"coverage": _coverage(draw, size, noise, chunk)}
            parts["false"] = {"verdict": (codes == 1).any(axis=-1) | (codes == 2).any(axis=-1)}
            parts["false"] |= _rivals(draw.shares) if case.noise == "typical" else {}
        else:
            wrong = (codes == verdicts.WORDS.index("equivalent")) & (np.abs(away) >= size.margin - 1e-12)
            wrong |= (codes == 1) & (away <= 0) | (codes == 2) & (away >= 0)
            parts = {"false": {"any false word": wrong.any(axis=-1)}}
            parts["false"]["equivalent"] = (codes == 3)[:, np.abs(away) >= size.margin - 1e-12].any(axis=-1)
        parts["words"] = {word: codes == place for place, word in enumerate(verdicts.WORDS)}
        for kind, named in parts.items():
            for name, values in named.items():
                gathered[kind].setdefault(name, []).append(values)
    row: dict[str, Any] = {"case": asdict(case), "replicates": replicates, "true_differences": [float(v) for v in away]}
    for kind in ("coverage", "false"):
        row[kind] = {name: float(np.concatenate(values).mean()) for name, values in gathered[kind].items()}
    row["words"] = {name: [float(v) for v in np.concatenate(values).mean(axis=0)] for name, values in gathered["words"].items()}
    return row


def cases() -> list[Case]:
    """Every noise, number of seeds and truth; the ladder and more samples of AIME only where noise is typical."""
    return [
        Case(size, noise, seeds, truth)
        for size in SIZES for noise in NOISES for seeds in (3, 5) for truth in CASES
        if noise == "typical" or (truth != "ladder" and size != "AIME, k = 32")
    ]  # fmt: skip


def measure(replicates: int = 2000, seed: int = 0) -> dict[str, Any]:
    """All cases: {"replicates", "seed", "sizes", "noises", "cases", "seconds"}."""
    began = time.perf_counter()
    rows = [simulate(case, replicates, seed) for case in cases()]
    return {
        "schema": 1, "replicates": replicates, "seed": seed, "sizes": {name: asdict(size) for name, size in SIZES.items()},
        "noises": {name: asdict(noise) for name, noise in NOISES.items()}, "cases": rows,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
