"""Both models over the rollouts: hidden rows of the valid tokens, and the declared signals of one sweep over their chunks.

Each head product is computed once per chunk, whatever is asked of it, and logits exist for one chunk at a time; what is kept is a
few floats per token and, for the loss, the teacher's hidden rows (n, D_T), some 60 times smaller than its logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from selbench.divergences import DIVERGENCES, OUTSIDE, Node, entropy, renormalised, within
from selbench.losses import Head, blocks, chunk_rows, products
from selbench.rollout import Rollouts
from selbench.signals import signal_top_k

__all__ = [
    "Rows", "all_hidden", "hidden_rows", "layout", "micro_batches", "needs_student", "needs_teacher", "resting", "rows_after",
    "signal_values", "signals_from_logits",
]  # fmt: skip

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

    def at(self, index: Tensor) -> Rows:
        """Those rows alone."""
        return Rows(*(x[index] for x in (self.token, self.sample, self.position, self.sequence, self.column)))

    def of(self, group: Sequence[int]) -> Tensor:
        """Row numbers (n,) of the sequences in `group`, ascending."""
        return torch.isin(self.sequence, torch.tensor(list(group))).nonzero().flatten()


def layout(rollouts: Rollouts) -> Rows:
    """The valid tokens in sequence order. `position` counts response tokens, masked ones included."""
    found: list[tuple[Tensor, ...]] = []
    for row, (tokens, mask, start, sample) in enumerate(zip(rollouts.tokens, rollouts.mask, rollouts.start, rollouts.sample, strict=True)):
        first = max(start, 1)
        column = first + torch.tensor(mask[first:], dtype=torch.int64).nonzero().flatten()
        token = torch.tensor(tokens, dtype=torch.int64)[column]
        found.append((token, torch.full_like(column, sample), column - start, torch.full_like(column, row), column))
    return Rows(*(torch.cat(parts) for parts in zip(*found, strict=True)))


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


def micro_batches(rollouts: Rollouts, size: int, tokens: int | None = None) -> list[list[int]]:
    """Sequence numbers in groups of at most `size` and at most `tokens` padded tokens, longest together, so that little is padding.

    A sequence longer than `tokens` is a group of its own.
    """
    order = sorted(range(len(rollouts)), key=lambda i: (-len(rollouts.tokens[i]), i))
    groups: list[list[int]] = []
    for i in order:
        width = len(rollouts.tokens[groups[-1][0]]) if groups else 0
        if groups and len(groups[-1]) < size and (tokens is None or (len(groups[-1]) + 1) * width <= tokens):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def hidden_rows(
    backbone: nn.Module, rollouts: Rollouts, rows: Rows, group: Sequence[int], device: torch.device, wanted: Tensor | None = None,
    ran: list[tuple[int, int]] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Hidden states (n, D) that predict the valid tokens of the sequences in `group`, and their row numbers (n,) in the batch.

    wanted: (N,) bool, those rows alone; then sequences end with the last wanted token, since nothing behind it can matter.
    ran: gets (sequences, padded length) of the pass.
    """
    here = rows.of(group)
    here = here if wanted is None else here[wanted[here]]
    width = int(rows.column[here].max()) if len(here) else 1  # the last token itself is read by nobody
    ids = torch.zeros((len(group), width), dtype=torch.int64)
    attention = torch.zeros_like(ids)
    place = torch.full((len(rollouts),), -1)
    for slot, i in enumerate(group):  # right padding: causal attention never sees it
        tokens = rollouts.tokens[i][:width]
        ids[slot, : len(tokens)] = torch.tensor(tokens)
        attention[slot, : len(tokens)] = 1
        place[i] = slot
    if ran is not None:
        ran.append((len(group), width))
    whole = bool(attention.all())  # without padding the causal mask is enough, and attention needs no other
    out = backbone(input_ids=ids.to(device), attention_mask=None if whole else attention.to(device), use_cache=False)
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


