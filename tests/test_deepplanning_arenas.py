"""DeepPlanning as tasks: real cases played through the agent loop, what the model may never see, records, and people at the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from selbench.tasks.deepplanning import arenas, data
from selbench.tasks.deepplanning.shopping.score import TRUTH
from typer.testing import CliRunner

from selbench import ConfigError, UserError, arena, cli
from selbench.agent_play import typed_call
from selbench.errors import RecordError
from selbench.renderer import make_renderer
from selbench.rollout import Sampling
from selbench.rollout.agent import Episode, play
from selbench.rollout.dialogue import Dialogue
from selbench.rollout.scripted import Scripted
from selbench.settings import Agent, Evaluation
from selbench.task import MIRROR, TASKS
from selbench.tiny.agent_build import build_tokenizer
from tests.shopping_cases import REAL

SHOPPING = [f"{level}-{case}" for level, case in REAL]
TRAVEL = ["en-0", "en-7", "zh-0"]
HIDDEN = ("ground_truth", "validation_case", "meta_info", "sub_query", "query_with_constraints", "hard_constraints")


@pytest.fixture
def mirrored(benchmark_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MIRROR, str(benchmark_data))
    return benchmark_data


def problem(action: Any, kind: type[UserError] = ConfigError) -> str:
    """The one line that a user reads."""
    with pytest.raises(kind) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def block(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n</tool_call>'


def script(task: str, case: str) -> list[str]:
    """An able agent's turns: its calls five at a time, its closing reply, and for the check another."""
    work = TASKS.get(task).arena.workload(case)  # type: ignore[union-attr]
    said = work.left.get("reply", "Done.")
    blocks = [block(*call) for call in work.calls]
    return [*("\n".join(blocks[i : i + 5]) for i in range(0, len(blocks), 5)), said, "Done."]


def played(task: str, cases: list[str]) -> tuple[list[Episode], Scripted, Dialogue]:
    """Episodes of the scripts, token by token; the vocabulary holds what occurs, so that decoding gives the text back."""
    found = TASKS.get(task).arena
    assert found is not None
    turns = [script(task, case) for case in cases]
    tokenizer = build_tokenizer([text for own in turns for text in own])
    dialogue = Dialogue(make_renderer(tokenizer, "test", template="{problem}", system=None, thinking=None))
    end = dialogue.renderer.end_ids[0]
    engine = Scripted({n: [[*dialogue.renderer.encode_text(text), end] for text in own] for n, own in enumerate(turns)})
    worlds: dict[int, Any] = {n: lambda case=case: found.open(case) for n, case in enumerate(cases)}
    return play(engine, dialogue, worlds, Sampling(1 << 20), Agent(max_turn_tokens=1 << 20, max_turns=1000), 0), engine, dialogue


@pytest.mark.parametrize(("task", "cases"), [("deepplanning_shopping", SHOPPING), ("deepplanning_travel", TRAVEL)])
def test_an_able_agent_solves_real_cases_through_the_loop(task: str, cases: list[str], mirrored: Path) -> None:
    episodes, _, _ = played(task, cases)
    rows = {row["id"]: row for row in TASKS.get(task).load()}
    for case, episode in zip(cases, episodes, strict=True):
        record = arena.record_of(TASKS.get(task), rows[case], 0, episode)
        assert (record["verdict"], record["score"], record["finish"]) == ("correct", 1.0, "stop"), record


@pytest.mark.parametrize(("task", "cases"), [("deepplanning_shopping", SHOPPING), ("deepplanning_travel", TRAVEL)])
def test_the_ground_truth_never_reaches_the_model(task: str, cases: list[str], mirrored: Path) -> None:
    """In no message, opening, description of a tool or result: neither its keys nor what stands in the files that only judges open."""
    episodes, _, dialogue = played(task, cases)
    for case, episode in zip(cases, episodes, strict=True):
        world = TASKS.get(task).arena.open(case)  # type: ignore[union-attr]
        shown = json.dumps([episode.messages, world.tools], ensure_ascii=False)
        rendered = dialogue.renderer.tokenizer.decode(episode.tokens)
        assert not [word for word in HIDDEN if word in shown or word in rendered]
        part, number = case.split("-")
        if task == "deepplanning_shopping":
            truth = json.loads((data.database("shopping", part, number) / TRUTH).read_text(encoding="utf-8"))
            secrets = [text for entry in truth["meta_info"] for text in (entry["sub_query"], json.dumps(entry["features"])[1:-1])]
        else:
            row = data.query("travel", part, number)
            secrets = [row["query_with_constraints"], json.dumps(row["meta_info"], ensure_ascii=False)]
        assert not [text for text in secrets if text and text not in world.opening()[-1]["content"] and text in shown]


def test_travel_is_split_by_trip(mirrored: Path) -> None:
    days = {row["id"]: row["meta_info"]["days"] for row in data.queries("travel", "en")}
    assert sorted(days[each] for each in arenas.held_out()) == sorted([*range(2, 8)] * 4)
    whole, *parts = ({row["id"] for row in TASKS.get(f"deepplanning_travel{name}").load()} for name in ("", "_training", "_heldout"))
    assert parts[0] | parts[1] == whole
    assert not parts[0] & parts[1]


