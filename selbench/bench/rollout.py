"""Rollout engines side by side: tokens per second, seconds until a first token, of a weight sync, memory; and that all answer alike.

Each measurement has a process of its own; the order of the systems is another one in each round, ratios are taken within a round. A
system that would exceed the limit, or fails, keeps its place in the table, with the reason below.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selbench.bench.rollout_systems import SYSTEMS
from selbench.errors import ConfigError, UserError, nearest
from selbench.provenance import hardware, package_versions, usable_cores
from selbench.seeding import derive

__all__ = ["EMBEDDED_PROMPTS", "Settings", "agreement", "fresh", "measure", "spoken", "summarise"]

EMBEDDED_PROMPTS = "selbench:tiny/prompts.jsonl"
DTYPES, DEVICES = ("float32", "bfloat16"), ("cpu", "cuda")
STARTING = 600.0  # seconds that a process may take for all that is not measured; then it is killed
PLAIN = ("tokens_per_second", "startup_seconds", "import_seconds", "first_token_seconds", "sync_seconds", "check_seconds")

Record = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What is measured. batch, tokens: sizes, crossed; limit: seconds of one timed run; natural: end tokens end a response.

    model: hub id or folder, None the embedded student; threads: None as many as there are cores. Raises ConfigError.
    """

    model: str | None = None
    batch: tuple[int, ...] = (1, 32, 256)
    tokens: tuple[int, ...] = (128, 1024)
    only: tuple[str, ...] | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    rounds: int = 3
    seed: int = 0
    natural: bool = False
    limit: float = 300.0
    prompts: str = EMBEDDED_PROMPTS

    def __post_init__(self) -> None:
        problems = [f"bench rollout: no system {name!r}: {nearest(name, SYSTEMS)}" for name in self.only or () if name not in SYSTEMS]
        for option, value, known in (("dtype", self.dtype, DTYPES), ("device", self.device, DEVICES)):
            if value not in known:
                problems.append(f"bench rollout: --{option} {value!r}: {nearest(value, known)}")
        for option, values in (("batch", self.batch), ("tokens", self.tokens)):
            if not values or min(values) < 1:
                problems.append(f"bench rollout: --{option}: sizes of 1 and more, separated by commas")
        if problems:
            raise ConfigError(*problems)

    def spec(self) -> Record:
        """What every process is told; paths included, which no record keeps."""
        from selbench.models import PAIRS

        return {
            "model": self.model or PAIRS.get("tiny").student, "dtype": self.dtype, "device": self.device, "seed": self.seed,
            "threads": self.threads or usable_cores(), "natural": self.natural, "limit": self.limit, "prompts": self.prompts,
        }  # fmt: skip


def present(settings: Settings) -> tuple[list[str], list[str]]:
    """The systems that are measured, and a line for each that is left out. Raises ConfigError where one was asked for by name."""
    from selbench.rollout.choose import engine_problems

    if settings.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("bench rollout: --device cuda: there is no GPU here; use --device cpu")
    problems = engine_problems("vllm")
    if problems and "vllm" in (settings.only or ()):
        raise ConfigError(*problems)
    return [name for name in settings.only or SYSTEMS if name != "vllm" or not problems], [] if settings.only else problems


