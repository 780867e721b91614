"""Training prompts: where they come from, and which ones a step gets. The order depends on the seed alone, never on the strategy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from selbench.errors import ConfigError
from selbench.seeding import derive

__all__ = ["Prompt", "load_prompts", "prompts_of_step"]

EMBEDDED = "selbench:"  # a file inside the package
PROBLEM_FIELDS, ANSWER_FIELDS = ("prompt", "problem", "question"), ("answer", "solution")


@dataclass(frozen=True)
class Prompt:
    """One training problem; `answer` is None where the file has none."""

    problem: str
    answer: str | None


def load_prompts(source: str) -> list[Prompt]:
    """Prompts from a JSON-lines file, a file inside the package (`selbench:tiny/prompts.jsonl`), or a hub dataset (split train).

    A row needs one of the fields prompt, problem, question; answer or solution is optional. Exact repeats are dropped.
    Raises ConfigError naming file and line.
    """
    if source.startswith(EMBEDDED):
        text = (files("selbench") / source.removeprefix(EMBEDDED)).read_text(encoding="utf-8")
    elif source.endswith((".jsonl", ".json")):
        path = Path(source).expanduser()
        if not path.is_file():
            raise ConfigError(f"prompts {source}: no such file; give a JSON-lines file or a hub dataset id")
        text = path.read_text(encoding="utf-8")
    else:
        return _unique([_prompt(row, f"{source}: row {n}") for n, row in enumerate(_hub_rows(source))], source)
    prompts: list[Prompt] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"prompts {source}: line {number} is not JSON ({error})") from error
            prompts.append(_prompt(row, f"{source}: line {number}"))
    return _unique(prompts, source)


def _hub_rows(source: str) -> list[dict[str, Any]]:
    from datasets import load_dataset

    try:
        return [dict(row) for row in load_dataset(source, split="train")]
    except Exception as error:  # datasets, hub and network raise dozens of types
        raise ConfigError(f"prompts {source}: neither a .jsonl file nor a reachable hub dataset ({str(error).splitlines()[0]})") from error


def _prompt(row: object, where: str) -> Prompt:
    if not isinstance(row, dict) or not (name := next((f for f in PROBLEM_FIELDS if f in row), None)):
        raise ConfigError(f"prompts {where} has none of the fields {', '.join(PROBLEM_FIELDS)}")
    answer = next((row[f] for f in ANSWER_FIELDS if f in row), None)
    return Prompt(str(row[name]), None if answer is None else str(answer))


def _unique(prompts: list[Prompt], source: str) -> list[Prompt]:
    unique = list(dict.fromkeys(prompts))
    if not unique:
        raise ConfigError(f"prompts {source}: no prompt in it")
    return unique


def prompts_of_step(prompts: Sequence[Prompt], seed: int, step: int, count: int) -> list[Prompt]:
    """The `count` prompts of step 1, 2, …: consecutive places in an endless row of shuffled passes over the file."""
    chosen: list[Prompt] = []
    for place in range((step - 1) * count, step * count):
        turn, within = divmod(place, len(prompts))
        chosen.append(prompts[_shuffled(len(prompts), derive(seed, turn, "prompts"))[within]])
    return chosen


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).permutation(count)]
