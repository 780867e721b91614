"""What one 0/1 array of answers says of a model: avg@k, pass@k, maj@k, Bayes@N. Shares in, shares out.

Legend: P problems, k (or n) samples of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Interval", "average_at_k", "bayes_at_n", "majority_at_k", "matrix", "pass_at_k", "posterior", "run_interval", "sampling_error"]


@dataclass(frozen=True)
class Interval:
    """An estimate and the two ends of its interval, in the unit of the data."""

    mean: float
    low: float
    high: float


def average_at_k(correct: ArrayLike) -> float:
    """Mean over problems of the share of a problem's k samples that are right. correct: (P, k) of 0 and 1."""
    return float(matrix(correct).mean())


def pass_at_k(correct: ArrayLike, k: int) -> float:
    """Chance that at least one of k samples is right, without bias from n >= k stored ones: mean of 1 - C(n-c, k) / C(n, k).

    correct: (P, n). Chen et al., arXiv:2107.03374, section 2.1. Raises ValueError unless 1 <= k <= n.
    """
    right = matrix(correct)
    n = right.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs between 1 and {n} samples, the number stored")
    wrong = n - right.sum(axis=1)
    return float(1 - np.prod([np.clip(wrong - i, 0, None) / (n - i) for i in range(k)], axis=0).mean())


def majority_at_k(votes: ArrayLike, correct: ArrayLike) -> float:
    """Mean over problems of the chance that the most frequent answer is right, ties drawn evenly.

    votes: (P, k) integers, equal for equal answers of a problem, negative where no answer could be read (no vote); correct:
    (P, k). A problem without any vote counts as wrong. Wang et al., arXiv:2203.11171.
    """
    labels, right = np.asarray(votes), matrix(correct)
    if labels.shape != right.shape:
        raise ValueError(f"votes {labels.shape} and correct {right.shape} differ in shape")
    same = (labels[:, :, None] == labels[:, None, :]) & (labels >= 0)[:, :, None]
    size = same.sum(axis=2)  # (P, k): votes for the answer that this sample gave, 0 where it gave none
    wins = np.where((size == size.max(axis=1, keepdims=True)) & (size > 0), 1 / np.maximum(size, 1), 0.0)  # an answer's sum to one
    return float(((wins * right).sum(axis=1) / np.maximum(wins.sum(axis=1), 1)).mean())


def bayes_at_n(correct: ArrayLike, *, level: float = 0.95, prior: tuple[float, float] = (1.0, 1.0)) -> Interval:
    """Bayes@N: posterior mean of avg@k and its normal credible interval, for these problems and this run.

    correct: (P, n). prior: counts of right and wrong answers added to every problem; (1, 1) is the published uniform prior,
    arXiv:2510.04265, section 2: mean (1 + c) / (n + 2), variance mean (1 - mean) / (n + 3) of each problem. It pulls towards a
    half by (1/2 - p) 2 / (n + 2), often further than the interval is wide: right for problems drawn from that prior, but
    where most are easy or hard `run_interval` is the one that covers.
    """
    right = matrix(correct)
    if not (min(prior) > 0 and 0 < level < 1):
        raise ValueError(f"bayes_at_n needs a prior of positive counts and a level inside (0, 1), got {prior} and {level}")
    mean, half = posterior(right.sum(axis=1), right.shape[1], level, prior)
    return Interval(float(mean), float(mean - half), float(mean + half))


def run_interval(correct: ArrayLike, *, level: float = 0.95) -> Interval:
    """avg@k with a normal interval for these problems and this run: only the draw of the samples varies. nan ends with one sample.

    correct: (P, k). Variance: mean over problems of c (k - c) / (k² (k - 1)), unbiased, by P; Miller, arXiv:2411.00640, section 3.
    Where no problem has both right and wrong answers the ends are those of problems at which such samples are 5 % likely.
    """
    right = matrix(correct)
    mean, half = sampling_error(right.sum(axis=1), right.shape[1], level)
    if half == 0:
        far = 1 - (1 - level) ** (1 / right.size)
        return Interval(float(mean), max(float(mean) - far, 0.0), min(float(mean) + far, 1.0))
    return Interval(float(mean), float(mean - half), float(mean + half))


def posterior(right: NDArray[Any], n: int, level: float, prior: tuple[float, float]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and half width of Bayes@N, (...) each, for counts right (..., P) of n samples."""
    from scipy.stats import norm

    good, bad = prior
    share = (good + right) / (good + bad + n)
    half = norm.ppf((1 + level) / 2) * np.sqrt((share * (1 - share) / (good + bad + n + 1)).sum(axis=-1)) / right.shape[-1]
    return share.mean(axis=-1), half


def sampling_error(right: NDArray[Any], k: int, level: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and half width of `run_interval`, (...) each, for counts right (..., P) of k samples."""
    from scipy.stats import norm

    share = right / k
    error = np.sqrt((share * (1 - share)).sum(axis=-1) / (k - 1)) / right.shape[-1] if k > 1 else np.full(right.shape[:-1], np.nan)
    return share.mean(axis=-1), norm.ppf((1 + level) / 2) * error


def matrix(correct: ArrayLike) -> NDArray[np.float64]:
    """correct as (P, k) float64. Raises ValueError unless it holds 0 and 1 only, at least one."""
    values = np.asarray(correct, dtype=np.float64)
    if values.ndim != 2 or values.size == 0 or not np.isin(values, (0, 1)).all():
        raise ValueError(f"a non-empty (problems, samples) array of 0 and 1 is needed, got shape {values.shape}")
    return values
