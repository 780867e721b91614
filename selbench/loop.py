"""The one training loop: sample, distil, sync, record. A strategy decides which tokens of a step count, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from selbench.backbone import Backbone
from selbench.checkpoint import drop_states, finish_training, name_state, restore, save_state
from selbench.config import Cell
from selbench.devices import fitting_threads
from selbench.execution import Allowance, default_execution, report, settle, store
from selbench.losses import chunk_rows
from selbench.models import Pair
from selbench.optimisers import build_optimiser, set_rate
from selbench.passes import shape_of, step_record
from selbench.privileged import require_context, teacher_rollouts
from selbench.prompts import Prompt, prompts_of_step
from selbench.provenance import Clock, peak_memory
from selbench.records import append_line, write_table
from selbench.rollout import Engine, Rollouts, Sampling
from selbench.rollout.agent import draw_episodes
from selbench.scoring import Rows
from selbench.seeding import derive
from selbench.step import NonFiniteStep, Step, distil_step, with_parameters

__all__ = ["Backbone", "NonFiniteStep", "Observer", "Step", "distil_step", "train", "with_parameters"]

# (prompts, rollouts, rows, kept (N,) bool) -> floats for the step's record, and a planted label per row where truth is known
Observer = Callable[[Sequence[Prompt], Rollouts, Rows, Tensor], tuple[dict[str, float], list[int] | None]]
Track = Callable[[Mapping[str, Any]], None]
PICTURED = ("student_entropy", "reverse_kl")  # signals kept for every token of the first and the last step, whatever the strategy


def train(
    cell: Cell, pair: Pair, engine: Engine, prompts: Sequence[Prompt], folder: Path, observe: Observer,
    allowance: Allowance | None = None, track: Track | None = None,
) -> None:  # fmt: skip
    """Train one cell: metrics.jsonl, selection.parquet, tokens.parquet and checkpoint/ in `folder`. Goes on from the last checkpoint.

    allowance: how it is executed; what is predicted of it is held against what is measured in the second step (memory.json).
    track: is shown the record of each step, once it is on disk.
    On CPU an interrupted and resumed run ends in the same bits as an uninterrupted one. Raises NonFiniteStep.
    """
    require_context(cell, pair, prompts)
    shape, settings = shape_of(pair.student), cell.protocol.training
    with fitting_threads(shape.hidden_size, shape.intermediate_size, settings.prompts_per_step * settings.samples_per_prompt):
        _steps(cell, pair, engine, prompts, folder, observe, allowance or Allowance(), track)


def _steps(
    cell: Cell, pair: Pair, engine: Engine, prompts: Sequence[Prompt], folder: Path, observe: Observer, allowance: Allowance,
    track: Track | None,
) -> None:  # fmt: skip
    assert pair.teacher is not None
    settings = cell.protocol.training
    on_gpu = pair.device.type == "cuda"
    precision = settings.precision if settings.precision != "auto" else "bf16" if on_gpu else "no"
    accelerator = Accelerator(cpu=not on_gpu, mixed_precision=precision)
    shapes = shape_of(pair.student), shape_of(pair.teacher)
    how = allowance.execution or default_execution(settings)
    rows = how.rows_per_chunk or chunk_rows(min(shape.vocab_size for shape in shapes), pair.device)
    how = settle(folder, replace(how, rows_per_chunk=rows), allowance.limit)
    trained = [p for p in pair.student.parameters() if p.requires_grad]
    body = Backbone(pair.student, how.gradient_checkpointing)
    backbone, optimiser = accelerator.prepare(body, build_optimiser(trained, settings, pair.device))
    sampling = Sampling(settings.max_response_tokens, settings.temperature, settings.top_p, settings.top_k)
    done_before = restore(accelerator, backbone, folder)
    engine.sync(pair.student)
    for step in range(1 + done_before, settings.steps + 1):
        clock = Clock(cuda=on_gpu)
        rate = settings.learning_rate * min(1.0, step / max(1, settings.warmup_steps))
        set_rate(optimiser, rate)
        edge = step in (1, settings.steps)
        with clock("rollout"):
            asked = [
                p for p in prompts_of_step(prompts, cell.seed, step, settings.prompts_per_step) for _ in range(settings.samples_per_prompt)
            ]
            with accelerator.autocast():  # the precision of the passes that score what is drawn here
                rollouts = sample(accelerator, pair, engine, asked, sampling, cell, step)
            engine.rest()
        done = distil_step(
            accelerator, cell, pair, backbone, optimiser, rollouts, clock, step,
            read=teacher_rollouts(pair, rollouts, asked), pictured=PICTURED if edge else (), dump=folder, execution=how,
        )  # fmt: skip
        optimiser.zero_grad()  # gradients take no memory while the next batch is drawn and scored
        with clock("sync"):
            engine.sync(pair.student)
        with clock("observe"):
            observed, labels = observe(asked, rollouts, done.rows, done.kept)
            if edge and accelerator.is_main_process:
                write_table(folder / "tokens" / f"step{step:06d}.parquet", token_rows(step, done, labels))
        with clock("checkpoint"):
            due = settings.checkpoint_every and step % settings.checkpoint_every == 0 and step < settings.steps
            if due:
                save_state(accelerator, folder, step)
        cost = step_record(  # of this rank, as are the seconds
            done.passes, *shapes, rows_per_chunk=done.execution.rows_per_chunk or rows, device=pair.device.type,
            trained=sum(p.numel() for p in trained),
        )  # fmt: skip
        if accelerator.is_main_process:
            halved = {"execution": asdict(done.execution)} if done.execution != how else {}  # the GPU ran out of memory in this step
            if halved:
                store(folder, done.execution, allowance.limit)
            gap = {f"engine_gap_{name}": value for name, value in asdict(rollouts.gap).items()} if rollouts.gap else {}
            record = {"step": step, "learning_rate": rate, **done.record, **gap, **rollouts.facts, **observed, **cost, **halved}
            measured = {"seconds": clock.seconds, "peak_bytes": clock.peaks, "peak_memory_bytes": clock.peak or peak_memory()}
            append_line(folder / "metrics.jsonl", {**record, **measured})
            if track:
                track({**record, **measured})
            if step == 2:  # Adam's moments are there from now on
                report(folder, allowance, clock.peaks, done.execution)
        how = done.execution
        if due:  # named only now, so that a checkpoint never stands without the record of its step
            name_state(folder, step)
    finish_training(accelerator, pair, folder, cell.training_fingerprint())
    drop_states(folder)


def sample(
    accelerator: Accelerator, pair: Pair, engine: Engine, asked: Sequence[Prompt], sampling: Sampling, cell: Cell, step: int
) -> Rollouts:
    """This rank's rollouts of the step, every `num_processes`-th prompt, numbered as in the global batch."""
    mine = range(accelerator.process_index, len(asked), accelerator.num_processes)
    seed = derive(cell.seed, step, f"rollout/{accelerator.process_index}")
    worlds = {i: world for i in mine if (world := asked[i].world)}
    played = draw_episodes(engine, pair.renderer, worlds, sampling, cell.protocol.agent, seed) if worlds else None
    prompts = [] if played else [pair.renderer.encode(asked[i].problem) for i in mine]
    longest = max(played.start if played else map(len, prompts))
    if longest > cell.protocol.training.max_prompt_tokens:
        raise ValueError(
            f"step {step}: a prompt has {longest} tokens, more than training.max_prompt_tokens; raise it or filter the prompts"
        )
    rollouts = played or replace(engine.generate(prompts, sampling, seed), sample=tuple(mine))
    special = cell.protocol.loss.special_token_mask
    return rollouts.without_first([i for text in special for i in pair.renderer.encode_text(text)]) if special else rollouts


def token_rows(step: int, done: Step, labels: list[int] | None) -> list[dict[str, Any]]:
    """One row per valid token of a step: what the quadrant picture is drawn from."""
    columns: dict[str, list[Any]] = {
        "sample": done.rows.sample.tolist(), "position": done.rows.position.tolist(), "token": done.rows.token.tolist(),
        **{name: value.tolist() for name, value in done.pictured.items()}, "kept": done.kept.tolist(),
        **({"planted": labels} if labels is not None else {}),
    }  # fmt: skip
    return [{"step": step, **dict(zip(columns, row, strict=True))} for row in zip(*columns.values(), strict=True)]
