"""Tests and corrections. p-values in [0, 1]; shares in [0, 1]. Legend: S training seeds, P problems."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selbench.seeding import derive

__all__ = ["benjamini_hochberg", "holm", "mcnemar", "seed_t", "sign_flip"]

EXACT = 20  # problems up to which all sign flips are enumerated: 2**20 sums
Array = NDArray[np.float64]


def sign_flip(differences: ArrayLike, *, draws: int = 10_000, seed: int = 0) -> Array:
    """Two-sided p-values of paired differences by problem, (..., P) to (...), under flips of their signs.

    Exact where up to 20 differ from zero; else (b + 1)/(m + 1) over m seeded draws (Phipson and Smyth 2010), the same for all rows.
    It speaks about the runs at hand: a difference between two lucky seeds counts as one between two strategies.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim < 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"non-empty rows of finite differences are needed, got shape {values.shape}")
    rows = values.reshape(-1, values.shape[-1])
    few = (rows != 0).sum(axis=1) <= EXACT
    p = np.empty(len(rows))
    p[few] = [_all_flips(row[row != 0]) for row in rows[few]]
    if not few.all():
        p[~few] = _some_flips(rows[~few], draws, np.random.default_rng(derive(seed, 0, "sign flips")))
    return p.reshape(values.shape[:-1])


def _all_flips(values: Array) -> float:
    """Of the sums under all flips, the share that is as far from zero as the one seen; values: no zeros. Two halves, one sorted."""
    seen = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    if seen <= 0:
        return 1.0
    one, other = _signed_sums(values[::2]), np.sort(_signed_sums(values[1::2]))
    above = len(other) - np.searchsorted(other, seen - one, side="left")
    below = np.searchsorted(other, -seen - one, side="right")
    return float((above + below).sum()) / (len(one) * len(other))


def _signed_sums(values: Array) -> Array:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _some_flips(rows: Array, draws: int, generator: np.random.Generator) -> Array:
    """The same from random flips. rows: (rows, P)."""
    scaled = (rows / np.abs(rows).sum(axis=1, keepdims=True)).T.astype(np.float32)  # single precision is half of the time
    seen = np.abs(scaled.sum(axis=0)) - 1e-6
    extreme = np.zeros(len(rows), dtype=np.int64)
    for start in range(0, draws, 1000):  # a block of signs at a time: memory
        signs = generator.integers(0, 2, size=(min(1000, draws - start), rows.shape[1]), dtype=np.int8).astype(np.float32) * 2 - 1
        extreme += (np.abs(signs @ scaled) >= seen).sum(axis=0)
    return (extreme + 1) / (draws + 1)


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided exact McNemar p-value of two answers to each problem, (P,) of 0 and 1 each: binomial on the problems that differ."""
    from scipy.stats import binomtest

    first, second = np.asarray(a), np.asarray(b)
    if first.ndim != 1 or first.shape != second.shape or first.size == 0 or not (np.isin(first, (0, 1)) & np.isin(second, (0, 1))).all():
        raise ValueError(f"McNemar's test needs one answer of 0 or 1 a problem on both sides, got shapes {first.shape} and {second.shape}")
    won, lost = int(((first == 1) & (second == 0)).sum()), int(((first == 0) & (second == 1)).sum())
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def seed_t(differences: ArrayLike) -> float:
    """Two-sided p-value of Student's t over training seeds, (S,) differences of whole runs; nan for a single seed, undefined there.

    Where all seeds differ by exactly the same amount the test says nothing either: 1 at no difference, else nan.
    """
    from scipy.special import stdtr

    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"a non-empty row of differences by seed is needed, got shape {values.shape}")
    if values.size < 2:
        return float("nan")
    if np.ptp(values) == 0:
        return 1.0 if values[0] == 0 else float("nan")
    t = values.mean() / (values.std(ddof=1) / np.sqrt(values.size))
    return float(2 * stdtr(values.size - 1, -abs(t)))


def holm(p: ArrayLike) -> Array:
    """Holm's (1979) adjusted p-values over the last axis: at most `alpha` families in 1 hold a false one below alpha."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, axis=-1)
    count = values.shape[-1]
    stepped = np.take_along_axis(values, order, axis=-1) * np.arange(count, 0, -1)
    return _restored(np.maximum.accumulate(stepped, axis=-1), order)


def benjamini_hochberg(p: ArrayLike) -> Array:
    """Benjamini and Hochberg's (1995) adjusted p-values over the last axis: the share of false ones among those below alpha."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, axis=-1)
    count = values.shape[-1]
    stepped = np.take_along_axis(values, order, axis=-1) * count / np.arange(1, count + 1)
    return _restored(np.minimum.accumulate(stepped[..., ::-1], axis=-1)[..., ::-1], order)


def _restored(adjusted: Array, order: NDArray[np.intp]) -> Array:
    out = np.empty_like(adjusted)
    np.put_along_axis(out, order, np.minimum(adjusted, 1.0), axis=-1)
    return out
