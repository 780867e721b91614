"""The contract for evaluation tasks: an ordinary lm-eval YAML, a small module that loads its rows, one grader for all.

A benchmark is pinned by content: the number of its rows and a hash of (id, problem, answer), asserted at load wherever the
rows come from; the revision of the hub that served them is looked up and recorded, and stays None where it cannot be had.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.environment import Arena
from selbench.errors import ConfigError, nearest
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
    "check_yaml",
    "hub_revision",
    "keep_all",
    "lm_eval_name",
    "pools_of",
    "register_arena",
    "register_task",
    "row_hash",
    "share_correct",
    "test_split",
]

MIRROR = "SELBENCH_DATA"  # environment variable: a folder that holds the benchmarks as files, used instead of the hub
UNHEARD = ("description", "num_fewshot", "gen_prefix")  # of a YAML: the renderer alone writes the prompt
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
            raise ConfigError(f"{self.place()}: {len(found)} rows, expected {self.rows}: incomplete or another release; {self._again()}")
        for number, row in enumerate(found):
            if lost := [name for name in self.fields if not isinstance(row.get(name), str | int) or row[name] == ""]:
                raise ConfigError(
                    f"{self.place()}: row {number} has no {lost[0]!r}; columns there: {', '.join(sorted(row))}; {self._again()}"
                )
        return found

    def place(self) -> str:
        """Where the rows are read from now, as a message names it: the mirrored file, or the hub's data set."""
        folder = os.environ.get(MIRROR)
        return str(Path(folder).expanduser() / self.mirror) if folder else f"dataset {self.hub_id}"

    def _again(self) -> str:
        return f"fetch the rows of {self.hub_id} again" if os.environ.get(MIRROR) else f"set {MIRROR} to a folder with the pinned rows"

    def _local(self, folder: Path) -> list[dict[str, Any]]:
        path = folder / self.mirror
        if not path.is_file():
            raise ConfigError(
                f"{MIRROR}={folder}: no {self.mirror} there; point it at a folder with that layout or unset it to use {self.hub_id}"
            )
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not readable as text ({error}); {self._again()}") from error
        return [self._row(path, number, line) for number, line in enumerate(lines, 1) if line]

    def _row(self, path: Path, number: int, line: str) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}: line {number} is not JSON ({error}); {self._again()}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}: line {number} is not a JSON object; {self._again()}")
        return row

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
    """A registered benchmark. `load()` gives dicts with `id`, `problem` and `answer`, in a fixed order, checked against `sha256`.

    arena: of a task that is answered by acting, where a YAML for lm-eval has no place.
    """

    name: str
    version: int
    rows: Callable[[], Rows]
    yaml: Path
    lm_eval_name: str
    samples: int
    source: str
    data: Benchmark | None = None
    sha256: str | None = None
    pool: str | None = None
    file: str = field(default="<unknown>", compare=False)
    arena: Arena | None = field(default=None, compare=False)

    def load(self) -> Rows:
        """The problems. Raises ConfigError when they are not those that this version of the task was published with.

        Also when lm-eval could not read the YAML: found here, before any model loads.
        """
        if self.arena is None:
            check_yaml(self.name, self.yaml, self.lm_eval_name)
        rows = self.rows()
        found = row_hash(rows)
        if self.sha256 is not None and found != self.sha256:
            place = self.data.place() if self.data else self.file
            raise ConfigError(
                f"task {self.name}: the {len(rows)} rows of {place} are not those of version {self.version} (content hash {found[:12]}, "
                f"expected {self.sha256[:12]}); use the release of {self.source} that it pins, or register this one under another name"
            )
        return rows

    def facts(self) -> dict[str, Any]:
        """What a passport says of the task: its version, the hash of its rows, where they came from."""
        return {
            "version": self.version, "rows_sha256": row_hash(self.load()), "origin": self.data.origin() if self.data else None,
        }  # fmt: skip


TASKS: Registry[Task] = Registry("task", "tasks")


def register_task(
    name: str, *, version: int, source: str, samples: int = 1, data: Benchmark | None = None, sha256: str | None = None,
    pool: str | None = None,
) -> Callable[[Callable[[], Rows]], Callable[[], Rows]]:  # fmt: skip
    """Register a function `() -> rows` as a task; the lm-eval YAML `<name>.yaml`, task `selbench_<name>`, stands beside it.

    Args:
        name: unique id. version: rises whenever a change may move a score. source: dataset id or paper.
        samples: answers per problem unless the protocol says otherwise.
        data: where the rows come from, so that their revision is recorded. sha256: `row_hash` of the rows, asserted at load.
        pool: the leaderboard also judges all tasks of the same pool as one, over the union of their problems.
    """

    def register(function: Callable[[], Rows]) -> Callable[[], Rows]:
        file = caller(function)
        yaml = Path(file).with_name(f"{name}.yaml")
        TASKS.add(Task(name, version, function, yaml, lm_eval_name(name), samples, source, data, sha256, pool, file))
        return function

    return register


def lm_eval_name(name: str) -> str:
    """What lm-eval calls a task of this name."""
    return f"selbench_{name}"


def pools_of(names: Iterable[str]) -> dict[str, list[str]]:
    """The pools that have two or more of these tasks, with them. Raises ConfigError where a pool is called like a task."""
    pools: dict[str, list[str]] = {}
    for task in map(TASKS.get, names):
        if task.pool is not None:
            pools.setdefault(task.pool, []).append(task.name)
    for pool, members in pools.items():
        if pool in TASKS:
            raise ConfigError(f"task {members[0]}: its pool {pool!r} is the name of a task; give the pool another name")
    return {pool: members for pool, members in pools.items() if len(members) > 1}


def register_arena(
    name: str, *, version: int, source: str, samples: int = 1, sha256: str | None = None, **given: Any
) -> Callable[[type[Arena]], type[Arena]]:
    """Register a class of worlds to act in as a task; `given` are its arguments. See `register_task`."""

    def register(kind: type[Arena]) -> type[Arena]:
        file, arena = inspect.getsourcefile(kind) or "<unknown>", kind(**given)
        TASKS.add(Task(name, version, arena.rows, Path(file), "", samples, source, None, sha256, file=file, arena=arena))
        return kind

    return register


def check_yaml(name: str, path: Path, lm_eval_name: str) -> None:
    """Raises ConfigError when the YAML of task `name` cannot be read, has a key that lm-eval lacks or that selbench would not obey."""
    import yaml
    from lm_eval.config.task import TaskConfig

    class Loader(yaml.SafeLoader):
        """Takes `!function` for a text."""

    Loader.add_constructor("!function", lambda loader, node: str(node.value))
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"task {name}: {path} is not readable as YAML ({' '.join(str(error).split())})") from error
    given = content if isinstance(content, dict) else {}
    if given.get("task") != lm_eval_name:
        raise ConfigError(f"task {name}: {path} names the task {given.get('task')!r}, expected {lm_eval_name!r}")
    known = [field.name for field in fields(TaskConfig)]
    for key in given:
        if key not in known and key != "include":
            raise ConfigError(f"task {name}: unknown key {key!r} in {path}: {nearest(str(key), known)}")
        if key in UNHEARD and given[key]:
            raise ConfigError(f"task {name}: {path} sets {key!r}, and its prompts would differ from training's; remove it, see --prompt")


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
