"""Cells × executor: what a protocol asks for, what is missing of it, and processes that do it, one cell each.

A cell is its folder: training and each evaluation leave a marker with the fingerprint of what decided them, so a second
`run` does exactly what is missing. Nothing is passed between cells.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from selbench.checkpoint import is_trained
from selbench.config import Cell, PairEntry, Protocol, digest, evaluation_content
from selbench.devices import fitting_threads, roofline
from selbench.errors import UserError
from selbench.estimate import Shape
from selbench.evaluate import evaluate_task, is_evaluated
from selbench.grading import GRADER
from selbench.ledger import write_ledger
from selbench.models import PAIRS, PairSpec, adhoc_pair, identity, load_pair
from selbench.observe import observer
from selbench.passes import shape_of
from selbench.privileged import context_facts
from selbench.prompts import REPORT, PromptSet, check_planned, prompts_of_step, training_prompts
from selbench.provenance import passport, reset_peak_memory
from selbench.records import BASE, is_done, read_json, write_json, write_text
from selbench.seeding import derive
from selbench.task import TASKS, pools_of
from selbench.trackers import trackers_of

if TYPE_CHECKING:
    from selbench.execution import Allowance
    from selbench.models import Pair

__all__ = ["Base", "Job", "is_complete", "job_folder", "pair_of", "work", "write_plan"]


@dataclass(frozen=True)
class Base:
    """The evaluation of one untrained model, shared by all cells of its pair. `role` is "base-student" or "base-teacher"."""

    protocol: Protocol
    pair: PairEntry
    role: str

    @property
    def folder(self) -> str:
        return f"{self.pair.name}/{self.role}"

    def evaluation_fingerprint(self, task: str, version: int) -> str:
        source = pair_of(self.pair)
        model = source.teacher if self.role == BASE[1] else source.student
        return digest({"model": model, **evaluation_content(self.protocol, task, version)})


Job = Cell | Base


def pair_of(entry: PairEntry) -> PairSpec:
    """The registered pair, or the one that the entry spells out. Raises ConfigError when unknown."""
    if entry.teacher and entry.student:
        return adhoc_pair(entry.teacher, entry.student)
    return PAIRS.get(entry.name)


def job_folder(job: Job, root: Path) -> Path:
    return root / job.folder


def fingerprint(job: Job) -> str:
    """What decides everything in the job's folder."""
    trained = job.training_fingerprint() if isinstance(job, Cell) else ""
    return digest([trained, *(job.evaluation_fingerprint(t, TASKS.get(t).version) for t in job.protocol.tasks)])


def is_complete(job: Job, root: Path) -> bool:
    """Whether the job finished under this very protocol."""
    return is_done(job_folder(job, root), job=fingerprint(job))


def work(job: Job, root: Path, device: str, allowance: Allowance | None = None) -> None:
    """Do what is missing of one job, in this process. DONE comes last; a failure leaves FAILED.json and is raised."""
    folder = job_folder(job, root)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        _work(job, folder, device, allowance)


def _work(job: Job, folder: Path, device: str, allowance: Allowance | None) -> None:
    (folder / "FAILED.json").unlink(missing_ok=True)
    (folder / "DONE").unlink(missing_ok=True)
    try:
        rates = roofline(device, rate_of(job.protocol, device))  # first: it takes memory of its own
        reset_peak_memory()
        model = _train_and_evaluate(job, folder, device, rates, allowance)
        write_ledger(folder, read_json(folder / "passport.json").get("roofline"), model)  # of the machine that trained
        write_json(folder / "DONE", {"schema": 1, "fingerprint": job.protocol.fingerprint(), "job": fingerprint(job)})
    except BaseException as error:
        text = str(error).strip().splitlines() or [""]
        write_json(folder / "FAILED.json", {"error": f"{type(error).__name__}: {text[0]}", "traceback": traceback.format_exc()})
        raise


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder: a second process for the same job waits until the first one is gone, however it ended."""
    import fcntl

    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def engine_of(job: Job) -> str:
    """The engine that is asked for. A server is started for the student; the evaluation of a teacher takes what is at hand."""
    from selbench.rollout.choose import REMOTE

    taught = isinstance(job, Base) and job.role == BASE[1]
    return "auto" if taught and job.protocol.engine == REMOTE else job.protocol.engine


def rate_of(protocol: Protocol, device: str) -> Literal["bf16", "fp32"]:
    """The precision of the student's passes in training, to which shares of the matmul rate refer."""
    precision, low = protocol.training.precision, protocol.model.student_dtype != "float32"
    return "bf16" if low or precision == "bf16" or (precision == "auto" and device != "cpu") else "fp32"


