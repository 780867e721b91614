"""Every per-token formula, written once: what a kept token costs, and how that cost moves the student's logits.

A `Node` holds both models' log-probabilities at the same positions and shares what formulas have in common (probabilities, log
ratio, mixtures, top-K lists), so that a pass over a chunk computes each of them once, whatever is asked of it. A divergence
maps a Node to its `Cost`: the value in nats, and its gradient in the student's logits in closed form. All divergences are
functions of p and of the log ratio r = ln q - ln p, with p the student and q the teacher; written so, a teacher equal to the
student gives zero and a zero gradient to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["DIVERGENCES", "TAILS", "Cost", "Node", "renormalised", "within"]

TAILS = ("renormalise", "append", "sampled", "none")
FAR = 80.0  # e^80 is finite in float32; beyond it a probability of the other model is 0 in every sum
FLOOR = -70.0  # e^-70 = 4e-31 of the likeliest token's probability stands for all that is less: exp takes 25 times as long on a CPU
# where its result is subnormal, and no sum of float32 or float64 sees the difference
OUTSIDE = -1e4  # a logarithm of nothing that stays finite in sums


class Node:
    """Both models at n positions, from logits (n, V) float32 of student and teacher and the sampled ids (n,) int64.

    logp, logq (n, V): log-probabilities, nats. Everything else is computed when first asked for, and kept.
    """

    def __init__(self, student: Tensor, teacher: Tensor, token: Tensor) -> None:
        self.logp, self._p = _log_softmax(student)
        self.logq, self._q = _log_softmax(teacher) if teacher is not student else (self.logp, self._p)
        self.token, self._known = token.unsqueeze(-1), dict[str, Tensor]()

    def _once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """functools.cached_property holds a lock in Python 3.11, which torch.compile cannot trace."""
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    @property
    def p(self) -> Tensor:
        """(n, V), the student's probabilities."""
        return self._once("p", lambda: self._p[0].div_(self._p[1]))

    @property
    def q(self) -> Tensor:
        """(n, V), the teacher's probabilities."""
        return self.p if self._q is self._p else self._once("q", lambda: self._q[0].div_(self._q[1]))

    @property
    def r(self) -> Tensor:
        """(n, V), ln q - ln p."""
        return self._once("r", lambda: self.logq - self.logp)

    @property
    def logp_token(self) -> Tensor:
        """(n, 1), ln p of the sampled token."""
        return self._once("logp_token", lambda: self.logp.gather(-1, self.token))

    @property
    def logq_token(self) -> Tensor:
        """(n, 1), ln q of the sampled token."""
        return self._once("logq_token", lambda: self.logq.gather(-1, self.token))

    def mixture(self, a: float) -> tuple[Tensor, Tensor]:
        """r within e^±80, and ln(m/p) of m = (1-a) p + a q, each (n, V): log1p(a expm1(r)), exactly 0 where p = q."""
        r = self.r.clamp(-FAR, FAR)
        return r, torch.log1p(a * torch.expm1(r))

    def top(self, side: str, k: int) -> Tensor:
        """(n, k) int64: the k likeliest tokens of "student" or "teacher"; of equally likely ones the lower ids."""
        return self._once(f"{side} top {k}", lambda: _top(self.logp if side == "student" else self.logq, k))

    def through_softmax(self, s: Tensor) -> Tensor:
        """From s = p ∂D/∂p, up to a multiple of p, to ∂D/∂z = s - p Σs, each (n, V)."""
        return s - self.p * s.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Cost:
    """value (n,) nats; gradient() (n, V): its derivative in the student's logits, a tensor of its own."""

    value: Tensor
    gradient: Callable[[], Tensor]


