"""The distillation loss as others compute it: from hidden rows and heads to a scalar that autograd can go back through.

Each function takes the same `Inputs` and returns the mean over their kept rows of the reverse KL (nats), but for the one marked
`exact=False`. Libraries are called, not re-written, and in the form that costs them least; what has no library is re-expressed from
the published source that its docstring names. A path without weights per row gets the kept rows alone, gathered first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from selbench.errors import ConfigError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from selbench.bench.inputs import Inputs

__all__ = ["BUDGETS", "RIVALS", "Entry", "Rival", "all_entries", "parse_entries"]

BUDGETS = (50.0, 20.0, 10.0, 5.0, 1.0)  # percent, besides all rows
OPSD_ROWS = 512  # default chunk of the reverse KL there
TOP_K = 32
SHARE_OF_MEMORY = 0.7


@dataclass(frozen=True)
class Rival:
    """An implementation. whole_logits: float32 tensors (N, V) that are alive at its peak, for the question whether it fits in memory.

    exact: computes the full-vocabulary reverse KL. library: module that must be there. compiled: warms up on full size, since each
    shape is compiled by itself. device: the only type it runs on, None for any.
    """

    run: Callable[[Inputs], Tensor]
    summary: str
    whole_logits: int = 0
    exact: bool = True
    library: str | None = None
    compiled: bool = False
    device: str | None = None


def dense(x: Inputs) -> Tensor:
    """Plain torch: whole logits (N, V) of both, float32 log-softmax, `kl_div`, autograd."""
    import torch
    from torch.nn import functional as F

    student, teacher, _ = x.rows()
    logp = (student @ x.student_weight.T).float().log_softmax(-1)
    with torch.no_grad():
        logq = (teacher @ x.teacher_weight.T).float().log_softmax(-1)
    return F.kl_div(logq, logp, reduction="sum", log_target=True) / len(student)


def dense_then_chunk(x: Inputs) -> Tensor:
    """Whole logits (N, V) of both, then float32 log-softmax and KL for 512 rows at a time, kept for autograd.

    Re-expressed from HJSang/OPSD_OnPolicyDistillation @ f67ff77, src/common/divergence_losses.py, compute_reverse_kl_loss, the training
    base of TIP (arXiv:2604.14084); without its clone of the teacher's logits. Rows are sliced as there, so that backward adds up
    gradients of size (N, V), one a chunk.
    """
    import torch
    from torch.nn import functional as F

    student, teacher, _ = x.rows()
    z = student @ x.student_weight.T
    with torch.no_grad():
        y = teacher @ x.teacher_weight.T
    total = torch.zeros((), device=z.device)
    for start in range(0, len(z), OPSD_ROWS):
        logq = y[start : start + OPSD_ROWS].float().log_softmax(-1)
        logp = z[start : start + OPSD_ROWS].float().log_softmax(-1)
        total = total + F.kl_div(logq, logp, reduction="none", log_target=True).sum(-1).sum()
    return total / len(z)


def trl_gkd(x: Inputs) -> Tensor:
    """TRL 1.16.0, trl/experimental/gkd/gkd_trainer.py: GKDTrainer.generalized_jsd_loss with beta 1 on whole logits (N, V).

    Without labels, since every row counts: the trainer's mask would copy (N, V) once more.
    """
    import torch

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd.gkd_trainer import GKDTrainer  # type: ignore[import-not-found]

    student, teacher, _ = x.rows()
    z = student @ x.student_weight.T
    with torch.no_grad():
        y = teacher @ x.teacher_weight.T
    loss: Tensor = GKDTrainer.generalized_jsd_loss(z, y, beta=1.0, reduction="batchmean")
    return loss


def trl_distillation(x: Inputs) -> Tensor:
    """TRL 1.16.0, trl/trainer/distillation_trainer.py: _chunked_divergence_loss with beta 1, the loss of DistillationTrainer.

    Tiles of 4,096 rows by 32,768 columns, each projected once in forward and once more in backward (trl/kernels/chunked_divergence.py).
    """
    import torch
    from trl.trainer.distillation_trainer import _chunked_divergence_loss  # type: ignore[import-not-found]

    student, teacher, _ = x.rows()
    mask = torch.ones((1, len(student)), dtype=torch.int64, device=student.device)
    loss: Tensor = _chunked_divergence_loss(
        student.unsqueeze(0), teacher.unsqueeze(0), x.student_weight, x.teacher_weight, mask, beta=1.0
    )[0]  # fmt: skip
    return loss


def liger(x: Inputs, compiled: bool = False, rows: int = 1024) -> Tensor:
    """liger-kernel 0.8.5, liger_kernel/chunked_loss/jsd_loss.py: LigerFusedLinearJSDLoss with beta 1 and no hard loss, in plain torch.

    Chunks of `rows` rows; 1,024 is the library's default, smaller ones take less memory.
    """
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss  # type: ignore[import-untyped,import-not-found]

    student, teacher, token = x.rows()
    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=1.0, compiled=compiled, chunk_size=rows)
    found: Tensor = loss(student, x.student_weight, teacher, x.teacher_weight, token)
    return found


def liger_triton(x: Inputs) -> Tensor:
    """liger-kernel 0.8.5, liger_kernel/transformers/fused_linear_jsd.py: LigerFusedLinearJSD with beta 1, Triton kernels, on a GPU."""
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD  # type: ignore[import-untyped,import-not-found]

    student, teacher, _ = x.rows()
    found: Tensor = LigerFusedLinearJSD(jsd_beta=1.0)(student, x.student_weight, teacher, x.teacher_weight, None)
    return found


def verl_topk(x: Inputs) -> Tensor:
    """Forward KL over the teacher's 32 likeliest tokens: another, truncated objective.

    Re-expressed from verl, verl/trainer/distillation/fsdp/losses.py, compute_forward_kl_topk: whole student logits, log-softmax in
    their precision, gathered at the teacher's ids. There a server delivers the teacher's lists; here its head is applied, 512 rows at
    a time, without gradient.
    """
    import torch

    student, teacher, _ = x.rows()
    lists = []
    with torch.no_grad():
        for part in teacher.split(512):
            found = (part @ x.teacher_weight.T).float().log_softmax(-1).topk(min(TOP_K, len(x.teacher_weight)))
            lists.append((found.values, found.indices))
        logq, ids = (torch.cat(parts) for parts in zip(*lists, strict=True))
    logp = (student @ x.student_weight.T).log_softmax(-1).gather(-1, ids).float()
    return (logq.exp() * (logq - logp)).sum(-1).mean()


def selbench(x: Inputs, compiled: bool = False) -> Tensor:
    """selbench.losses.chunked_divergence; rows that are not kept have weight 0, which it does not compute."""
    import torch

    from selbench.losses import Head, chunked_divergence

    count = len(x.student_hidden)
    if x.kept is None:
        weight = torch.full((count,), 1 / count, device=x.student_hidden.device)
    else:
        weight = torch.zeros(count, device=x.student_hidden.device)
        weight[x.kept] = 1 / len(x.kept)
    return chunked_divergence(
        x.student_hidden, Head(x.student_weight), x.teacher_hidden, Head(x.teacher_weight), kind="reverse_kl", token=x.token, weight=weight,
        compiled=compiled,
    )[0]  # fmt: skip


RIVALS: dict[str, Rival] = {
    "dense": Rival(dense, "plain torch on whole logits", whole_logits=5),
    "dense_then_chunk": Rival(dense_then_chunk, "whole logits, KL in chunks (TIP's base code)", whole_logits=6),
    "trl_gkd": Rival(trl_gkd, "TRL GKDTrainer.generalized_jsd_loss", whole_logits=9, library="trl"),
    "trl_distillation": Rival(trl_distillation, "TRL DistillationTrainer, tiled", library="trl"),
    "liger": Rival(liger, "Liger chunked JSD, eager, chunks of 1,024 rows", library="liger_kernel"),
    "liger_128": Rival(partial(liger, rows=128), "Liger chunked JSD, eager, chunks of 128 rows", library="liger_kernel"),
    "liger_compiled": Rival(partial(liger, compiled=True), "Liger chunked JSD, torch.compile", library="liger_kernel", compiled=True),
    "liger_triton": Rival(liger_triton, "Liger fused linear JSD, Triton", library="liger_kernel", device="cuda"),
    "verl_topk": Rival(verl_topk, "verl's forward KL over top 32: another objective", whole_logits=3, exact=False),
    "selbench": Rival(selbench, "selbench chunked_divergence"),
    "selbench_compiled": Rival(partial(selbench, compiled=True), "the same with compiled formulas", compiled=True),
}


@dataclass(frozen=True)
class Entry:
    """An implementation at a budget, percent of the rows that it keeps."""

    name: str
    budget: float = 100.0

    @property
    def label(self) -> str:
        return self.name if self.budget == 100 else f"{self.name}@{self.budget:g}"

    @property
    def rival(self) -> Rival:
        return RIVALS[self.name]

    @property
    def is_ours(self) -> bool:
        return self.rival.run is selbench or self.name == "selbench_compiled"

    def fits(self, vocabulary: int, rows: int, available: int) -> bool:
        """Whether whole float32 logits, as many as the implementation holds, take at most 70 % of the available bytes."""
        kept = max(1, round(rows * self.budget / 100))
        return 4 * self.rival.whole_logits * kept * vocabulary <= SHARE_OF_MEMORY * available

    def missing(self, device: str) -> str | None:
        """Why it cannot run here, None if it can."""
        if self.rival.device not in (None, device):
            return f"{self.name} runs on {self.rival.device} alone"
        if self.rival.library and find_spec(self.rival.library) is None:
            return f"{self.name} needs {self.rival.library.replace('_', '-')}: pip install {self.rival.library.replace('_', '-')}"
        return None


def all_entries() -> list[Entry]:
    """Every implementation on all rows, and selbench at the smaller budgets."""
    return [*map(Entry, RIVALS), *(Entry("selbench", budget) for budget in BUDGETS)]


def parse_entries(texts: list[str] | None, device: str) -> tuple[list[Entry], list[str]]:
    """NAME or NAME@PERCENT to entries, and what was left out because it cannot run here. None: all that can.

    Raises ConfigError for names nobody knows, budgets outside 0-100, and what is named yet cannot run.
    """
    if texts is None:
        every = all_entries()
        return [e for e in every if not e.missing(device)], [reason for e in every if (reason := e.missing(device))]
    found, problems = [], []
    for text in texts:
        name, _, percent = text.partition("@")
        try:
            budget = float(percent or 100)
        except ValueError:
            budget = -1
        if name not in RIVALS:
            problems.append(f"--only {text}: no implementation {name!r}; {nearest(name, RIVALS)}")
        elif not 0 < budget <= 100:
            problems.append(f"--only {text}: the budget is a percentage above 0 and at most 100")
        elif reason := Entry(name).missing(device):
            problems.append(f"--only {text}: {reason}")
        else:
            found.append(Entry(name, budget))
    if problems:
        raise ConfigError(*problems)
    return list(dict.fromkeys(found)), []
