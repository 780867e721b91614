"""Episodes: turns of the model and answers of its tools, many episodes side by side, token by token as the engine drew them.

All episodes that are under way take a turn in one call of the engine; those that end make room for those that wait. An episode's
tokens are its opening, then turns (mask 1) and what the chat template puts between them (mask 0): tool results, role headers, what the
user says. What is drawn for an episode depends on the seed, its number and its turn, never on the episodes beside it.

An episode ends by
    stop        a reply without tool calls to which the user says nothing
    malformed   the same, yet with a tool call that cannot be read (where `malformed` is "end")
    turns       the turns are used up
    length      a turn or the episode reached its limit of tokens
    timeout     a tool did not answer in time
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from selbench.environment import Environment, Message
from selbench.renderer import Renderer
from selbench.rollout import Engine, Gap, Progress, Rollouts, Sampling
from selbench.rollout.dialogue import Call, Dialogue, Reply
from selbench.seeding import derive
from selbench.settings import Agent

__all__ = ["ENDINGS", "Episode", "Late", "Toolbox", "draw_episodes", "play", "rollouts_of", "shorten"]

ENDINGS = ("stop", "malformed", "turns", "length", "timeout")
CUT = "...(truncated)..."


@dataclass
class Episode:
    """One episode. tokens, mask: equally long, the opening included, which is `start` long. Counts are of the whole episode.

    logprobs: of each token after the opening as the engine saw it, nats, 0 where no model wrote it; None: not asked for.
    left: what the environment leaves behind. shortened: tool results that lost their middle. seconds: outside of the engine.
    """

    number: int
    messages: list[Message]
    tokens: list[int]
    start: int
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] | None = None
    finish: str = ""
    turns: int = 0
    calls: int = 0
    broken: int = 0
    shortened: int = 0
    left: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def used(self) -> int:
        """Tokens after the opening."""
        return len(self.tokens) - self.start

    def add(self, ids: Sequence[int], by_model: bool, logprobs: Sequence[float] | None = None) -> None:
        self.tokens += ids
        self.mask += [int(by_model)] * len(ids)
        if self.logprobs is not None:
            self.logprobs += logprobs if logprobs is not None else [0.0] * len(ids)


@dataclass
class _Live:
    episode: Episode
    world: Environment
    since: int = 0  # turns since the user last spoke


class Late(Exception):
    """A tool did not answer in time."""


class Toolbox:
    """Runs tools in a thread of its own, so that one that hangs is left behind; a thread cannot be stopped, its answer is not read."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._start()

    def _start(self) -> None:
        self._asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(self._asked, self._answers), daemon=True).start()

    def run(self, action: Callable[[], Any]) -> Any:
        """What `action` returns or raises; Late when it takes too long."""
        self._asked.put(action)
        try:
            value, error = self._answers.get(timeout=self.timeout_seconds)
        except queue.Empty:
            self._start()  # the old thread still holds the tool, and whatever it answers goes nowhere
            raise Late from None
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        self._asked.put(None)


def _serve(asked: queue.SimpleQueue[Any], answers: queue.SimpleQueue[Any]) -> None:
    while (action := asked.get()) is not None:
        try:
            answers.put((action(), None))
        except BaseException as error:  # raised where it was asked for
            answers.put((None, error))


def play(
    engine: Engine, dialogue: Dialogue, worlds: Mapping[int, Callable[[], Environment]], sampling: Sampling, limits: Agent, seed: int, *,
    ended: Callable[[Episode], None] = lambda episode: None, progress: Progress | None = None, logprobs: bool = False,
    gaps: list[Gap] | None = None,
) -> list[Episode]:  # fmt: skip
    """Play one episode in each world; returned in the order of their numbers.

    worlds: number -> opens a fresh world. sampling.max_tokens bounds all that follows the opening, tool results included.
    ended: gets every episode as it ends. logprobs: keep the engine's log-probabilities. gaps: gets those that the engine measured.
    Raises what the engine raises, and UserError of a world that cannot be opened or played.
    """
    waiting = sorted(worlds, reverse=True)
    live: list[_Live] = []
    done: dict[int, Episode] = {}
    with closing(Toolbox(limits.tool_timeout_seconds)) as toolbox:
        while waiting or live:
            while waiting and len(live) < limits.concurrent:
                live.append(_open(waiting.pop(), worlds, dialogue))
            drawn = _turns(engine, [one.episode for one in live], sampling, limits, seed)
            drawn = drawn if logprobs else replace(drawn, logprobs=None)
            if gaps is not None and drawn.gap is not None:
                gaps.append(drawn.gap)
            for row, one in enumerate(live):
                began = time.perf_counter()
                _take(one, drawn, row, dialogue, sampling, limits, toolbox)
                one.episode.seconds += time.perf_counter() - began
            for one in live:
                if one.episode.finish:
                    done[one.episode.number] = one.episode
                    ended(one.episode)
            live = [one for one in live if not one.episode.finish]
            if progress:
                progress(len(done), len(worlds))
    return [done[number] for number in sorted(done)]


