"""One optimiser step on a batch of rollouts: score, select, distil, update, in that order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from selbench.adapter import has_adapter
from selbench.config import Cell
from selbench.errors import UserError
from selbench.execution import Execution, default_execution, is_out_of_memory, with_retries
from selbench.losses import chunked_divergence, loss_weights
from selbench.models import Pair, head_of
from selbench.passes import Passes
from selbench.provenance import Clock
from selbench.records import write_json
from selbench.rollout import Rollouts
from selbench.scoring import Rows, hidden_rows, layout, micro_batches, needs_student, needs_teacher, resting, rows_after, signal_values
from selbench.seeding import derive
from selbench.signals import Signals
from selbench.strategy import STRATEGIES, Strategy, select

__all__ = ["NonFiniteStep", "Step", "distil_step", "gradients", "with_parameters"]


class NonFiniteStep(RuntimeError):
    """Loss or gradient became NaN or infinite: the step was not applied, its batch was dumped."""


@dataclass(frozen=True)
class Step:
    """One optimiser step: its record, its valid tokens, which were kept (N,) bool, their D (N,) nats, 0 where not kept, the pictured
    signals (N,), the passes that were computed and how."""

    record: dict[str, float]
    rows: Rows
    kept: Tensor
    divergence: Tensor
    pictured: Mapping[str, Tensor]
    passes: Passes
    execution: Execution


def distil_step(
    accelerator: Accelerator, cell: Cell, pair: Pair, backbone: nn.Module, optimiser: Any, rollouts: Rollouts, clock: Clock, step: int, *,
    read: Rollouts | None = None, pictured: Sequence[str] = (), dump: Path | None = None, execution: Execution | None = None,
) -> Step:  # fmt: skip
    """Score, select, distil, update on one batch of rollouts.

    The tokens of all ranks are one population; loss and gradient are those of the global batch, however it is split into
    ranks and micro-batches. read: the responses after the teacher's own prompts (none: after the student's).
    execution: none takes that of the protocol; a GPU that runs out of memory halves it, and the gradients are taken again.
    Raises NonFiniteStep before the update when the loss or the gradient norm is not finite, UserError when a GPU is too small.
    """

    def attempt(how: Execution) -> Step:
        optimiser.zero_grad()
        if how.gradient_checkpointing:
            accelerator.unwrap_model(backbone).checkpoint()
        if how.teacher == "offloaded":
            pair.offload()
        return gradients(accelerator, cell, pair, backbone, rollouts, read or rollouts, clock, step, pictured, how)

    how = execution or default_execution(cell.protocol.training)
    if accelerator.num_processes == 1:
        done, how = with_retries(attempt, how, dropout=bool(cell.protocol.lora and cell.protocol.lora.dropout))
    else:  # a rank that tried again alone would leave the others waiting
        done = attempt(how)
    with clock("optimiser"):
        norm = float(accelerator.clip_grad_norm_(backbone.parameters(), cell.protocol.training.clip_norm))
        sums = accelerator.reduce(torch.tensor([done.record["loss"], done.record["divergence_kept"]], device=pair.device), "sum").tolist()
        if not torch.isfinite(torch.tensor([*sums, norm])).all():
            raise NonFiniteStep(dump_step(dump, step, rollouts, done, norm))
        try:
            optimiser.step()
        except RuntimeError as error:  # moments half made are not made again: nothing smaller can be tried
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"step {step}: the GPU has no room for the optimiser's moments; set training.optimiser=adamw8bit or adamw_offload, "
                f"lora.rank=16, or a smaller --memory-limit"
            ) from error
    record = {**done.record, "loss": sums[0], "divergence_kept": sums[1] / max(1, done.record["kept"]), "gradient_norm": norm}
    return replace(done, record=record, execution=how)


def gradients(
    accelerator: Accelerator, cell: Cell, pair: Pair, backbone: nn.Module, rollouts: Rollouts, read: Rollouts, clock: Clock, step: int,
    pictured: Sequence[str], how: Execution,
) -> Step:  # fmt: skip
    """Score, select, distil: leaves the gradients of this rank's part in the student. Its record has sums where ranks are to be added."""
    loss, strategy, device = cell.protocol.loss, with_parameters(cell), pair.device
    assert pair.teacher is not None
    student_head, teacher_head, teacher_body = head_of(pair.student), head_of(pair.teacher), pair.teacher.get_decoder()
    rows, groups = layout(rollouts), micro_batches(rollouts, how.micro_batch, cell.protocol.training.micro_batch_tokens)
    read_rows = rows_after(rows, rollouts, read)
    corrected = loss.importance_cap is not None and rollouts.logprobs is not None  # else the engine is the trainer
    needs = tuple(dict.fromkeys((*strategy.needs, *pictured, *(("student_logprob",) if corrected else ()))))
    if dropout := bool(cell.protocol.lora and cell.protocol.lora.dropout):
        torch.manual_seed(derive(cell.seed, step, f"dropout/{accelerator.process_index}"))
    one_pass = len(groups) == 1 and not dropout and needs_student(needs)  # the pass that scores is the pass of the loss
    ran: dict[str, list[tuple[int, int]]] = {"teacher": [], "score": [], "distil": []}

    def student(phase: str, group: Sequence[int], wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with clock(phase), accelerator.autocast():
            return hidden_rows(backbone, rollouts, rows, group, device, wanted, ran[phase])

    def teacher(group: Sequence[int], wanted: Tensor | None = None) -> Tensor:
        with clock("teacher"), pair.present(), torch.no_grad(), accelerator.autocast(), pair.teaching():
            return resting(hidden_rows(teacher_body, read, read_rows, group, device, wanted, ran["teacher"])[0], how.teacher_rows)

    # score: signals of all valid tokens; what stays is the teacher's hidden rows
    values, held = {name: torch.empty(len(rows)) for name in needs}, dict[int, Tensor]()
    ours: Tensor | None = None
    with pair.present() if needs_teacher(needs) else nullcontext():
        for number, group in enumerate(groups if needs else ()):
            theirs = teacher(group) if needs_teacher(needs) else None
            with torch.set_grad_enabled(one_pass):
                ours = student("score", group)[0] if needs_student(needs) else None
            with clock("score"):
                here = rows.of(group)
                found = signal_values(needs, rows.at(here), ours, student_head, theirs, teacher_head, how.rows_per_chunk)
                for name, value in found.items():
                    values[name][here] = value
            if theirs is not None and how.teacher_rows != "recomputed":
                held[number] = theirs
            ours = ours if one_pass else None

    with clock("select"):
        weight, facts = select_globally(strategy, cell, rows, values, len(rollouts), step)
        kept = weight > 0
        if corrected:
            importance, shown = importance_weights(values["student_logprob"], rollouts, rows, float(loss.importance_cap or 1))
            weight, facts = weight * importance, {**facts, **shown}
        chosen = [number for number, group in enumerate(groups) if bool(kept[rows.of(group)].any())] or [0]
        held = {n: theirs[kept[rows.of(groups[n])].to(theirs.device)] for n, theirs in held.items() if n in chosen}
    unread = [number for number in chosen if number not in held] if how.teacher_rows != "recomputed" else []
    with pair.present() if unread else nullcontext():
        for number in unread:  # no signal needed the teacher: it reads as far as the last kept token
            held[number] = teacher(groups[number], kept)

    # distil: the student's pass, and both heads at the kept tokens alone
    total, divergence = 0.0, torch.zeros(len(rows))
    for place, number in enumerate(chosen, 1):
        group = groups[number]
        if ours is not None:
            hidden, at = ours[kept.to(device)], kept.nonzero().flatten()
        else:
            hidden, at = student("distil", group, kept)
        theirs = held.pop(number) if number in held else teacher(group, kept)
        with clock("distil"):
            part, each = chunked_divergence(
                hidden, student_head, theirs.to(device), teacher_head, kind=loss.kind, token=rows.token[at].to(device),
                weight=weight[at].to(device), temperature=loss.temperature, rows_per_chunk=how.rows_per_chunk,
                compiled=device.type == "cuda", beta=loss.beta, alpha=loss.alpha, top_k=loss.top_k, tail=loss.tail,
            )  # fmt: skip
            with accelerator.no_sync(backbone) if place < len(chosen) else nullcontext():
                accelerator.backward(part * accelerator.num_processes)  # ranks average gradients; the loss is a sum over ranks
            total, divergence[at] = total + float(part.detach()), each.cpu()

    means = {name: float(value.nanmean()) for name, value in values.items()}
    record = {"loss": total, "divergence_kept": float(divergence.sum()), **facts, **means}
    passes = Passes(
        generated=[(start, len(tokens) - start) for start, tokens in zip(rollouts.start, rollouts.tokens, strict=True)],
        teacher=ran["teacher"], scored=ran["score"], distilled=ran["score"] if one_pass else ran["distil"],
        student_rows=len(rows) * needs_student(needs), teacher_rows=len(rows) * needs_teacher(needs), kept=int(kept.sum()),
        tokens=len(rows), adapter=has_adapter(pair.student), checkpointed=how.gradient_checkpointing, one_pass=one_pass,
    )  # fmt: skip
    return Step(record, rows, kept, divergence, {name: values[name] for name in pictured}, passes, how)


def select_globally(
    strategy: Strategy, cell: Cell, rows: Rows, values: Mapping[str, Tensor], responses: int, step: int
) -> tuple[Tensor, dict[str, float]]:
    """Loss weight (N,) of this rank's tokens, 0 where not kept, and the counts of the global choice."""
    mine = (dict(values), rows.position, rows.sample, responses)
    ranks = gather_object([mine])
    position, samples = (torch.cat([rank[i] for rank in ranks]) for i in (1, 2))
    whole = {name: torch.cat([rank[0][name] for rank in ranks]) for name in values}
    chosen = select(
        strategy, Signals(whole, position=position, sample=samples), cell.budget, derive(cell.seed, step, f"strategy/{strategy.name}")
    )
    count = sum(rank[3] for rank in ranks)
    weights = loss_weights(chosen.weight, samples[chosen.index], cell.protocol.loss.normaliser, valid=len(position), samples=count)
    everywhere = torch.zeros(len(position))
    everywhere[chosen.index] = weights
    begin = int(sum(len(rank[1]) for rank in ranks[: torch.distributed.get_rank()])) if len(ranks) > 1 else 0
    facts = {
        "tokens": len(position), "kept": len(chosen.index), "kept_share": len(chosen.index) / max(1, len(position)),
        "candidates": chosen.candidates, "filled": chosen.filled, "ties": chosen.ties,
        "nonfinite_signals": sum(int((~value.isfinite()).sum()) for value in whole.values()),
    }  # fmt: skip
    return everywhere[begin : begin + len(rows)], facts


def importance_weights(trainer: Tensor, rollouts: Rollouts, rows: Rows, cap: float) -> tuple[Tensor, dict[str, float]]:
    """min(cap, p_trainer / p_engine) (N,) of the sampled tokens, and its mean and the share at the cap, for the record.

    trainer: (N,) ln p of the sampled tokens under the trained weights, nats. Truncated importance sampling between an engine and a
    trainer that round differently: Yao et al. (2025), "Your efficient RL framework secretly brings you off-policy RL training".
    """
    assert rollouts.logprobs is not None
    engine = torch.tensor([rollouts.logprobs[s][p] for s, p in zip(rows.sequence.tolist(), rows.position.tolist(), strict=True)])
    ratio = (trainer - engine).exp()
    return ratio.clamp_max(cap), {"importance_mean": float(ratio.mean()), "importance_capped": float((ratio > cap).float().mean())}


def with_parameters(cell: Cell) -> Strategy:
    """The cell's strategy with the protocol's parameters in place of its own defaults."""
    strategy, changed = STRATEGIES.get(cell.strategy), cell.protocol.parameters.get(cell.strategy)
    return replace(strategy, parameters=replace(strategy.parameters, **changed)) if changed else strategy


def dump_step(folder: Path | None, step: int, rollouts: Rollouts, done: Step, norm: float) -> str:
    """Write the offending batch beside the records; returns the sentence that says so."""
    odd = int((~done.divergence.isfinite()).sum())
    sentence = f"step {step}: loss or gradient is not finite (gradient norm {norm}, {odd} non-finite tokens)"
    if folder is None:
        return sentence
    write_json(folder / "nonfinite.json", {
        "step": step, "tokens": rollouts.tokens, "mask": rollouts.mask, "kept": done.kept.int().tolist(),
        "divergences": done.divergence.tolist(), "gradient_norm": str(norm),
    })  # fmt: skip
    return f"{sentence}; its batch is in {folder / 'nonfinite.json'}"
