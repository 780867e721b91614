"""The distillation loss side by side: memory, time and exactness of every implementation, each measurement in a fresh process.

Round by round, every implementation runs once, so that a machine that slows down slows all of them; ratios are taken within a round.
Exactness is measured on a small problem of the same vocabulary against dense autograd in float64.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.bench.rivals import RIVALS, Entry, parse_entries
from selbench.errors import ConfigError, nearest
from selbench.provenance import code_version, package_versions, usable_cores

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Real", "Settings", "fresh", "measure", "summarise"]

DTYPES, DEVICES = ("float32", "bfloat16"), ("cpu", "cuda")
EXACT_ROWS, EXACT_WIDTH = 64, 256
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

Record = dict[str, Any]


@dataclass(frozen=True)
class Real:
    """Real rows: folders or ids of the two models, a file of prompts, where the tensors are kept (None: nowhere)."""

    student: str
    teacher: str
    prompts: str
    teacher_dtype: str = "float32"
    max_tokens: int = 256
    tensors: Path | None = None


@dataclass(frozen=True)
class Settings:
    """What is measured. vocabulary, rows: sizes, crossed; width, teacher_width: of the hidden rows; entropy: nats, of the student.

    flat: rows at which selbench's memory is measured beside, at `flat_vocabulary`; real: rows of real models in place of random ones.
    """

    vocabulary: tuple[int, ...] = (512, 32_768, 151_936)
    rows: tuple[int, ...] = (512, 2048, 8192)
    width: int = 1024
    teacher_width: int | None = None
    rounds: int = 5
    only: tuple[str, ...] | None = None
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0
    entropy: float = 0.4
    flat: tuple[int, ...] = ()
    flat_vocabulary: int = 32_768
    real: Real | None = None

    def __post_init__(self) -> None:
        problems = [
            f"--{name} {value!r}; {nearest(value, known)}"
            for name, value, known in (("dtype", self.dtype, DTYPES), ("device", self.device, DEVICES))
            if value not in known
        ]
        if self.real and self.real.teacher_dtype not in DTYPES:
            problems.append(f"--teacher-dtype {self.real.teacher_dtype!r}; {nearest(self.real.teacher_dtype, DTYPES)}")
        if any(n < 1 for n in (*self.rows, *self.flat, self.width, self.rounds)) or any(v < 2 for v in self.vocabulary):
            problems.append("sizes and rounds are at least 1, a vocabulary has at least 2 tokens")
        if not self.rows or not self.vocabulary:
            problems.append("--rows and --vocabulary: at least one size each")
        if self.wide <= self.width:
            problems.append(f"--teacher-width {self.wide}: larger than --width {self.width}, else random teacher and student are the same")
        if self.device == "cpu" and not Path("/proc/self/clear_refs").exists():
            problems.append("--device cpu: peaks of memory are read from /proc, which only Linux has")
        if problems:
            raise ConfigError(*problems)

    @property
    def wide(self) -> int:
        return self.teacher_width or 2 * self.width


def fresh(spec: Record, module: str = "fresh") -> Record:
    """Run a measurement in a new process. {"error": reason} where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "spec.json", Path(folder) / "result.json"]
        paths[0].write_text(json.dumps(spec))
        command = [sys.executable, "-m", f"selbench.bench.{module}", *map(str, paths)]
        root = str(Path(__file__).parents[2])  # a checkout that is not installed
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        done = subprocess.run(command, env={**ENVIRONMENT, **os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found: Record = json.loads(paths[1].read_text())
            return found
    if done.returncode in (-9, 137):
        return {"error": "killed: out of memory"}
    return {"error": next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")}


def measure(settings: Settings, command: str = "") -> Record:
    """Everything: {"settings", "sizes", "measurements", "exactness", "flat", "summary", "packages", "hardware", …}.

    Raises ConfigError on names nobody knows and what cannot run here.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    entries, left_out = parse_entries(list(settings.only) if settings.only else None, settings.device)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        base = {"seed": settings.seed, "dtype": settings.dtype, "device": settings.device, "budget": 100.0}
        base["target_entropy"] = settings.entropy
        real = None
        if settings.real:
            real = _collect(settings, Path(folder), progress)
            base["tensors"] = str(settings.real.tensors or Path(folder) / "rows.safetensors")
        sizes = _sizes(settings, base, progress)
        measurements = _rounds(settings, entries, sizes, base, progress)
        exact = _exactness(settings, entries, sizes, base, progress)
        flat = _flat(settings, base, progress)
    return {
        "schema": 1, "command": command, "settings": asdict(settings), "real": real, "left_out": left_out,
        "implementations": {name: {"summary": r.summary, "exact": r.exact} for name, r in RIVALS.items()},
        "sizes": [{k: v for k, v in size.items() if k not in ("hardware", "torch")} for size in sizes],
        "summary": summarise(measurements), "exactness": exact, "flat": flat, "measurements": measurements,
        "code": code_version(), "packages": package_versions() | _others(), "hardware": sizes[0]["hardware"] | {"threads": usable_cores()},
    }  # fmt: skip


def _say(progress: Progress, task: TaskID, what: str) -> None:
    """What runs now: in the bar, or a line of a log."""
    progress.update(task, description=what)
    if progress.disable:
        progress.console.print(what, highlight=False)


def _others() -> dict[str, str]:
    found = {}
    for name in ("trl", "liger-kernel", "triton"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _checked(found: Record, what: str) -> Record:
    if "error" in found:
        raise ConfigError(f"{what}: {found['error']}")
    return found


def _collect(settings: Settings, folder: Path, progress: Progress) -> Record:
    """The file of real rows: what is there already, or written now. Its description lies beside it."""
    assert settings.real is not None
    place = settings.real.tensors or folder / "rows.safetensors"
    beside = place.with_name(place.name + ".json")
    spec = {**asdict(settings.real), "tensors": str(place), "rows": max(settings.rows), "device": settings.device, "seed": settings.seed}
    if place.exists() and beside.exists():
        found: Record = json.loads(beside.read_text())
        same = ("student", "teacher", "teacher_dtype", "prompts")
        if any(found[name] != spec[name] for name in same) or found["rows"] < spec["rows"]:
            raise ConfigError(f"--tensors {place}: has {found['rows']} rows of {found['student']} and {found['teacher']}; remove it")
        return found
    task = progress.add_task("", total=1)
    _say(progress, task, "rollouts and hidden rows of the real models")
    found = _checked(fresh(spec, "real"), "real rows")
    progress.advance(task)
    beside.write_text(json.dumps(found, indent=1))
    return found


def _sizes(settings: Settings, base: Record, progress: Progress) -> list[Record]:
    """Every vocabulary with every number of rows; the scale of the random heads is found once a vocabulary."""
    found = []
    task = progress.add_task("scale of the random heads", total=None)
    for vocabulary in settings.vocabulary[:1] if settings.real else settings.vocabulary:  # real heads have their own
        spec = {**base, "vocabulary": vocabulary, "rows": max(settings.rows), "width": settings.width, "teacher_width": settings.wide}
        calibrated = _checked(fresh({**spec, "measure": "calibrate"}), f"vocabulary {vocabulary}")
        found += [{**calibrated, "rows": rows} for rows in settings.rows]
    progress.update(task, total=1, completed=1)
    return found


def _shape(size: Record) -> Record:
    return {name: size[name] for name in ("vocabulary", "rows", "width", "teacher_width", "scale")}


def _rounds(settings: Settings, entries: list[Entry], sizes: list[Record], base: Record, progress: Progress) -> list[Record]:
    """Every implementation once a round, starting with another one each time."""
    task, found = progress.add_task("", total=len(sizes) * settings.rounds * len(entries)), []
    for size in sizes:
        failed: set[str] = set()
        for turn in range(settings.rounds):
            first = turn % len(entries)
            for entry in entries[first:] + entries[:first]:
                _say(progress, task, f"V={size['vocabulary']:,} N={size['rows']:,} round {turn + 1}: {entry.label}")
                if entry.label not in failed:
                    spec = {**base, **_shape(size), "implementation": entry.name, "budget": entry.budget, "measure": "speed"}
                    there = entry.fits(size["vocabulary"], size["rows"], _available(settings.device))
                    result = fresh(spec) if there else {"error": "does not fit"}
                    if "error" in result:
                        failed.add(entry.label)
                    found.append({"entry": entry.label, "budget": entry.budget, **_shape(size), "round": turn, **result})
                progress.advance(task)
    return found


def _available(device: str) -> int:
    """Bytes that a new process can have: of the first GPU, by its driver, else of the machine."""
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
        with suppress(OSError, subprocess.CalledProcessError):
            return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]) * 2**20
        return 2**63
    import psutil

    return int(psutil.virtual_memory().available)


def _exactness(settings: Settings, entries: list[Entry], sizes: list[Record], base: Record, progress: Progress) -> list[Record]:
    """Of each implementation that computes the same objective, once a vocabulary, on 64 rows of width 256 (real ones: their width)."""
    by_vocabulary = {size["vocabulary"]: size for size in sizes}
    entries = [entry for entry in entries if entry.rival.exact]
    task = progress.add_task("", total=len(by_vocabulary) * len(entries))
    small = {"rows": EXACT_ROWS} | ({} if settings.real else {"width": EXACT_WIDTH, "teacher_width": 2 * EXACT_WIDTH})
    found = []
    for vocabulary, size in by_vocabulary.items():
        for entry in entries:
            _say(progress, task, f"V={vocabulary:,} exactness: {entry.label}")
            spec = {**base, **_shape(size), **small, "implementation": entry.name, "budget": entry.budget, "measure": "exactness"}
            found.append({"entry": entry.label, "vocabulary": vocabulary, **fresh(spec)})
            progress.advance(task)
    return found


def _flat(settings: Settings, base: Record, progress: Progress) -> list[Record]:
    """selbench on all rows at growing numbers of them: bytes beyond inputs and gradients, milliseconds, one run each."""
    if not settings.flat:
        return []
    task = progress.add_task("", total=len(settings.flat))
    spec = {**base, "vocabulary": settings.flat_vocabulary, "width": settings.width, "teacher_width": settings.wide, "tensors": None}
    spec["scale"] = _checked(fresh({**spec, "rows": EXACT_ROWS, "measure": "calibrate"}), "--flat")["scale"]
    found = []
    for rows in settings.flat:
        _say(progress, task, f"flat: V={settings.flat_vocabulary:,} N={rows:,}")
        result = fresh({**spec, "rows": rows, "implementation": "selbench", "measure": "speed"})
        found.append({"entry": "selbench", "vocabulary": settings.flat_vocabulary, "rows": rows, **result})
        progress.advance(task)
    return found


def summarise(measurements: list[Record]) -> list[Record]:
    """One record a size and entry: ms median and range, ratios within rounds (medians), largest peak bytes; or its error.

    to_dense: own ms over that of `dense` on all rows. to_best: over that of the fastest other exact library on all rows, by its median.
    """
    found = []
    sizes = dict.fromkeys((m["vocabulary"], m["rows"]) for m in measurements)
    for vocabulary, rows in sizes:
        here = [m for m in measurements if (m["vocabulary"], m["rows"]) == (vocabulary, rows)]
        times: dict[str, dict[int, float]] = {}
        for m in here:
            if "ms" in m:
                times.setdefault(m["entry"], {})[m["round"]] = m["ms"]
        others = [name for name in times if name in RIVALS and RIVALS[name].exact and not Entry(name).is_ours]
        best = min(others, key=lambda name: statistics.median(times[name].values()), default=None)
        for label, budget in dict.fromkeys((m["entry"], m["budget"]) for m in here):
            own = [m for m in here if m["entry"] == label]
            record = {"vocabulary": vocabulary, "rows": rows, "entry": label, "budget": budget}
            error = next((m["error"] for m in own if "error" in m), None)
            if error is not None:
                found.append({**record, "error": error})
                continue
            ms = list(times[label].values())
            found.append({
                **record, "ms": statistics.median(ms), "ms_least": min(ms), "ms_most": max(ms), "rounds": len(ms),
                "to_dense": _ratio(times[label], times.get("dense")), "to_best": _ratio(times[label], times.get(best or "")), "best": best,
                "peak_bytes": max(m["peak_bytes"] for m in own), "loss": own[0]["loss"], "kept": own[0]["kept"],
            })  # fmt: skip
    return found


def _ratio(own: dict[int, float], other: dict[int, float] | None) -> float | None:
    """Median over the rounds that both have."""
    both = [own[turn] / other[turn] for turn in own if turn in other] if other else []
    return statistics.median(both) if both else None
