"""From words on a command line to cells, with everything that is wrong found before any model loads; and what it will cost."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from selbench.config import Cell, Protocol
from selbench.errors import ConfigError, UserError
from selbench.models import PAIRS, adhoc_pair, check_pair
from selbench.prompts import load_prompts
from selbench.provenance import usable_cores
from selbench.records import BASE, SAMPLE_COLUMNS, read_json, read_metrics, read_table
from selbench.strategy import STRATEGIES, Strategy
from selbench.sweep import Base, Job, is_complete, job_folder, pair_of
from selbench.task import TASKS

__all__ = [
    "Estimate",
    "adhoc_name",
    "cells_of",
    "check",
    "choices",
    "describe",
    "estimate",
    "jobs_of",
    "missing",
    "name_problems",
    "workers_for",
]

ALL = "all"
COMPARED = ("reference", "control", "contender")  # the roles that `all` stands for


def choices(words: Sequence[str], budget: float | None) -> list[tuple[Strategy, float]]:
    """`tip_softor@0.2`, `teachability@server`, `all` as (strategy, budget). Raises ConfigError with every problem."""
    problems: list[str] = []
    chosen: list[tuple[Strategy, float]] = []
    for word in words:
        name, share = _split(word)
        names = [s.name for role in COMPARED for s in STRATEGIES if s.role == role] if name == ALL else [name]
        for each in names:
            try:
                strategy = STRATEGIES.get(each)
            except ConfigError as error:
                problems += error.problems
                continue
            kept = 1.0 if strategy.role == "reference" or strategy.kind == "weights" else share or budget or strategy.budget
            if share is not None and not 0 < share <= 1:
                problems.append(f"strategy {word!r}: budget {share:g} is not in (0, 1]; it is the share of tokens kept")
            elif (strategy, kept) in chosen:
                problems.append(f"strategy {each}@{kept:g} is asked for twice")
            else:
                chosen.append((strategy, kept))
    if problems:
        raise ConfigError(*problems)
    return chosen


def _split(word: str) -> tuple[str, float | None]:
    name, at, share = word.rpartition("@")
    try:
        return (name, float(share)) if at else (word, None)
    except ValueError:
        return word, None


def name_problems(content: dict[str, Any]) -> list[str]:
    """Unknown strategies, tasks and pairs in a protocol's raw content, whatever else is wrong with it."""
    problems: list[str] = []

    def look(key: str, find: Any) -> None:
        given = content.get(key)
        entries: list[Any] = given if isinstance(given, list) else []
        for entry in entries:
            try:
                find(entry)
            except UserError as error:
                problems.extend(error.problems)

    look("strategies", lambda word: choices([str(word)], None))
    look("tasks", lambda name: TASKS.get(str(name)))
    look("pairs", lambda pair: PAIRS.get(pair) if isinstance(pair, str) else None)
    return problems


def cells_of(protocol: Protocol) -> list[Cell]:
    """The cells in the order they are run: seed by seed, so that an interrupted sweep has whole seeds."""
    return [
        Cell(protocol=protocol, pair=pair, strategy=s.name, version=s.version, budget=kept, seed=seed, role=s.role, source=s.source)
        for seed in protocol.seeds
        for pair in protocol.pairs
        for s, kept in choices(protocol.strategies, protocol.budget)
    ]


def check(protocol: Protocol, jobs: Sequence[Job], root: Path) -> list[str]:
    """What stands in the way, one sentence each. Loads tokenizers, prompts, task rows and finished records, no weights."""
    problems: list[str] = []
    strangers: list[Path] = []

    def attempt(action: Any) -> Any:
        try:
            return action()
        except UserError as error:
            problems.extend(error.problems)
            return None

    problems += _unwritable(root)
    for pair in protocol.pairs:
        problems += check_pair(pair_of(pair))
    attempt(lambda: load_prompts(protocol.prompts))
    for name in protocol.tasks:
        attempt(TASKS.get(name).rows)
    for name, values in protocol.parameters.items():
        known = (
            {f.name for f in fields(STRATEGIES.get(name).parameters)} if name in STRATEGIES and STRATEGIES.get(name).parameters else set()
        )
        problems += [
            f"parameters.{name}.{key}: no such parameter; known: {', '.join(sorted(known)) or 'none'}" for key in values if key not in known
        ]
    for job in jobs:
        folder = job_folder(job, root)
        if (folder / "DONE").exists():
            problems += _unreadable(folder, protocol.tasks)
        marker = folder / "trained.json"
        found = attempt(partial(read_json, marker)) if isinstance(job, Cell) and marker.exists() else None
        if found and isinstance(job, Cell) and found.get("fingerprint") != job.training_fingerprint():
            strangers.append(folder)
    if strangers:
        count = f"{len(strangers)} cells" if len(strangers) > 1 else "a cell"
        problems.append(f"{strangers[0]}: holds {count} of another protocol content; delete {root} or choose another --output")
    return problems


def _unreadable(folder: Path, tasks: Sequence[str]) -> list[str]:
    problems: list[str] = []
    for name in tasks:
        try:
            place = folder / "eval" / name
            if place.exists() and not set(SAMPLE_COLUMNS) <= set(read_table(place / "samples.parquet").columns):
                problems.append(f"{place / 'samples.parquet'}: columns are missing; delete its folder and run again")
            if (folder / "metrics.jsonl").exists():
                read_metrics(folder / "metrics.jsonl")
        except UserError as error:
            problems.extend(error.problems)
    return problems


