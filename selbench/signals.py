"""Per-token features of one optimiser batch, as a strategy sees them, and the normalisers that strategies share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError, UserError
from selbench.seeding import derive

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # strategies annotate with it; torch itself is imported when a tensor first exists

__all__ = [
    "SIGNALS", "Signals", "StrategyError", "Tensor", "hashed_uniform", "median", "min_max", "order_statistics", "prefix_ema", "quantile",
    "rank", "signal_top_k",
]  # fmt: skip

BLOCK = 1 << 16  # tokens hashed together: what lies between two operations stays in the cache

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
        import torch

        start = derive(self._seed, 0, purpose) >> 1
        blocks = zip(self.sample.split(BLOCK), self.position.split(BLOCK), strict=True)
        return torch.cat([hashed_uniform(sample * 0x100000001, position, start) for sample, position in blocks])

    def keeping(self, names: tuple[str, ...], seed: int) -> Signals:
        """The view that one strategy gets: its declared signals and its own random stream."""
        return Signals({name: self._values[name] for name in names}, position=self.position, sample=self.sample, seed=seed)


def order_statistics(z: Tensor, places: Sequence[int]) -> Tensor:
    """The values of z (N,) that a sort would put at `places`, in rising order from 0: (len(places),), dtype of z, NaN last."""
    import torch

    places = list(places)
    if z.device.type != "cpu" or z.dtype not in (torch.float32, torch.float64, torch.int64):
        return z.sort().values[places]
    values = z.detach().numpy().copy()
    begin = 0
    for place in places:  # a partition takes a hundredth of a sort's time
        if place >= begin:  # what lies before is in its place and must stay there
            values[begin:].partition(place - begin)
            begin = place + 1
    return torch.from_numpy(values[places])


def median(z: Tensor) -> Tensor:
    """The median of z (N,), N > 0, between the middle two: (), to the bit that of torch.quantile, in a hundredth of its time."""
    low, high = order_statistics(z, [(len(z) - 1) // 2, len(z) // 2])
    return z.max() if bool(z.max().isnan()) else low.lerp(high, 0.5)


def min_max(z: Tensor) -> Tensor:
    """z (N,) scaled to [0, 1] by its finite minimum and maximum; a constant column and non-finite entries become 0. TIP (2604.14084)."""
    finite = _finite(z)
    return _scale(z, *finite.aminmax()) if finite.numel() else z * 0


def quantile(z: Tensor, low: float = 0.05, high: float = 0.95) -> Tensor:
    """z (N,) scaled to [0, 1] between two quantiles (linear interpolation, finite entries), clipped. TA-OPD (2605.26844)."""
    finite = _finite(z)  # torch.quantile stops at 2^24 entries
    if not finite.numel():
        return z * 0
    last = finite.numel() - 1
    at = [q * last for q in (low, high)]
    places = sorted({min(int(place) + step, last) for place in at for step in (0, 1)})
    values = dict(zip(places, order_statistics(finite, places), strict=True))
    lower, upper = (_interpolate(values[int(place)], values[min(int(place) + 1, last)], place - int(place)) for place in at)
    return _scale(z, lower, upper)


def rank(z: Tensor) -> Tensor:
    """z (N,) as stable ordinal ranks / (N - 1), in [0, 1]; one token gets 0. IER-OPD (2609.24432)."""
    order = z.argsort(stable=True)
    ranks = order.new_empty(len(z)).scatter_(0, order, order.new_ones(len(z)).cumsum(0) - 1)
    return ranks.to(z.dtype) / max(len(z) - 1, 1)


def prefix_ema(z: Tensor, s: Signals, alpha: float = 0.9) -> Tensor:
    """z (N,) smoothed along each response: e_0 = z_0, e_t = α e_(t-1) + (1-α) z_t. TA-OPD (2605.26844)."""
    if not len(z):
        return z.clone()
    order = s.position.argsort(stable=True)
    order = order[s.sample[order].argsort(stable=True)]
    _, lengths = s.sample[order].unique_consecutive(return_counts=True)
    longest_first = lengths.argsort(descending=True, stable=True)
    column = longest_first.argsort().repeat_interleave(lengths)
    step = order.new_ones(len(z)).cumsum(0) - 1 - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    active = step.bincount()  # the responses that reach a step are the first so many columns
    place = (active.cumsum(0) - active)[step] + column
    packed = z.new_empty(len(z))
    packed[place] = z[order]
    before, *rows = packed.split(active.tolist())
    for row in rows:
        row.mul_(1 - alpha).add_(alpha * before[: len(row)])
        before = row
    smooth = z.new_empty(len(z))
    smooth[order] = packed[place]
    return smooth


def hashed_uniform(state: Tensor, position: Tensor, start: int) -> Tensor:
    """SplitMix64's finaliser on `state` (n,) int64, in place; (n,) float64 in (0, 1)."""
    state.add_(position * 0x1F123BB5).add_(start)
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        state.add_(-0x61C8864680B583EB)
        state.bitwise_xor_((state >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    return (state >> 11).bitwise_and_((1 << 53) - 1).double().add_(0.5).div_(2.0**53)


def _interpolate(below: Tensor, above: Tensor, share: float) -> Tensor:
    return below + share * (above - below)


def _finite(z: Tensor) -> Tensor:
    """The finite entries of z (N,): z itself where it has no others, which its extremes tell at a tenth of the price."""
    return z if z.numel() and all(bool(edge.isfinite()) for edge in z.aminmax()) else z[z.isfinite()]


def _scale(z: Tensor, low: Tensor, high: Tensor) -> Tensor:
    if float(high - low) < 1e-12:
        return z.new_zeros(z.shape)
    scaled = ((z - low) / (high - low)).clamp_(0, 1)
    if _finite(z) is z and bool((high - low).isfinite()):  # nothing to repair
        return scaled
    return scaled.nan_to_num(0.0).where(z.isfinite(), z.new_zeros(()))
