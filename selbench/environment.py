"""The contract of a world that a model acts in through tools, turn by turn. The loop that plays it knows nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from selbench.errors import UserError, nearest

__all__ = ["Arena", "Environment", "Message", "Outcome", "Workload", "refuse"]

Message = dict[str, Any]  # as in a chat completion: role, content, tool_calls, name


class Environment(Protocol):
    """One episode's world. What it must not give away (the ground truth) it must not hold."""

    @property
    def tools(self) -> Sequence[dict[str, Any]]:
        """JSON schemas, as a chat completion takes them."""
        ...

    def opening(self) -> list[Message]:
        """The messages that the episode begins with."""
        ...

    def call(self, name: str, arguments: str | dict[str, Any]) -> str:
        """A tool's answer. arguments: an object, or the text that is none. What the model did wrong is answered, never raised."""
        ...

    def reply(self, text: str) -> str | None:
        """What the user says to a reply without tool calls, or ("") when the turns are used up; None: the episode is over."""
        ...

    def finish(self) -> dict[str, Any]:
        """What the episode leaves behind to be scored, as JSON."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What an episode is worth. score: what tables compare, in [0, 1]; solved: nothing is missing; metrics: what stands beside it.

    problem: a verdict of records.VERDICTS that says why it could not be judged or was not delivered; reason: in one line.
    """

    score: float
    solved: bool
    metrics: Mapping[str, float] = field(default_factory=dict)
    answer: str | None = None
    method: str = ""
    problem: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Workload:
    """What an able agent does in a case, for measurements: its calls (name, JSON text), and what its episode leaves behind."""

    calls: Sequence[tuple[str, str]]
    left: Mapping[str, Any]


class Arena(Protocol):
    """A set of cases, each of which opens worlds and judges what an episode left behind."""

    grader: str  # name and version of what judges

    def rows(self) -> list[dict[str, str]]:
        """id, problem (what the user asks for) and answer ("": it stands nowhere near the model) of every case, in a fixed order."""
        ...

    def open(self, case: str) -> Environment:
        """A fresh world of one case. Raises ConfigError for an unknown case and for a missing or broken database."""
        ...

    def judge(self, case: str, left: Mapping[str, Any], finish: str) -> Outcome:
        """The outcome of an episode from what its environment left behind. Raises ConfigError where the ground truth cannot be had."""
        ...


PYTHON: dict[str, type | tuple[type, ...]] = {"string": str, "integer": int, "number": (int, float), "array": list}


def refuse(tools: Sequence[dict[str, Any]], name: str, arguments: Mapping[str, Any]) -> None:
    """Check a call that a person typed, more strictly than tools check a model's. Raises UserError, a line for each problem."""
    table = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    if name not in table:
        raise UserError(f"unknown tool {name!r}: {nearest(name, table)}")
    properties, required = table[name].get("properties", {}), table[name].get("required", [])
    problems = [f"{name}: needs {key} ({properties[key]['description']})" for key in required if key not in arguments]
    for key, value in arguments.items():
        if key not in properties:
            problems.append(f"{name}: unknown argument {key!r}: {nearest(key, properties)}" if properties else f"{name}: takes no argument")
        elif not _fits(value, properties[key]):
            problems.append(f"{name}: {key} takes {_kind(properties[key])}, not {value!r}")
    if problems:
        raise UserError(*problems)


def _fits(value: Any, parameter: Mapping[str, Any]) -> bool:
    if isinstance(value, bool) or not isinstance(value, PYTHON[parameter["type"]]):
        return False
    if isinstance(value, list):
        return all(isinstance(each, str) for each in value)
    return value in parameter.get("enum", [value])


def _kind(parameter: Mapping[str, Any]) -> str:
    if "enum" in parameter:
        return "one of " + ", ".join(parameter["enum"])
    return {"array": "a list of texts", "string": "a text", "integer": "an integer", "number": "a number"}[str(parameter["type"])]
