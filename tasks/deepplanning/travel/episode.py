"""Travel as a world to act in: nine read-only tools, one plan in the last reply, which is read line by line and scored."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from selbench.environment import Message, Outcome

from .. import data
from .convert import convert
from .parse import VERSION
from .prompt import agent_messages
from .score import METRICS, Score, score_plan
from .tools import Tools, tool_schemas
from .world import LANGUAGES, World, load_world

__all__ = ["GRADER", "LANGUAGES", "Traveller", "outcome", "tools_of"]

SHOWN = 4  # failing checks that a record names
GRADER = f"deepplanning-travel-1/lines-{VERSION}"


class Traveller:
    """One episode of a task. Nothing of the task but its query is known here."""

    def __init__(self, query: str, tools: Tools) -> None:
        self.query, self._tools, self._reply = query, tools, ""
        self.tools = tool_schemas(tools.world.language)

    def opening(self) -> list[Message]:
        return list(agent_messages(self.query, self._tools.world.language, "text"))

    def call(self, name: str, arguments: str | dict[str, Any]) -> str:
        return self._tools.call(name, arguments)

    def reply(self, text: str) -> str | None:
        """The first reply without tool calls ends the episode."""
        self._reply = text
        return None

    def finish(self) -> dict[str, Any]:
        """The last reply, where there was one."""
        return {"reply": self._reply}


@lru_cache(maxsize=64)
def tools_of(language: str, number: str) -> Tools:
    """The tools of a case, shared by its episodes: they keep nothing of a call but its answer. Raises ConfigError without a database."""
    return Tools(load_world(data.database("travel", language, number), language))


def outcome(left: Mapping[str, Any], finish: str, meta: dict[str, Any], world: World) -> Outcome:
    """The scores of the plan in the last reply; no plan, one cut off by a limit and one that cannot be read score 0, each by its name."""
    converted = convert("lines", str(left.get("reply") or ""), places=world.spots, limit=finish in ("turns", "length"))
    if converted.status == "delivered":
        found = score_plan(converted.plan, meta, world)
    else:
        found = Score(status="undelivered", error=converted.reason)
    metrics = {name: float(getattr(found, name)) for name in METRICS}
    metrics |= {f"commonsense {name}": float(value) for name, value in found.dimensions.items()}
    metrics |= {"delivered": float(converted.status == "delivered"), "unread_lines": float(len(converted.unread))}
    problem = {"no_plan": "unparsed_answer", "unreadable": "unparsed_answer"}.get(converted.status)
    problem = "error" if found.status == "error" else problem
    faults = [f"{name}: {fault}" for name, fault in (*found.checks.items(), *found.constraints.items()) if fault]
    reason = converted.reason or found.error or "; ".join(faults[:SHOWN])
    return Outcome(found.composite_score, found.case_acc == 1, metrics, converted.status, converted.converter, problem, reason)
