"""The contract for evaluation tasks: an ordinary lm-eval YAML, a small module that loads its rows, one grader for all.

A benchmark is pinned by content: the number of its rows and a hash of (id, problem, answer), asserted at load wherever the
rows come from; the revision of the hub that served them is looked up and recorded, and stays None where it cannot be had.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError
from selbench.registry import Registry, caller
from selbench.templates import template_text

if TYPE_CHECKING:
    from datasets import DatasetDict

__all__ = [
    "MIRROR",
    "TASKS",
    "Benchmark",
    "Task",
    "boxed",
    "hub_revision",
    "keep_all",
    "register_task",
    "row_hash",
    "share_correct",
    "test_split",
]

MIRROR = "SELBENCH_DATA"  # environment variable: a folder that holds the benchmarks as files, used instead of the hub
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Benchmark:
    """Where a task's rows come from: a split of a hub data set, or the JSON-lines file `mirror` below `$SELBENCH_DATA`."""

    hub_id: str
    split: str
    mirror: str
    rows: int
    config: str | None = None
    fields: tuple[str, ...] = ()

    def load(self) -> list[dict[str, Any]]:
        """The rows as they are published. Raises ConfigError when they cannot be had, are not `rows` in number or lack a field."""
        folder = os.environ.get(MIRROR)
        found = self._local(Path(folder).expanduser()) if folder else self._hub()
        if len(found) != self.rows:
            raise ConfigError(f"dataset {self.hub_id}: {len(found)} rows, expected {self.rows}; the file is incomplete or another release")
        for number, row in enumerate(found):
            if lost := [name for name in self.fields if row.get(name) in (None, "")]:
                raise ConfigError(f"dataset {self.hub_id}: row {number} has no {lost[0]!r}; columns there: {', '.join(sorted(row))}")
        return found

    def _local(self, folder: Path) -> list[dict[str, Any]]:
        path = folder / self.mirror
        if not path.is_file():
            raise ConfigError(
                f"{MIRROR}={folder}: no {self.mirror} there; point it at a folder with that layout or unset it to use {self.hub_id}"
            )
        lines = path.read_text(encoding="utf-8").split("\n")
        try:
            return [json.loads(line) for line in lines if line]
        except ValueError as error:
            raise ConfigError(f"{path}: not JSON lines ({error}); fetch it again") from error

    def _hub(self) -> list[dict[str, Any]]:
        from datasets import load_dataset

        try:
            return [dict(row) for row in load_dataset(self.hub_id, self.config, split=self.split, revision=self.revision())]
        except Exception as error:  # datasets, hub and network raise dozens of types
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"dataset {self.hub_id}: not reachable ({reason}); set {MIRROR} to a folder holding {self.mirror}") from error

    def revision(self) -> str | None:
        """The hub's commit of the data set now, or None where the hub cannot be asked: never guessed."""
        return None if os.environ.get(MIRROR) else hub_revision(self.hub_id)

    def origin(self) -> dict[str, str | None]:
        """What a record says of the rows' origin: hub id and commit, or the SHA-256 of the mirrored file."""
        folder = os.environ.get(MIRROR)
        path = Path(folder).expanduser() / self.mirror if folder else None
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else None
        return {"hub_id": self.hub_id, "revision": self.revision(), "mirror_sha256": digest}


@cache
def hub_revision(hub_id: str) -> str | None:
    """The hub's current commit of a data set; None when it cannot be looked up (offline, gone, gated)."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(hub_id, timeout=10).sha
    except Exception:  # hub, HTTP client and network raise dozens of types; what cannot be looked up is not guessed
        return None


@dataclass(frozen=True)
class Task:
    """A registered benchmark. `load()` gives dicts with `id`, `problem` and `answer`, in a fixed order, checked against `sha256`."""

    name: str
    version: int
    rows: Callable[[], Rows]
    yaml: Path
    lm_eval_name: str
    samples: int
    source: str
    data: Benchmark | None = None
    sha256: str | None = None
    file: str = field(default="<unknown>", compare=False)

    def load(self) -> Rows:
        """The problems. Raises ConfigError when they are not those that this version of the task was published with."""
        rows = self.rows()
        found = row_hash(rows)
        if self.sha256 is not None and found != self.sha256:
            raise ConfigError(
                f"task {self.name}: its {len(rows)} rows are not those of version {self.version} (content hash {found[:12]}, expected "
                f"{self.sha256[:12]}); another release of {self.source}: use the pinned one, or register it under another name"
            )
        return rows


TASKS: Registry[Task] = Registry("task", "tasks")


def register_task(
    name: str, *, version: int, source: str, samples: int = 1, data: Benchmark | None = None, sha256: str | None = None
) -> Callable[[Callable[[], Rows]], Callable[[], Rows]]:
    """Register a function `() -> rows` as a task; the lm-eval YAML `<name>.yaml`, task `selbench_<name>`, stands beside it.

    Args:
        name: unique id. version: rises whenever a change may move a score. source: dataset id or paper.
        samples: answers per problem unless the protocol says otherwise.
        data: where the rows come from, so that their revision is recorded. sha256: `row_hash` of the rows, asserted at load.
    """

    def register(function: Callable[[], Rows]) -> Callable[[], Rows]:
        file = caller(function)
        yaml = Path(file).with_name(f"{name}.yaml")
        TASKS.add(Task(name, version, function, yaml, f"selbench_{name}", samples, source, data, sha256, file))
        return function

    return register


def row_hash(rows: Rows) -> str:
    """SHA-256 of (id, problem, answer) of all rows in order, white space collapsed: what was evaluated, whatever file it came from."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([" ".join(row[name].split()) for name in ("id", "problem", "answer")], ensure_ascii=True).encode())
    return digest.hexdigest()


def keep_all(responses: list[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
    """lm-eval filter: hand all samples of a problem to `process_results`, where its default keeps the first alone."""
    return [list(response) for response in responses]


def test_split(rows: Rows) -> DatasetDict:
    """Rows as the one split that lm-eval reads."""
    from datasets import Dataset, DatasetDict

    return DatasetDict({"test": Dataset.from_list(rows)})


def boxed(doc: dict[str, str]) -> str:
    """lm-eval `doc_to_text` of the mathematics tasks under stock lm-eval; selbench's own evaluator uses the protocol's template."""
    return template_text("boxed-qwen").replace("{problem}", doc["problem"])


def share_correct(doc: dict[str, str], results: list[list[str]]) -> dict[str, float]:
    """lm-eval `process_results`: share of a problem's samples that the shared grader calls correct."""
    from selbench.grading import grade

    verdicts = [grade(response, doc["answer"]).verdict for response in results[0]]
    return {"acc": verdicts.count("correct") / len(verdicts)}