def _open(number: int, worlds: Mapping[int, Callable[[], Environment]], dialogue: Dialogue) -> _Live:
    world = worlds[number]()
    messages = [dict(message) for message in world.opening()]
    tokens = dialogue.opening(messages, world.tools)
    return _Live(Episode(number, messages, tokens, len(tokens), [0] * len(tokens)), world)


def _turns(engine: Engine, episodes: Sequence[Episode], sampling: Sampling, limits: Agent, seed: int) -> Rollouts:
    """The next turn of every episode."""
    most = min(limits.max_turn_tokens, max(sampling.max_tokens - episode.used for episode in episodes))
    keys = [derive(episode.number, episode.turns, "turn") for episode in episodes]
    return engine.generate([episode.tokens for episode in episodes], replace(sampling, max_tokens=most), seed, None, keys)


def _take(one: _Live, drawn: Rollouts, row: int, dialogue: Dialogue, sampling: Sampling, limits: Agent, toolbox: Toolbox) -> None:
    """Put a drawn turn to its episode, run its calls, and say what comes next or how the episode ended."""
    episode, room = one.episode, sampling.max_tokens - one.episode.used
    turn = drawn.tokens[row][drawn.start[row] :][:room]
    whole = drawn.finish[row] == "stop" and len(turn) == len(drawn.tokens[row]) - drawn.start[row]
    if drawn.logprobs is not None and not episode.turns:
        episode.logprobs = []
    episode.add(turn, True, drawn.logprobs[row][:room] if drawn.logprobs is not None else None)
    episode.turns, one.since = episode.turns + 1, one.since + 1
    reply = dialogue.read(turn)
    episode.broken += reply.broken
    broken = bool(reply.broken) and limits.malformed == "end"
    if broken:  # as a server has it that cannot read a call: the whole turn is text
        reply = Reply(dialogue.renderer.decode(list(turn)), ())
    episode.messages.append(reply.message())
    if not whole:
        return _end(one, "length")
    try:
        answers = [_answer(one, call, limits, toolbox) for call in reply.calls]
    except Late:
        return _end(one, "timeout")
    spent = one.since >= limits.max_turns
    if not answers or spent:
        said = one.world.reply("" if answers else reply.content)
        if said is None:
            return _end(one, "turns" if answers else "malformed" if broken else "stop")
        one.since = 0
        answers.append({"role": "user", "content": said})
    between = dialogue.following(answers, turn[-1])
    episode.messages += answers
    if episode.used + len(between) >= sampling.max_tokens:  # no room for a token that would be read after them
        return _end(one, "length")
    return episode.add(between, False)


def _answer(one: _Live, call: Call, limits: Agent, toolbox: Toolbox) -> Message:
    """A tool's answer as a message. Raises Late."""
    one.episode.calls += 1
    if call.fault and not call.name:
        text = json.dumps({"error": f"tool call: {call.fault}"}, ensure_ascii=False)
    else:
        text = toolbox.run(partial(one.world.call, call.name, call.arguments))
    text = text.encode("utf-8", "backslashreplace").decode()  # no tokenizer takes half of a surrogate pair
    shown = shorten(text, limits.max_result_characters)
    one.episode.shortened += shown != text
    return {"role": "tool", "name": call.name, "content": shown}


def _end(one: _Live, finish: str) -> None:
    one.episode.finish, one.episode.left = finish, one.world.finish()


def shorten(text: str, most: int | None) -> str:
    """A text of more than `most` characters loses its middle; a mark stands there."""
    if most is None or len(text) <= most:
        return text
    return text[: most // 2] + CUT + text[len(text) - most // 2 :]


def rollouts_of(episodes: Sequence[Episode], sample: Sequence[int], gaps: Sequence[Gap] = ()) -> Rollouts:
    """Episodes as the loop trains on them. sample: number of each in the global batch."""
    count = max(1, len(episodes))
    facts = {f"ended_by_{name}": sum(e.finish == name for e in episodes) / count for name in ENDINGS}
    facts |= {name: sum(getattr(e, name) for e in episodes) / count for name in ("turns", "calls", "broken", "shortened")}
    facts["tool_tokens"] = sum(len(e.tokens) - e.start - sum(e.mask) for e in episodes) / count
    return Rollouts(
        tuple(tuple(e.tokens) for e in episodes), tuple(tuple(e.mask) for e in episodes), tuple(e.start for e in episodes),
        tuple(e.finish for e in episodes), tuple(sample),
        tuple(tuple(e.logprobs or ()) for e in episodes) if episodes and episodes[0].logprobs is not None else None,
        max(gaps, key=lambda gap: gap.mean, default=None), {f"agent_{name}": value for name, value in facts.items()},
    )  # fmt: skip


def draw_episodes(
    engine: Engine, renderer: Renderer, worlds: Mapping[int, Callable[[], Environment]], sampling: Sampling, limits: Agent | None, seed: int
) -> Rollouts:
    """The rollouts of a training step: an episode in each world, numbered as in the global batch."""
    gaps: list[Gap] = []
    played = play(engine, Dialogue(renderer), worlds, sampling, limits or Agent(), seed, logprobs=True, gaps=gaps)
    return rollouts_of(played, [episode.number for episode in played], gaps)