@pytest.mark.parametrize(
    ("reply", "finish", "verdict", "reason"),
    [
        ("no plan", "stop", "unparsed_answer", "plan"), ("<plan>\nDay 1:\n</plan>", "turns", "truncated", ""),
        ("<plan>\nDay 1:\nCurrent City: X\n</plan>", "stop", "incorrect", "valid_trip_duration"),
        ("<plan>odd</plan>", "stop", "unparsed_answer", "day"),
        (None, "timeout", "timeout", ""),
    ],
)  # fmt: skip
def test_plans_that_are_none(reply: str | None, finish: str, verdict: str, reason: str, mirrored: Path) -> None:
    episode = Episode(0, [{"role": "assistant", "content": reply or ""}], [1, 2], 1, [0, 1], finish=finish, left={"reply": reply})
    record = arena.record_of(TASKS.get("deepplanning_travel"), {"id": "en-0", "problem": "?"}, 0, episode)
    assert (record["verdict"], record["delivered"]) == (verdict, float(verdict == "incorrect"))
    assert reason in record["reason"]
    assert "\n" not in record["reason"]


def test_bad_input_is_one_line(mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shopping, travel = arenas.Shopping(), arenas.Travel("all")
    assert "unknown case '4-1'; a case is as 1-1" in problem(lambda: shopping.open("4-1"))
    assert "unknown case '51'; cases are 1 to 50" in problem(lambda: shopping.open("1-51"))
    assert "unknown case 'fr-1'; a case is as en-0" in problem(lambda: travel.open("fr-1"))
    assert "no database for case 1" in problem(lambda: travel.open("en-1"))
    carts: list[Any] = ["{torn", [], {"items": [3]}, None]
    for cart in carts:
        found = arena.judge(shopping, "1-1", {"cart": cart}, "stop")
        assert (found.problem, found.score, found.solved) == ("error", 0.0, False)
        assert found.reason
    monkeypatch.setenv(MIRROR, str(tmp_path))
    assert "no folder deepplanning there" in problem(travel.rows)


TINY = TASKS.get("shop_tiny")


def test_a_call_is_typed() -> None:
    tools = TINY.arena.open("0").tools  # type: ignore[union-attr]
    assert typed_call(tools, "filter_by_brand brand_names=acme,zeta") == ("filter_by_brand", {"brand_names": ["acme", "zeta"]})
    assert typed_call(tools, 'filter_by_brand {"brand_names": ["a, b"]}')[1] == {"brand_names": ["a, b"]}
    assert typed_call(tools, "add_product_to_cart product_id=p01 quantity=2")[1] == {"product_id": "p01", "quantity": 2}
    for line, says in [
        ("filter_by_brnd", "did you mean filter_by_brand"), ("filter_by_brand", "needs brand_names"),
        ("filter_by_brand acme", "no key=value"), ("filter_by_color {", "not valid JSON"),
        ("add_product_to_cart product_id=p01 quantity=two", "quantity takes an integer, not 'two'"),
        ("filter_by_brand brand_names='acme", "close the quotation"),
        ("add_product_to_cart product_id=p01 count=2", "unknown argument 'count'"),
    ]:  # fmt: skip
        assert says in problem(lambda line=line: typed_call(tools, line), UserError)


def test_a_person_shops() -> None:
    work = TINY.arena.workload("0")  # type: ignore[union-attr]
    lines = [f"{name} {arguments}" for name, arguments in work.calls]
    done = CliRunner().invoke(
        cli.app, ["agent", "play", "0", "--task", "shop_tiny"], input="\n".join(["help", *lines, "state", "done yes", "done"])
    )
    assert done.exit_code == 0, done.output
    assert "score 1.000, solved" in done.output
    assert "Check whether the cart" in done.output
    quit_ = CliRunner().invoke(cli.app, ["agent", "play", "0", "--task", "shop_tiny"], input="quit\n")
    assert "score 0.000, not solved" in quit_.output


def test_episodes_are_kept_shown_and_judged_again(tmp_path: Path) -> None:
    """An evaluation that was killed goes on; its records are those of the whole one, and are found again from its episodes."""
    turns = [script("shop_tiny", str(n)) for n in range(3)]
    tokenizer = build_tokenizer([text for own in turns for text in own])
    renderer = make_renderer(tokenizer, "test", template="{problem}", system=None, thinking=None)
    said = {n: [[*renderer.encode_text(text), renderer.end_ids[0]] for text in own] for n, own in enumerate(turns)}
    settings, folder = Evaluation(problems=3, samples=1, max_tokens=4000), tmp_path / "eval" / "shop_tiny"
    given: tuple[Any, ...] = (renderer, settings, Agent(concurrent=1), 0, folder, "f")
    with pytest.raises(KeyError):  # dies in the last episode
        arena.evaluate_arena(TINY, Scripted({n: said[n] for n in (0, 1)}), *given)
    assert not (folder / "meta.json").exists()
    assert arena.evaluate_arena(TINY, Scripted({2: said[2]}), *given) == 1.0
    (row,) = [arena.rescore(each) for each in arena.played_below([tmp_path])]
    assert (row["episodes"], row["score"], row["score_before"], row["solved"], row["moved"]) == (3, 1.0, 1.0, 3, 0)
    runner = CliRunner()
    graded = runner.invoke(cli.app, ["grade", str(tmp_path)])
    assert graded.exit_code == 0, graded.output
    assert "3 episodes, 3 solved, score 1.0000 (was 1.0000), 0 verdicts moved" in " ".join(graded.output.split())
    shown = runner.invoke(cli.app, ["agent", "show", str(folder), "1"])
    assert "shop_tiny 1, sample 0: ended by stop" in " ".join(shown.output.split())
    assert "filtered_products_ids" in shown.output
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    marked = runner.invoke(cli.app, ["agent", "show", str(folder), "1", "--model", str(tmp_path / "tokenizer")])
    assert "<|tool|>" in marked.output
    missing = runner.invoke(cli.app, ["agent", "show", str(folder), "9"])
    assert "no episode 9; there are 3" in str(missing.exception)
    assert "episodes.jsonl" in problem(lambda: arena.rescore(tmp_path), RecordError)
