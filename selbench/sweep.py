"""Cells × executor: what a protocol asks for, what is missing of it, and processes that do it, one cell each.

A cell is its folder: training and each evaluation leave a marker with the fingerprint of what decided them, so a second
`run` does exactly what is missing. Nothing is passed between cells.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.checkpoint import is_trained
from selbench.config import Cell, PairEntry, Protocol, digest, evaluation_content
from selbench.errors import UserError
from selbench.evaluate import evaluate_task, is_evaluated
from selbench.models import PAIRS, PairSpec, adhoc_pair, load_pair
from selbench.prompts import Prompt, load_prompts
from selbench.provenance import passport, reset_peak_memory
from selbench.records import BASE, is_done, read_json, write_json
from selbench.task import TASKS

if TYPE_CHECKING:
    from torch import Tensor

    from selbench.loop import Observer
    from selbench.models import Pair, Renderer
    from selbench.rollout import Rollouts
    from selbench.scoring import Rows

__all__ = [
    "Base",
    "Job",
    "is_complete",
    "job_folder",
    "pair_of",
    "run_inline",
    "run_jobs",
    "run_ray",
    "thread_environment",
    "work",
    "write_plan",
]


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


def work(job: Job, root: Path, device: str) -> None:
    """Do what is missing of one job, in this process. DONE comes last; a failure leaves FAILED.json and is raised."""
    folder = job_folder(job, root)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        _work(job, folder, device)


def _work(job: Job, folder: Path, device: str) -> None:
    (folder / "FAILED.json").unlink(missing_ok=True)
    (folder / "DONE").unlink(missing_ok=True)
    try:
        reset_peak_memory()
        _train_and_evaluate(job, folder, device)
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


def _die_with_parent() -> None:
    """End this worker when the process that asked for it is gone, so that a killed sweep leaves nothing running."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_and_evaluate(job: Job, folder: Path, device: str) -> None:
    from selbench.rollout.hf import HFEngine

    protocol, spec = job.protocol, pair_of(job.pair)
    settings = protocol.model.model_dump()
    if isinstance(job, Base):
        model = spec.teacher if job.role == BASE[1] else spec.student
        dtype = settings["teacher_dtype"] if job.role == BASE[1] else settings["student_dtype"]
        pair = load_pair(PairSpec(spec.name, model, model), {**settings, "student_dtype": dtype}, device, teacher=False)
    elif is_trained(folder, job.training_fingerprint()):
        final = PairSpec(spec.name, spec.teacher, str(folder / "checkpoint" / "final"))
        pair = load_pair(final, settings, device, teacher=False)
    else:
        pair = load_pair(spec, settings, device)
        _write_identity(job, folder, pair)
        _train(job, folder, pair)
        pair.teacher = None
    if isinstance(job, Base):
        _write_identity(job, folder, pair)
    engine = HFEngine(pair.student, end_ids=pair.renderer.end_ids, pad_id=pair.renderer.pad_id, batch=protocol.evaluation.batch)
    seed = job.seed if isinstance(job, Cell) else 0
    for name in protocol.tasks:
        task, place = TASKS.get(name), folder / "eval" / name
        wanted = job.evaluation_fingerprint(name, task.version)
        if not is_evaluated(place, wanted):
            evaluate_task(task, engine, pair.renderer, protocol.evaluation, seed, place, wanted)


def _train(cell: Cell, folder: Path, pair: Pair) -> None:
    from selbench.loop import train
    from selbench.rollout.hf import HFEngine

    if folder.joinpath("trained.json").exists():
        raise UserError(f"{folder}: holds the records of another protocol content; delete it or use another --output")
    engine = HFEngine(pair.student, end_ids=pair.renderer.end_ids, pad_id=pair.renderer.pad_id)
    train(cell, pair, engine, load_prompts(cell.protocol.prompts), folder, observer(pair.spec, pair.renderer))


def _write_identity(job: Job, folder: Path, pair: Pair) -> None:
    facts = {
        "protocol": job.protocol.name, "protocol_fingerprint": job.protocol.fingerprint(), "engine": "hf",
        "prompt_sha256": pair.renderer.sha256(), "rendered_example": pair.renderer.text("1+1"),
        "models": {"teacher": pair.spec.teacher, "student": pair.spec.student}, "seed": getattr(job, "seed", None),
    }  # fmt: skip
    import yaml

    from selbench.records import write_text

    content = job.model_dump(mode="json") if isinstance(job, Cell) else {"protocol": job.protocol.model_dump(mode="json"), "role": job.role}
    write_text(folder / "config.yaml", yaml.safe_dump(content, sort_keys=False))
    write_json(folder / "passport.json", passport(**facts))


