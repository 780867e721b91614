"""Ranks as the data allow them: an interval for each strategy, and groups of those that cannot be told apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selbench.stats.crossed import LIKE, differences
from selbench.stats.testing import holm

__all__ = ["beats", "rank_intervals", "tie_groups"]


def beats(values: ArrayLike, *, level: float = 0.95, scope: str = LIKE) -> NDArray[np.bool_]:
    """(M, M): whether strategy i is better than j, over all pairs at once (Holm). values: (M, S, P) shares of right answers.

    With one training seed no strategy is better than another.
    """
    x = np.asarray(values, dtype=np.float64)
    count = x.shape[0]
    p = np.ones((count, count))
    for baseline in range(count if count > 1 and x.shape[1] > 1 else 0):
        others = [place for place in range(count) if place != baseline]
        p[others, baseline] = differences(x, baseline).differs(scope=scope)
    p = np.maximum(p, p.T)  # each side learns the noise from another baseline: the larger p counts
    upper = np.triu_indices(count, 1)
    decided = np.zeros((count, count), dtype=bool)
    decided[upper] = holm(p[upper]) <= 1 - level
    means = x.mean(axis=(1, 2))
    return (decided | decided.T) & (means[:, None] > means[None, :])


def rank_intervals(better: ArrayLike) -> NDArray[np.int64]:
    """(M, 2): best and worst rank of each, 1 the best, all true at once at the level of `beats`: (M, M), i better than j.

    Klein, Wright and Wieczorek (2020), "A joint confidence region for an overall ranking of populations".
    """
    wins = np.asarray(better, dtype=bool)
    return np.stack([1 + wins.sum(axis=0), len(wins) - wins.sum(axis=1)], axis=1).astype(np.int64)


def tie_groups(means: ArrayLike, better: ArrayLike) -> list[list[int]]:
    """Runs of strategies, from the best mean down, in which no one is better than another; a strategy may be in several.

    means: (M,); better: (M, M) of `beats`. Each run is as long as it can be, none is inside another.
    """
    wins, order = np.asarray(better, dtype=bool), np.argsort(-np.asarray(means, dtype=np.float64), kind="stable")
    groups: list[list[int]] = []
    reached = 0
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and not wins[np.ix_(order[start : stop + 1], order[start : stop + 1])].any():
            stop += 1
        if stop > reached:
            groups.append([int(place) for place in order[start:stop]])
            reached = stop
    return groups