def _train_and_evaluate(job: Job, folder: Path, device: str, rates: dict[str, Any], allowance: Allowance | None) -> Shape:
    """What is missing of both. Returns the shape of the model that is evaluated."""
    from selbench.rollout.choose import facts_of, open_engine

    protocol, spec = job.protocol, pair_of(job.pair)
    settings = protocol.model.model_dump()
    if isinstance(job, Base):
        role = "teacher" if job.role == BASE[1] else "student"
        prompted = (spec.student, settings["student_revision"])  # as in training: both models read the student's prompts
        settings |= {"student_dtype": settings[f"{role}_dtype"], "student_revision": settings[f"{role}_revision"]}
        pair = load_pair(PairSpec(spec.name, spec.teacher, getattr(spec, role)), settings, device, teacher=False, rendered_by=prompted)
    elif is_trained(folder, job.training_fingerprint()):
        final = PairSpec(spec.name, spec.teacher, str(folder / "checkpoint" / "final"))
        pair = load_pair(final, settings, device, teacher=False)
    else:
        pair = load_pair(spec, settings, device, lora=protocol.lora, seed=derive(job.seed, 0, "adapter"))
        prompts = training_prompts(protocol, [pair_of(entry) for entry in protocol.pairs])
        check_planned(prompts, Path(str(folder).removesuffix(job.folder)))
        _write_identity(job, folder, pair, rates, prompts)
        _train(job, folder, pair, prompts, allowance)
        pair.teacher = None
    if isinstance(job, Base):
        _write_identity(job, folder, pair, rates)
    engine = open_engine(protocol, pair, training=False, asked=engine_of(job))
    engine.sync(pair.student)
    note_engine(folder, "evaluation", facts_of(engine))
    seed = job.seed if isinstance(job, Cell) else 0
    shape = shape_of(pair.student)
    with fitting_threads(shape.hidden_size, shape.intermediate_size, protocol.evaluation.batch):
        for name in protocol.tasks:
            task, place = TASKS.get(name), folder / "eval" / name
            wanted = job.evaluation_fingerprint(name, task.version)
            if not is_evaluated(place, wanted):
                evaluate_task(task, engine, pair.renderer, protocol.evaluation, seed, place, wanted, limits=protocol.agent)
    engine.close()
    return shape


def _train(cell: Cell, folder: Path, pair: Pair, prompts: PromptSet, allowance: Allowance | None) -> None:
    from selbench.diagnose.template import greedy_episodes, probe_prompts, special_token_gaps
    from selbench.loop import train
    from selbench.rollout.choose import facts_of, open_engine

    if folder.joinpath("trained.json").exists():
        raise UserError(f"{folder}: holds the records of another protocol content; delete it or use another --output")
    training = cell.protocol.training
    asked, marks = prompts_of_step(prompts, cell.seed, 1, min(4, training.prompts_per_step)), cell.protocol.loss.special_token_mask
    if asked[0].world:
        played = greedy_episodes(pair, asked, min(1024, training.max_response_tokens), cell.protocol.agent)
        gaps = special_token_gaps(pair, asked, rollouts=played, marks=marks)
    else:
        gaps = special_token_gaps(pair, [*asked, *probe_prompts()], max_tokens=min(128, training.max_response_tokens), marks=marks)
    write_json(folder / "passport.json", {**read_json(folder / "passport.json"), "template_gaps": gaps.content()})
    print("\n".join(gaps.lines()), file=sys.stderr)
    engine = open_engine(cell.protocol, pair, training=True)
    with contextlib.closing(trackers_of(cell, folder)) as trackers:
        train(cell, pair, engine, prompts, folder, observer(pair.spec, pair.renderer), allowance, trackers.log)
    note_engine(folder, "training", facts_of(engine))
    engine.close()


def note_engine(folder: Path, part: str, facts: dict[str, Any]) -> None:
    """engine.json: what answered in this part of the run, what starting it cost, and how the weights reached it."""
    path = folder / "engine.json"
    write_json(path, {**(read_json(path) if path.exists() else {"schema": 1}), part: facts})


def _write_identity(job: Job, folder: Path, pair: Pair, rates: dict[str, Any], prompts: PromptSet | None = None) -> None:
    """config.yaml and passport.json: what is run, and where, before anything is run. rates: what that machine can do."""
    from selbench.rollout.choose import engine_for

    content = job.model_dump(mode="json") if isinstance(job, Cell) else {"protocol": job.protocol.model_dump(mode="json"), "role": job.role}
    write_text(folder / "config.yaml", yaml.safe_dump(content, sort_keys=False))
    pinned = job.protocol.model
    role = "teacher" if isinstance(job, Base) and job.role == BASE[1] else "student"
    models = {"student": identity(pair.spec.student, pair.student, getattr(pinned, f"{role}_revision"))}
    if pair.teacher is not None:
        models["teacher"] = identity(pair.spec.teacher, pair.teacher, pinned.teacher_revision)
    renderer = pair.renderer
    facts = context_facts(pair) | passport(
        protocol=job.protocol.name, protocol_fingerprint=job.protocol.fingerprint(), seed=getattr(job, "seed", None),
        engine=engine_for(engine_of(job), pair.device.type, shape_of(pair.student).parameters),
        roofline=rates, models=models, prompt_sha256=renderer.sha256(), rendered_example=renderer.text("1+1"),
        training_prompts=prompts.report.identity() if prompts else None, grader=GRADER,
        tasks={name: TASKS.get(name).facts() for name in job.protocol.tasks},
    )  # fmt: skip
    write_json(folder / "passport.json", facts)


def write_plan(protocol: Protocol, cells: Sequence[Cell], root: Path, command: str) -> None:
    """Add these cells to the table that the folder must show; cells of earlier invocations stay in it."""
    write_json(root / REPORT, training_prompts(protocol, [pair_of(pair) for pair in protocol.pairs]).report.content())
    path = root / "plan.json"
    before = read_json(path) if path.exists() else {}
    listed = {entry["folder"]: entry for entry in before.get("cells", [])}
    for cell in cells:
        entry = {
            "pair": cell.pair.name,
            **{k: getattr(cell, k) for k in ("strategy", "version", "budget", "seed", "role", "source", "folder")},
        }
        listed[cell.folder] = entry
    entries = [listed[name] for name in sorted(listed)]
    write_json(path, {
        "schema": 1, "protocol": protocol.name, "fingerprint": protocol.fingerprint(), "command": command, "tasks": list(protocol.tasks),
        "pairs": sorted({e["pair"] for e in entries}), "seeds": sorted({e["seed"] for e in entries}), "cells": entries,
        "margins": protocol.margins, "family": protocol.family, "pools": pools_of(protocol.tasks),
    })  # fmt: skip