def fresh(spec: Record) -> Record:
    """One measurement in a new process: its numbers, {"skipped": reason} or {"error": reason}."""
    threads = str(spec["threads"])
    quiet = {"TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "spec.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(spec))
        command = [sys.executable, "-m", "selbench.bench.rollout_child", str(asked), str(answer)]
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
        environment = {**quiet, **os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": path}
        most = STARTING + 2 * spec["limit"]
        try:
            done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=most)
        except subprocess.TimeoutExpired:
            return {"skipped": f"killed after {most:.0f} s, start and warm-up included"}
        if answer.exists():
            found: Record = json.loads(answer.read_text())
            return found
    if done.returncode in (-9, 137):
        return {"error": "killed: out of memory"}
    if done.returncode < 0:
        return {"error": f"ended by signal {-done.returncode}"}
    return {"error": next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")}


def measure(settings: Settings, *, quiet: bool = False) -> Record:
    """All of it: {"settings", "measurements", "summary", "answers", "left_out", …}. quiet: no bar, no line a measurement.

    Raises ConfigError where a system that was named is not installed, UserError where none runs.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from selbench.sources import identity

    names, left_out = present(settings)
    spec = settings.spec()
    model = identity(spec["model"])
    sizes = [(batch, tokens) for tokens in settings.tokens for batch in settings.batch]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    records: list[Record] = []
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("", total=len(names) * (1 + settings.rounds * len(sizes)))

        def ran(name: str, **more: Any) -> Record:
            what = " ".join([name, *(f"{k} {v}" if k != "measure" else str(v) for k, v in more.items())])
            progress.update(task, description=what)
            draws = derive(settings.seed, more.get("round", 0), "bench rollout")
            found = fresh({**spec, "system": name, "draws": draws, "batch": 1, "tokens": max(settings.tokens), **more})
            progress.advance(task)
            if not quiet:  # hours may pass before the table
                rate = f"{found['tokens_per_second']:,.0f} tokens/s" if "seconds" in found else "compared"
                console.print(f"{what}: {found.get('error') or found.get('skipped') or rate}", highlight=False, markup=False)
            return found

        compared = {name: ran(name, measure="answers") for name in names}
        failed = [each["error"] for each in compared.values() if "error" in each]
        if len(failed) == len(names):
            raise UserError(f"bench rollout: no system runs: {failed[0]}")
        for turn in range(settings.rounds):
            for batch, tokens in sizes:
                order = sorted(names, key=lambda name: derive(settings.seed, turn, f"bench rollout {batch} {tokens} {name}"))
                for name in order:
                    size = {"batch": batch, "tokens": tokens}
                    before = given_up(records, name, batch, tokens)
                    found = before or ran(name, measure="speed", round=turn, **size)
                    records.append({"system": name, **size, "round": turn, **found})
    source = spec["prompts"]
    known = {**spec, "model": model, "prompts": Path(source).name if os.path.isabs(source) else source}
    return {
        "schema": 1, "settings": {**asdict(settings), **known, "only": names}, "left_out": left_out, "answers": agreement(compared),
        "summary": summarise(records), "measurements": records, "packages": package_versions(), "hardware": hardware(),
    }  # fmt: skip


def given_up(records: list[Record], name: str, batch: int, tokens: int) -> Record | None:
    """What an earlier process said that makes another one useless: over the limit here, or too long for any system."""
    for each in records:
        if (each["batch"], each["tokens"]) == (batch, tokens) and "skipped" in each and (each["system"] == name or each.get("for_all")):
            return {"skipped": each["skipped"], "for_all": each.get("for_all", False)}
    return None


def summarise(records: list[Record]) -> list[Record]:
    """For every size and system: medians over the rounds, range of the rate, ratio to the best other one; or why there is none."""
    found: list[Record] = []
    for batch, tokens in dict.fromkeys((each["batch"], each["tokens"]) for each in records):
        here = [each for each in records if (each["batch"], each["tokens"]) == (batch, tokens)]
        rates = {
            name: {each["round"]: each["tokens_per_second"] for each in here if each["system"] == name and "seconds" in each}
            for name in dict.fromkeys(each["system"] for each in here)
        }
        for name, own in rates.items():
            runs = [each for each in here if each["system"] == name]
            good = [each for each in runs if "seconds" in each]
            row = {"batch": batch, "tokens": tokens, "system": name, "runs": len(good), "rounds": len(runs)}
            row["failed"] = list(dict.fromkeys(each.get("error") or each["skipped"] for each in runs if "seconds" not in each))
            if good:
                row |= {key: statistics.median(each[key] for each in good) for key in PLAIN}
                row |= {"low": min(own.values()), "high": max(own.values()), "generated": sum(sum(each["generated"]) for each in good)}
                row |= {key: max(each[key] for each in good) for key in ("peak_bytes", "beyond_bytes")}
                others = {other: statistics.median(values.values()) for other, values in rates.items() if other != name and values}
                best = max(others, key=lambda other: others[other], default=None)
                shared = own.keys() & rates[best].keys() if best else ()
                row |= {
                    "best_other": best,
                    "to_best": statistics.median(own[n] / rates[best][n] for n in shared) if best and shared else None,
                }
            found.append(row)
    return found


def agreement(compared: dict[str, Record]) -> dict[str, Record]:
    """Of each system: how many greedy responses are token for token the first system's, where the others part, and the gap."""
    base = next((each["responses"] for each in compared.values() if "responses" in each), None)
    found = {}
    for name, each in compared.items():
        kept = {
            key: each[key] for key in ("error", "skipped", "flaw", "gap_mean", "gap_largest", "gap_tokens") if each.get(key) is not None
        }
        if "responses" in each and base is not None:
            pairs = list(zip(base, each["responses"], strict=False))
            parts = [
                next((t for t, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))) for a, b in pairs if a != b
            ]
            kept |= {"asked": len(base), "equal": sum(a == b for a, b in pairs), "tokens": len(base[0]), "parts_at": parts}
        found[name] = kept
    return found


def spoken(arguments: list[str]) -> str:
    """The command that repeats a run, without the paths of one machine: of an absolute path the last part."""
    return shlex.join(["selbench", *(Path(word).name if os.path.isabs(word) else word for word in arguments)])
