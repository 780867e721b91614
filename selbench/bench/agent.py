"""What the agent loop costs beside generation, and how fast tools answer and episodes are judged, with an engine that has its words ready.

Episodes repeat what a task's scripted agent does: one call a turn, then a closing reply. Reported, per task: milliseconds of one turn of
all episodes outside the engine and of one episode's turn, the tools' share of it; tool calls and judged episodes per second of one core.
All of it is processor time, because a busy machine would be measured otherwise.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from selbench.environment import Environment, Message, Workload
from selbench.errors import ConfigError
from selbench.renderer import make_renderer
from selbench.rollout import Rollouts, Sampling
from selbench.rollout.agent import play
from selbench.rollout.dialogue import Dialogue
from selbench.rollout.scripted import Scripted
from selbench.settings import Agent
from selbench.sources import open_tokenizer
from selbench.task import TASKS, Task

__all__ = ["measure", "show"]

ROOM = 1 << 20  # tokens of an episode: no script outgrows it


class Timed:
    """A world that notes the seconds of its tools."""

    def __init__(self, world: Environment) -> None:
        self.world, self.tools, self.seconds = world, world.tools, 0.0

    def opening(self) -> list[Message]:
        return self.world.opening()

    def call(self, name: str, arguments: str | dict[str, Any]) -> str:
        began = time.process_time()
        answer = self.world.call(name, arguments)
        self.seconds += time.process_time() - began
        return answer

    def reply(self, text: str) -> str | None:
        return self.world.reply(text)

    def finish(self) -> dict[str, Any]:
        return self.world.finish()


class TimedEngine(Scripted):
    """A scripted engine that notes its calls: when they began, when they ended, how many episodes took a turn."""

    def generate(self, *given: Any, **named: Any) -> Rollouts:
        began = time.process_time()
        drawn = super().generate(*given, **named)
        self.prompts.clear()
        self.spans.append((began, time.process_time(), len(drawn)))
        return drawn

    spans: list[tuple[float, float, int]]


def measure(tasks: Sequence[str], model: str, *, episodes: int = 120, seconds: float = 2.0) -> dict[str, Any]:
    """All numbers of the tasks named. model: whose tokenizer and chat template are used. seconds: for each rate.

    Raises ConfigError for a task that has no scripted agent or no database, and for a chat template without tools.
    """
    dialogue = Dialogue(make_renderer(open_tokenizer(model), model, template="{problem}", system=None, thinking=None))
    return {"schema": 1, "episodes": episodes, "model": model, "tasks": [_task(TASKS.get(t), dialogue, episodes, seconds) for t in tasks]}


def _task(task: Task, dialogue: Dialogue, episodes: int, seconds: float) -> dict[str, Any]:
    arena: Any = task.arena
    if not hasattr(arena, "workload"):
        raise ConfigError(f"task {task.name}: has no scripted agent to measure with")
    cases = [row["id"] for row in task.load()]
    work: list[Workload] = [arena.workload(case) for case in cases[:episodes]]
    return {
        "task": task.name, "cases": len(work), **_loop(arena, cases, work, dialogue, episodes),
        "tool_calls_per_second": _rate(_called(arena, cases, work), seconds),
        "judged_per_second": _rate((partial(arena.judge, case, w.left, "stop") for case, w in _endless(cases, work)), seconds),
    }  # fmt: skip


def _loop(arena: Any, cases: Sequence[str], work: Sequence[Workload], dialogue: Dialogue, episodes: int) -> dict[str, float]:
    end = dialogue.renderer.end_ids[0]
    turns = [
        [[*dialogue.renderer.encode_text(text), end] for text in [*(_block(*call) for call in w.calls), "Done.", "Done."]] for w in work
    ]  # fmt: skip
    worlds: dict[int, Timed] = {}

    def opened(number: int) -> Timed:
        return worlds.setdefault(number, Timed(arena.open(cases[number % len(work)])))

    engine = TimedEngine({number: turns[number % len(work)] for number in range(episodes)})
    engine.spans = []
    budget = Agent(max_turns=ROOM, max_turn_tokens=ROOM, concurrent=episodes)
    played = play(engine, dialogue, {number: partial(opened, number) for number in range(episodes)}, Sampling(ROOM), budget, 0)
    ended = time.process_time()
    after = [*(began for began, _, _ in engine.spans[1:]), ended]
    rounds = sorted((1000 * (then - done), alive) for then, (_, done, alive) in zip(after, engine.spans, strict=True))
    full = [spent for spent, alive in rounds if alive == episodes] or [rounds[-1][0]]
    outside, taken = sum(spent for spent, _ in rounds), sum(episode.turns for episode in played)
    return {
        "rounds": len(rounds), "turns": taken, "ms_per_full_round": full[len(full) // 2], "ms_per_turn": outside / taken,
        "tools_share": 1000 * sum(world.seconds for world in worlds.values()) / outside,
        "tokens_per_episode": sum(len(episode.tokens) for episode in played) / len(played),
    }  # fmt: skip


def _block(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n</tool_call>'


def _endless(cases: Sequence[str], work: Sequence[Workload]) -> Iterator[tuple[str, Workload]]:
    while True:
        yield from zip(cases, work, strict=False)


def _called(arena: Any, cases: Sequence[str], work: Sequence[Workload]) -> Iterator[Callable[[], Any]]:
    for case, w in _endless(cases, work):
        world = arena.open(case)
        yield from (partial(world.call, *call) for call in w.calls)


def _rate(actions: Iterator[Callable[[], Any]], seconds: float) -> float:
    """Actions per second of one core; making them is not counted."""
    spent, count = 0.0, 0
    for action in actions:
        began = time.process_time()
        action()
        spent += time.process_time() - began
        count += 1
        if spent >= seconds:
            break
    return count / spent


def show(found: dict[str, Any]) -> None:
    """The numbers as a table."""
    import rich
    from rich.table import Table

    heads = ("task", "cases", "ms, round of all", "ms, turn of one", "tools' share", "tool calls/s", "judged/s")
    keys = ("task", "cases", "ms_per_full_round", "ms_per_turn", "tools_share", "tool_calls_per_second", "judged_per_second")
    table = Table(*heads, title=f"{found['episodes']} episodes beside generation, tokenizer of {found['model']}")
    for row in found["tasks"]:
        table.add_row(*(str(row[key]) if key in keys[:2] else f"{row[key]:,.2f}" for key in keys))
    rich.print(table)
