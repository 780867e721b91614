"""What the implementations of a step are given: hidden rows and heads, random but realistic ones from a seed, or real ones from a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SMALL_ROWS", "Inputs", "calibrate", "drawn", "inputs_of", "pick", "stored"]

SMALL_ROWS = 64
NOISE = 1.0  # standard deviation of teacher logits around the student's


@dataclass(frozen=True)
class Inputs:
    """What a loss sees. student_hidden (N, D_S) and student_weight (V, D_S): leaves that want a gradient; teacher_hidden (N, D_T) and
    teacher_weight (V, D_T); token (N,) int64; kept: (k,) int64 ascending row numbers, None for all.
    """

    student_hidden: Tensor
    student_weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    token: Tensor
    kept: Tensor | None = None

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Kept rows of student and teacher, (k, D_S) and (k, D_T), and their tokens (k,)."""
        every = (self.student_hidden, self.teacher_hidden, self.token)
        if self.kept is None:
            return every
        student, teacher, token = (x.index_select(0, self.kept) for x in every)
        return student, teacher, token

    def leaves(self) -> Inputs:
        """The same values, of which student hidden rows and weight are fresh leaves without gradient."""
        hidden, weight = (x.detach().requires_grad_() for x in (self.student_hidden, self.student_weight))
        return replace(self, student_hidden=hidden, student_weight=weight)

    def first(self, count: int) -> Inputs:
        """The first `count` rows, all kept; the weights are shared."""
        student, teacher, token = (x.detach()[:count].clone() for x in (self.student_hidden, self.teacher_hidden, self.token))
        return Inputs(student, self.student_weight, teacher, self.teacher_weight, token).leaves()


def drawn(spec: dict[str, Any]) -> tuple[Inputs, Tensor]:
    """Random inputs, and a random score (N,) that selection goes by. Leaves are not marked as such yet.

    Student logits are normal with standard deviation spec["scale"]; the teacher's are the same plus noise: its hidden rows are the
    student's and as many noise columns as its greater width, its head likewise.
    """
    import torch

    rows, width, wide, vocabulary = (spec[name] for name in ("rows", "width", "teacher_width", "vocabulary"))
    device, dtype = torch.device(spec["device"]), getattr(torch, spec["dtype"])
    random = torch.Generator(device).manual_seed(spec["seed"])

    def normal(count: int, columns: int, scale: float) -> Tensor:
        return torch.empty((count, columns), device=device).normal_(generator=random).mul_(scale)

    weight = normal(vocabulary, width, spec["scale"] / width**0.5)
    noise = max(wide - width, 1)
    teacher_weight = torch.cat([weight, normal(vocabulary, wide - width, NOISE / noise**0.5)], -1)
    hidden = normal(rows, width, 1.0)
    teacher_hidden = torch.cat([hidden, normal(rows, wide - width, 1.0)], -1)
    token = torch.randint(vocabulary, (rows,), device=device, generator=random)
    score = torch.rand(rows, device=device, generator=random)
    student, head, teacher, teacher_head = (x.to(dtype) for x in (hidden, weight, teacher_hidden, teacher_weight))
    return Inputs(student, head, teacher, teacher_head, token), score


def stored(spec: dict[str, Any]) -> tuple[Inputs, Tensor]:
    """Real rows from the safetensors file spec["tensors"], the first spec["rows"] of them, and their score."""
    import torch
    from safetensors.torch import load_file

    found = load_file(spec["tensors"])
    dtype, rows = getattr(torch, spec["dtype"]), spec["rows"]

    def own(name: str, count: int | None = None) -> Tensor:  # a copy: pages of the mapped file would count as memory in use
        x = found.pop(name)[:count]
        return x.to(spec["device"], dtype if x.is_floating_point() and name != "score" else x.dtype, copy=True)

    weight, teacher_weight = own("student_weight"), own("teacher_weight")
    hidden, teacher_hidden = own("student_hidden", rows), own("teacher_hidden", rows)
    return Inputs(hidden, weight, teacher_hidden, teacher_weight, own("token", rows)), own("score", rows)


def inputs_of(spec: dict[str, Any]) -> Inputs:
    """What spec asks for, with the rows that its budget keeps; leaves want gradients."""
    inputs, score = stored(spec) if spec.get("tensors") else drawn(spec)
    return replace(inputs, kept=pick(score, spec["budget"])).leaves()


def calibrate(spec: dict[str, Any]) -> dict[str, Any]:
    """The scale at which 64 random rows have a mean student entropy of spec["target_entropy"] nats, by bisection; for stored rows none.

    Says also what the entropy and the mean reverse KL then are, how large the inputs are, and on what hardware.
    """
    import torch

    from selbench.provenance import hardware

    few = {**spec, "rows": min(spec["rows"], SMALL_ROWS), "scale": 1.0, "dtype": "float32"}
    if not spec.get("tensors"):
        unit, _ = drawn(few)
        logits = unit.student_hidden @ unit.student_weight.T
        low, high = 0.0, 1000.0
        for _ in range(30):
            few["scale"] = (low + high) / 2
            logp = (logits * few["scale"]).log_softmax(-1)
            low, high = (few["scale"], high) if float(-(logp.exp() * logp).sum(-1).mean()) > spec["target_entropy"] else (low, few["scale"])
        del unit, logits, logp
    x, _ = stored(few) if spec.get("tensors") else drawn(few)
    logp, logq = ((h @ w.T).log_softmax(-1) for h, w in ((x.student_hidden, x.student_weight), (x.teacher_hidden, x.teacher_weight)))
    p = logp.exp()
    return {
        "scale": few["scale"], "mean_entropy": float(-(p * logp).sum(-1).mean()),
        "mean_reverse_kl": float((p * (logp - logq)).sum(-1).mean()),
        "vocabulary": len(x.student_weight), "width": x.student_weight.shape[1], "teacher_width": x.teacher_weight.shape[1],
        "rows_looked_at": len(logp), "hardware": hardware(), "torch": torch.__version__,
    }  # fmt: skip


def pick(score: Tensor, budget: float) -> Tensor | None:
    """The (k,) rows with the largest score (N,), ascending, k = budget percent of N, at least one; None for all."""
    if budget >= 100:
        return None
    top: Tensor = score.topk(max(1, round(len(score) * budget / 100))).indices
    return top.sort().values
