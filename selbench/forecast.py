"""The plan of a run in words: what its cells take on a device, whether they fit, what would make them fit. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selbench.config import DOCUMENTATION, Cell, Lora, PairEntry, Protocol
from selbench.devices import GPUS, Device
from selbench.errors import ConfigError
from selbench.estimate import HOST_SECONDS, MFU, USABLE, Phase, Shape, Work, peak, phases, rows_per_chunk
from selbench.execution import Execution, choose, words_of
from selbench.fitting import nearest_fit
from selbench.models import PAIRS, PairSpec
from selbench.plan import Checked
from selbench.provenance import usable_cores
from selbench.records import BASE
from selbench.sources import is_local, open_config
from selbench.strategy import STRATEGIES
from selbench.sweep import Job, pair_of
from selbench.task import TASKS

__all__ = ["Forecast", "describe", "execution_of", "forecast", "shapes_of", "work_of", "workers_for"]

GIB = 2**30
UNKNOWN_PROBLEMS = 500  # of a task whose rows cannot be had
UNKNOWN_PROMPT = 1024  # tokens of the longest prompt where prompts or tokenizer cannot be had; DAPO-Math-17k: 960 in a sample
STEP = ("rollout", "teacher", "score", "distil", "optimiser")
EVALUATE, TEACHER_ALONE = "evaluate", "evaluate teacher"


@dataclass(frozen=True)
class Forecast:
    """One pair's cells on one device: the phases of its costliest cell; seconds of training and of evaluation in all missing jobs.

    execution: chosen for a memory limit; None without one, when it is the protocol's.
    """

    pair: str
    student: Shape
    teacher: Shape
    work: Work
    execution: Execution | None
    phases: Sequence[Phase]
    training: float
    evaluation: float

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by phase."""
        return {phase.name: phase.total for phase in self.phases}


def shapes_of(spec: PairSpec) -> tuple[Shape, Shape]:
    """Student and teacher: from a configuration on this machine, else as a registered pair declares them, else from the hub.

    Raises ConfigError, one line a model, when none of the three has them.
    """
    problems: list[str] = []
    found: list[Shape] = []
    for role in ("student", "teacher"):
        source = getattr(spec, role)
        declared = next((p.shapes[r] for p in (spec, *PAIRS) for r in p.shapes if getattr(p, r) == source), None)
        try:
            found.append(Shape(**declared) if declared and not is_local(source) else _shape(open_config(source).get_text_config()))
        except ConfigError as error:
            problems += [f"pair {spec.name}: the shapes of its {role} are unknown: {text}" for text in error.problems]
    if problems:
        raise ConfigError(*problems)
    return found[0], found[1]


def _shape(config: Any) -> Shape:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    heads = int(config.num_attention_heads)
    return Shape(
        parameters=parameters, hidden_size=int(config.hidden_size), num_hidden_layers=int(config.num_hidden_layers),
        vocab_size=int(config.vocab_size), num_attention_heads=heads,
        num_key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        intermediate_size=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size), tied=int(config.tie_word_embeddings),
    )  # fmt: skip


def work_of(protocol: Protocol, spec: PairSpec, cell: Cell, device: Device, longest: int | None, problems: Mapping[str, int]) -> Work:
    """One cell in numbers. longest: tokens of the longest prompt, problems: rows of each task, as far as they are known."""
    from selbench.scoring import needs_student, needs_teacher

    training, evaluation, needs = protocol.training, protocol.evaluation, STRATEGIES.get(cell.strategy).needs
    counts = [
        min(problems.get(name, UNKNOWN_PROBLEMS), evaluation.problems or UNKNOWN_PROBLEMS * 100)
        * evaluation.samples_of(TASKS.get(name).samples)
        for name in protocol.tasks
    ]
    lora = protocol.lora or (Lora() if spec.adapter else None)
    return Work(
        prompts=training.prompts_per_step, samples=training.samples_per_prompt,
        prompt_tokens=min(training.max_prompt_tokens, longest or UNKNOWN_PROMPT), response_tokens=training.max_response_tokens,
        micro_batch=training.micro_batch, micro_batch_tokens=training.micro_batch_tokens, rollout_batch=training.rollout_batch,
        evaluation_batch=evaluation.batch, evaluated=sum(counts), evaluated_tokens=evaluation.max_tokens,
        student_dtype=protocol.model.student_dtype, teacher_dtype=protocol.model.teacher_dtype,
        autocast=training.precision == "bf16" or (training.precision == "auto" and device.is_gpu),
        optimiser=training.optimiser, filtered=training.top_p < 1 or training.top_k > 0 or evaluation.top_p < 1 or evaluation.top_k > 0,
        lora_rank=lora.rank if lora else 0, dropout=bool(lora and lora.dropout), shared=spec.adapter,
        checkpointed=training.gradient_checkpointing,
        needs_student=needs_student(needs), needs_teacher=needs_teacher(needs), share=cell.budget,
    )  # fmt: skip


