"""The loss over a full vocabulary without a logits tensor: from hidden rows to Σ weight·D and its gradients, chunk by chunk.

Rows go through both output heads a chunk at a time, into two buffers that are used again for the next chunk. Formulas
(`selbench.divergences`) then run over blocks of a few rows that stay in the processor's cache, and leave the gradient in the
logits where the student's logits stood; three matrix products turn it into gradients of hidden rows and head. Gradients are
taken in the forward pass, as in Liger's chunked losses (linkedin/Liger-Kernel, chunked_loss); unlike there they are in closed form and
added up in place, so nothing of size (N, V) or (k, V) exists beyond the two buffers, and no second copy of the head's gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from selbench.divergences import DIVERGENCES, TAILS, Node

__all__ = ["DIVERGENCES", "NORMALISERS", "TAILS", "Head", "Kind", "blocks", "chunk_rows", "chunked_divergence", "loss_weights", "products"]

Kind = Literal[
    "reverse_kl", "forward_kl", "jsd", "skew_kl", "skew_reverse_kl", "policy_gradient", "k1", "k2", "k3", "local_support"
]  # fmt: skip
NORMALISERS = ("kept_tokens", "per_sample_kept", "all_valid")
CHUNK_BYTES = {"cpu": 5 * 2**26, "cuda": 2**30}  # of both buffers together: twice as much saves a tenth of the time on two CPU cores
CHUNK_ROWS = 1024
BLOCK_ELEMENTS = 2**20  # on a CPU: the dozen temporaries of a formula, 4 MiB each, stay in the last-level cache
CPU_COLUMNS = 512  # of a head, in one product
CPU_TERMS = 4096  # of the sums of a product over the vocabulary


@dataclass(frozen=True)
class Head:
    """An output head: logits = scale · (hidden @ weightᵀ + bias), soft-capped where `softcap` is set (c · tanh(z / c)).

    weight (V, D), bias (V,) or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def finish(self, product: Tensor) -> Tensor:
        """(n, size) hidden @ weightᵀ to logits: bias, scale and cap; the product itself where the head is plain."""
        z = product if self.bias is None else product + self.bias[: product.shape[-1]].to(product.dtype)
        z = z if self.scale == 1 else z * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)

    def unfinish(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """The gradient in the product, from that in the logits (n, size)."""
        gradient = gradient if self.scale == 1 else gradient * self.scale
        return gradient if self.softcap is None else gradient * (1 - (logits / self.softcap) ** 2)

    def logits(self, hidden: Tensor, size: int) -> Tensor:
        """(n, D) to (n, size) float32: columns past `size` are padding of one model's vocabulary, left out before the softmax."""
        return self.finish((hidden.to(self.weight.dtype) @ self.weight[:size].T).to(_inside(self.weight)))


def _inside(x: Tensor) -> torch.dtype:
    """The precision of everything behind the product: float32 for any model but one in float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def chunk_rows(vocabulary: int, device: torch.device | str = "cpu") -> int:
    """Rows whose logits are alive at a time: both models' buffers take at most a fixed size, and an eighth of the free memory."""
    kind = torch.device(device).type
    room = min(CHUNK_BYTES.get(kind, CHUNK_BYTES["cuda"]), _free_memory(kind) // 8)
    return max(1, min(CHUNK_ROWS, room // (8 * vocabulary)))


def _free_memory(kind: str) -> int:
    """Bytes that can still be had on the device."""
    if kind == "cuda":
        reusable = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0] + reusable)
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return 2**33  # not Linux: the fixed size decides


def blocks(rows: int, vocabulary: int, device: torch.device) -> Iterator[slice]:
    """A chunk's rows in pieces on which formulas run: small enough for the cache of a CPU, whole on a GPU."""
    step = max(1, BLOCK_ELEMENTS // vocabulary) if device.type == "cpu" else rows
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def products(
    sides: Sequence[tuple[Tensor, Head] | None], index: Tensor | None, size: int, step: int
) -> Iterator[tuple[slice, list[Tensor | None]]]:
    """hidden @ weightᵀ (n, size) of each side (hidden (N, D), head) or None, for rows `index` (none: all), `step` rows at a time.

    The buffers are used again: what is yielded is gone with the next chunk. Chunks are of equal size, as far as they can be.
    """
    given = [side for side in sides if side is not None]
    count = len(given[0][0]) if index is None else len(index)
    step = -(-count // -(-count // step)) if count else 1
    buffers = [None if side is None else side[0].new_empty((step, size), dtype=_inside(side[1].weight)) for side in sides]
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        outs = [None if buffer is None else buffer[: part.stop - part.start] for buffer in buffers]
        for side, out in zip(sides, outs, strict=True):
            if side is not None and out is not None:
                hidden, weight = _rows(side[0], index, part).to(side[1].weight.dtype), side[1].weight[:size]
                _product(hidden, weight, out)
        yield part, outs


def _product(hidden: Tensor, weight: Tensor, out: Tensor) -> None:
    """out (n, V) = hidden @ weightᵀ. On a CPU some columns at a time: few rows against a whole head read its weights from memory at
    every turn of the library's inner loops, which costs a fifth (V = 151,936, n = 256)."""
    if weight.dtype != out.dtype:
        out.copy_(hidden @ weight.T)
        return
    step = CPU_COLUMNS if out.device.type == "cpu" else len(weight)
    for start in range(0, len(weight), step):
        torch.mm(hidden, weight[start : start + step].T, out=out[:, start : start + step])


def _rows(x: Tensor, index: Tensor | None, part: slice) -> Tensor:
    return x[part] if index is None else x[index[part]]


def chunked_divergence(
    student_hidden: Tensor, student_head: Head, teacher_hidden: Tensor, teacher_head: Head, *, kind: Kind, token: Tensor,
    weight: Tensor | None = None, temperature: float = 1.0, rows_per_chunk: int | None = None, compiled: bool = False, **options: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Σ weight·D and the rows D (N,), from hidden rows (N, D_S) and (N, D_T); no logits beyond `rows_per_chunk` rows exist.

    total: scalar, nats, differentiable (once) in `student_hidden` and the student head's weight and bias. rows: (N,) float32,
    detached. Rows of weight 0 are not computed: their D is NaN and they have no part in total and gradients, whatever they hold.
    weight: (N,) float32, all ones if None. token: (N,) int64 sampled ids. temperature divides the logits of both. Vocabularies of
    different size are compared on their shared columns. rows_per_chunk: none takes `chunk_rows`. compiled: the formulas go
    through torch.compile, which pays on a GPU. options: beta, alpha, top_k, tail, where the kind has them.
    Raises ValueError on an unknown kind or tail.
    """
    if kind not in DIVERGENCES:
        raise ValueError(f"unknown divergence {kind!r}; known: {', '.join(DIVERGENCES)}")
    if options.get("tail", TAILS[0]) not in TAILS:
        raise ValueError(f"unknown tail {options['tail']!r}; known: {', '.join(TAILS)}")
    size = min(len(student_head.weight), len(teacher_head.weight))
    step = rows_per_chunk or chunk_rows(size, student_hidden.device)
    weight = torch.ones(len(student_hidden), device=student_hidden.device) if weight is None else weight
    formula = _compiled() if compiled and kind != "local_support" else _formula  # its top K looks at the data: no whole graph

    def cost(part: slice, z: Tensor, y: Tensor, at: Tensor | None, differentiate: bool) -> tuple[Tensor, Tensor | None]:
        scales = _rows(weight, at, part), temperature
        return formula(kind, options, student_head, teacher_head, z, y, _rows(token, at, part), *scales, differentiate)

    total, rows = _Chunked.apply(  # type: ignore[no-untyped-call]
        student_hidden, student_head.weight, student_head.bias, student_head, (teacher_hidden, teacher_head), weight, size, step, cost
    )
    return total, rows


def _formula(
    kind: str, options: dict[str, Any], student: Head, teacher: Head, z: Tensor, y: Tensor, token: Tensor, weight: Tensor,
    temperature: float, differentiate: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """D (n,) and, if wanted, the gradient of Σ weight·D in the student's product z (n, V); y: the teacher's product."""
    logits = student.finish(z)
    cool, warm = (x if temperature == 1 else x / temperature for x in (logits, teacher.finish(y)))
    cost = DIVERGENCES[kind](Node(cool, warm, token), **options)
    if not differentiate:
        return cost.value, None
    return cost.value, student.unfinish(cost.gradient().mul_((weight / temperature).unsqueeze(-1).to(z.dtype)), logits)


@cache
def _compiled() -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The formula through torch.compile; where this machine cannot compile, the formula itself, and a warning that says so."""
    from torch._dynamo.exc import TorchDynamoException

    fused, works = torch.compile(_formula, dynamic=True), True

    def formula(*arguments: Any) -> tuple[Tensor, Tensor | None]:
        nonlocal works
        if works:
            try:
                return fused(*arguments)
            except TorchDynamoException as error:
                works = False
                warnings.warn(f"the loss runs uncompiled, slower: {str(error).strip().splitlines()[0]}", stacklevel=2)
        return _formula(*arguments)

    return formula


class _Chunked(torch.autograd.Function):
    """Loss and gradients in the forward pass; backward hands them over, once."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, head_weight: Tensor, head_bias: Tensor | None, head: Head, teacher: tuple[Tensor, Head], weight: Tensor,
        size: int, step: int, cost: Callable[..., tuple[Tensor, Tensor | None]],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        wanted = ctx.needs_input_grad[:3]
        index = weight.nonzero().flatten()
        every = len(index) == len(hidden)
        at = None if every else index
        rows = hidden.new_full((len(hidden),), float("nan"), dtype=_inside(head_weight))
        d_hidden = torch.zeros_like(hidden) if wanted[0] else None
        d_weight = torch.empty_like(head_weight, dtype=rows.dtype) if wanted[1] else None
        d_bias = torch.zeros_like(head_bias, dtype=rows.dtype) if wanted[2] and head_bias is not None else None
        for part, (z, y) in products([(hidden, head), teacher], at, size, step):
            assert z is not None
            assert y is not None
            where = part if every else index[part]
            for block in blocks(len(z), size, hidden.device):
                here = slice(part.start + block.start, part.start + block.stop)
                values, gradient = cost(here, z[block], y[block], at, any(wanted))
                rows[here if every else index[here]] = values
                if gradient is not None:
                    z[block] = gradient  # where the logits stood
            if d_hidden is not None:
                d_hidden[where] = _back(z, head_weight[:size]).to(hidden.dtype)
            if d_weight is not None:
                _add_product(d_weight[:size], z, hidden[where].to(head_weight.dtype), first=part.start == 0)
            if d_bias is not None:
                d_bias[:size] += z.sum(0)
        if d_weight is not None:
            d_weight[size if len(index) else 0 :] = 0
        found = ((d_hidden, hidden), (d_weight, head_weight), (d_bias, head_bias))
        ctx.gradients = [None if g is None or x is None else g.to(x.dtype) for g, x in found]
        ctx.mark_non_differentiable(rows)
        ctx.set_materialize_grads(False)
        return (rows[index] * weight[index]).sum(), rows

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Scales in place and lets go, so that autograd takes the tensors over instead of copying them."""
        gradients, ctx.gradients, scale = ctx.gradients, None, outputs[0]
        if gradients is None:
            raise RuntimeError("chunked_divergence: its gradients were handed over already; call it again for a second backward pass")
        if scale is not None and float(scale) != 1.0:
            gradients = [None if g is None else g.mul_(scale) for g in gradients]
        return (*gradients, *(None,) * 6)


def _back(z: Tensor, weight: Tensor) -> Tensor:
    """z (n, V) @ weight (V, D), in the weight's dtype; on a CPU some terms of the sums at a time, as in `_product`."""
    if weight.dtype != z.dtype or z.device.type != "cpu":
        return z.to(weight.dtype) @ weight
    out = z.new_zeros((len(z), weight.shape[1]))
    for start in range(0, len(weight), CPU_TERMS):
        out.addmm_(z[:, start : start + CPU_TERMS], weight[start : start + CPU_TERMS])
    return out


def _add_product(into: Tensor, z: Tensor, hidden: Tensor, *, first: bool) -> None:
    """into (V, D) += zᵀ (V, n) @ hidden (n, D), in place; `first` overwrites what is there."""
    if into.dtype == hidden.dtype:
        torch.addmm(into, z.T, hidden, beta=0 if first else 1, out=into)
    elif first:
        into.copy_(z.to(hidden.dtype).T @ hidden)
    else:
        into.add_(z.to(hidden.dtype).T @ hidden)


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
