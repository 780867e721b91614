"""One comparison, one word: better, worse, equivalent or undecided, with what it rests on.

The word answers for training seeds and problems alike (`stats.crossed`); p-values are Holm's over the comparisons of the family.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selbench.stats import LIKE, Effects, Interval, differences, holm

__all__ = ["WORDS", "Verdict", "decide", "judge", "verdict"]

WORDS = ("undecided", "better", "worse", "equivalent")
ONE_SEED = "one training seed: a difference between two runs says nothing of two strategies; train with two seeds or more"


@dataclass(frozen=True)
class Verdict:
    """`word` with its `reason`. Shares in [0, 1], not points.

    p: two-sided, "no difference"; p_equivalent: TOST, "a difference of the margin or more"; p_not_worse: "worse by the margin or
    more". All three after Holm over the family, nan where there is no test. interval: of this comparison alone. detectable: the
    true difference that the data would have shown with 80 % power.
    """

    word: str
    reason: str
    p: float
    p_equivalent: float
    p_not_worse: float
    interval: Interval
    detectable: float


def verdict(values: ArrayLike, *, margin: float | None = None, level: float = 0.95, scope: str = LIKE) -> Verdict:
    """The verdict on a single comparison: values (S, P), ours minus theirs by training seed and problem.

    Where there are more strategies, `judge` them together: three seeds of one comparison decide little.
    """
    x = np.asarray(values, dtype=np.float64)
    return judge(differences(np.stack([np.zeros_like(x), x])), margin=margin, level=level, scope=scope)[0]


def judge(effects: Effects, *, margin: float | None = None, level: float = 0.95, scope: str = LIKE) -> list[Verdict]:
    """The verdicts on a family: effects of M differences, as `differences` gives them, or `join` for several baselines.

    margin: the largest difference that does not matter, a share; None tests no equivalence. A difference that is there, but inside
    the margin, is "equivalent". Raises ValueError for a margin or level outside (0, 1).
    """
    if not 0 < level < 1 or not (margin is None or 0 < margin < 1):
        raise ValueError(f"margin and level are shares inside (0, 1), got {margin} and {level}")
    p, same, not_worse = _adjusted(effects, margin, scope)
    codes = decide(effects, margin=margin, level=level, scope=scope)
    low, high = effects.interval(level, scope)
    detectable = effects.detectable(effects.mean.shape[-1], level=level, scope=scope)
    verdicts = []
    for place, code in enumerate(codes):
        interval = Interval(float(effects.mean[place]), float(low[place]), float(high[place]))
        tests = float(p[place]), float(same[place]), float(not_worse[place])
        show = float(detectable[place]) if effects.seeds > 1 else float("nan")
        reason = _reason(WORDS[code], interval, tests, show, margin, level, effects) if effects.seeds > 1 else ONE_SEED
        verdicts.append(Verdict(WORDS[code], reason, *tests, interval, show))
    return verdicts


def decide(effects: Effects, *, margin: float | None = None, level: float = 0.95, scope: str = LIKE) -> NDArray[np.int64]:
    """Places in WORDS for effects (..., M): the last axis is the family, leading axes are families of their own."""
    p, same, _ = _adjusted(effects, margin, scope)
    code = np.where(p <= 1 - level, np.where(effects.mean > 0, 1, 2), 0)
    return np.where(same <= 1 - level, 3, code)  # nan compares false: undecided


def _adjusted(effects: Effects, margin: float | None, scope: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Holm's p-values of "no difference", "at least the margin apart" and "worse by the margin", (..., M) each; nan with one seed.

    At least those of the comparison alone: no word says what its interval does not.
    """
    nothing = np.full(effects.mean.shape, np.nan)
    if effects.seeds < 2:
        return nothing, nothing, nothing
    alone = effects.alone()
    p = np.maximum(holm(effects.differs(scope=scope)), alone.differs(scope=scope))
    if margin is None:
        return p, nothing, nothing
    same = np.maximum(holm(effects.equivalent(margin, scope)), alone.equivalent(margin, scope))
    return p, same, np.maximum(holm(effects.above(-margin, scope)), alone.above(-margin, scope))


def _reason(
    word: str, interval: Interval, tests: tuple[float, float, float], show: float, margin: float | None, level: float,
    effects: Effects,
) -> str:  # fmt: skip
    p, same, not_worse = tests
    family = f" after Holm over {effects.mean.shape[-1]}" if effects.mean.shape[-1] > 1 else ""
    points = f"{100 * interval.mean:+.1f} points"
    if word in ("better", "worse"):
        return f"{points}, p {_p(p)}{family}"
    if word == "equivalent":
        apart = "; not zero, but less than the margin" if interval.low > 0 or interval.high < 0 else ""
        return f"{points}, within ±{100 * (margin or 0):g} (TOST p {_p(same)}{family}){apart}"
    text = f"{points}, p {_p(p)}{family}: {effects.seeds} seeds x {effects.problems} problems would have shown {100 * show:.1f} points"
    if margin is not None and not_worse <= 1 - level:
        text += f"; not worse by {100 * margin:g} points (p {_p(not_worse)})"
    return text


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