def observer(spec: PairSpec, renderer: Renderer) -> Observer:
    """What is measured of each training batch: share of right answers, and recall of planted tokens where truth is known."""
    from selbench.grading import grade

    def observe(asked: Sequence[Prompt], rollouts: Rollouts, rows: Rows, kept: Tensor) -> tuple[dict[str, float], list[int] | None]:
        found: dict[str, float] = {
            "truncated": rollouts.finish.count("length"),
            "response_tokens": sum(map(len, rollouts.responses())) / max(1, len(rollouts)),
        }
        texts = [renderer.decode(ids) for ids in rollouts.responses()]
        pairs = [
            grade(text, asked[i].answer or "", truncated=finish == "length").verdict
            for text, finish, i in zip(texts, rollouts.finish, rollouts.sample, strict=True)
            if asked[i].answer is not None
        ]
        if pairs:
            found["response_accuracy"] = pairs.count("correct") / len(pairs)
        if spec.planted is None:
            return found, None
        labels = planted_rows(spec.planted, renderer, rollouts, rows)
        hit = kept.tolist()
        for name, wanted in (("planted_recall", (1, 2)), ("planted_recall_overconfident", (1,)), ("planted_recall_uncertain", (2,))):
            planted = [keep for keep, label in zip(hit, labels, strict=True) if label in wanted]
            if planted:
                found[name] = sum(planted) / len(planted)
        return found, labels

    return observe


def planted_rows(planted: Callable[[str], list[int]], renderer: Renderer, rollouts: Rollouts, rows: Rows) -> list[int]:
    """The planted label of each valid token: the highest label of the characters it stands for."""
    by_place: dict[tuple[int, int], int] = {}
    for sequence, (tokens, mask) in enumerate(zip(rollouts.tokens, rollouts.mask, strict=True)):
        columns = [column for column, m in enumerate(mask) if m]
        pieces = [renderer.decode([tokens[column]]) for column in columns]
        labels, at = planted("".join(pieces)), 0
        for column, piece in zip(columns, pieces, strict=True):
            by_place[sequence, column] = max(labels[at : at + len(piece)], default=0)
            at += len(piece)
    return [by_place[place] for place in zip(rows.sequence.tolist(), rows.column.tolist(), strict=True)]


def write_plan(protocol: Protocol, cells: Sequence[Cell], root: Path, command: str) -> None:
    """Add these cells to the table that the folder must show; cells of earlier invocations stay in it."""
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
    })  # fmt: skip


def thread_environment(jobs: int) -> dict[str, str]:
    """Environment of a worker: the machine's threads divided among `jobs`, and barriers that do not spin on shared cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // jobs))
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


def _process(job: Job, root: Path, device: str) -> None:
    """A worker process: its output goes to log.txt in the job's folder."""
    folder = job_folder(job, root)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "log.txt").open("a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        _die_with_parent()
        try:
            work(job, root, device)
        except UserError as error:
            print(error, file=sys.stderr)
            sys.exit(2)


def run_jobs(jobs: Sequence[Job], root: Path, device: str, workers: int, tick: Callable[[set[str]], None]) -> list[Job]:
    """Run jobs in up to `workers` processes at a time; returns those that failed. `tick(running folders)` is called often.

    Each job has a process of its own, so that a crash (or the kernel's memory killer) costs that job alone. Processes are
    forked from a server that has the heavy imports behind it.
    """
    os.environ.update(thread_environment(workers))
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(
            ["selbench.loop", "selbench.lm", "selbench.sweep", "selbench.rollout.hf", "lm_eval.evaluator", "lm_eval.tasks"]
        )
    waiting, failed = list(jobs), []
    running: dict[int, tuple[Any, Job]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                process = context.Process(target=_process, args=(job, root, device))
                process.start()
                running[process.sentinel] = (process, job)
            for sentinel in wait(list(running), timeout=0.5):
                process, job = running.pop(sentinel)  # type: ignore[arg-type]
                process.join()
                if process.exitcode != 0:
                    failed.append(job)
                    _note_crash(job, root, process.exitcode)
            tick({job.folder for _, job in running.values()})
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()
    return failed


def run_inline(jobs: Sequence[Job], root: Path, device: str, tick: Callable[[set[str]], None]) -> list[Job]:
    """Run jobs one after the other in this process (for debuggers and notebooks); returns those that failed."""
    failed: list[Job] = []
    for job in jobs:
        tick({job.folder})
        try:
            work(job, root, device)
        except Exception as error:  # recorded by `work`; the other jobs go on
            failed.append(job)
            print(f"{job.folder}: {error}", file=sys.stderr)
    tick(set())
    return failed


def _note_crash(job: Job, root: Path, exitcode: int | None) -> None:
    """A process that died without a word (killed, segmentation fault) still leaves a record."""
    path = job_folder(job, root) / "FAILED.json"
    if not path.exists():
        write_json(path, {"error": f"the process ended with exit code {exitcode}", "traceback": ""})


def run_ray(jobs: Sequence[Job], root: Path, device: str, address: str, tick: Callable[[set[str]], None]) -> list[Job]:
    """Run jobs as tasks of a Ray cluster that shares `root`; returns those that failed."""
    import ray

    ray.init(address=address, log_to_driver=False)
    remote = ray.remote(num_gpus=1 if device == "cuda" else 0, num_cpus=1, max_retries=0)(_process)
    with_env = remote.options(runtime_env={"env_vars": thread_environment(1)})
    pending = {with_env.remote(job, root.resolve(), device): job for job in jobs}
    failed: list[Job] = []
    while pending:
        done, _ = ray.wait(list(pending), timeout=1.0)
        for reference in done:
            job = pending.pop(reference)
            try:
                ray.get(reference)
            except Exception as error:  # Ray wraps whatever the task raised
                failed.append(job)
                print(f"{job.folder}: {error}", file=sys.stderr)
        tick({job.folder for job in pending.values()})
        time.sleep(0.1)
    return failed
