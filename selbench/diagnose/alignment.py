"""Gradient alignment: does a distillation step at a node raise the student's probability of success? (Unmasking OPD, 2605.10889)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from selbench.divergences import DIVERGENCES, Node
from selbench.losses import Kind

__all__ = ["alignment", "descent", "success_gradient", "teacher_advantage"]


def success_gradient(p: Tensor, success: Tensor) -> Tensor:
    """g* (n, V) = P_j (u_j - ū): how the success probability grows with each logit. p, success: (n, V) probabilities."""
    return p * (success - (p * success).sum(-1, keepdim=True))


def descent(kind: Kind, p: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    """-∂D/∂z (n, V), z the student's logits: the direction one distillation step takes. p, teacher: (n, V) probabilities."""
    token = torch.zeros(len(p), dtype=torch.int64, device=p.device)
    return -DIVERGENCES[kind](Node(p.log(), teacher.log(), token), **options).gradient()


def alignment(kind: Kind, p: Tensor, teacher: Tensor, success: Tensor, **options: Any) -> Tensor:
    """cos(g*, descent) (n,) in [-1, 1]; NaN where either vanishes (undefined, to be counted and left out)."""
    ideal, step = success_gradient(p, success), descent(kind, p, teacher, **options)
    one, other = ideal.norm(dim=-1), step.norm(dim=-1)
    defined = (one > 1e-6) & (other > 1e-6)  # below that, float32 rounding decides the angle
    return torch.where(defined, (ideal * step).sum(-1) / (one * other), torch.nan)


def teacher_advantage(p: Tensor, teacher: Tensor, success: Tensor) -> Tensor:
    """Σ (T_j - P_j) u_j (n,): success-weighted probability mass that the teacher would move."""
    return ((teacher - p) * success).sum(-1)
