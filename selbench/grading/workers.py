"""Killable worker processes: each job has a wall-clock limit, each worker a memory limit, and neither can hold up the others.

Plain subprocesses and not those of multiprocessing, which import the caller's main module again: a script without the usual guard
does not survive that. A worker that has to be killed is replaced in the background while the others go on.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

__all__ = ["MEMORY_LIMIT", "Outcome", "run", "serve", "usable_cores"]

MEMORY_LIMIT = 2**30  # bytes of address space a worker may take beyond what it holds when it is ready
STARTUP_SECONDS = 120  # importing sympy takes half a second; a loaded machine is many times slower


@dataclass(frozen=True)
class Outcome:
    """What became of one job. kind: done, timeout, or error (raised, out of memory, crashed); value: result, or words on the error."""

    kind: str
    value: Any
    seconds: float


@dataclass
class _Worker:
    """One process that judges. `job` is the index it works on, `since` when that began; before `ready`, when the process began."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    words: IO[bytes]  # its standard error, for when it does not start
    since: float
    ready: bool = False
    job: int | None = None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()
        self.words.close()


_pools: dict[str, list[_Worker]] = {}  # idle workers by what they judge, kept between calls
_lock = threading.Lock()


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    judge: str, jobs: Sequence[Any], *, timeout: float, workers: int = 1, on_done: Callable[[int, Outcome], None] | None = None
) -> list[Outcome]:
    """Judge all jobs and return their outcomes in order.

    judge: "module:function", imported in the worker; the function takes one job. timeout: seconds of wall clock for one job.
    on_done is called with (index, outcome) as each job ends. Raises RuntimeError if no worker can be started.
    """
    outcomes: list[Outcome | None] = [None] * len(jobs)
    waiting = deque(range(len(jobs)))
    with _lock:
        idle = _pools.setdefault(judge, [])
        crew, idle[:] = idle[:workers], idle[workers:]
    try:
        while waiting or any(worker.job is not None for worker in crew):
            busy = sum(worker.job is not None for worker in crew)
            while len(crew) < min(workers, busy + len(waiting)):
                crew.append(_start(judge))
            for index, outcome in _step(crew, jobs, waiting, timeout):
                outcomes[index] = outcome
                if on_done is not None:
                    on_done(index, outcome)
    except BaseException:
        for worker in crew:
            worker.stop()
        crew = []
        raise
    finally:
        with _lock:
            _pools.setdefault(judge, []).extend(crew)
    return [outcome for outcome in outcomes if outcome is not None]


def _step(crew: list[_Worker], jobs: Sequence[Any], waiting: deque[int], timeout: float) -> list[tuple[int, Outcome]]:
    """Hand out jobs, wait for the first thing to happen, collect what ended; kill what is over its limit."""
    ended: list[tuple[int, Outcome]] = []
    for worker in list(crew):
        if worker.ready and worker.job is None and waiting:
            worker.job, worker.since = waiting.popleft(), time.perf_counter()
            try:
                worker.pipe.send((jobs[worker.job], timeout))
            except OSError:  # it died while it was idle: the job is not to blame, another worker gets it
                waiting.appendleft(worker.job)
                _dismiss(crew, worker)
    limits = [
        worker.since + (timeout if worker.ready else STARTUP_SECONDS) for worker in crew if worker.job is not None or not worker.ready
    ]
    if not limits:
        return ended
    active = [worker for worker in crew if worker.job is not None or not worker.ready]
    happened = wait([worker.pipe for worker in active], max(0.0, min(limits) - time.perf_counter()))
    now = time.perf_counter()
    for worker in active:
        if worker.pipe in happened:
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, OSError):
                if not worker.ready:
                    raise _not_started(worker) from None
                kind, value = "died", "the worker died"
            if not worker.ready:
                worker.ready = True
                continue
            if worker.job is not None:
                ended.append((worker.job, Outcome("done" if kind == "done" else "error", value, now - worker.since)))
            worker.job = None
            if kind == "died":
                _dismiss(crew, worker)
        elif now >= worker.since + (timeout if worker.ready else STARTUP_SECONDS):
            if not worker.ready:
                raise _not_started(worker)
            if worker.job is not None:
                ended.append((worker.job, Outcome("timeout", f"over {timeout:g} s", now - worker.since)))
            _dismiss(crew, worker)
    return ended


def _dismiss(crew: list[_Worker], worker: _Worker) -> None:
    crew.remove(worker)
    worker.stop()


def _not_started(worker: _Worker) -> RuntimeError:
    worker.words.seek(0)
    words = worker.words.read()[-2000:].decode(errors="replace").strip()
    return RuntimeError(f"a grading worker did not start within {STARTUP_SECONDS} s or failed: {words or 'it said nothing'}")


def _start(judge: str) -> _Worker:
    near, far = socket.socketpair()
    code = f"from selbench.grading.workers import serve; serve({far.fileno()}, {judge!r})"
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
    process = subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[far.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    far.close()
    return _Worker(process, Connection(near.detach()), words, time.perf_counter())


def serve(handle: int, judge: str) -> None:
    """The worker's main loop on an inherited socket; ends with its other end."""
    import logging
    import resource

    logging.disable(logging.CRITICAL)
    module, _, name = judge.partition(":")
    function = getattr(importlib.import_module(module), name)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    prepare = getattr(importlib.import_module(module), f"prepare_{name}", None)
    if prepare is not None:
        prepare()
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc/self/statm").is_file() else 2**32
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_LIMIT, held + MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe = Connection(handle)
    pipe.send(("ready", None))
    with contextlib.suppress(EOFError, OSError):
        while True:
            job, timeout = pipe.recv()
            signal.setitimer(signal.ITIMER_REAL, 2 * timeout + 10)  # kills it even if the parent is gone and nobody else will
            try:
                answer = ("done", function(job))
            except MemoryError:
                answer = ("died", "out of memory")  # what is left of this process is not trusted
            except Exception as error:  # sympy raises dozens of types on hostile text; the verdict says so
                answer = ("error", f"{type(error).__name__}: {str(error)[:200]}")
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(answer)


def _stop_all() -> None:
    for worker in [worker for idle in _pools.values() for worker in idle]:
        worker.stop()
    _pools.clear()


def _forget_all() -> None:
    """In a forked child: the workers belong to the parent, and the lock may be held by a thread that is not there."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _pools.clear()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_forget_all)
