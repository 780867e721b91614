"""The contract for token selection: signals in, a score per token out, and the one rule by which a budget keeps tokens.

A strategy is a pure function of the signals of the whole optimiser batch. It never sees micro-batches, ranks, models or
text, so its choice cannot depend on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from selbench.errors import ConfigError
from selbench.registry import Registry, caller
from selbench.signals import Signals, StrategyError, Tensor, order_statistics, signal_top_k

__all__ = ["STRATEGIES", "Selection", "Strategy", "budget_count", "keep_order", "register_strategy", "select"]


def budget_count(valid: int, budget: float) -> int:
    """How many of `valid` tokens a budget in (0, 1] keeps: max(1, ceil(budget · valid)), safe against 0.07 · 100 = 7.000…1."""
    return min(valid, max(1, math.ceil(budget * valid - 1e-9)))


def keep_order(score: Tensor, position: Tensor, sample: Tensor) -> Tensor:
    """Row indices (N,) from first kept to last: higher score, then earlier position, then lower sample (methods 3.3)."""
    order = sample.argsort(stable=True)
    order = order[position[order].argsort(stable=True)]
    return order[score[order].argsort(stable=True, descending=True)]


@dataclass(frozen=True)
class Selection:
    """What a batch keeps: `index` (k,) int64 rows in ascending order, `weight` (k,) float32; how it came about in counts."""

    index: Tensor
    weight: Tensor
    candidates: int
    filled: int = 0  # tokens added above the budget by the per-sample minimum
    ties: int = 0  # tokens not kept though they score as the last one kept


@dataclass(frozen=True)
class Strategy:
    """A registered rule. Built by `register_strategy`; the fields are documented there."""

    name: str
    version: int
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    budget: float
    source: str
    kind: Literal["scores", "weights"] = "scores"
    candidates: Callable[[Signals], Tensor] | None = None
    min_per_sample: int = 0
    fill: Callable[[Signals], Tensor] | None = None
    role: Literal["reference", "control", "contender", "extra"] = "extra"
    parameters: Any = None
    file: str = field(default="<unknown>", compare=False)

    @property
    def label(self) -> str:
        return f"{self.name}-v{self.version}"

    def score(self, signals: Signals) -> Tensor:
        """(N,) scores or weights; raises StrategyError when the shape is wrong or a value is not finite."""
        import torch

        with torch.no_grad():
            out = self.function(signals) if self.parameters is None else self.function(signals, self.parameters)
        if not isinstance(out, torch.Tensor) or tuple(out.shape) != (len(signals),):
            got = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise StrategyError(f"{self.name}: wrong shape, returned {got} where one value per token, ({len(signals)},), is due")
        if out.numel() and not all(bool(edge.isfinite()) for edge in out.aminmax()):  # a tenth of looking at each; NaN comes through
            raise StrategyError(f"{self.name}: returned NaN or infinity for {int((~out.isfinite()).sum())} of {len(signals)} tokens")
        if self.kind == "weights" and bool((out < 0).any()):
            raise StrategyError(f"{self.name}: returned negative weights for {int((out < 0).sum())} tokens")
        return out


STRATEGIES: Registry[Strategy] = Registry("strategy", "strategies")


def register_strategy(
    name: str, *, version: int, source: str, needs: tuple[str, ...] = (), budget: float = 0.5,
    kind: Literal["scores", "weights"] = "scores", candidates: Callable[[Signals], Tensor] | None = None,
    min_per_sample: int = 0, fill: Callable[[Signals], Tensor] | None = None,
    role: Literal["reference", "control", "contender", "extra"] = "extra", parameters: Any = None,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:  # fmt: skip
    """Register a function `(Signals) -> (N,)` as a strategy.

    Args:
        name: unique id; a published variant is `base@variant`.
        version: an integer that rises whenever a change may move a score.
        source: paper and equation, repository at a commit, or "none".
        needs: signals (`SIGNALS`) that are computed for it; any other raises.
        budget: published share of kept tokens in (0, 1], used where a protocol gives none.
        kind: "scores" (the harness keeps the top k) or "weights" (>= 0, the strategy owns its budget).
        candidates: Signals -> (N,) bool, the tokens that may be kept; None means all.
        min_per_sample: tokens that every response keeps at least, on top of the budget.
        fill: the score that chooses these; None means the strategy's own.
        role: "reference" (the full-token baseline), "control" (random at the same budget), "contender" (compared with
            both by `--strategies all`) or "extra" (run by name only).
        parameters: a frozen dataclass instance, passed as the second argument.

    Raises:
        ConfigError: an unknown signal, a budget outside (0, 1], or a name that another file holds.
    """

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        for need in needs:
            signal_top_k(need)
        if not 0 < budget <= 1:
            raise ConfigError(f"strategy {name!r}: budget {budget} is not in (0, 1]")
        if not (function.__doc__ or "").strip():
            raise ConfigError(f"strategy {name!r}: the function has no docstring; say its formula in one line")
        STRATEGIES.add(Strategy(name, version, function, needs, budget, source, kind, candidates, min_per_sample, fill,
                                role, parameters, caller(function)))  # fmt: skip
        return function

    return register


def select(strategy: Strategy, signals: Signals, budget: float, seed: int) -> Selection:
    """The tokens that `strategy` keeps of one optimiser batch (methods 3.7). Raises StrategyError on a broken contract."""
    import torch

    view = signals.keeping(strategy.needs, seed)
    score = strategy.score(view)
    if strategy.kind == "weights":
        index = score.nonzero().flatten()
        return Selection(index, score[index].float(), len(view))
    allowed = None if strategy.candidates is None else strategy.candidates(view)
    kept, candidates, ties = _top(score, view, allowed, budget_count(len(view), budget))
    index, filled = _rows(kept), 0
    if strategy.min_per_sample and budget < 1 and len(view):
        owner, missing = _missing(index, view.sample, strategy.min_per_sample)
        if int(missing.max()) > 0:
            fill = score if strategy.fill is None else strategy.fill(view)
            rows = _best_of_each(_rows(missing.gt(0)[owner].logical_and_(~kept)), fill, view, owner, missing)
            kept[rows], filled = True, len(rows)
            index = _rows(kept)
    return Selection(index, torch.ones_like(index, dtype=torch.float32), candidates, filled, ties)


def _top(score: Tensor, view: Signals, allowed: Tensor | None, count: int) -> tuple[Tensor, int, int]:
    """The first `count` allowed rows in `keep_order`, as a mask (N,); how many are allowed; how many tie with the last, but go.

    No sort: the score of the last one kept parts the rows, and only those that have this very score need an order.
    """
    pool = score if allowed is None else score[allowed]
    if count >= len(pool):
        return score.new_ones(len(score)).bool() if allowed is None else allowed.clone(), len(pool), 0
    last = order_statistics(pool, [len(pool) - count])[0]
    kept, level = score > last, score == last
    if allowed is not None:
        kept, level = kept.logical_and_(allowed), level.logical_and_(allowed)
    rows, due = _rows(level), count - int(kept.count_nonzero())
    _keep_first(kept, rows, due, (view.position, view.sample))
    return kept, len(pool), len(rows) - due


def _keep_first(kept: Tensor, rows: Tensor, count: int, keys: tuple[Tensor, ...]) -> None:
    """Keep, in place, `count` of `rows` (n,): first by the first key, among equals by the next, in the end by their place."""
    for key in keys:
        if count >= len(rows):
            break
        last = order_statistics(key[rows], [count - 1])[0]
        before = rows[key[rows] < last]
        kept[before] = True
        rows, count = rows[key[rows] == last], count - len(before)
    kept[rows[:count]] = True


def _missing(index: Tensor, sample: Tensor, minimum: int) -> tuple[Tensor, Tensor]:
    """(N,) the responses numbered from 0, and how many kept tokens each of them is short of `minimum` (negative: has more)."""
    low, high = (int(edge) for edge in sample.aminmax())
    owner = sample - low if low else sample
    if high - low > 2 * len(sample):  # numbers with wide gaps: a count for each number would not fit
        owner = sample.unique(return_inverse=True)[1]
    return owner, minimum - owner[index].bincount(minlength=int(owner.max()) + 1)


def _best_of_each(rows: Tensor, fill: Tensor, view: Signals, owner: Tensor, missing: Tensor) -> Tensor:
    """Of `rows` (n,), as many of each response as it is missing: the first in `keep_order` by `fill` (N,)."""
    rows = rows[keep_order(fill[rows], view.position[rows], view.sample[rows])]
    rows = rows[owner[rows].argsort(stable=True)]
    _, many = owner[rows].unique_consecutive(return_counts=True)
    begin = (many.cumsum(0) - many).repeat_interleave(many)
    return rows[rows.new_ones(len(rows)).cumsum(0) - 1 - begin < missing[owner[rows]]]


def _rows(mask: Tensor) -> Tensor:
    """Where `mask` (N,) is true, (k,) int64; numpy looks an order of magnitude faster than torch."""
    import torch

    return torch.from_numpy(mask.numpy().nonzero()[0]) if mask.device.type == "cpu" else mask.nonzero().flatten()
