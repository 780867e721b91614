"""Where jobs run: processes of this machine, this process, or a Ray cluster. A job that dies costs itself alone."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from selbench.errors import UserError
from selbench.execution import Allowance
from selbench.provenance import usable_cores
from selbench.records import write_json
from selbench.registry import PLUGINS
from selbench.rollout import EngineError
from selbench.sweep import Job, job_folder, work
from selbench.trackers import ASKED

Allowances = Mapping[str, Allowance]
NOTHING: Allowances = {}

__all__ = ["run_inline", "run_jobs", "run_ray", "thread_environment"]


def thread_environment(jobs: int, threads: int | None = None) -> dict[str, str]:
    """Environment of a worker: the machine's threads divided among `jobs`, or `threads`, and barriers that do not spin on shared cores."""
    each = str(threads or max(1, usable_cores() // jobs))
    return {"OMP_NUM_THREADS": each, "MKL_NUM_THREADS": each, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


def _die_with_parent() -> None:
    """End this worker when the process that asked for it is gone, so that a killed sweep leaves nothing running.

    That process, and not the server that forked this one: the server may outlive it.
    """
    asked = multiprocessing.parent_process()
    assert asked is not None

    def watch() -> None:
        asked.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _log_to(folder: Path) -> None:
    """From here on all output of this process, that of libraries below Python included, goes to log.txt in `folder`.

    The streams stay the same objects: a handler that a library made of them while it worked for one job outlives that job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        for number, stream in enumerate((sys.stdout, sys.stderr), 1):
            stream.flush()
            stream.reconfigure(encoding="utf-8", line_buffering=True)  # type: ignore[union-attr]
            os.dup2(log.fileno(), number)


def _serve(pipe: Connection, root: Path, device: str) -> None:
    """A worker process: jobs from the pipe, one after the other, each with a log of its own, until the other end is closed.

    A job that the user can mend (UserError) is answered with False. Any other error ends the process, and so does that of an
    engine: what it left in memory or on the device is not known.
    """
    import torch

    _die_with_parent()
    while (task := _received(pipe)) is not None:
        job, allowance = task
        _log_to(job_folder(job, root))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        try:
            work(job, root, device, allowance)
            fine = True
        except UserError as error:
            print(error, file=sys.stderr)
            if isinstance(error, EngineError):
                sys.exit(2)
            fine = False
        gc.collect()  # models in reference cycles would stay beside those of the next job
        if device == "cuda":
            torch.cuda.empty_cache()
        pipe.send(fine)


def _received(pipe: Connection) -> Any:
    """The next message; None when there will be none: the other end is closed, or gone with its process."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


class _Worker:
    """A worker process as its parent sees it. `job` is what it is at; None: it was told to end."""

    def __init__(self, context: Any, root: Path, device: str) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, root, device))
        self.process.start()
        theirs.close()
        self.job: Job | None = None

    def give(self, job: Job, allowance: Allowance | None) -> None:
        self.job = job
        with contextlib.suppress(OSError):  # it died meanwhile: its end tells
            self.pipe.send((job, allowance))

    def dismiss(self) -> None:
        self.job = None
        self.pipe.close()

    def handles(self) -> list[Any]:
        """What becomes ready when there is news of it."""
        return [self.process.sentinel, *([self.pipe] if self.job else [])]

    def reply(self) -> bool | None:
        """Whether its job went well; None: no word of it."""
        return _received(self.pipe) if self.job and self.pipe.poll() else None


def run_jobs(
    jobs: Sequence[Job], root: Path, device: str, workers: int, tick: Callable[[set[str]], None], allowances: Allowances = NOTHING,
    *, shared: bool = False, threads: int | None = None,
) -> list[Job]:  # fmt: skip
    """Run jobs in up to `workers` processes at a time; returns those that failed. `tick(running folders)` is called often.

    allowances: what the cells of a pair may take, by its name. shared: a process does one job after the other, so that what it
    holds between them (an engine that takes half a minute to start) is paid once; else each job has a process of its own.
    threads: of each worker; None divides the machine's.
    Either way a crash (or the kernel's memory killer) costs the job at hand alone: a fresh process does the rest. Processes
    are forked from a server that has the heavy imports behind it.
    """
    os.environ.update(thread_environment(workers, threads))
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["selbench.preload"])
    waiting, failed = list(jobs), []
    crew: list[_Worker] = []

    def hand(worker: _Worker) -> None:
        job = waiting.pop(0)
        worker.give(job, allowances.get(job.pair.name))

    try:
        while waiting or crew:
            while waiting and len(crew) < workers:
                crew.append(_Worker(context, root, device))
                hand(crew[-1])
            tick({worker.job.folder for worker in crew if worker.job})
            wait([handle for worker in crew for handle in worker.handles()], timeout=0.5)
            for worker in list(crew):
                gone = not worker.process.is_alive()  # asked first: a word said before the end is still read
                fine, job = worker.reply(), worker.job
                if job and not fine and (gone or fine is False):
                    failed.append(job)
                    _note_crash(job, root, worker.process.exitcode)
                if gone:
                    worker.dismiss()
                    crew.remove(worker)
                elif fine is not None and shared and waiting:
                    hand(worker)
                elif fine is not None:
                    worker.dismiss()
        tick(set())
    finally:
        for worker in crew:
            worker.process.terminate()
            worker.process.join()
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
    environment = {**thread_environment(os.cpu_count() or 1), **{name: os.environ.get(name, "") for name in (PLUGINS, ASKED)}}
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
