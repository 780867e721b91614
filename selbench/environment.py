"""The contract of a world that a model acts in through tools, turn by turn. The loop that plays it knows nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Arena", "Environment", "Message", "Outcome"]

Message = dict[str, Any]  # as in a chat completion: role, content, tool_calls, name


class Environment(Protocol):
    """One episode's world. What it must not give away (the ground truth) it must not hold."""

    tools: Sequence[dict[str, Any]]  # JSON schemas, as a chat completion takes them

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