def _log_softmax(z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Log-probabilities (n, V), and the exponentials (n, V) and their sum (n, 1) whose ratio the probabilities are.

    Off by 1e-7 of their size: torch's own, which adds up 150,000 float32 terms one after the other, is off by 3e-5 nats on a CPU.
    """
    z = z - z.amax(-1, keepdim=True)
    e = z.clamp_min(FLOOR).exp_()
    total = e.sum(-1, keepdim=True)
    return z.sub_(total.log()), (e, total)


def entropy(logp: Tensor, p: Tensor | None = None) -> Tensor:
    """-Σ p ln p over the last dimension, nats."""
    return -((logp.exp() if p is None else p) * logp).sum(-1)


def _top(logp: Tensor, k: int) -> Tensor:
    """torch.topk leaves open which of equally likely tokens it takes: rows where that matters are settled by a stable sort."""
    k = min(k, logp.shape[-1])
    values, index = logp.topk(k, dim=-1)
    unsettled = (logp >= values[:, -1:]).sum(-1) > k
    if bool(unsettled.any()):
        index[unsettled] = logp[unsettled].sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return index


def renormalised(logp: Tensor) -> Tensor:
    """Log-probabilities of a few tokens (n, k) as a distribution of their own."""
    return logp.log_softmax(-1)


def within(index: Tensor, other: Tensor) -> Tensor:
    """(n, k) bool: which ids of `index` (n, k) are in `other` (n, j)."""
    return (index.unsqueeze(-1) == other.unsqueeze(-2)).any(-1)


def reverse_kl(x: Node, **_: Any) -> Cost:
    """KL(p_S‖p_T) = Σ p (ln p - ln q)."""
    value = -(x.p * x.r).sum(-1)
    return Cost(value, lambda: (x.r + value.unsqueeze(-1)).neg_().mul_(x.p))


def forward_kl(x: Node, **_: Any) -> Cost:
    """KL(p_T‖p_S) = Σ q (ln q - ln p)."""
    return Cost((x.q * x.r).sum(-1), lambda: x.p - x.q)


def jsd(x: Node, *, beta: float = 0.5, **_: Any) -> Cost:
    """β KL(p_T‖m) + (1-β) KL(p_S‖m), m = β p_T + (1-β) p_S (GKD, 2306.13649); 0 < β < 1."""
    r, m = x.mixture(beta)
    value = beta * (x.q * (r - m)).sum(-1) - (1 - beta) * (x.p * m).sum(-1)
    return Cost(value, lambda: x.through_softmax((beta - 1) * x.p * m))


def skew_kl(x: Node, *, alpha: float = 0.1, **_: Any) -> Cost:
    """KL(p_T‖m), m = α p_T + (1-α) p_S: the skew KL of DistiLLM (2402.03898); 0 <= α < 1."""
    r, m = x.mixture(alpha)
    return Cost((x.q * (r - m)).sum(-1), lambda: x.through_softmax((1 - alpha) * (x.p - x.q * (-m).exp())))


def skew_reverse_kl(x: Node, *, alpha: float = 0.1, **_: Any) -> Cost:
    """KL(p_S‖m), m = α p_S + (1-α) p_T: the skew reverse KL of DistiLLM (2402.03898); 0 <= α < 1."""
    _r, m = x.mixture(1 - alpha)
    return Cost(-(x.p * m).sum(-1), lambda: x.through_softmax(-x.p * (m + alpha * torch.expm1(-m))))


def _sampled(x: Node, value: Tensor, slope: Tensor) -> Cost:
    """A function of ln p of the sampled token: value and derivative in it, each (n, 1)."""
    return Cost(value.squeeze(-1), lambda: (-x.p * slope).scatter_add_(-1, x.token, slope))


def policy_gradient(x: Node, **_: Any) -> Cost:
    """k1 = ln p_S(y) - ln p_T(y) as a cost: value k1, gradient k1 ∇ ln p_S(y), in expectation that of the reverse KL."""
    k = x.logp_token - x.logq_token
    return _sampled(x, k, k)


def k1(x: Node, **_: Any) -> Cost:
    """ln p_S(y) - ln p_T(y): unbiased value of the reverse KL. Its own gradient ∇ ln p_S(y) is zero in expectation, whatever the
    teacher says (methods 1.2): for measuring estimators, never for training."""
    k = x.logp_token - x.logq_token
    return _sampled(x, k, torch.ones_like(k))


def k2(x: Node, **_: Any) -> Cost:
    """½ (ln p_T(y) - ln p_S(y))²: biased value, expected gradient of the reverse KL."""
    k = x.logp_token - x.logq_token
    return _sampled(x, 0.5 * k**2, k)


def k3(x: Node, **_: Any) -> Cost:
    """exp(d) - d - 1, d = ln p_T(y) - ln p_S(y): unbiased value of the reverse KL, expected gradient of the forward KL."""
    d = x.logq_token - x.logp_token
    return _sampled(x, torch.expm1(d) - d, -torch.expm1(d))


def local_support(x: Node, *, top_k: int = 32, tail: str = "renormalise", **_: Any) -> Cost:
    """KL(p_S‖p_T) on the teacher's top K, S (Revisiting OPD, 2603.25562, LSM; hhh675597/revisiting_opd @ d10aedb).

    tail: "renormalise" both sides over S (the paper); "append" the sampled token to S where it is outside, then renormalise;
    "sampled": no renormalisation, the mass outside S estimated by the sampled token (value unbiased for the reverse KL,
    gradient not: it lacks that of the mass outside); "none": no renormalisation and no tail (collapses in training, kept for
    comparison). The last two have a gradient where both models agree.
    """
    support = x.top("teacher", top_k)
    outside = ~within(x.token, support)
    p, q = x.logp.gather(-1, support), x.logq.gather(-1, support)
    if tail in ("renormalise", "append"):
        if tail == "append":
            support = torch.cat([support, x.token], -1)
            p, q = (torch.cat([at, y.where(outside, OUTSIDE)], -1) for at, y in ((p, x.logp_token), (q, x.logq_token)))
        p, q = renormalised(p), renormalised(q)
        value = (p.exp() * (p - q)).sum(-1)
        inside = p.exp() * (p - q - value.unsqueeze(-1))
        return Cost(value, lambda: torch.zeros_like(x.logp).scatter_add_(-1, support, inside))
    head = p.exp() * (p - q)
    if tail == "none":
        return Cost(head.sum(-1), lambda: x.through_softmax(torch.zeros_like(x.logp).scatter_(-1, support, head + p.exp())))
    cost = torch.where(outside, x.logp_token - x.logq_token, 0.0)  # · p / sg(p), as in the code: value and slope are both the cost
    return Cost(
        head.sum(-1) + cost.squeeze(-1),
        lambda: x.through_softmax(torch.zeros_like(x.logp).scatter_(-1, support, head + p.exp()).scatter_add_(-1, x.token, cost)),
    )


DIVERGENCES: dict[str, Callable[..., Cost]] = {
    f.__name__: f for f in (reverse_kl, forward_kl, jsd, skew_kl, skew_reverse_kl, policy_gradient, k1, k2, k3, local_support)
}
