"""An agent that follows a script instead of a model: turns of tool calls, each chosen by the answers to the last."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

__all__ = ["Agent", "Calls", "Message", "Script", "scripted"]

Message = dict[str, Any]
Agent = Callable[[list[Message]], Message]  # one model call: the history in, an assistant message out
Calls = list[tuple[str, dict[str, Any]]]  # tool, arguments
Script = Generator[Calls, list[Any], str]  # yields calls, is sent their answers


def scripted(script: Script, *, read: Callable[[str], Any] = str, after: str = "") -> Agent:
    """The agent of one episode, whose reply without calls is what the script returns.

    read: what the script is sent of a tool's answer. after: the reply when it is asked again after that.
    """
    started = False

    def agent(history: list[Message]) -> Message:
        nonlocal started
        answers = [read(text) for text in _answers(history)] if started else None
        started = True
        try:
            calls = script.send(answers)  # type: ignore[arg-type]
        except StopIteration as end:
            return {"role": "assistant", "content": end.value or after}
        turn = len(history)
        return {"role": "assistant", "content": "", "tool_calls": [_call(f"call_{turn}_{n}", *each) for n, each in enumerate(calls)]}

    return agent


def _answers(history: list[Message]) -> list[str]:
    """Texts of the tool messages after the last reply."""
    last = max(number for number, message in enumerate(history) if message["role"] == "assistant")
    return [message["content"] for message in history[last + 1 :] if message["role"] == "tool"]


def _call(name: str, tool: str, arguments: dict[str, Any]) -> Message:
    return {"id": name, "type": "function", "function": {"name": tool, "arguments": json.dumps(arguments, ensure_ascii=False)}}
