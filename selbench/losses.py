"""What a kept token costs: divergences and one-sample estimators, each written once.

Every formula takes log-probabilities, (n, V) float32 of student and teacher at the same nodes, and gives (n,) nats that are
differentiable in the student. `dense` evaluates one on whole tensors (the reference); `chunked_divergence` evaluates the
same function on a few rows at a time, from hidden states, and takes the gradients on the way, so that no (N, V) tensor exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["DIVERGENCES", "NORMALISERS", "TAILS", "Head", "chunk_rows", "chunked_divergence", "dense", "loss_weights"]

Kind = Literal["reverse_kl", "forward_kl", "jsd", "policy_gradient", "k2", "k3", "local_support"]
TAILS = ("renormalise", "append", "sampled", "none")
NORMALISERS = ("kept_tokens", "per_sample_kept", "all_valid")
CHUNK_ELEMENTS = 2**24  # logits alive at a time on one side: 64 MiB in float32


def entropy(logp: Tensor) -> Tensor:
    """-Σ p ln p over the last dimension, nats."""
    return -(logp.exp() * logp).sum(-1)


def kl(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(p‖q) = Σ p (ln p - ln q) over the last dimension, nats."""
    return (logp.exp() * (logp - logq)).sum(-1)


def reverse_kl(student: Tensor, teacher: Tensor, token: Tensor, **_: Any) -> Tensor:
    """KL(p_S‖p_T)."""
    return kl(student, teacher)


def forward_kl(student: Tensor, teacher: Tensor, token: Tensor, **_: Any) -> Tensor:
    """KL(p_T‖p_S)."""
    return kl(teacher, student)


def jsd(student: Tensor, teacher: Tensor, token: Tensor, *, beta: float = 0.5, **_: Any) -> Tensor:
    """β KL(p_T‖m) + (1-β) KL(p_S‖m), m = β p_T + (1-β) p_S (GKD, 2306.13649); 0 < β < 1."""
    mixture = torch.logaddexp(teacher + torch.tensor(beta).log(), student + torch.tensor(1 - beta).log())
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def _log_ratio(student: Tensor, teacher: Tensor, token: Tensor) -> Tensor:
    at = token.unsqueeze(-1)
    return (teacher.gather(-1, at) - student.gather(-1, at)).squeeze(-1)


def policy_gradient(student: Tensor, teacher: Tensor, token: Tensor, **_: Any) -> Tensor:
    """k1 = ln p_S(y) - ln p_T(y) as a cost: value k1, gradient k1 ∇ ln p_S(y), in expectation that of the reverse KL.

    k1 differentiated directly would have zero expected gradient (methods 1.2).
    """
    k1 = -_log_ratio(student, teacher, token)
    logp = student.gather(-1, token.unsqueeze(-1)).squeeze(-1)
    surrogate = k1.detach() * logp
    return k1.detach() + surrogate - surrogate.detach()


def k2(student: Tensor, teacher: Tensor, token: Tensor, **_: Any) -> Tensor:
    """½ (ln p_T(y) - ln p_S(y))²: biased value, expected gradient of the reverse KL."""
    return 0.5 * _log_ratio(student, teacher, token) ** 2


def k3(student: Tensor, teacher: Tensor, token: Tensor, **_: Any) -> Tensor:
    """exp(d) - d - 1, d = ln p_T(y) - ln p_S(y): unbiased value of the reverse KL, expected gradient of the forward KL."""
    d = _log_ratio(student, teacher, token)
    return d.exp() - d - 1


def local_support(student: Tensor, teacher: Tensor, token: Tensor, *, top_k: int = 32, tail: str = "renormalise", **_: Any) -> Tensor:
    """KL(p_S‖p_T) on the teacher's top K, S (Revisiting OPD, 2603.25562, LSM; hhh675597/revisiting_opd @ d10aedb).

    tail: "renormalise" both sides over S (the paper); "append" the sampled token to S where it is outside, then renormalise;
    "sampled": no renormalisation, the mass outside S estimated by the sampled token (value unbiased for the reverse KL,
    gradient not: it lacks that of the mass outside); "none":
    no renormalisation and no tail (collapses in training, kept for comparison).
    """
    support = teacher.topk(min(top_k, teacher.shape[-1]), dim=-1).indices
    p, q, sampled = student.gather(-1, support), teacher.gather(-1, support), token.unsqueeze(-1)
    outside = (support != sampled).all(-1, keepdim=True)
    if tail == "renormalise":
        return kl(p.log_softmax(-1), q.log_softmax(-1))
    if tail == "append":
        p, q = (torch.cat([at, full.gather(-1, sampled).where(outside, -1e4)], -1) for at, full in ((p, student), (q, teacher)))
        return kl(p.log_softmax(-1), q.log_softmax(-1))
    if tail == "none":
        return kl(p, q)
    logp = student.gather(-1, sampled).squeeze(-1)
    cost = -_log_ratio(student, teacher, token).detach() * (logp - logp.detach()).exp()
    return kl(p, q) + cost * outside.squeeze(-1)


DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    f.__name__: f for f in (reverse_kl, forward_kl, jsd, policy_gradient, k2, k3, local_support)
}


