"""The textbook: every divergence from whole logits in plain torch, its gradient by autograd. What the chunked path is held against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from selbench.divergences import DIVERGENCES, Node
from selbench.losses import Kind

__all__ = ["cost_of", "dense"]


def kl(logp: Tensor, logq: Tensor) -> Tensor:
    return (logp.exp() * (logp - logq)).sum(-1)


def dense(kind: Kind, student_logits: Tensor, teacher_logits: Tensor, token: Tensor, *, temperature: float = 1.0, **options: Any) -> Tensor:
    """One divergence (N,) from logits (N, V) of both sides, at `token` (N,) int64 where the kind is sampled; in their precision."""
    p, q = ((z / temperature).log_softmax(-1) for z in (student_logits, teacher_logits))
    at = token.unsqueeze(-1)
    log_p, log_q = p.gather(-1, at).squeeze(-1), q.gather(-1, at).squeeze(-1)
    beta, alpha = options.get("beta", 0.5), options.get("alpha", 0.1)
    if kind == "reverse_kl":
        return kl(p, q)
    if kind == "forward_kl":
        return kl(q, p)
    if kind == "jsd":
        m = (beta * q.exp() + (1 - beta) * p.exp()).log()
        return beta * kl(q, m) + (1 - beta) * kl(p, m)
    if kind == "skew_kl":
        return kl(q, (alpha * q.exp() + (1 - alpha) * p.exp()).log())
    if kind == "skew_reverse_kl":
        return kl(p, (alpha * p.exp() + (1 - alpha) * q.exp()).log())
    if kind == "k1":
        return log_p - log_q
    if kind == "k2":
        return 0.5 * (log_q - log_p) ** 2
    if kind == "k3":
        return (log_q - log_p).exp() - (log_q - log_p) - 1
    if kind == "policy_gradient":  # value k1, gradient k1 ∇ ln p
        k1 = (log_p - log_q).detach()
        return k1 * (1 + log_p - log_p.detach())
    return _local_support(p, q, at, (log_p - log_q).detach(), log_p, **options)


def _local_support(
    p: Tensor, q: Tensor, at: Tensor, k1: Tensor, log_p: Tensor, *, top_k: int = 32, tail: str = "renormalise", **_: Any
) -> Tensor:
    support = torch.zeros_like(q, dtype=torch.bool).scatter_(-1, q.topk(min(top_k, q.shape[-1]), dim=-1).indices, True)
    outside = ~support.gather(-1, at)
    if tail == "append":
        support = support.scatter(-1, at, True)
    if tail in ("renormalise", "append"):
        p, q = (z.masked_fill(~support, float("-inf")).log_softmax(-1).masked_fill(~support, 0.0) for z in (p, q))
        return (p.exp() * (p - q) * support).sum(-1)
    head = (p.exp() * (p - q) * support).sum(-1)
    return head if tail == "none" else head + k1 * (log_p - log_p.detach()).exp() * outside.squeeze(-1)


def cost_of(kind: Kind, student_logits: Tensor, teacher_logits: Tensor, token: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """selbench's own formula on whole logits: values (N,) and their gradient in the student's logits (N, V)."""
    found = DIVERGENCES[kind](Node(student_logits, teacher_logits, token), **options)
    return found.value, found.gradient()
