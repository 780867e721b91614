"""Named checks of the strategy contract, used by `selbench check` and by the tests. Each failure is one sentence."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from selbench.signals import Signals, StrategyError, signal_top_k
from selbench.strategy import Strategy, select

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHECKS", "Finding", "batches", "check_strategy"]


@dataclass(frozen=True)
class Finding:
    """One check on one strategy; `problem` is None when it passed."""

    check: str
    problem: str | None


@dataclass(frozen=True)
class Batch:
    """Signals of a made-up optimiser batch, (N,) each, and where its tokens are."""

    name: str
    values: Mapping[str, Tensor]
    position: Tensor
    sample: Tensor

    def view(self, strategy: Strategy, seed: int = 7) -> Signals:
        values = {name: self.values[name].clone() for name in strategy.needs}
        return Signals(values, position=self.position.clone(), sample=self.sample.clone(), seed=seed)

    def permuted(self, order: Tensor) -> Batch:
        return Batch(self.name, {k: v[order] for k, v in self.values.items()}, self.position[order], self.sample[order])


def batches(strategy: Strategy) -> Iterator[Batch]:
    """Batches that real training produces, from the ordinary to the degenerate: real logits, ties, one token, no divergence."""
    import torch

    from selbench.scoring import signals_from_logits

    for name, lengths, gap, spread in (
        ("ordinary", (19, 1, 40, 7, 33), 1.0, 3.0), ("one token", (1,), 1.0, 3.0), ("identical models", (8, 9), 0.0, 2.0),
        ("certain student", (12, 12), 1.0, 60.0), ("uniform", (6, 6), 0.0, 0.0),
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(len(name))
        count = sum(lengths)
        student = torch.randn(count, 40, generator=generator) * spread
        teacher = student + torch.randn(count, 40, generator=generator) * spread * gap
        position = torch.cat([torch.arange(n) for n in lengths])
        sample = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        token = torch.randint(0, 40, (count,), generator=generator)
        values = dict(signals_from_logits([n for n in strategy.needs if n != "position_fraction"], student, teacher, token))
        values["position_fraction"] = torch.cat([torch.arange(n) / max(1, n - 1) for n in lengths])
        yield Batch(name, values, position, sample)


def _runs(strategy: Strategy) -> str | None:
    """Gives one finite value per token on every batch, and uses declared signals only."""
    for batch in batches(strategy):
        try:
            strategy.score(batch.view(strategy))
        except StrategyError as error:
            return f"{error} (batch: {batch.name})"
        except Exception as error:  # a contributor's code may raise anything
            return f"{strategy.name}: raised {type(error).__name__} on the batch {batch.name!r}: {error}"
    return None


def _leaves_signals_alone(strategy: Strategy) -> str | None:
    """Does not change a signal in place."""
    for batch in batches(strategy):
        view = batch.view(strategy)
        strategy.score(view)
        changed = [n for n in strategy.needs if not getattr(view, n).equal(batch.values[n])]
        changed += [n for n in ("position", "sample") if not getattr(view, n).equal(getattr(batch, n))]
        if changed:
            return f"{strategy.name}: changes the signal {changed[0]!r} in place; work on a copy (z.clone(), z + 1 instead of z += 1)"
    return None


def _repeats(strategy: Strategy) -> str | None:
    """Same input, same output, whatever the global generators are at; and leaves those where they were."""
    import torch

    batch = next(batches(strategy))
    scores = []
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  (what is checked is the global generator)
    try:
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # type: ignore[index,union-attr] # noqa: NPY002
            scores.append(strategy.score(batch.view(strategy)))
            after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # type: ignore[index,union-attr] # noqa: NPY002
            names = (random.__name__, np.random.__name__, torch.__name__)
            moved = [n for n, a, b in zip(names, before, after, strict=True) if not (a.equal(b) if isinstance(a, torch.Tensor) else a == b)]
            if moved:
                return f"{strategy.name}: draws from the global random generator of {moved[0]}; use s.uniform(), its own stream"
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])
    if not scores[0].equal(scores[1]):
        return f"{strategy.name}: gives other scores when called again with the same signals; it must be a pure function of them"
    return None


def _ignores_batching(strategy: Strategy) -> str | None:
    """The score of a token and the kept set do not depend on how sequences are ordered and grouped into micro-batches."""
    import torch

    batch = next(batches(strategy))
    order = torch.cat([torch.nonzero(batch.sample == s).flatten() for s in (2, 0, 4, 1, 3)])
    scores, moved = strategy.score(batch.view(strategy)), strategy.score(batch.permuted(order).view(strategy))
    if not torch.allclose(scores[order], moved, rtol=1e-5, atol=1e-7):
        worst = int((scores[order] - moved).abs().argmax())
        return (
            f"{strategy.name}: depends on micro-batching, a token scores {float(scores[order][worst]):.6g} or {float(moved[worst]):.6g} as "
            "sequences are grouped; normalise over all tokens, never over chunks or rows"
        )
    return None


def _respects_budget(strategy: Strategy) -> str | None:
    """Keeps what the budget says on every batch, and the same tokens in any order of sequences."""
    import torch

    for batch in batches(strategy):
        view = batch.view(strategy)
        whole = Signals({n: getattr(view, n) for n in strategy.needs}, position=view.position, sample=view.sample)
        try:
            chosen = select(strategy, whole, 0.3, 7)
        except StrategyError as error:
            return str(error)
        if strategy.kind == "scores" and not 1 <= len(chosen.index) <= -(-len(view) * 3 // 10) + strategy.min_per_sample * len(
            view.sample.unique()
        ):
            return f"{strategy.name}: keeps {len(chosen.index)} of {len(view)} tokens at a budget of 0.3 (batch: {batch.name})"
        if not torch.isfinite(chosen.weight).all():
            return f"{strategy.name}: a weight is not finite (batch: {batch.name})"
    return None


def _is_described(strategy: Strategy) -> str | None:
    """Version, source and known signals are declared."""
    if strategy.version < 1 or not strategy.source.strip():
        return f"{strategy.name}: declare version >= 1 and a source (a paper and equation, or 'none')"
    for need in strategy.needs:
        signal_top_k(need)
    return None


CHECKS: dict[str, Callable[[Strategy], str | None]] = {
    "is described": _is_described, "one finite value per token": _runs, "leaves its signals alone": _leaves_signals_alone,
    "same input, same output": _repeats, "no dependence on micro-batching": _ignores_batching, "keeps to its budget": _respects_budget,
}  # fmt: skip


def check_strategy(strategy: Strategy) -> list[Finding]:
    """All checks on one strategy. After a strategy failed to run at all, the others are not tried."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        findings.append(Finding(name, check(strategy)))
        if check is _runs and findings[-1].problem:
            break
    return findings
