"""Both models over the rollouts without gradient: hidden rows of the valid tokens, and the declared signals in row chunks.

Logits exist for one chunk of rows at a time; what is kept is a few floats per token and, for the loss, the teacher's hidden
rows (N, D_T), some 60 times smaller than its logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from selbench.losses import DIVERGENCES, Head, chunk_rows, entropy, kl
from selbench.rollout import Rollouts
from selbench.signals import signal_top_k

__all__ = [
    "Rows",
    "all_hidden",
    "hidden_rows",
    "layout",
    "micro_batches",
    "needs_student",
    "needs_teacher",
    "rows_after",
    "signal_values",
    "signals_from_logits",
]

TINY = 1e-12  # what a server's top-K list says of a token that is not on it (TA-OPD @ ccdf21d2)


@dataclass(frozen=True)
class Rows:
    """Where the N valid tokens of a batch are: token (N,) ids, sample (N,), position (N,) in the response; all int64, on the CPU.

    sequence (N,): row of `Rollouts`; column (N,): index of the token in that sequence (its logits stand one column earlier).
    """

    token: Tensor
    sample: Tensor
    position: Tensor
    sequence: Tensor
    column: Tensor

    def __len__(self) -> int:
        return len(self.token)


def layout(rollouts: Rollouts) -> Rows:
    """The valid tokens in sequence order. `position` counts response tokens, masked ones included."""
    found: list[tuple[int, int, int, int, int]] = []
    for row, (tokens, mask, start, sample) in enumerate(zip(rollouts.tokens, rollouts.mask, rollouts.start, rollouts.sample, strict=True)):
        found += [(tokens[i], sample, i - start, row, i) for i in range(max(start, 1), len(tokens)) if mask[i]]
    table = torch.tensor(found, dtype=torch.int64).reshape(-1, 5)
    return Rows(*table.unbind(1))


def rows_after(rows: Rows, rollouts: Rollouts, other: Rollouts) -> Rows:
    """The tokens `rows` of `rollouts` where they stand in `other`: the same responses after other prompts, row by row.

    Raises ValueError where a response differs or has no prompt before it: a row would stand for another token.
    """
    if other is rollouts:
        return rows
    for i, (tokens, mask, start) in enumerate(zip(other.tokens, other.mask, other.start, strict=True)):
        at = rollouts.start[i]
        if start < 1 or tokens[start:] != rollouts.tokens[i][at:] or mask[start:] != rollouts.mask[i][at:]:
            raise ValueError(f"sequence {i}: the teacher's response is not the student's, token by token, after a prompt")
    shift = torch.tensor(other.start) - torch.tensor(rollouts.start)
    return replace(rows, column=rows.column + shift[rows.sequence])


def micro_batches(rollouts: Rollouts, size: int) -> list[list[int]]:
    """Sequence numbers in groups of at most `size`, longest together, so that little padding is computed."""
    order = sorted(range(len(rollouts)), key=lambda i: (-len(rollouts.tokens[i]), i))
    return [order[i : i + size] for i in range(0, len(order), size)]


def hidden_rows(backbone: nn.Module, rollouts: Rollouts, rows: Rows, group: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Hidden states (n, D) that predict the valid tokens of the sequences in `group`, and their row numbers (n,) in the batch."""
    width = max(len(rollouts.tokens[i]) for i in group)
    ids = torch.zeros((len(group), width), dtype=torch.int64)
    attention = torch.zeros_like(ids)
    place = torch.full((len(rollouts),), -1)
    for slot, i in enumerate(group):  # right padding: causal attention never sees it
        tokens = rollouts.tokens[i]
        ids[slot, : len(tokens)] = torch.tensor(tokens)
        attention[slot, : len(tokens)] = 1
        place[i] = slot
    here = (place[rows.sequence] >= 0).nonzero().flatten()
    out = backbone(input_ids=ids.to(device), attention_mask=attention.to(device), use_cache=False)
    hidden = out.last_hidden_state
    return hidden[place[rows.sequence[here]].to(device), (rows.column[here] - 1).to(device)], here


def all_hidden(backbone: nn.Module, rollouts: Rollouts, rows: Rows, groups: Iterable[Sequence[int]], device: torch.device) -> Tensor:
    """Hidden rows (N, D), micro-batch by micro-batch, without gradient; zero for sequences in no group."""
    out: Tensor | None = None
    with torch.no_grad():
        for group in groups:
            hidden, here = hidden_rows(backbone, rollouts, rows, group, device)
            out = hidden.new_zeros((len(rows), hidden.shape[-1])) if out is None else out
            out[here.to(device)] = hidden
    assert out is not None
    return out


def needs_student(needs: Iterable[str]) -> bool:
    """Whether a signal needs the student's distribution."""
    return any(name not in ("position_fraction", "teacher_entropy", "teacher_logprob") for name in needs)


