"""Episodes in a terminal: a person acts in a world by typing tool calls, and a stored episode is shown with what its mask says."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import rich
from rich.text import Text

from selbench.arena import judge
from selbench.environment import Environment, refuse
from selbench.errors import ConfigError, UserError
from selbench.records import EPISODES
from selbench.rollout.agent import Episode
from selbench.rollout.episodes import read_episodes
from selbench.task import Task

__all__ = ["act", "show_episode", "typed_call"]

WORDS = {"help": "this list", "state": "what would be scored now", "done": "TEXT: a reply without tool calls", "quit": "leave"}
WRITTEN, READ = "green", "dim"  # mask 1, mask 0


def act(task: Task, case: str) -> None:
    """Play one case by hand, then show what it is worth. Raises ConfigError for an unknown case and a task without worlds."""
    if task.arena is None:
        raise ConfigError(f"task {task.name}: is answered in one turn; `selbench list tasks` names those that are acted on")
    world = task.arena.open(case)
    for message in world.opening():
        rich.print(Text(f"{message['role']}: ", "bold") + Text(message["content"]))
    _help(world)
    _complete([*WORDS, *(tool["function"]["name"] for tool in world.tools), *_arguments(world.tools)])
    ending = "turns"
    for line in _lines():
        word, _, rest = line.partition(" ")
        if word == "quit":
            break
        if word == "help":
            _help(world)
        elif word == "state":
            _state(world)
        elif word == "done":
            said = world.reply(rest)
            if said is None:
                ending = "stop"
                break
            rich.print(Text("user: ", "bold") + Text(said))
        else:
            _call(world, line)
    found = judge(task.arena, case, world.finish(), ending)
    rich.print(Text(f"score {found.score:.3f}, {'solved' if found.solved else 'not solved'}", "bold"), Text(found.reason))
    for name, value in found.metrics.items():
        rich.print(Text(f"  {name} {value:g}"))


def typed_call(tools: Sequence[dict[str, Any]], line: str) -> tuple[str, dict[str, Any]]:
    """`tool key=value …` or `tool {JSON}` as a call; lists as JSON or with commas. Raises UserError, a line for each problem."""
    name, _, rest = line.strip().partition(" ")
    properties: dict[str, Any] = next(
        (tool["function"]["parameters"]["properties"] for tool in tools if tool["function"]["name"] == name), {}
    )
    try:
        if rest.strip().startswith("{"):
            arguments = json.loads(rest)
        else:
            pairs = [word.partition("=") for word in shlex.split(rest)]
            if bare := [key for key, equals, _ in pairs if not equals]:
                raise UserError(f"{name}: {bare[0]!r} is no key=value; quote values with spaces, as in query='wool cap'")
            arguments = {key: _value(value, properties.get(key, {}).get("type", "string")) for key, _, value in pairs}
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{name}: not valid JSON ({error}); write key=value or one JSON object") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: {error} in {rest!r}; close the quotation") from error
    refuse(tools, name, arguments)
    return name, arguments


def _value(text: str, kind: str) -> Any:
    if kind == "array":
        return json.loads(text) if text.startswith("[") else [part.strip() for part in text.split(",")]
    if kind in ("integer", "number"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _call(world: Environment, line: str) -> None:
    try:
        name, arguments = typed_call(world.tools, line)
    except UserError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return
    print(world.call(name, arguments))
    _state(world)


def _state(world: Environment) -> None:
    rich.print(Text(json.dumps(world.finish(), ensure_ascii=False), READ))


def _help(world: Environment) -> None:
    for tool in world.tools:
        function = tool["function"]
        required = function["parameters"].get("required", [])
        shown = " ".join(key if key in required else f"[{key}]" for key in function["parameters"]["properties"])
        rich.print(Text(f"  {function['name']} ", "bold") + Text(f"{shown}  {function['description']}"))
    for word, meaning in WORDS.items():
        rich.print(Text(f"  {word} ", "bold") + Text(meaning))


def _arguments(tools: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({f"{key}=" for tool in tools for key in tool["function"]["parameters"]["properties"]})


def _complete(words: Sequence[str]) -> None:
    """Complete tools and arguments by the tabulator, where the terminal can."""
    try:
        import readline
    except ImportError:
        return

    def complete(text: str, state: int) -> str | None:
        return next(iter([word for word in words if word.startswith(text)][state:]), None)

    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if line:
            yield line


def show_episode(path: Path, number: int, model: str | None = None) -> None:
    """One stored episode: its messages, or with `model`, whose tokenizer reads them, its tokens; what the model wrote is in colour.

    Raises RecordError for a file that cannot be read, ConfigError for an episode that is not there.
    """
    file = path / EPISODES if path.is_dir() else path
    found = {episode.number: (row, episode) for row, episode in read_episodes(file)}
    if number not in found:
        numbers = ", ".join(map(str, sorted(found)[:20]))
        raise ConfigError(f"{file}: no episode {number}; there are {len(found)}{f': {numbers}' if found else ''}")
    row, episode = found[number]
    own = sum(episode.mask)
    rich.print(Text(f"{row['task']} {row['case']}, sample {row['sample']}: ended by {episode.finish}; {episode.turns} turns, "
                    f"{episode.calls} calls, {own} tokens written, {len(episode.tokens) - episode.start - own} read", "bold"))  # fmt: skip
    for part in _tokens(episode, model) if model else _messages(episode):
        rich.print(part)


def _messages(episode: Episode) -> Iterator[Text]:
    for message in episode.messages:
        style = WRITTEN if message["role"] == "assistant" else READ
        yield Text(f"{message['role']}: ", f"bold {style}") + Text(message["content"], style)
        for call in message.get("tool_calls", ()):
            yield Text(f"  → {call['function']['name']} {call['function']['arguments']}", style)


def _tokens(episode: Episode, model: str) -> Iterator[Text]:
    from selbench.sources import open_tokenizer

    tokenizer, begin = open_tokenizer(model), 0
    for end in [i for i in range(1, len(episode.mask)) if episode.mask[i] != episode.mask[i - 1]] + [len(episode.mask)]:
        yield Text(str(tokenizer.decode(episode.tokens[begin:end])), WRITTEN if episode.mask[begin] else READ)
        begin = end
