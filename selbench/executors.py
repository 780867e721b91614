"""Where jobs run: processes of this machine, this process, or a Ray cluster. A job that dies costs itself alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from selbench.errors import UserError
from selbench.execution import Allowance
from selbench.provenance import usable_cores
from selbench.records import write_json
from selbench.registry import PLUGINS
from selbench.sweep import Job, job_folder, work

Allowances = Mapping[str, Allowance]
NOTHING: Allowances = {}

__all__ = ["run_inline", "run_jobs", "run_ray", "thread_environment"]


def thread_environment(jobs: int) -> dict[str, str]:
    """Environment of a worker: the machine's threads divided among `jobs`, and barriers that do not spin on shared cores."""
    threads = str(max(1, usable_cores() // jobs))
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


def _die_with_parent() -> None:
    """End this worker when the process that asked for it is gone, so that a killed sweep leaves nothing running."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _process(job: Job, root: Path, device: str, allowance: Allowance | None) -> None:
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
            work(job, root, device, allowance)
        except UserError as error:
            print(error, file=sys.stderr)
            sys.exit(2)


def run_jobs(
    jobs: Sequence[Job], root: Path, device: str, workers: int, tick: Callable[[set[str]], None], allowances: Allowances = NOTHING
) -> list[Job]:
    """Run jobs in up to `workers` processes at a time; returns those that failed. `tick(running folders)` is called often.

    allowances: what the cells of a pair may take, by its name.

    Each job has a process of its own, so that a crash (or the kernel's memory killer) costs that job alone. Processes are
    forked from a server that has the heavy imports behind it.
    """
    os.environ.update(thread_environment(workers))
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["selbench.preload"])
    waiting, failed = list(jobs), []
    running: dict[int, tuple[Any, Job]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                process = context.Process(target=_process, args=(job, root, device, allowances.get(job.pair.name)))
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


def run_inline(
    jobs: Sequence[Job], root: Path, device: str, tick: Callable[[set[str]], None], allowances: Allowances = NOTHING
) -> list[Job]:
    """Run jobs one after the other in this process (for debuggers and notebooks); returns those that failed."""
    failed: list[Job] = []
    for job in jobs:
        tick({job.folder})
        try:
            work(job, root, device, allowances.get(job.pair.name))
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


def _ray_job(job: Job, root: Path, device: str, allowance: Allowance | None) -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    work(job, root, device, allowance)


def run_ray(
    jobs: Sequence[Job], root: Path, device: str, address: str, tick: Callable[[set[str]], None], allowances: Allowances = NOTHING
) -> list[Job]:
    """Run jobs as tasks of a Ray cluster whose nodes share `root`; returns those that failed."""
    import ray

    ray.init(address=address, log_to_driver=False)
    environment = {**thread_environment(os.cpu_count() or 1), PLUGINS: os.environ.get(PLUGINS, "")}
    task = ray.remote(_ray_job).options(
        num_cpus=1, num_gpus=1 if device == "cuda" else 0, max_retries=0, runtime_env={"env_vars": environment}
    )
    pending = {task.remote(job, root.resolve(), device, allowances.get(job.pair.name)): job for job in jobs}
    failed: list[Job] = []
    while pending:
        done, _ = ray.wait(list(pending), timeout=1.0)
        for reference in done:
            job = pending.pop(reference)
            try:
                ray.get(reference)
            except Exception:  # Ray wraps whatever the task raised; `work` left the reason in FAILED.json
                failed.append(job)
                _note_crash(job, root, None)
        tick({job.folder for job in pending.values()})
    ray.shutdown()
    return failed