def needs_teacher(needs: Iterable[str]) -> bool:
    """Whether a signal needs the teacher's distribution."""
    return any(signal_top_k(name)[0] not in ("student_entropy", "student_logprob", "position_fraction", "topk_entropy_K") for name in needs)


def signal_values(
    needs: Sequence[str], rows: Rows, student_hidden: Tensor | None, student_head: Head, teacher_hidden: Tensor | None, teacher_head: Head,
    rows_per_chunk: int | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The declared signals, each (N,) float32 on the CPU, from hidden rows (N, D) of the models that they need (None otherwise)."""
    size = min(len(student_head.weight), len(teacher_head.weight))
    step = rows_per_chunk or chunk_rows(size)
    out = {name: torch.empty(len(rows)) for name in needs}
    if "position_fraction" in out:
        out["position_fraction"] = position_fraction(rows)
    wanted = [name for name in needs if name != "position_fraction"]
    with torch.no_grad():
        for start in range(0, len(rows), step) if wanted else ():
            part = slice(start, start + step)
            student = None if student_hidden is None else student_head.logits(student_hidden[part], size)
            teacher = None if teacher_hidden is None else teacher_head.logits(teacher_hidden[part], size)
            for name, values in signals_from_logits(wanted, student, teacher, rows.token[part]):
                out[name][part] = values.cpu()
    return out


def position_fraction(rows: Rows) -> Tensor:
    """position / (length - 1) of each token's response, (N,) float32; 0 for a response of one token."""
    last = torch.zeros(int(rows.sequence.max()) + 1, dtype=torch.int64).scatter_reduce_(0, rows.sequence, rows.position, "amax")
    return rows.position.float() / last[rows.sequence].clamp_min(1).float()


def signals_from_logits(
    needs: Iterable[str], student: Tensor | None, teacher: Tensor | None, token: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Each declared signal (n,) from log-probabilities or logits (n, V) of the models it needs, and the sampled ids (n,) int64."""
    given = next(z for z in (student, teacher) if z is not None)
    logp, logq = (given if z is None else z.log_softmax(-1) for z in (student, teacher))  # a model not given is not needed
    token = token.to(given.device)
    for name in needs:
        family, top_k = signal_top_k(name)
        if family.endswith("_K"):
            yield name, _top_k_signal(family, min(top_k, logp.shape[-1]), logp, logq)
        elif family in ("student_entropy", "teacher_entropy"):
            yield name, entropy(logp if family == "student_entropy" else logq)
        elif family in ("student_logprob", "teacher_logprob"):
            yield name, (logp if family == "student_logprob" else logq).gather(-1, token.unsqueeze(-1)).squeeze(-1)
        else:
            yield name, DIVERGENCES[family](logp, logq, token)


def _top(logp: Tensor, k: int) -> Tensor:
    """(n, V) bool: the k most likely tokens of each row, of equally likely ones the lower ids (torch.topk leaves ties open)."""
    threshold = logp.topk(k, dim=-1).values[:, -1:]
    above, level = logp > threshold, logp == threshold
    return above | (level & (level.cumsum(-1) <= k - above.sum(-1, keepdim=True)))


def _top_k_signal(family: str, k: int, logp: Tensor, logq: Tensor) -> Tensor:
    """Signals over top-K lists (methods 2.1, 2.2)."""
    p, q, own = logp.exp(), logq.exp(), _top(logp, k)
    if family == "compatibility_mass_K":
        return (q * own).sum(-1)
    if family == "topk_entropy_K":
        return entropy(_within(logp, own)) / math.log(max(k, 2))
    other = _top(logq, k)
    if family == "verified_K":
        return other.gather(-1, logp.argmax(-1, keepdim=True)).squeeze(-1).float()
    if family == "overlap_K":
        return (own & other).sum(-1) / k
    if family == "compatibility_topk_K":
        return (q * (own & other)).sum(-1).clamp(0, 1)
    union = own | other
    if family == "gathered_forward_kl_K":
        return kl(_within(logq, union), _within(logp, union))
    shown_p, shown_q = ((x * seen / (x * seen).sum(-1, keepdim=True)).clamp_min(TINY) for x, seen in ((p, own), (q, other)))
    if family == "bhattacharyya_K":
        return ((shown_p * shown_q).sqrt() * union).sum(-1)
    return (shown_q * (shown_q.log() - shown_p.log()) * union).sum(-1)


def _within(logp: Tensor, support: Tensor) -> Tensor:
    """Log-probabilities renormalised over a support (n, V) bool; outside it the mass is 0 and the logarithm finite."""
    return logp.masked_fill(~support, -1e4).log_softmax(-1)
