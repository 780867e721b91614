"""Where training prompts come from: a JSON-lines file, a file inside the package, or a hub data set (or its local mirror)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from selbench.environment import Environment
from selbench.errors import ConfigError, nearest
from selbench.task import MIRROR, TASKS, hub_revision

__all__ = ["ARENA", "KNOWN", "Prompt", "Raw", "local_file", "read_prompts"]

EMBEDDED = "selbench:"  # a file inside the package
ARENA = "arena:"  # the cases of a registered task that is acted on
COMMIT = re.compile("[0-9a-f]{40}")
PROBLEM_FIELDS, ANSWER_FIELDS = ("prompt", "problem", "question"), ("answer", "final_answer")
WRAPPERS = (  # instructions around a problem, as the data sets publish them; the protocol's template takes their place
    (
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
        "(without quotes) where $Answer is the answer to the problem.",
        'Remember to put your answer on its own line after "Answer:".',
    ),
)


@dataclass(frozen=True)
class Prompt:
    """One training problem; `answer` and the worked `solution` are None where the file has none.

    case, world: of a problem that is acted on, its name and what opens a fresh world of it; the text alone does not make it.
    """

    problem: str
    answer: str | None
    solution: str | None = None
    case: str | None = None
    world: Callable[[], Environment] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Known:
    """A hub data set with its field names. `mirror`: the same rows below `$SELBENCH_DATA`; `rows`: at least so many on the hub."""

    hub_id: str
    config: str | None
    mirror: str
    problem: str
    answer: str
    solution: str | None
    rows: int


KNOWN = (
    Known("open-r1/DAPO-Math-17k-Processed", "en", "dapo_math_17k/train.jsonl", "prompt", "solution", None, 14_116),
    Known("zwhe99/DeepMath-103K", None, "deepmath_103k/train.jsonl", "question", "final_answer", "r1_solution_1", 103_022),
    Known("openai/gsm8k", "main", "gsm8k/train.jsonl", "question", "answer", None, 7_473),
)


@dataclass(frozen=True)
class Raw:
    """All rows of a source in order. `revision`: the hub's commit, None where it is not known; `unwrapped`: wrappers taken off."""

    prompts: tuple[Prompt, ...]
    origin: str
    revision: str | None
    unwrapped: int


def read_prompts(source: str, *, solutions: bool = True) -> Raw:
    """The rows of `name.jsonl`, `selbench:<file in the package>`, `arena:<task>` or a hub data set `id[@commit][:config[:split]]`.

    A row has its problem in prompt, problem or question (text, or chat messages with one by the user), its answer in answer,
    final_answer or reward_model.ground_truth (what follows `####`, if that stands in it: the text is then the solution) and
    may have a worked solution; the data sets in KNOWN have fields of their own and are read from `$SELBENCH_DATA` where that
    holds them. `solutions` False leaves worked solutions out. Raises ConfigError naming the source and the line.
    """
    if source.startswith(ARENA):
        return _cases(source)
    path = local_file(source)
    known, wanted = _known(source)
    revision = None
    rows: Iterable[tuple[str, Any]]
    if source.startswith(EMBEDDED):
        inside = files("selbench") / source.removeprefix(EMBEDDED)
        if not inside.is_file():
            raise ConfigError(f"prompts {source}: no such file in the package; give a .jsonl file or a hub dataset id")
        origin = source
        with as_file(inside) as path:
            rows = list(_lines(path, source))
    elif path is not None:
        origin = f"{wanted.mirror} in ${MIRROR}" if wanted else path.name
        rows = _lines(path, source)
    elif source.endswith((".jsonl", ".json")):
        raise ConfigError(f"prompts {source}: no such file; give a JSON-lines file or a hub dataset id")
    else:
        rows, origin, revision = _hub_rows(source, known, wanted, solutions)
    found, unwrapped = [], 0
    for where, row in rows:
        prompt, bare = _prompt(row, where, known, solutions)
        found.append(prompt)
        unwrapped += bare
    return Raw(tuple(found), origin, revision, unwrapped)


def _cases(source: str) -> Raw:
    task = TASKS.get(source.removeprefix(ARENA))
    if task.arena is None:
        arenas = ", ".join(each.name for each in TASKS if each.arena)
        raise ConfigError(f"prompts {source}: task {task.name} is answered in one turn; tasks that are acted on: {arenas}")
    opened = [Prompt(row["problem"], None, None, row["id"], partial(task.arena.open, row["id"])) for row in task.load()]
    return Raw(tuple(opened), source, None, 0)


def local_file(source: str) -> Path | None:
    """The file on this machine that `source` is read from; None for the package's own and for what the hub has to serve."""
    path = Path(source).expanduser()
    if source.startswith((EMBEDDED, ARENA)):
        return None
    if path.is_file():
        return path
    wanted, folder = _known(source)[1], os.environ.get(MIRROR)
    mirror = Path(folder).expanduser() / wanted.mirror if wanted and folder else None
    return mirror if mirror and mirror.is_file() else None


