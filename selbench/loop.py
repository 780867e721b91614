"""The one training loop: sample, score, select, distil, update. A strategy decides which tokens of a step count, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from selbench.backbone import Backbone
from selbench.checkpoint import drop_states, finish_training, name_state, restore, save_state
from selbench.config import Cell
from selbench.losses import chunked_divergence, loss_weights
from selbench.models import Pair, head_of
from selbench.privileged import require_context, teacher_rollouts
from selbench.prompts import Prompt, prompts_of_step
from selbench.provenance import Clock, peak_memory
from selbench.records import append_line, write_json, write_table
from selbench.rollout import Engine, Rollouts, Sampling
from selbench.scoring import Rows, all_hidden, hidden_rows, layout, micro_batches, needs_student, needs_teacher, rows_after, signal_values
from selbench.seeding import derive
from selbench.signals import Signals
from selbench.strategy import STRATEGIES, Strategy, select

__all__ = ["Backbone", "NonFiniteStep", "Observer", "Step", "distil_step", "train", "with_parameters"]

# (prompts, rollouts, rows, kept (N,) bool) -> floats for the step's record, and a planted label per row where truth is known
Observer = Callable[[Sequence[Prompt], Rollouts, Rows, Tensor], tuple[dict[str, float], list[int] | None]]
PICTURED = ("student_entropy", "reverse_kl")  # signals kept for every token of the first and the last step, whatever the strategy


class NonFiniteStep(RuntimeError):
    """Loss or gradient became NaN or infinite: the step was not applied, its batch was dumped."""


@dataclass(frozen=True)
class Step:
    """One optimiser step: its record, its valid tokens, which of them were kept (N,) bool, and the pictured signals (N,)."""

    record: dict[str, float]
    rows: Rows
    kept: Tensor
    pictured: Mapping[str, Tensor]


def train(cell: Cell, pair: Pair, engine: Engine, prompts: Sequence[Prompt], folder: Path, observe: Observer) -> None:
    """Train one cell: metrics.jsonl, selection.parquet, tokens.parquet and checkpoint/ in `folder`. Goes on from the last checkpoint.

    On CPU an interrupted and resumed run ends in the same bits as an uninterrupted one. Raises NonFiniteStep.
    """
    require_context(cell, pair, prompts)
    settings = cell.protocol.training
    on_gpu = pair.device.type == "cuda"
    precision = settings.precision if settings.precision != "auto" else "bf16" if on_gpu else "no"
    accelerator = Accelerator(cpu=not on_gpu, mixed_precision=precision)
    optimiser = torch.optim.AdamW(
        [p for p in pair.student.parameters() if p.requires_grad], lr=settings.learning_rate, betas=settings.betas,
        weight_decay=settings.weight_decay,
    )  # fmt: skip
    backbone, optimiser = accelerator.prepare(Backbone(pair.student, settings.gradient_checkpointing), optimiser)
    sampling = Sampling(settings.max_response_tokens, settings.temperature, settings.top_p, settings.top_k)
    for step in range(1 + restore(accelerator, backbone, folder), settings.steps + 1):
        clock = Clock(cuda=on_gpu)
        rate = settings.learning_rate * min(1.0, step / max(1, settings.warmup_steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        edge = step in (1, settings.steps)
        with clock("rollout"):
            asked = [
                p for p in prompts_of_step(prompts, cell.seed, step, settings.prompts_per_step) for _ in range(settings.samples_per_prompt)
            ]
            with accelerator.autocast():  # the precision of the passes that score what is drawn here
                rollouts = sample(accelerator, pair, engine, asked, sampling, cell, step)
        done = distil_step(
            accelerator, cell, pair, backbone, optimiser, rollouts, clock, step,
            read=teacher_rollouts(pair, rollouts, asked), pictured=PICTURED if edge else (), dump=folder,
        )  # fmt: skip
        with clock("rollout"):
            engine.sync(pair.student)
        with clock("observe"):
            observed, labels = observe(asked, rollouts, done.rows, done.kept)
            if edge and accelerator.is_main_process:
                write_table(folder / "tokens" / f"step{step:06d}.parquet", token_rows(step, done, labels))
        with clock("checkpoint"):
            due = settings.checkpoint_every and step % settings.checkpoint_every == 0 and step < settings.steps
            if due:
                save_state(accelerator, folder, step)
        if accelerator.is_main_process:
            record = {"step": step, "learning_rate": rate, **done.record, **observed}
            append_line(folder / "metrics.jsonl", {**record, "seconds": clock.seconds, "peak_memory_bytes": peak_memory()})
        if due:  # named only now, so that a checkpoint never stands without the record of its step
            name_state(folder, step)
    finish_training(accelerator, pair, folder, cell.training_fingerprint())
    drop_states(folder)


def distil_step(
    accelerator: Accelerator, cell: Cell, pair: Pair, backbone: nn.Module, optimiser: Any, rollouts: Rollouts, clock: Clock, step: int, *,
    read: Rollouts | None = None, pictured: Sequence[str] = (), dump: Path | None = None,
) -> Step:  # fmt: skip
    """Score, select, distil, update on one batch of rollouts.

    The tokens of all ranks are one population; loss and gradient are those of the global batch, however it is split into
    ranks and micro-batches. read: the responses after the teacher's own prompts (none: after the student's).
    Raises NonFiniteStep before the update when the loss or the gradient norm is not finite.
    """
    settings, loss, strategy, device = cell.protocol.training, cell.protocol.loss, with_parameters(cell), pair.device
    assert pair.teacher is not None
    student_head, teacher_head, teacher_body = head_of(pair.student), head_of(pair.teacher), pair.teacher.get_decoder()
    rows, groups = layout(rollouts), micro_batches(rollouts, settings.micro_batch)
    read = rollouts if read is None else read
    read_rows = rows_after(rows, rollouts, read)
    needs = tuple(dict.fromkeys((*strategy.needs, *pictured)))
    student: Tensor | None = None
    teacher: Tensor | None = None
    if dropout := bool(cell.protocol.lora and cell.protocol.lora.dropout):
        torch.manual_seed(derive(cell.seed, step, f"dropout/{accelerator.process_index}"))

    if needs_student(needs):
        with clock("score"), accelerator.autocast():  # one micro-batch: the pass that scores is the pass of the loss
            if len(groups) == 1 and not dropout:
                student, _ = hidden_rows(backbone, rollouts, rows, groups[0], device)
            else:
                student = all_hidden(backbone, rollouts, rows, groups, device)
    if needs_teacher(needs):
        with clock("teacher"), accelerator.autocast(), pair.teaching():
            teacher = all_hidden(teacher_body, read, read_rows, groups, device)
    with clock("score"):
        values = signal_values(needs, rows, student, student_head, teacher, teacher_head)

    with clock("select"):
        weight, facts = select_globally(strategy, cell, rows, values, len(rollouts), step)
        kept = weight > 0
        within = set(rows.sequence[kept].tolist())
        groups = [group for group in groups if within.intersection(group)] or groups[:1]
    if teacher is None:
        with clock("teacher"), accelerator.autocast(), pair.teaching():
            teacher = all_hidden(teacher_body, read, read_rows, groups, device)

    total, divergence = 0.0, torch.zeros(len(rows))
    optimiser.zero_grad()
    for number, group in enumerate(groups, 1):
        with clock("distil"), accelerator.autocast():
            if student is not None and student.requires_grad:
                hidden, here = student, torch.arange(len(rows))
            else:
                hidden, here = hidden_rows(backbone, rollouts, rows, group, device)
        with clock("distil"):
            inside = kept[here]
            at = here[inside]
            part, each = chunked_divergence(
                hidden[inside.to(device)], student_head, teacher[at.to(device)], teacher_head,
                kind=loss.kind, token=rows.token[at].to(device), weight=weight[at].to(device),
                beta=loss.beta, top_k=loss.top_k, tail=loss.tail, temperature=loss.temperature,
            )  # fmt: skip
            with accelerator.no_sync(backbone) if number < len(groups) else nullcontext():
                accelerator.backward(part * accelerator.num_processes)  # ranks average gradients; the loss is a sum over ranks
            total, divergence[at] = total + float(part.detach()), each.cpu()

    with clock("optimiser"):
        norm = float(accelerator.clip_grad_norm_(backbone.parameters(), settings.clip_norm))
        sums = accelerator.reduce(torch.tensor([total, float(divergence.sum())], device=device), "sum").tolist()
        if not torch.isfinite(torch.tensor([*sums, norm])).all():
            raise NonFiniteStep(dump_step(dump, step, rollouts, kept, divergence, norm))
        optimiser.step()
    means = {name: float(value.nanmean()) for name, value in values.items()}
    record = {"loss": sums[0], "divergence_kept": sums[1] / max(1, facts["kept"]), "gradient_norm": norm, **facts, **means}
    return Step(record, rows, kept, {name: values[name] for name in pictured})


def with_parameters(cell: Cell) -> Strategy:
    """The cell's strategy with the protocol's parameters in place of its own defaults."""
    strategy, changed = STRATEGIES.get(cell.strategy), cell.protocol.parameters.get(cell.strategy)
    return replace(strategy, parameters=replace(strategy.parameters, **changed)) if changed else strategy


def sample(
    accelerator: Accelerator, pair: Pair, engine: Engine, asked: Sequence[Prompt], sampling: Sampling, cell: Cell, step: int
) -> Rollouts:
    """This rank's rollouts of the step, every `num_processes`-th prompt, numbered as in the global batch."""
    mine = range(accelerator.process_index, len(asked), accelerator.num_processes)
    prompts = [pair.renderer.encode(asked[i].problem) for i in mine]
    longest = max(map(len, prompts))
    if longest > cell.protocol.training.max_prompt_tokens:
        raise ValueError(
            f"step {step}: a prompt has {longest} tokens, more than training.max_prompt_tokens; raise it or filter the prompts"
        )
    seed = derive(cell.seed, step, f"rollout/{accelerator.process_index}")
    rollouts = replace(engine.generate(prompts, sampling, seed), sample=tuple(mine))
    special = cell.protocol.loss.special_token_mask
    return rollouts.without_first([i for text in special for i in pair.renderer.encode_text(text)]) if special else rollouts


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


