"""From words on a command line to cells, with everything that is wrong found before any model loads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from selbench.config import Cell, Protocol
from selbench.errors import ConfigError, UserError
from selbench.models import PAIRS, PairSpec, adhoc_pair, compare_pair, load_renderer
from selbench.privileged import context_problems
from selbench.prompt_sources import ARENA, EMBEDDED, local_file
from selbench.prompts import Prompt, PromptSet, prompts_changed, training_prompts
from selbench.records import BASE, SAMPLE_COLUMNS, read_json, read_metrics, read_table
from selbench.rollout.choose import REMOTE, engine_problems, wanted_of
from selbench.rollout.vllm_serving import server_problems
from selbench.sources import Unreachable, hub_reachable
from selbench.strategy import STRATEGIES, Strategy
from selbench.sweep import Base, Job, is_complete, job_folder, pair_of
from selbench.task import MIRROR, TASKS

if TYPE_CHECKING:
    from selbench.renderer import Renderer
    from selbench.rollout.dialogue import Dialogue

__all__ = ["Checked", "adhoc_name", "cells_of", "check", "choices", "jobs_of", "missing", "name_problems"]

Found = TypeVar("Found")
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
        entries: list[Any] = list(given) if isinstance(given, list | dict) else []
        for entry in entries:
            try:
                find(entry)
            except UserError as error:
                problems.extend(error.problems)

    look("strategies", lambda word: choices([str(word)], None))
    look("tasks", lambda name: TASKS.get(str(name)))
    look("margins", lambda name: name in {task.pool for task in TASKS} or TASKS.get(str(name)))
    look("pairs", lambda pair: PAIRS.get(pair) if isinstance(pair, str) else None)
    return problems


def cells_of(protocol: Protocol) -> list[Cell]:
    """The cells in the order they are run: seed by seed, so that an interrupted sweep has whole seeds."""
    return [
        Cell(
            protocol=protocol, pair=pair, strategy=s.name, version=s.version, budget=kept, seed=seed, role=s.role, source=s.source,
            context=pair_of(pair).context(),
        )
        for seed in protocol.seeds
        for pair in protocol.pairs
        for s, kept in choices(protocol.strategies, protocol.budget)
    ]  # fmt: skip


@dataclass(frozen=True)
class Checked:
    """What was found before any model loads.

    problems: what stands in the way, one sentence each. unreached: what could not be looked at because the hub cannot be
    reached, server: what is wrong with that of the engine; a plan can be printed all the same, a run refuses.
    warnings: what will run, but perhaps not as meant.
    prompts, longest (tokens of the longest rendered prompt), rows (problems of each task): as far as they could be had.
    """

    problems: list[str]
    unreached: list[str]
    warnings: list[str]
    prompts: PromptSet | None
    longest: int | None
    rows: dict[str, int]
    server: list[str] = field(default_factory=list)


def check(protocol: Protocol, jobs: Sequence[Job], root: Path, device: str = "cpu") -> Checked:
    """Loads tokenizers, configurations, prompts, task rows and finished records, no weights; asks the server of an engine that has one.

    device: where the student is trained, "cpu" or "cuda"; it decides in what precision an engine computes.
    """
    problems = [*_unwritable(root), *_parameter_problems(protocol), *engine_problems(protocol.engine)]
    acted = protocol.prompts.startswith(ARENA) or any(TASKS.get(name).arena for name in protocol.tasks)
    unreached, warnings = list[str](), list[str]()
    specs = [pair_of(pair) for pair in protocol.pairs]
    mirrored = bool(os.environ.get(MIRROR))
    online = not protocol.prompts.startswith((EMBEDDED, ARENA)) and local_file(protocol.prompts) is None and not mirrored
    offline = (online or (any(TASKS.get(name).data for name in protocol.tasks) and not mirrored)) and not hub_reachable()
    settings = protocol.model.model_dump()
    places = {"error": problems, "unreachable": unreached, "warning": warnings}
    for spec in specs:
        for finding in compare_pair(spec, settings):
            places.get(finding.severity, []).append(f"pair {spec.name}: {finding.text}")

    def attempt(action: Callable[[], Found], needs_hub: bool) -> Found | None:
        try:
            return action()
        except UserError as error:
            (unreached if isinstance(error, Unreachable) or (needs_hub and offline) else problems).extend(error.problems)
            return None

    for spec in specs if acted and not problems else ():
        attempt(partial(_dialogue, protocol, spec), True)
    rows: dict[str, int] = {}
    for name in protocol.tasks:
        task = TASKS.get(name)
        found = attempt(task.load, task.data is not None and not mirrored)
        if found is not None:
            rows[name] = len(found)
        elif task.data is not None:
            rows[name] = task.data.rows
    prompts = attempt(lambda: training_prompts(protocol, specs), online)
    if prompts is not None:
        problems += prompts_changed(prompts, root)
        for spec in specs:
            problems += context_problems(spec, prompts, protocol.prompts)
    longest = _longest(protocol, specs[0], prompts) if prompts and not problems and not unreached else None
    asked = specs if protocol.engine == REMOTE and not problems and not unreached else []
    server = [text for spec in asked for text in server_problems(wanted_of(protocol, spec, device))]
    return Checked([*problems, *_record_problems(protocol, jobs, root)], unreached, warnings, prompts, longest, rows, server)


def _longest(protocol: Protocol, spec: PairSpec, prompts: Sequence[Prompt]) -> int:
    """Tokens of the longest rendered prompt, looked for among the 32 longest texts."""
    among = sorted(prompts, key=lambda prompt: len(prompt.problem))[-32:]
    if worlds := [prompt.world() for prompt in among if prompt.world]:
        dialogue = _dialogue(protocol, spec)
        return max(len(dialogue.opening(world.opening(), world.tools)) for world in worlds)
    renderer = _renderer(protocol, spec)
    return max(len(renderer.encode(prompt.problem)) for prompt in among)


def _renderer(protocol: Protocol, spec: PairSpec) -> Renderer:
    model = protocol.model.model_dump(include={"template", "system", "thinking", "chat_template"})
    return load_renderer(spec.student, **model, teacher=spec.teacher)


def _dialogue(protocol: Protocol, spec: PairSpec) -> Dialogue:
    """Raises ConfigError where the pair's chat template cannot carry a conversation with tools."""
    from selbench.rollout.dialogue import Dialogue

    try:
        return Dialogue(_renderer(protocol, spec))
    except ConfigError as error:
        raise type(error)(*(f"pair {spec.name}: {text}" for text in error.problems)) from error


def _parameter_problems(protocol: Protocol) -> list[str]:
    problems: list[str] = []
    for name, values in protocol.parameters.items():
        known = (
            {f.name for f in fields(STRATEGIES.get(name).parameters)} if name in STRATEGIES and STRATEGIES.get(name).parameters else set()
        )
        problems += [
            f"parameters.{name}.{key}: no such parameter; known: {', '.join(sorted(known)) or 'none'}" for key in values if key not in known
        ]
    return problems


def _record_problems(protocol: Protocol, jobs: Sequence[Job], root: Path) -> list[str]:
    problems: list[str] = []
    strangers: list[Path] = []
    for job in jobs:
        folder = job_folder(job, root)
        if (folder / "DONE").exists():
            problems += _unreadable(folder, protocol.tasks)
        marker = folder / "trained.json"
        if not isinstance(job, Cell) or not marker.exists():
            continue
        try:
            if read_json(marker).get("fingerprint") != job.training_fingerprint():
                strangers.append(folder)
        except UserError as error:
            problems.extend(error.problems)
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