def execution_of(work: Work, student: Shape, teacher: Shape, device: Device, limit: int, what: str) -> Execution:
    """The mildest execution of one cell's training within `limit` bytes. Raises ConfigError when there is none."""

    def fullest(how: Execution) -> tuple[str, int]:
        phase = max(phases(work, student, teacher, device, how), key=lambda phase: phase.total)
        return phase.name, phase.total

    start = Execution(work.micro_batch, gradient_checkpointing=work.checkpointed)
    rows = rows_per_chunk(min(student.vocab_size, teacher.vocab_size), gpu=device.is_gpu)
    return choose(fullest, start, rows, limit, gpu=device.is_gpu, shared=work.shared, what=what, dropout=work.dropout)


def forecast(
    protocol: Protocol, cells: Sequence[Cell], missing: Sequence[Job], device: Device, longest: int | None, problems: Mapping[str, int],
    limit: int | None = None,
) -> list[Forecast]:  # fmt: skip
    """One forecast a pair, in the protocol's order. limit: bytes that each cell may take.

    Raises ConfigError when a model's shapes cannot be had, or the limit cannot be kept.
    """
    return [_of_pair(protocol, pair, cells, missing, device, longest, problems, limit) for pair in protocol.pairs]


def _of_pair(
    protocol: Protocol, pair: PairEntry, cells: Sequence[Cell], missing: Sequence[Job], device: Device, longest: int | None,
    problems: Mapping[str, int], limit: int | None,
) -> Forecast:  # fmt: skip
    spec = pair_of(pair)
    student, teacher = shapes_of(spec)
    training, evaluation = 0.0, 0.0
    works = {cell.folder: work_of(protocol, spec, cell, device, longest, problems) for cell in cells if cell.pair == pair}
    costliest = max(works.values(), key=lambda work: peak(work, student, teacher, device))
    how = None if limit is None else execution_of(costliest, student, teacher, device, limit, f"pair {pair.name}")
    each: list[tuple[int, float, Work, tuple[Phase, ...]]] = []
    for cell in (cell for cell in cells if cell.pair == pair):
        work = works[cell.folder]
        found = tuple(phases(work, student, teacher, device, how))
        step = sum(phase.seconds for phase in found if phase.name in STEP)
        each.append((max(phase.total for phase in found), step, work, found))
        if cell in missing:
            training += protocol.training.steps * step
            evaluation += sum(phase.seconds for phase in found if phase.name == EVALUATE)
    *_, work, found = max(each, key=lambda entry: entry[:2])
    for job in missing:
        if not isinstance(job, Cell) and job.pair == pair:
            evaluation += sum(phase.seconds for phase in found if phase.name == (TEACHER_ALONE if job.role == BASE[1] else EVALUATE))
    return Forecast(pair.name, student, teacher, work, how, found, training, evaluation)


def workers_for(memory: int, device: Device) -> int:
    """How many jobs fit side by side: one a GPU; on a CPU one a core as far as 80 % of the memory reaches."""
    return 1 if device.is_gpu else max(1, min(usable_cores(), int(0.8 * device.memory / memory)))


def describe(
    protocol: Protocol, cells: Sequence[Cell], jobs: Sequence[Job], missing: Sequence[Job], root: Path, outlook: Sequence[Forecast],
    workers: int, device: Device, checked: Checked,
) -> str:  # fmt: skip
    """The resolved plan in words: what `--dry-run` prints."""
    import yaml

    training = protocol.training
    names = dict.fromkeys(f"{cell.strategy}-v{cell.version}@{cell.budget:g}" for cell in cells)
    seconds = sum(one.training + one.evaluation for one in outlook)
    lines = [
        yaml.safe_dump(protocol.model_dump(mode="json", exclude=set(DOCUMENTATION)), sort_keys=False).rstrip(),
        "",
        f"fingerprint  {protocol.fingerprint()}",
        f"strategies   {', '.join(names)}",
        f"cells        {len(cells)} ({len(names)} strategies x {len(protocol.seeds)} seeds x {len(protocol.pairs)} pairs), "
        f"{len(jobs) - len(cells)} evaluations of untrained models; {len(jobs) - len(missing)} of {len(jobs)} are done",
        f"steps        {training.steps} per cell, {training.prompts_per_step * training.samples_per_prompt} responses each",
        *(checked.prompts.report.lines() if checked.prompts else []),
        f"device       {device.name}: {device.memory / GIB:.0f} GiB, {device.bf16 / 1e12:.4g} TFLOP/s bf16, {device.fp32 / 1e12:.4g} "
        f"float32, {device.bandwidth / 1e12:.3g} TB/s ({device.source})",
    ]
    for one in outlook:
        lines += ["", *_pair_lines(one, device, protocol)]
    parts = ", ".join(f"{name} {_time(sum(getattr(one, name) for one in outlook), device)}" for name in ("training", "evaluation"))
    total = f"{_time(seconds, device)} for the {len(missing)} jobs that are not done ({parts})"
    beside = f"; {workers} jobs at a time: {_time(seconds / workers, device)}" if workers > 1 else ""
    lines += ["", f"time         about {total}{beside}", *_assumptions(outlook, device)]
    lines += [f"warning      {text}" for text in checked.warnings]
    lines += [f"not checked  (offline) {text}" for text in checked.unreached] + [f"server       {text}" for text in checked.server]
    return "\n".join([*lines, f"folder       {root}"])


