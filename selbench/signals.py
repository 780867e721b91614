"""Per-token features of one optimiser batch, as a strategy sees them, and the normalisers that strategies share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError, UserError
from selbench.seeding import derive

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # strategies annotate with it; torch itself is imported when a tensor first exists

__all__ = ["SIGNALS", "Signals", "StrategyError", "Tensor", "min_max", "prefix_ema", "quantile", "rank", "signal_top_k"]

SIGNALS = {  # name (K is any number, as in compatibility_mass_16): what it is; methods 2.1 and 2.2
    "student_entropy": "-Σ p_S ln p_S, nats",
    "teacher_entropy": "-Σ p_T ln p_T, nats",
    "reverse_kl": "KL(p_S‖p_T) over the full vocabulary, nats",
    "forward_kl": "KL(p_T‖p_S) over the full vocabulary, nats",
    "jsd": "Jensen-Shannon divergence of p_S and p_T (beta 0.5), nats",
    "student_logprob": "ln p_S of the sampled token, nats",
    "teacher_logprob": "ln p_T of the sampled token, nats",
    "position_fraction": "position in the response / (length - 1), in [0, 1]",
    "compatibility_mass_K": "teacher mass on the student's top K, in [0, 1] (Cmass, exact)",
    "compatibility_topk_K": "teacher mass on the shared part of both top K, in [0, 1] (Cmass_topk, a lower bound)",
    "overlap_K": "share of the top K that both models have, in [0, 1]",
    "topk_entropy_K": "entropy of the student's renormalised top K / ln K, in [0, 1]",
    "server_forward_kl_K": "KL(p_T‖p_S) over the union of both top K, missing entries 1e-12, nats",
    "gathered_forward_kl_K": "KL(p_T‖p_S) over the union of both top K with true probabilities, renormalised, nats",
    "verified_K": "1 where the student's most likely token is among the teacher's top K, else 0",
    "bhattacharyya_K": "Σ sqrt(p_S p_T) over the union of both top K, server variant, in [0, 1]",
}


class StrategyError(UserError):
    """A strategy broke its contract; the message says how."""


def signal_top_k(name: str) -> tuple[str, int]:
    """`compatibility_mass_16` as (`compatibility_mass_K`, 16), `reverse_kl` as (`reverse_kl`, 0). Raises ConfigError if unknown."""
    family, top_k = re.sub(r"_[1-9]\d*$", "_K", name), re.search(r"_([1-9]\d*)$", name)
    if name in SIGNALS and top_k is None and not name.endswith("_K"):
        return name, 0
    if family in SIGNALS and top_k is not None:
        return family, int(top_k[1])
    raise ConfigError(f"unknown signal {name!r}; known: {', '.join(SIGNALS)} (K is a number)")


class Signals:
    """A frozen view of one optimiser batch: N valid tokens, each signal (N,) float32, in nats where it is information.

    Every declared signal is an attribute (`s.reverse_kl`). Always there: `position` (N,) int64, the token's place in its
    response; `sample` (N,) int64, its response. Raises StrategyError on a signal that the strategy did not declare.
    """

    position: Tensor
    sample: Tensor
    _values: dict[str, Tensor]
    _seed: int

    def __init__(self, values: Mapping[str, Tensor], *, position: Tensor, sample: Tensor, seed: int = 0) -> None:
        self.__dict__.update(_values=dict(values), position=position, sample=sample, _seed=seed)

    def __len__(self) -> int:
        return int(self.position.numel())

    def __getattr__(self, name: str) -> Tensor:
        values = self.__dict__.get("_values", {})
        if name in values:
            return values[name]
        if name.startswith("__"):
            raise AttributeError(name)
        raise StrategyError(f"signal {name!r} is used but not declared; add it to needs=(...) (declared: {', '.join(values) or 'none'})")

    def __setattr__(self, name: str, value: object) -> None:
        raise StrategyError(f"signals are read-only; {name!r} was assigned")

    def uniform(self, purpose: str = "") -> Tensor:
        """(N,) float64 draws in (0, 1), each a hash of (seed of the step, purpose, sample, position).

        The same token gets the same draw on any device and in any order of the batch.
        """
        state = self.sample * 0x100000001 + self.position * 0x1F123BB5 + (derive(self._seed, 0, purpose) >> 1)
        for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):  # SplitMix64's finaliser
            state = state + -0x61C8864680B583EB
            state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
        return (((state >> 11) & ((1 << 53) - 1)).double() + 0.5) / 2.0**53

    def keeping(self, names: tuple[str, ...], seed: int) -> Signals:
        """The view that one strategy gets: its declared signals and its own random stream."""
        return Signals({name: self._values[name] for name in names}, position=self.position, sample=self.sample, seed=seed)


def min_max(z: Tensor) -> Tensor:
    """z (N,) scaled to [0, 1] by its finite minimum and maximum; a constant column and non-finite entries become 0. TIP (2604.14084)."""
    finite = z[z.isfinite()]
    return _scale(z, finite.min(), finite.max()) if finite.numel() else z * 0


def quantile(z: Tensor, low: float = 0.05, high: float = 0.95) -> Tensor:
    """z (N,) scaled to [0, 1] between two quantiles (linear interpolation, finite entries), clipped. TA-OPD (2605.26844)."""
    ordered = z[z.isfinite()].sort().values  # torch.quantile stops at 2^24 entries
    if not ordered.numel():
        return z * 0
    lower, upper = (_interpolate(ordered, q) for q in (low, high))
    return _scale(z, lower, upper)


def rank(z: Tensor) -> Tensor:
    """z (N,) as stable ordinal ranks / (N - 1), in [0, 1]; one token gets 0. IER-OPD (2609.24432)."""
    order = z.argsort(stable=True)
    ranks = order.new_empty(len(z)).scatter_(0, order, order.new_ones(len(z)).cumsum(0) - 1)
    return ranks.to(z.dtype) / max(len(z) - 1, 1)


def prefix_ema(z: Tensor, s: Signals, alpha: float = 0.9) -> Tensor:
    """z (N,) smoothed along each response: e_0 = z_0, e_t = α e_(t-1) + (1-α) z_t. TA-OPD (2605.26844)."""
    smooth = z.clone()
    order = s.position.argsort(stable=True)
    order = order[s.sample[order].argsort(stable=True)]
    for before, row in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
        if s.sample[before] == s.sample[row]:
            smooth[row] = alpha * smooth[before] + (1 - alpha) * z[row]
    return smooth


def _interpolate(ordered: Tensor, q: float) -> Tensor:
    place = q * (len(ordered) - 1)
    below = ordered[int(place)]
    return below + (place - int(place)) * (ordered[min(int(place) + 1, len(ordered) - 1)] - below)


def _scale(z: Tensor, low: Tensor, high: Tensor) -> Tensor:
    if float(high - low) < 1e-12:
        return z.new_zeros(z.shape)
    return ((z - low) / (high - low)).clamp(0, 1).nan_to_num(0.0).where(z.isfinite(), z.new_zeros(()))
