"""`selbench replay`: a finished cell is run again from its own settings, and the two executions are compared.

"bit-equal": all that came out is the same, to the last bit. "statistically equal": it is not, but the same data, weights and prompts
went in, and the answers cannot be told apart by the paired test over problems. Else "different". Either way the first difference is named.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from selbench.config import Cell, Protocol, sentence, stored_fingerprint
from selbench.errors import ConfigError, UserError
from selbench.publishing.differences import GIVEN, Level, first_difference, given, outcome
from selbench.records import BASE, read_json, read_table, worth
from selbench.stats import holm, paired_interval, sign_flip
from selbench.strategy import STRATEGIES
from selbench.sweep import Base, Job, fingerprint, job_folder
from selbench.task import TASKS

__all__ = ["BIT_EQUAL", "DIFFERENT", "GIVEN", "STATISTICALLY_EQUAL", "Paired", "Replay", "find_cell", "load_job", "replay"]

BIT_EQUAL, STATISTICALLY_EQUAL, DIFFERENT = "bit-equal", "statistically equal", "different"
LEVEL = 0.05  # of the paired tests, after Holm over the tasks
Runner = Callable[[Job, Path, int | None], None]  # job, root of its run folder, threads that the first execution had


@dataclass(frozen=True)
class Paired:
    """Answers of both executions on one task. points: now less before, with a 95 % interval over problems; p: sign flips, after Holm."""

    task: str
    problems: int
    points: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Replay:
    """What became of it: one of three words, the levels, the first that differs, the paired tests where answers differ."""

    cell: str
    word: str
    levels: list[Level]
    first: Level | None
    tests: list[Paired]

    def content(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}


def find_cell(place: Path) -> Path:
    """The run folder that a passport or the folder itself names. Raises ConfigError unless a finished run is there."""
    folder = place.parent if place.name == "passport.json" else place
    if lost := [name for name in ("passport.json", "config.yaml", "DONE") if not (folder / name).is_file()]:
        raise ConfigError(f"{place}: no {', '.join(lost)} there; give the passport.json of a finished cell, or its folder")
    return folder


def load_job(folder: Path) -> tuple[Job, dict[str, Any]]:
    """The job that config.yaml describes, and its content as stored. Raises ConfigError when it is none."""
    path = folder / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "strategy" in content:
            return Cell.model_validate(content), content
        protocol = Protocol.model_validate(content["protocol"])
        pairs = [pair for pair in protocol.pairs if pair.name == folder.resolve().parent.name]
        if content["role"] not in BASE or not pairs:
            raise ConfigError(f"{path}: of no cell and no untrained model of the pair {folder.resolve().parent.name}")
        return Base(protocol, pairs[0], content["role"]), content
    except ValidationError as error:
        raise ConfigError(*(f"{path}: {sentence(item)}" for item in error.errors())) from error
    except (TypeError, KeyError, ValueError, yaml.YAMLError) as error:
        if isinstance(error, UserError):
            raise
        raise ConfigError(f"{path}: not the settings of a run ({' '.join(str(error).split())})") from error


def replay(folder: Path, root: Path, run: Runner) -> Replay:
    """Run the cell of `folder` again below `root` and compare.

    Where the settings are not those that the passport or DONE was written for there is nothing to repeat, and nothing runs. Raises
    UserError when the second execution fails.
    """
    job, content = load_job(folder)
    passport = read_json(folder / "passport.json")
    trained = isinstance(job, Cell)
    edited = _config(folder, job, content, passport)
    if edited.same is False:
        return Replay(job.folder, DIFFERENT, [edited], edited, [])
    again = job_folder(job, root)
    if again.exists():
        raise ConfigError(f"{again}: is there already; choose another --output")
    again.mkdir(parents=True)
    if (folder / "execution.json").exists():  # micro-batches and chunks as before: other ones round otherwise
        shutil.copyfile(folder / "execution.json", again / "execution.json")
    run(job, root, (passport.get("hardware") or {}).get("threads"))
    if not (again / "DONE").exists():
        reason = read_json(again / "FAILED.json")["error"] if (again / "FAILED.json").exists() else "it left no record"
        raise UserError(f"{folder}: could not be run again: {reason}")
    levels = [edited, *given(passport, read_json(again / "passport.json")), *outcome(folder, again, job.protocol.tasks, trained)]
    results = [level for level in levels if level.name not in (*GIVEN, "code", "packages", "machine")]
    tests: list[Paired] = []
    if any(level.same is False for level in levels if level.name in GIVEN):
        word = DIFFERENT
    elif all(level.same is not False for level in results):
        word = BIT_EQUAL
    else:
        tests = paired(folder, again, job.protocol.tasks)
        word = STATISTICALLY_EQUAL if tests and all(test.p > LEVEL for test in tests) else DIFFERENT
    return Replay(job.folder, word, levels, first_difference(levels), tests)


def _config(folder: Path, job: Job, content: dict[str, Any], passport: dict[str, Any]) -> Level:
    """Whether config.yaml still says what was run, as far as the passport and DONE tell."""
    texts = []
    stored = stored_fingerprint(content["protocol"])
    if stored != passport.get("protocol_fingerprint"):
        texts.append(f"the protocol in config.yaml is {stored[:12]}, in passport.json {str(passport.get('protocol_fingerprint'))[:12]}")
    if passport.get("seed") != content.get("seed"):
        texts.append(f"seed {content.get('seed')} in config.yaml, {passport.get('seed')} in passport.json")
    if isinstance(job, Cell) and (here := STRATEGIES.get(job.strategy).version) != job.version:
        texts.append(f"{job.strategy} is version {here} here, the cell is of version {job.version}")
    done, same_keys = read_json(folder / "DONE"), job.protocol.model_dump(mode="json").keys() == content["protocol"].keys()
    told = {name: (facts or {}).get("version") for name, facts in (passport.get("tasks") or {}).items()}
    same_tasks = all(told.get(name) == TASKS.get(name).version for name in job.protocol.tasks)
    if not texts and same_keys and same_tasks and job.protocol.fingerprint() == stored and done.get("job") != fingerprint(job):
        texts.append("strategy, budget, pair, tasks or evaluation in config.yaml are not those that DONE was written for")
    return Level("config", not texts, "; ".join(texts))


def paired(before: Path, now: Path, tasks: Sequence[str]) -> list[Paired]:
    """The answers of both, problem by problem; empty where they are not on the same problems and samples."""
    found: list[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    for task in tasks:
        shares = []
        for side in (before, now):
            rows = read_table(side / "eval" / task / "samples.parquet")
            shares.append(worth(rows).groupby(rows["problem"]).agg(["mean", "size"]))
        if not shares[0].index.equals(shares[1].index) or (shares[0]["size"] != shares[1]["size"]).any():
            return []
        found.append((task, shares[1]["mean"].to_numpy(float), shares[0]["mean"].to_numpy(float)))
    adjusted = holm([float(sign_flip(ours - theirs)) for _, ours, theirs in found])
    tests = []
    for (task, ours, theirs), p in zip(found, adjusted, strict=True):
        interval = paired_interval(ours[None], theirs[None])
        tests.append(Paired(task, len(ours), 100 * interval.mean, 100 * interval.low, 100 * interval.high, float(p)))
    return tests
