"""One token per row of logits: temperature, top-k and top-p as transformers define them, then one uniform through the inverse CDF."""

from __future__ import annotations

import torch
from torch import Tensor

from selbench.rollout import Sampling
from selbench.signals import hashed_uniform

__all__ = ["draw", "keep_top_k", "keep_top_p", "uniforms"]

BLOCK = 128  # columns summed together before a running sum is taken: within a block only where the token lies
FIRST = (512, 8192)  # most probable columns that are tried before all are sorted
TIES = 64  # columns looked at beyond the top-k
CHUNK = 1 << 24  # logits drawn from at once


def uniforms(keys: Tensor, first: Tensor, steps: int) -> Tensor:
    """(steps, n) float64 draws in (0, 1), each a hash of the sequence's key and of the token's place in the response.

    keys, first: (n,) int64, the key of each sequence and the place of its first draw.
    """
    place = first + torch.arange(steps, device=first.device)[:, None]
    return hashed_uniform(keys.expand(steps, -1).clone(), place, 0)


def draw(logits: Tensor, sampling: Sampling, u: Tensor) -> tuple[Tensor, Tensor]:
    """One column of each row of logits (n, V) float32, by u (n,) float64 in (0, 1): (n,) int64; and (n,) bool, its logits are numbers.

    What is drawn from a row depends on this row and its u alone. Temperature 0 takes the most likely column.
    """
    if sampling.temperature == 0:
        best, token = logits.max(-1)
        return token, best.isfinite()
    rows = max(1, CHUNK // logits.shape[-1])
    parts = [_draw(part, sampling, own) for part, own in zip(logits.split(rows), u.split(rows), strict=True)]
    return parts[0] if len(parts) == 1 else (torch.cat([token for token, _ in parts]), torch.cat([fine for _, fine in parts]))


def _draw(logits: Tensor, sampling: Sampling, u: Tensor) -> tuple[Tensor, Tensor]:
    scores = logits if sampling.temperature == 1 else logits / sampling.temperature
    column = None
    if 0 < sampling.top_k < scores.shape[-1]:
        scores, column = keep_top_k(scores, sampling.top_k)
    probability = scores.softmax(-1)
    if sampling.top_p < 1:
        probability, order = keep_top_p(probability, sampling.top_p)
        column = order if column is None else column.gather(1, order)
    token, fine = _invert(probability, u)
    return token if column is None else column.gather(1, token[:, None])[:, 0], fine


def keep_top_k(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor | None]:
    """scores (n, V) with -inf for what is below the row's top_k-th largest, top_k < V; what ties with that one stays.

    Or the largest alone, (n, m), and their columns (n, m), where all that tie are surely among them.
    """
    width = min(top_k + TIES, scores.shape[-1])
    largest, column = scores.topk(width)
    floor = largest[:, top_k - 1 : top_k]
    if scores.device.type == "cpu" and bool((largest[:, -1:] < floor).all()):  # elsewhere the question costs more than the rest
        return largest.masked_fill(largest < floor, -torch.inf), column
    return scores.masked_fill(scores < floor, -torch.inf), None


def keep_top_p(probability: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The fewest most probable columns that together reach top_p, at least one: (n, m) probabilities, falling, 0 for the rest; and columns.

    All columns are sorted only where the first few hundred do not reach it.
    """
    total = probability.sum(-1, keepdim=True, dtype=torch.float64)
    for width in FIRST if probability.device.type == "cpu" else ():  # elsewhere the question costs more than the sort
        if width < probability.shape[-1] // 2:
            ranked, column = probability.topk(width)
            if bool((total - ranked.sum(-1, keepdim=True, dtype=torch.float64) <= 1 - top_p).all()):
                return _reach(ranked, total, top_p), column
    ranked, column = probability.sort(stable=True, dim=-1, descending=True)
    return _reach(ranked, total, top_p), column


def _reach(ranked: Tensor, total: Tensor, top_p: float) -> Tensor:
    """ranked (n, m), falling, with 0 from where the rest of the row's total (n, 1) is 1 - top_p or less; the first stays."""
    rest = total - ranked.cumsum(-1, dtype=torch.float64)[:, :-1]
    ranked[:, 1:].masked_fill_(rest <= 1 - top_p, 0)
    return ranked


def _invert(weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The column of weight (n, M) at which its running sum passes u times its total, and whether the total is a number above 0."""
    rows, width = weight.shape
    if width <= 2 * BLOCK:
        column, sums, _ = _cross(weight, u)
        return column[:, 0], _sound(sums)
    short = -width % BLOCK
    blocks = (torch.nn.functional.pad(weight, (0, short)) if short else weight).view(rows, -1, BLOCK)
    totals = blocks.sum(-1)
    place, sums, aim = _cross(totals, u)
    own = totals.gather(1, place).double()
    inside = (aim - sums.gather(1, place) + own).div(own).clamp(0, 1)  # how much of the block lies below
    column, _, _ = _cross(blocks[torch.arange(rows, device=weight.device), place[:, 0]], inside[:, 0])
    return (place * BLOCK + column)[:, 0], _sound(sums)


def _cross(weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, 1) first column of weight (n, M) where its running sum (n, M) exceeds u times the total (n, 1); all three, sums in float64."""
    sums = weight.cumsum(-1, dtype=torch.float64)
    total = sums[:, -1:]
    aim = (u[:, None] * total).minimum(total.nextafter(torch.zeros_like(total)))  # a column of weight 0 is never the answer
    return torch.searchsorted(sums, aim, right=True).clamp_(max=weight.shape[-1] - 1), sums, aim


def _sound(sums: Tensor) -> Tensor:
    return (sums[:, -1] > 0) & (sums[:, -1] < torch.inf)