def _pair_lines(one: Forecast, device: Device, protocol: Protocol) -> list[str]:
    shown = one.phases
    items = list(dict.fromkeys(item for phase in shown for item, size in phase.memory.items() if size))
    wide = [max(9, len(phase.name)) for phase in shown]

    def row(head: str, values: Sequence[str]) -> str:
        return f"{head:13}" + "".join(f"{value:>{width + 1}}" for value, width in zip(values, wide, strict=True))

    lines = [
        f"pair         {one.pair}: teacher {_size(one.teacher.parameters)}, student {_size(one.student.parameters)} parameters",
        row("memory, GiB", [phase.name for phase in shown]),
    ]
    for item in items:
        lines.append(row(f"  {item}", [f"{phase.memory[item] / GIB:.2f}" if phase.memory.get(item) else "" for phase in shown]))
    lines.append(row("  total", [f"{phase.total / GIB:.2f}" for phase in shown]))
    if one.execution is not None:
        lines.append(f"execution    {words_of(one.execution)} (chosen for --memory-limit; the result stays the same)")
    lines.append(row("seconds", [f"{phase.seconds:,.3g}" if phase.seconds < 1000 else f"{phase.seconds:,.0f}" for phase in shown]))
    return [*lines, *_verdict(one, device, protocol)]


def _verdict(one: Forecast, device: Device, protocol: Protocol) -> list[str]:
    size, room = one.peak.total / GIB, USABLE * device.memory / GIB
    head = f"peak         {size:.1f} GiB in phase {one.peak.name}; {room:.1f} GiB of {device.name} are usable: "
    keys = {
        f"{section}.{key}" for section in ("model", "training", "evaluation") for key in type(getattr(protocol, section)).model_fields
    } | {"lora.rank"}
    changes = nearest_fit(one.work, one.student, one.teacher, device, keys)
    if changes == []:
        return [f"{head}fits"]
    lines = [f"{head}does not fit"]
    if changes is None:
        lines.append("             no setting here is enough")
    else:
        words = " ".join(f"{change.key}={value}" for change, value in changes)
        moved = [change.key for change, _ in changes if not change.harmless]
        drawn = [change.key for change, _ in changes if change.redraws]
        effects = [f"changes the result: {', '.join(moved)}"] if moved else []
        effects += [f"draws other tokens of the same distribution, where they are drawn at all: {', '.join(drawn)}"] if drawn else []
        lines += [f"             nearest change that fits: {words}", f"             ({'; '.join(effects) or 'the result stays the same'})"]
    larger = [gpu.name for gpu in GPUS.values() if peak(one.work, one.student, one.teacher, gpu) <= USABLE * gpu.memory]
    lines.append(f"             as it is, it fits {', '.join(larger) if larger else 'no single GPU of the table'}")
    return lines


def _time(seconds: float, device: Device) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.0f} {'GPU-' if device.is_gpu else ''}hours"


def _size(parameters: int) -> str:
    return f"{parameters / 1e9:.4g} B" if parameters >= 1e9 else f"{parameters / 1e6:.4g} M"


def _assumptions(outlook: Sequence[Forecast], device: Device) -> list[str]:
    work = outlook[0].work
    lines = [
        "an estimate from shapes, nothing measured; upper ends: every response runs to its limit, every prompt has "
        f"{work.prompt_tokens} tokens",
        f"passes at {MFU:.0%} of the matmul rate, decoding by bandwidth or by the host's pace of "
        f"{HOST_SECONDS[device.is_gpu] * 1e3:g} ms a layer and token, {work.rollout_batch} sequences at a time; one device; "
        f"{work.evaluated} evaluated answers",
        "weights, gradients and Adam's moments stay in memory through every phase; seconds: of a step, and of a whole evaluation",
    ]
    return [f"{'assumed' if number == 0 else '':13}{line}" for number, line in enumerate(lines)]
