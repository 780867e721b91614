"""A conversation with tools as token ids: the opening, what follows a turn, and what a turn says. A turn's own ids are never made anew.

What follows a turn is the difference that it makes to the rendered chat template: the text behind a marked assistant message.
Tool calls are Hermes blocks, `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, which Qwen's templates ask for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from selbench.environment import Message
from selbench.errors import ConfigError
from selbench.renderer import Renderer, render

__all__ = ["Call", "Dialogue", "Reply", "read_reply"]

MARK = "\u2063assistant\u2063"  # stands for a turn; no message holds it
BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
NAME = re.compile(r'"name"\s*:\s*"([^"\\]*)"')
CACHED = 1024  # fragments: the episodes of a case see the same results again and again


@dataclass(frozen=True)
class Call:
    """One call of a turn. A block that is not JSON has a `fault`, its name as far as it can be read, and a text for arguments."""

    name: str
    arguments: str | dict[str, Any]
    fault: str = ""


@dataclass(frozen=True)
class Reply:
    """A turn as it reads: `content` without its blocks, and its calls in order, broken ones among them."""

    content: str
    calls: tuple[Call, ...]

    @property
    def broken(self) -> int:
        return sum(bool(call.fault) for call in self.calls)

    def message(self) -> Message:
        """As a chat completion holds it; arguments are JSON text."""
        calls = [
            {"type": "function", "function": {"name": call.name, "arguments": _text(call.arguments)}} for call in self.calls
        ]  # fmt: skip
        return {"role": "assistant", "content": self.content, **({"tool_calls": calls} if calls else {})}


def read_reply(text: str) -> Reply:
    """The calls behind the last thought; a block inside a thought is a thought."""
    thought, closed, said = text.rpartition("</think>")
    if "<think>" in said:
        return Reply(text, ())
    calls = tuple(_call(block[1].strip()) for block in BLOCK.finditer(said))
    return Reply((thought + closed + BLOCK.sub("", said)).strip() if calls else text, calls)


def _call(block: str) -> Call:
    """A block as a call. One that is broken keeps arguments that no tool takes for good ones: the tool's own error answers it."""
    try:
        found = json.loads(block)
    except (ValueError, RecursionError) as error:
        name = NAME.search(block)
        return Call(name[1] if name else "", block, f"not valid JSON ({error})")
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return Call("", block, "not an object with a name")
    arguments = found.get("arguments", {})
    if not isinstance(arguments, str | dict):
        return Call(found["name"], json.dumps(arguments), "arguments are no object")
    return Call(found["name"], arguments)


def _text(arguments: str | dict[str, Any]) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


class Dialogue:
    """Conversations by one renderer. Raises ConfigError where the chat template does not know tools or ends turns without an end token."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self._require_tools()
        self._following = lru_cache(maxsize=CACHED)(lambda messages: tuple(renderer.encode_text(self._behind(messages))))

    def opening(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[int]:
        """Prompt ids of an episode. Its system message, where it has one, stands in place of the renderer's."""
        own = self.renderer.system
        first = [{"role": "system", "content": own}] if own and messages[0]["role"] != "system" else []
        return self.renderer.encode_text(self._render([*first, *messages], tools))

    def following(self, messages: Sequence[Message], last: int) -> list[int]:
        """Ids that stand between a turn, whose last id is `last`, and the next one; messages: tool results, what the user says."""
        ids = self._following(tuple((m["role"], m["content"]) for m in messages))
        return list(ids[1:] if last in self.renderer.end_ids else ids)

    def read(self, ids: Sequence[int]) -> Reply:
        """What a turn says."""
        return read_reply(self.renderer.decode(list(ids)))

    def _behind(self, messages: tuple[tuple[str, str], ...]) -> str:
        """The text that follows a turn's own: the template's end of turn, the messages, and the head of the next turn."""
        shown: list[Message] = [{"role": "user", "content": "."}, {"role": "assistant", "content": MARK}]
        return self._render([*shown, *({"role": role, "content": content} for role, content in messages)], ()).partition(MARK)[2]

    def _render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str:
        return render(self.renderer.tokenizer, messages, self.renderer.chat_template, self.renderer.thinking, tools=tools)

    def _require_tools(self) -> None:
        tool = {
            "type": "function",
            "function": {"name": "probe_tool", "description": "", "parameters": {"type": "object", "properties": {}}},
        }
        asked = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "probe_tool", "arguments": {}}}],
        }
        said: list[Message] = [{"role": "user", "content": "."}]
        try:
            offered, called = self._render(said, [tool]), self._render([*said, asked, {"role": "tool", "content": "probe_result"}], [tool])
            behind = self._behind((("tool", "probe_result"),))
        except Exception as error:  # what a template's author raises
            raise ConfigError(
                f"chat template: refuses a conversation with tools ({error}); use a model whose template knows them"
            ) from error
        if "probe_tool" not in offered or "<tool_call>" not in called or "probe_result" not in behind:
            raise ConfigError("chat template: does not write tools and <tool_call> blocks as Qwen's do; use a model whose template does")
        if self.renderer.encode_text(behind)[:1] not in [[end] for end in self.renderer.end_ids]:
            raise ConfigError("chat template: ends an assistant's turn with no end token of the model; a turn would not be seen to end")