def resting(hidden: Tensor, where: Literal["device", "host", "recomputed"]) -> Tensor:
    """Hidden rows where they wait between two passes: as they are, or in pinned memory of the host."""
    if where != "host" or hidden.device.type == "cpu":
        return hidden
    return torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True).copy_(hidden)


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
    sides = [None if x is None else (x, head) for x, head in ((student_hidden, student_head), (teacher_hidden, teacher_head))]
    wanted = [name for name in needs if name != "position_fraction"]
    given = next((x for x in (student_hidden, teacher_hidden) if x is not None), None)
    out = {name: torch.empty(len(rows), device=None if given is None else given.device) for name in wanted}
    with torch.no_grad():
        step = rows_per_chunk or chunk_rows(size, "cpu" if given is None else given.device)
        for part, (z, y) in products(sides, None, size, step) if given is not None else ():
            for block in blocks(part.stop - part.start, size, given.device) if given is not None else ():
                here = slice(part.start + block.start, part.start + block.stop)
                student = None if z is None else student_head.finish(z[block])
                teacher = None if y is None else teacher_head.finish(y[block])
                for name, values in signals_from_logits(wanted, student, teacher, rows.token[here]):
                    out[name][here] = values
    found = {name: values.cpu() for name, values in out.items()}
    return found | ({"position_fraction": position_fraction(rows)} if "position_fraction" in needs else {})


def position_fraction(rows: Rows) -> Tensor:
    """position / (length - 1) of each token's response, (N,) float32; 0 for a response of one token."""
    last = torch.zeros(int(rows.sequence.max()) + 1, dtype=torch.int64).scatter_reduce_(0, rows.sequence, rows.position, "amax")
    return rows.position.float() / last[rows.sequence].clamp_min(1).float()


def signals_from_logits(
    needs: Iterable[str], student: Tensor | None, teacher: Tensor | None, token: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Each declared signal (n,) from log-probabilities or logits (n, V) of the models it needs, and the sampled ids (n,) int64."""
    given = student if student is not None else teacher
    assert given is not None
    x = Node(
        given if student is None else student, given if teacher is None else teacher, token.to(given.device)
    )  # one not given, not needed
    for name in needs:
        family, top_k = signal_top_k(name)
        if family.endswith("_K"):
            yield name, _top_k_signal(family, min(top_k, given.shape[-1]), x)
        elif family in ("student_entropy", "teacher_entropy"):
            yield name, entropy(x.logp, x.p) if family == "student_entropy" else entropy(x.logq, x.q)
        elif family in ("student_logprob", "teacher_logprob"):
            yield name, (x.logp_token if family == "student_logprob" else x.logq_token).squeeze(-1)
        else:
            yield name, DIVERGENCES[family](x).value


def _top_k_signal(family: str, k: int, x: Node) -> Tensor:
    """Signals over top-K lists (methods 2.1, 2.2)."""
    own = x.top("student", k)
    if family == "compatibility_mass_K":
        return x.logq.gather(-1, own).exp().sum(-1)
    if family == "topk_entropy_K":
        return entropy(renormalised(x.logp.gather(-1, own))) / math.log(max(k, 2))
    other = x.top("teacher", k)
    if family == "verified_K":
        return within(x.logp.argmax(-1, keepdim=True), other).squeeze(-1).float()
    shared = within(own, other)
    if family == "overlap_K":
        return shared.sum(-1) / k
    if family == "compatibility_topk_K":
        return (x.logq.gather(-1, own).exp() * shared).sum(-1).clamp(0, 1)
    added = ~within(other, own)  # the union: the student's list, then what the teacher's adds
    ids, union = torch.cat([own, other], -1), torch.cat([torch.ones_like(added), added], -1)
    if family == "gathered_forward_kl_K":
        p, q = (renormalised(z.gather(-1, ids).masked_fill(~union, OUTSIDE)) for z in (x.logp, x.logq))
        return (q.exp() * (q - p)).sum(-1)
    seen_p, seen_q = torch.cat([torch.ones_like(added), ~added], -1), torch.cat([shared, torch.ones_like(added)], -1)
    shown_p, shown_q = (  # what a server's list says: its own top K over their mass, next to nothing elsewhere
        (z.gather(-1, ids).exp() * seen / z.gather(-1, top).exp().sum(-1, keepdim=True)).clamp_min(TINY)
        for z, seen, top in ((x.logp, seen_p, own), (x.logq, seen_q, other))
    )
    if family == "bhattacharyya_K":
        return ((shown_p * shown_q).sqrt() * union).sum(-1)
    return (shown_q * (shown_q.log() - shown_p.log()) * union).sum(-1)
