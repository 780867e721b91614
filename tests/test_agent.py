"""The agent loop: tokens as drawn, masks as written, endings as specified. A calculator stands for any world."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from selbench.errors import ConfigError, RecordError
from selbench.models import Renderer
from selbench.renderer import make_renderer
from selbench.rollout import Sampling
from selbench.rollout.agent import CUT, Episode, Late, Toolbox, play, rollouts_of, shorten
from selbench.rollout.dialogue import Dialogue, read_reply
from selbench.rollout.episodes import EpisodeFile, read_episodes
from selbench.rollout.scripted import Scripted
from selbench.scoring import layout
from selbench.settings import Agent
from selbench.tiny.agent_build import TEMPLATE, build_tokenizer

QWEN = (  # as Qwen2.5's: results in a turn of the user, neighbours in one
    "{% if tools %}<|system|>tools: {{ tools | tojson }}<|end|>\n{% endif %}{% for m in messages %}"
    "{% if m.role == 'tool' %}{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|user|>{% endif %}"
    "{{ '\n<r>\n' + m.content + '\n</r>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|end|>\n{% endif %}"
    "{% else %}{{ '<|' + m.role + '|>' + m.content }}{% for c in m.tool_calls or [] %}{{ '\n' if not loop.first or m.content else '' }}"
    "{{ '<tool_call>\n{\"name\": \"' + c.function.name + '\", \"arguments\": ' }}{{ c.function.arguments | tojson }}{{ '}\n</tool_call>' }}"
    "{% endfor %}{{ '<|end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SCHEMA: dict[str, Any] = {
    "type": "function",
    "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


class Sum:
    """Adds up; asks once whether the sum is right."""

    def __init__(self, asks: int = 0, seconds: float = 0.0) -> None:
        self.tools = [SCHEMA]
        self.total, self.asks, self.seconds, self.said = 0, asks, seconds, list[str]()

    def opening(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": "Add."}, {"role": "user", "content": "1 and 2"}]

    def call(self, name: str, arguments: str | dict[str, Any]) -> str:
        time.sleep(self.seconds)
        if name != "add" or not isinstance(arguments, dict):
            return json.dumps({"error": f"{name}: {arguments}"})
        self.total += arguments["a"]
        return json.dumps({"total": self.total, "\ud800"[0]: 1}, ensure_ascii=False)

    def reply(self, text: str) -> str | None:
        self.said.append(text)
        self.asks -= 1
        return "Sure?" if self.asks >= 0 else None

    def finish(self) -> dict[str, Any]:
        return {"total": self.total}


def add(number: int) -> str:
    return f'<tool_call>\n{{"name": "add", "arguments": {{"a": {number}}}}}\n</tool_call>'


TEXTS = [SCHEMA["function"]["description"], add(1), json.dumps({"total": 12, "error": "add"}), "Sure? Add. The sum is 3."]


@pytest.fixture(scope="module", params=[TEMPLATE, QWEN], ids=["short", "qwen"])
def dialogue(request: pytest.FixtureRequest) -> Dialogue:
    tokenizer = build_tokenizer([*TEXTS, json.dumps(SCHEMA), "tools r", "<", "</", ">\n"])
    tokenizer.chat_template = request.param
    return Dialogue(make_renderer(tokenizer, "test", template="{problem}", system=None, thinking=None))


def run(dialogue: Dialogue, *turns: str, world: Sum | None = None, tokens: int = 2000, **limits: Any) -> tuple[Episode, Scripted]:
    """One episode of the turns given, each closed by an end token."""
    end = dialogue.renderer.end_ids[0]
    engine = Scripted({0: [[*dialogue.renderer.encode_text(turn), end] for turn in turns]})
    [episode] = play(engine, dialogue, {0: lambda: world or Sum()}, Sampling(tokens), Agent(**limits), 0)
    return episode, engine


def spans(renderer: Renderer, episode: Episode, value: int) -> str:
    return str(renderer.tokenizer.decode([t for t, m in zip(episode.tokens, episode.mask, strict=True) if m == value]))


def test_the_mask_is_what_the_model_wrote(dialogue: Dialogue) -> None:
    turns = [f"The sum. {add(1)}\n{add(2)}", add(9), "The sum is 12."]
    world = Sum(asks=1)
    episode, engine = run(dialogue, *turns, "Sure.", world=world)
    renderer = dialogue.renderer
    assert spans(renderer, episode, 1) == "".join(f"{turn}<|end|>" for turn in [*turns, "Sure."])
    between = spans(renderer, episode, 0)
    assert between.count('"total"') == 3
    assert "Sure?" in between
    assert "<tool_call>" not in between
    assert (episode.finish, episode.turns, episode.calls, episode.left) == ("stop", 4, 3, {"total": 12})
    assert world.said == ["The sum is 12.", "Sure."]
    for before, after in zip(engine.prompts, [*engine.prompts[1:], tuple(episode.tokens)], strict=True):
        assert after[: len(before)] == before  # nothing that was drawn or read is ever made anew


def test_what_stands_between_turns_is_the_templates_own(dialogue: Dialogue) -> None:
    """The kept ids are those of the whole conversation rendered at once, where the template alters no turn."""
    episode, _ = run(dialogue, add(1) + "\n" + add(2), "The sum is 3.", "Sure.", world=Sum(asks=1))
    messages = json.loads(json.dumps(episode.messages))
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    whole = str(dialogue.renderer.tokenizer.apply_chat_template(messages, tools=[SCHEMA], tokenize=False))
    assert dialogue.renderer.encode_text(whole.removesuffix("\n")) == episode.tokens


def test_valid_tokens_are_the_models_alone(dialogue: Dialogue) -> None:
    episode, _ = run(dialogue, add(1), "3.")
    rollouts = rollouts_of([episode], [5])
    rows = layout(rollouts)
    assert dialogue.renderer.tokenizer.decode(rows.token.tolist()) == f"{add(1)}<|end|>3.<|end|>"
    assert set(rows.sample.tolist()) == {5}
    assert rollouts.facts["agent_calls"] == 1
    assert rollouts.facts["agent_tool_tokens"] == len(episode.tokens) - episode.start - sum(episode.mask)


def test_broken_calls_are_answered(dialogue: Dialogue) -> None:
    episode, _ = run(dialogue, '<tool_call>{"name": "add", "arguments": {"a": 1}</tool_call><tool_call>3</tool_call>', "3.")
    answers = [json.loads(message["content"])["error"] for message in episode.messages if message["role"] == "tool"]
    assert answers[0].startswith('add: {"name"')
    assert answers[1] == "tool call: not an object with a name"
    assert (episode.finish, episode.broken, episode.calls, episode.left) == ("stop", 2, 2, {"total": 0})


def test_a_broken_call_ends_where_it_is_published_to(dialogue: Dialogue) -> None:
    episode, _ = run(dialogue, add(1) + "<tool_call>{", malformed="end")
    assert (episode.finish, episode.broken, episode.calls) == ("malformed", 1, 0)


def test_unknown_tools_and_wrong_types_are_the_worlds_to_answer(dialogue: Dialogue) -> None:
    episode, _ = run(dialogue, '<tool_call>{"name": "sub", "arguments": "a"}</tool_call>', "3.")
    assert "error" in episode.messages[3]["content"]


def test_turns_are_a_budget_of_each_phase(dialogue: Dialogue) -> None:
    world = Sum(asks=1)
    episode, _ = run(dialogue, add(1), add(2), add(4), add(8), world=world, max_turns=2)
    assert (episode.finish, episode.turns, episode.left) == ("turns", 4, {"total": 15})
    assert [message["role"] for message in episode.messages[5:8]] == ["tool", "user", "assistant"]
    assert world.said == ["", ""]


@pytest.mark.parametrize("room", range(1, 90, 11))
def test_no_episode_outgrows_its_room(dialogue: Dialogue, room: int) -> None:
    episode, _ = run(dialogue, add(1), add(2), "The sum is 3.", tokens=room)
    assert episode.used <= room
    assert (episode.finish == "stop") == (episode.messages[-1]["content"] == "The sum is 3.")
    assert episode.mask[-1] == 1


def test_a_turn_that_is_cut_ends_its_episode(dialogue: Dialogue) -> None:
    episode, _ = run(dialogue, add(1), "3.", max_turn_tokens=4)
    assert (episode.finish, sum(episode.mask), episode.calls) == ("length", 4, 0)


def test_results_lose_their_middle(dialogue: Dialogue) -> None:
    assert shorten("abcdefghij", 4) == f"ab{CUT}ij"
    assert shorten("abcd", 4) == "abcd"
    episode, _ = run(dialogue, add(1), "3.", max_result_characters=6)
    assert episode.messages[3]["content"] == f'{{"t{CUT}1}}'[: 3 + len(CUT)] + episode.messages[3]["content"][-3:]
    assert episode.shortened == 1


def test_a_tool_that_hangs_ends_its_episode_alone(dialogue: Dialogue) -> None:
    end = dialogue.renderer.end_ids[0]
    said = [[*dialogue.renderer.encode_text(turn), end] for turn in (add(1), "3.")]
    worlds: dict[int, Any] = {0: lambda: Sum(seconds=5.0), 1: Sum}
    began = time.monotonic()
    late, other = play(Scripted({0: said, 1: said}), dialogue, worlds, Sampling(2000), Agent(tool_timeout_seconds=0.05), 0)
    assert (late.finish, other.finish, other.left) == ("timeout", "stop", {"total": 1})
    assert time.monotonic() - began < 5


def test_toolbox_goes_on_after_a_late_tool() -> None:
    box = Toolbox(0.05)
    with pytest.raises(Late):
        box.run(lambda: time.sleep(1))
    assert box.run(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        box.run(lambda: 1 // 0)


def test_waiting_episodes_take_the_places_of_those_that_ended(dialogue: Dialogue) -> None:
    end = dialogue.renderer.end_ids[0]
    said = {n: [[*dialogue.renderer.encode_text(turn), end] for turn in [*[add(n)] * (n % 3), "3."]] for n in range(7)}
    ended: list[int] = []
    worlds: dict[int, Any] = dict.fromkeys(said, Sum)
    apart = play(Scripted(said), dialogue, worlds, Sampling(2000), Agent(concurrent=1), 0)
    beside = play(Scripted(said), dialogue, worlds, Sampling(2000), Agent(concurrent=3), 0, ended=lambda e: ended.append(e.number))
    assert [vars(e) | {"seconds": 0} for e in apart] == [vars(e) | {"seconds": 0} for e in beside]
    assert sorted(ended) == list(range(7)) != ended


def test_episodes_survive_a_kill(dialogue: Dialogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episode, _ = run(dialogue, add(1), "3.")
    file = EpisodeFile(tmp_path / "episodes.jsonl", {"task": "sum"})
    assert file.open() == {}
    file.append(episode, case="1", sample=0)
    with file.path.open("ab") as out:
        out.write(b'{"case": "2", "numb')
    assert file.open() == {0: episode}
    assert [(row["case"], each) for row, each in read_episodes(file.path)] == [("1", episode)]
    assert EpisodeFile(file.path, {"task": "other"}).open() == {}
    assert "another evaluation (task)" in capsys.readouterr().err
    (tmp_path / "x").write_text("nothing\n")
    with pytest.raises(RecordError, match="head"):
        list(read_episodes(tmp_path / "x"))


def test_a_call_in_a_thought_is_a_thought() -> None:
    assert read_reply(f"<think>{add(1)}").calls == ()
    assert read_reply(f"<think>{add(1)}</think>3.").calls == ()
    [call] = read_reply(f"<think>so</think>{add(1)}").calls
    assert (call.name, call.arguments) == ("add", {"a": 1})


def test_templates_without_tools_are_refused(tiny_pair: Any) -> None:
    with pytest.raises(ConfigError, match="use a model whose template"):
        Dialogue(tiny_pair.renderer)