def _parts(source: str) -> tuple[str, str | None, str | None, str | None]:
    name, *rest = source.split(":", 2)  # a split may be a slice, with a colon of its own
    hub_id, _, revision = name.partition("@")
    config, split = (*rest, "", "")[:2]
    if not hub_id or (revision and not COMMIT.fullmatch(revision)):
        raise ConfigError(f"prompts {source!r}: write a .jsonl file, or a hub dataset as id, id@<40-digit commit> or id:config:split")
    return hub_id, revision or None, config or None, split or None


def _known(source: str) -> tuple[Known | None, Known | None]:
    """The entry whose fields the rows have, and the same entry if `source` asks for just the rows that its mirror holds."""
    if source.startswith((EMBEDDED, ARENA)) or source.endswith((".jsonl", ".json")) or Path(source).expanduser().is_file():
        return None, None
    hub_id, revision, config, split = _parts(source)
    known = next((entry for entry in KNOWN if entry.hub_id == hub_id), None)
    same = known and revision is None and config in (None, known.config) and split in (None, "train")
    return known, known if same else None


def _lines(path: Path, source: str) -> Iterator[tuple[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as handle:  # a file's own lines: str.splitlines would also cut at U+2028 in a text
            for number, line in enumerate(handle, 1):
                if line.strip():
                    yield f"{source}: line {number}", json.loads(line)
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts {source}: not UTF-8 text ({error.reason}); give JSON lines, one object a line") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"prompts {source}: line {number} is not JSON ({error}); give JSON lines, one object a line") from error


def _hub_rows(source: str, known: Known | None, wanted: Known | None, solutions: bool) -> tuple[Iterator[tuple[str, Any]], str, str | None]:
    from datasets import load_dataset

    hub_id, revision, config, split = _parts(source)
    config = config or (known.config if known else None)
    commit = revision or hub_revision(hub_id)
    try:
        data = load_dataset(hub_id, config, split=split or "train", revision=commit)
    except Exception as error:  # datasets, hub and network raise dozens of types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if wanted:
            remedy = f"set {MIRROR} to a folder that holds {wanted.mirror}"
        else:
            remedy = f"known by name: {nearest(hub_id, [entry.hub_id for entry in KNOWN]).removeprefix('known: ')}"
        raise ConfigError(
            f"prompts {source}: neither a file nor a reachable hub dataset ({reason}); {remedy}, or give a .jsonl file"
        ) from error
    if wanted and len(data) < wanted.rows:
        raise ConfigError(
            f"prompts {source}: {len(data)} rows, expected {wanted.rows} or more; fetch it again, or name a release: id@commit"
        )
    unused = [c for c in data.column_names if known and c not in (known.problem, known.answer, known.solution if solutions else None)]
    rows = ((f"{source}: row {number}", row) for number, row in enumerate(data.remove_columns(unused), 1))
    return rows, ":".join([hub_id, config or "default", split or "train"]), commit


def _prompt(row: object, where: str, known: Known | None, solutions: bool) -> tuple[Prompt, bool]:
    if not isinstance(row, dict):
        raise ConfigError(f'prompts {where} is not an object; write {{"prompt": …, "answer": …}}')
    problems, answers = ((known.problem,), (known.answer,)) if known else (PROBLEM_FIELDS, ANSWER_FIELDS)
    field = next((name for name in problems if name in row), None)
    if field is None:
        raise ConfigError(
            f"prompts {where} has none of the fields {', '.join(problems)}; it has {', '.join(map(str, row)) or 'none at all'}"
        )
    problem, unwrapped = _bare(_text(row[field], where))
    answer = next((_word(row[name]) for name in answers if name in row), None)
    solution = _word(row.get((known.solution or "") if known else "solution"))
    if answer is None and isinstance(row.get("reward_model"), dict):
        answer = _word(row["reward_model"].get("ground_truth"))
        solution = None if solution == answer else solution  # some sets repeat the answer under this name
    if answer is not None and "####" in answer:
        solution, answer = solution or answer, _word(answer.rsplit("####", 1)[1])
    return Prompt(problem, answer, solution if solutions else None), unwrapped


def _text(value: object, where: str) -> str:
    if isinstance(value, list):
        asked = [m["content"] for m in value if isinstance(m, dict) and m.get("role") == "user" and isinstance(m.get("content"), str)]
        if len(asked) != 1:
            raise ConfigError(f"prompts {where}: {len(asked)} messages by the user; a training prompt has exactly one")
        return str(asked[0])
    return "" if value is None else str(value)


def _word(value: object) -> str | None:
    return None if value is None else str(value).strip() or None


def _bare(text: str) -> tuple[str, bool]:
    for before, after in WRAPPERS:
        if text.strip().startswith(before) and text.strip().endswith(after):
            return text.strip().removeprefix(before).removesuffix(after).strip(), True
    return text, False
