"""The contract for evaluation tasks: an ordinary lm-eval YAML, a small module that loads its rows, one grader for all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError
from selbench.registry import Registry, caller

if TYPE_CHECKING:
    from datasets import DatasetDict

__all__ = ["MIRROR", "TASKS", "Task", "keep_all", "load_rows", "register_task", "row_hash", "share_correct", "test_split"]

MIRROR = "SELBENCH_DATA"  # environment variable: a folder that holds the benchmarks as files, used instead of the hub
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Task:
    """A registered benchmark. `rows()` gives dicts with `id`, `problem` and `answer`, in a fixed order."""

    name: str
    version: int
    rows: Callable[[], Rows]
    yaml: Path
    lm_eval_name: str
    samples: int
    source: str
    file: str = field(default="<unknown>", compare=False)


TASKS: Registry[Task] = Registry("task", "tasks")


def register_task(name: str, *, version: int, source: str, samples: int = 1) -> Callable[[Callable[[], Rows]], Callable[[], Rows]]:
    """Register a function `() -> rows` as a task; the lm-eval YAML `<name>.yaml`, task `selbench_<name>`, stands beside it.

    Args:
        name: unique id. version: rises whenever a change may move a score. source: dataset id or paper.
        samples: answers per problem unless the protocol says otherwise.
    """

    def register(function: Callable[[], Rows]) -> Callable[[], Rows]:
        file = caller(function)
        TASKS.add(Task(name, version, function, Path(file).with_name(f"{name}.yaml"), f"selbench_{name}", samples, source, file))
        return function

    return register


def load_rows(hub_id: str, *, config: str | None, split: str, mirror: str, rows: int) -> list[dict[str, Any]]:
    """Rows of a benchmark from the hub, or from `$SELBENCH_DATA/<mirror>` (JSON lines) where that is set.

    Raises ConfigError when they cannot be had or are not `rows` in number: a benchmark never shrinks silently.
    """
    folder = os.environ.get(MIRROR)
    if folder:
        path = Path(folder) / mirror
        if not path.is_file():
            raise ConfigError(f"{MIRROR}={folder}: no {mirror} there; point it at a folder with that layout or unset it to use {hub_id}")
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    else:
        from datasets import load_dataset

        try:
            found = [dict(row) for row in load_dataset(hub_id, config, split=split)]
        except Exception as error:  # datasets, hub and network raise dozens of types
            reason = str(error).splitlines()[0]
            raise ConfigError(f"dataset {hub_id}: not reachable ({reason}); set {MIRROR} to a local mirror holding {mirror}") from error
    if len(found) != rows:
        raise ConfigError(f"dataset {hub_id}: {len(found)} rows, expected {rows}; the file is incomplete or another release")
    return found


def row_hash(rows: Rows) -> str:
    """SHA-256 of (id, problem, answer) of all rows in order: what was evaluated, whatever file it came from."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["id"], row["problem"], row["answer"]], ensure_ascii=True).encode())
    return digest.hexdigest()


def keep_all(responses: list[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
    """lm-eval filter: hand all samples of a problem to `process_results`, where its default keeps the first alone."""
    return [list(response) for response in responses]


def test_split(rows: Rows) -> DatasetDict:
    """Rows as the one split that lm-eval reads."""
    from datasets import Dataset, DatasetDict

    return DatasetDict({"test": Dataset.from_list(rows)})


def share_correct(doc: dict[str, str], results: list[list[str]]) -> dict[str, float]:
    """lm-eval `process_results`: share of a problem's samples that the shared grader calls correct."""
    from selbench.grading import grade

    verdicts = [grade(response, doc["answer"]).verdict for response in results[0]]
    return {"acc": verdicts.count("correct") / len(verdicts)}