def token_rows(step: int, done: Step, labels: list[int] | None) -> list[dict[str, Any]]:
    """One row per valid token of a step: what the quadrant picture is drawn from."""
    columns: dict[str, list[Any]] = {
        "sample": done.rows.sample.tolist(), "position": done.rows.position.tolist(), "token": done.rows.token.tolist(),
        **{name: value.tolist() for name, value in done.pictured.items()}, "kept": done.kept.tolist(),
        **({"planted": labels} if labels is not None else {}),
    }  # fmt: skip
    return [{"step": step, **dict(zip(columns, row, strict=True))} for row in zip(*columns.values(), strict=True)]


def dump_step(folder: Path | None, step: int, rollouts: Rollouts, kept: Tensor, divergence: Tensor, norm: float) -> str:
    """Write the offending batch beside the records; returns the sentence that says so."""
    sentence = (
        f"step {step}: loss or gradient is not finite (gradient norm {norm}, {int((~divergence.isfinite()).sum())} non-finite tokens)"
    )
    if folder is None:
        return sentence
    write_json(folder / "nonfinite.json", {
        "step": step, "tokens": rollouts.tokens, "mask": rollouts.mask, "kept": kept.int().tolist(),
        "divergences": divergence.tolist(), "gradient_norm": str(norm),
    })  # fmt: skip
    return f"{sentence}; its batch is in {folder / 'nonfinite.json'}"