def _unwritable(root: Path) -> list[str]:
    place = root
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        return [f"output {root}: {place} is a file; choose another --output"]
    probe = place / f".selbench-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        return [f"output {root}: not writable ({error.strerror}); choose another --output"]
    return []


@dataclass(frozen=True)
class Estimate:
    """What one training job will take at most: bytes and seconds; parameters of student and teacher."""

    memory_bytes: int
    seconds: float
    student_parameters: int
    teacher_parameters: int


def estimate(protocol: Protocol, job: Job, device: str) -> Estimate:
    """A roofline guess from the models' shapes and this machine's measured matmul rate; within a factor of about two."""
    from transformers import AutoConfig

    spec, training = pair_of(job.pair), protocol.training
    shapes = [AutoConfig.from_pretrained(source).get_text_config() for source in (spec.student, spec.teacher)]
    student, teacher = (_parameters(shape) for shape in shapes)
    size = {"float32": 4, "bfloat16": 2, "float16": 2}
    weights = (
        student * size[protocol.model.student_dtype] * 4 + teacher * size[protocol.model.teacher_dtype]
    )  # weight, gradient, two Adam moments
    sequence = training.max_response_tokens + min(training.max_prompt_tokens, training.max_response_tokens)
    rows = training.micro_batch * sequence
    activations = rows * shapes[0].hidden_size * shapes[0].num_hidden_layers * 16 * 4 + 6 * 4 * min(rows * shapes[0].vocab_size, 2**24)
    tokens = training.prompts_per_step * training.samples_per_prompt * training.max_response_tokens
    rate = _matmul_rate(device)
    decode = training.max_response_tokens * (4e-4 * shapes[0].num_hidden_layers + student * 4 / 1e10)
    step = decode + tokens * (10 * student + 2 * teacher) / rate
    evaluated = sum((protocol.evaluation.problems or 500) * (protocol.evaluation.samples or 1) for _ in protocol.tasks)
    after = evaluated * protocol.evaluation.max_tokens * 4 * student / rate
    seconds = after + (training.steps * step if isinstance(job, Cell) else 0)
    return Estimate(int(weights + activations + 6e8), seconds, student, teacher)


def _parameters(shape: Any) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(shape).parameters())


def _matmul_rate(device: str) -> float:
    import torch

    x = torch.randn(768, 768, device=device)
    x @ x
    began = time.perf_counter()
    for _ in range(4):
        y = x @ x
    float(y[0, 0])
    return 4 * 2 * 768**3 / (time.perf_counter() - began)


def workers_for(memory_bytes: int, device: str) -> int:
    """How many jobs fit side by side: one a GPU; on a CPU one a core as far as 80 % of the memory reaches."""
    import psutil

    if device != "cpu":
        return 1
    return max(1, min(usable_cores(), int(0.8 * psutil.virtual_memory().total / memory_bytes)))


def missing(jobs: Sequence[Job], root: Path) -> list[Job]:
    """The jobs that are not complete, base evaluations last: they are short and fill the gaps."""
    return sorted((job for job in jobs if not is_complete(job, root)), key=lambda job: isinstance(job, Base))


def adhoc_name(teacher: str, student: str) -> str:
    """The name of a pair given by two sources."""
    return adhoc_pair(teacher, student).name


def jobs_of(protocol: Protocol) -> tuple[list[Cell], list[Job]]:
    """All cells, and all jobs: cells and the evaluations of the untrained models."""
    cells = cells_of(protocol)
    return cells, [*cells, *(Base(protocol, pair, role) for pair in protocol.pairs for role in BASE)]


def describe(
    protocol: Protocol,
    cells: Sequence[Cell],
    jobs: Sequence[Job],
    missing: Sequence[Job],
    root: Path,
    size: Estimate,
    workers: int,
    device: str,
) -> str:
    """The resolved plan in words: what `--dry-run` prints."""
    import yaml

    training = protocol.training
    names = dict.fromkeys(f"{cell.strategy}-v{cell.version}@{cell.budget:g}" for cell in cells)
    cost = sum(size.seconds for job in missing if isinstance(job, Cell)) / workers
    return "\n".join(
        [
            yaml.safe_dump(protocol.model_dump(mode="json"), sort_keys=False).rstrip(),
            "",
            f"fingerprint  {protocol.fingerprint()}",
            f"strategies   {', '.join(names)}",
            f"cells        {len(cells)} ({len(names)} strategies x {len(protocol.seeds)} seeds x {len(protocol.pairs)} pairs), "
            f"{len(jobs) - len(cells)} evaluations of untrained models; {len(jobs) - len(missing)} of {len(jobs)} are done",
            f"steps        {training.steps} per cell, {training.prompts_per_step * training.samples_per_prompt} responses each",
            f"models       teacher {size.teacher_parameters / 1e6:.4g} M, student {size.student_parameters / 1e6:.4g} M parameters",
            f"memory       about {size.memory_bytes / 2**30:.1f} GiB per cell, {workers} at a time on {device}",
            f"time         about {cost / 60:.0f} min (a guess from shapes and a matmul, right within a factor of two or three)",
            f"folder       {root}",
        ]
    )