@dataclass(frozen=True)
class Head:
    """An output head: logits = scale · (hidden @ weightᵀ + bias), soft-capped where `softcap` is set (c · tanh(z / c)).

    weight (V, D), bias (V,) or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor, size: int) -> Tensor:
        """(n, D) to (n, size) float32: columns past `size` are padding of one model's vocabulary, left out before the softmax."""
        bias = None if self.bias is None else self.bias[:size]
        z = torch.nn.functional.linear(hidden.to(self.weight.dtype), self.weight[:size], bias).float() * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)


def dense(kind: Kind, student_logits: Tensor, teacher_logits: Tensor, token: Tensor, *, temperature: float = 1.0, **options: Any) -> Tensor:
    """One divergence (N,) from whole logits (N, V) of both sides, at `token` (N,) int64 where the kind is sampled. The reference."""
    logp, logq = ((z.float() / temperature).log_softmax(-1) for z in (student_logits, teacher_logits))
    return DIVERGENCES[kind](logp, logq, token, **options)


def chunk_rows(vocabulary: int) -> int:
    """Rows whose logits are alive at a time."""
    return max(1, CHUNK_ELEMENTS // vocabulary)


def chunked_divergence(
    student_hidden: Tensor, student_head: Head, teacher_hidden: Tensor, teacher_head: Head, *, kind: Kind, token: Tensor,
    weight: Tensor | None = None, rows_per_chunk: int | None = None, **options: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Σ weight·D and the rows D (N,), from hidden rows (N, D_S) and (N, D_T); no logits beyond `rows_per_chunk` rows exist.

    total: scalar, nats, differentiable in `student_hidden` and the student head's weight and bias. rows: (N,) float32,
    detached. weight: (N,) float32, all ones if None. token: (N,) int64 sampled ids. Vocabularies of different size are
    compared on their shared columns. Raises ValueError on an unknown kind.
    """
    if kind not in DIVERGENCES:
        raise ValueError(f"unknown divergence {kind!r}; known: {', '.join(DIVERGENCES)}")
    size = min(len(student_head.weight), len(teacher_head.weight))
    weight = torch.ones(len(student_hidden), device=student_hidden.device) if weight is None else weight
    step = rows_per_chunk or chunk_rows(size)

    def rows_of(part: slice, hidden: Tensor, head: Head) -> Tensor:
        with torch.no_grad():
            teacher_logits = teacher_head.logits(teacher_hidden[part], size)
        return dense(kind, head.logits(hidden, size), teacher_logits, token[part], **options)

    total, rows = _Chunked.apply(student_hidden, student_head.weight, student_head.bias, student_head, weight, step, rows_of)  # type: ignore[no-untyped-call]
    return total, rows


class _Chunked(torch.autograd.Function):
    """Loss and gradients chunk by chunk in the forward pass; backward only scales them (as in Liger's chunked losses)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, head_weight: Tensor, head_bias: Tensor | None, head: Head, weight: Tensor, step: int,
        rows_of: Callable[[slice, Tensor, Head], Tensor],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        given = (hidden, head_weight, head_bias)
        wanted = [need and x is not None for need, x in zip(ctx.needs_input_grad[:3], given, strict=True)]
        grads = [
            torch.zeros_like(x, dtype=torch.float32) if want and x is not None else None for x, want in zip(given, wanted, strict=True)
        ]
        leaf_weight = head_weight.detach().requires_grad_(wanted[1])
        leaf_bias = None if head_bias is None else head_bias.detach().requires_grad_(wanted[2])
        rows = torch.empty(len(hidden), device=hidden.device)
        for start in range(0, len(hidden), step):
            part = slice(start, start + step)
            piece = hidden[part].detach().requires_grad_(wanted[0])
            with torch.set_grad_enabled(any(wanted)):
                values = rows_of(part, piece, replace(head, weight=leaf_weight, bias=leaf_bias))
                cost = (values * weight[part]).sum()
            rows[part] = values.detach()
            into = (grads[0] if grads[0] is None else grads[0][part], grads[1], grads[2])
            active = [
                (leaf, g) for leaf, g in zip((piece, leaf_weight, leaf_bias), into, strict=True) if leaf is not None and g is not None
            ]
            if active:
                found = torch.autograd.grad(cost, [leaf for leaf, _ in active])
                for (_, place), grad in zip(active, found, strict=True):
                    place.add_(grad)
        ctx.save_for_backward(*[g if g is None or x is None else g.to(x.dtype) for g, x in zip(grads, given, strict=True)])
        ctx.mark_non_differentiable(rows)
        return (rows * weight).sum(), rows

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        return (*[None if g is None else g * outputs[0] for g in ctx.saved_tensors], None, None, None, None)


def loss_weights(weight: Tensor, sample: Tensor, normaliser: str, *, valid: int, samples: int) -> Tensor:
    """(k,) weights w with loss = Σ w·D over the kept tokens of the global batch (methods 1.7).

    weight (k,) and sample (k,): the selection and the response of each kept token. valid: tokens, samples: responses in the
    global batch. `kept_tokens` is the mean over kept tokens, `per_sample_kept` the mean over responses of such means,
    `all_valid` the sum over kept divided by all valid tokens.
    """
    if normaliser == "kept_tokens":
        return weight / len(weight)
    if normaliser == "all_valid":
        return weight / valid
    _, inverse, counts = sample.unique(return_inverse=True, return_counts=True)
    return weight / counts[inverse] / samples
