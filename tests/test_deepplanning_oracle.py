"""DeepPlanning's real shopping cases, solved by an agent that knows the answer; what the model may never see; random calls."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selbench.tasks.deepplanning import data
from selbench.tasks.deepplanning.shopping import calls, prompts, runs, schema, score, tools, world
from selbench.tasks.deepplanning.shopping.oracle import oracle, play

from selbench.task import MIRROR
from tests.shopping_cases import REAL, answer_of, catalogue, truth, write_case

HIDDEN = ("ground_truth", "validation_case", "meta_info", "sub_query", "features", "operator_value", "hard_constraints")


@pytest.fixture
def mirrored(benchmark_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MIRROR, str(benchmark_data))
    return benchmark_data


@pytest.mark.parametrize(("level", "name"), REAL)
def test_the_oracle_solves_every_real_case(level: int, name: str, mirrored: Path, tmp_path: Path) -> None:
    """Through the tools alone; the run is then scored from its files."""
    run = runs.prepare(tmp_path, "oracle", level, "1", [name])
    case = world.open_case(level, name)
    before = data.digest(case.folder)
    folder = run / f"case_{name}"
    history = play(world.World(case, folder), oracle(answer_of(case)), folder=folder)
    assert "Out of reach" not in "".join(message["content"] for message in history)
    report = runs.evaluate(tmp_path, runs.finish(tmp_path, run, "oracle", level, "202601010101"))["cases"][0]
    assert (report["score"], report["case_score"], report["extra_products_count"], report["completed"]) == (1, 1, 0, True)
    assert data.digest(case.folder) == before
    assert set(tools.TOOLS) >= {each["function"]["name"] for message in history for each in message.get("tool_calls", [])}


def test_the_oracle_says_what_it_cannot_reach(tmp_path: Path) -> None:
    """A coupon that the user does not own, and a product out of stock: named, and the score is less than 1."""
    wanted = truth(("p01", "p04"), {"Cross-store: ¥60 off every ¥500": 1})
    case = world.load(write_case(tmp_path, catalogue(24), truth=wanted), level=3, query="shoes")
    now = world.World(case)
    history = play(now, oracle(wanted))
    said = "".join(message["content"] for message in history if message["role"] == "assistant")
    assert "Out of reach: p04: not enough stock" in said
    assert "the user owns 0" in said
    assert score.score(json.loads(now.text), wanted)["score"] == pytest.approx(1 / 3)


def test_an_episode_has_two_phases_and_two_budgets(tmp_path: Path) -> None:
    """An agent that never stops uses both budgets whole, and its episode counts as not completed."""

    def restless(history: list[dict[str, Any]]) -> dict[str, Any]:
        function = {"name": "get_cart_info", "arguments": "\ud800"}  # half of a surrogate pair: no file takes one
        return {"role": "assistant", "content": "", "tool_calls": [{"id": str(n), "function": function} for n in range(2)]}

    case = world.load(write_case(tmp_path / "case_1"), level=3, query="shoes")
    history = play(world.World(case), restless, max_calls=3, folder=tmp_path / "case_1")
    assert [message["role"] for message in history].count("assistant") == 6
    assert [message["content"] for message in history if message["role"] == "user"] == ["shoes", prompts.CHECK]
    assert [message["role"] for message in history].count("tool") == 12, "all calls of a reply are answered"
    assert not score.case_report(tmp_path / "case_1")["completed"]


@pytest.mark.parametrize(("level", "name"), REAL)
def test_random_calls_neither_crash_nor_touch_the_database(level: int, name: str, mirrored: Path) -> None:
    case = world.open_case(level, name)
    before = data.digest(case.folder)
    now = world.World(case)
    kinds = set()
    for tool, arguments in calls.random_calls(case, seed=7, count=1000):
        found = json.loads(tools.call(now, tool, arguments))
        kinds.add((tool, "error" in found))
    assert data.digest(case.folder) == before
    assert len({tool for tool, failed in kinds if not failed}) == 15 if level == 3 else 13, "every tool has answered"
    assert json.loads(now.text)["items"]


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Names of all files opened while a test runs. An audit hook stays for good, so it is switched off by its list."""
    names: list[str] = []
    live = [True]
    sys.addaudithook(lambda event, args: names.append(str(args[0])) if live[0] and event == "open" else None)
    yield names
    live[0] = False


def rendered(case: Any, count: int = 400) -> str:
    """Every prompt and tool description of a case, and what the tools say of all of it."""
    now = world.World(case)
    everything = [("get_product_details", json.dumps({"product_ids": list(case.by_id)})), ("get_user_info", "{}"), ("get_cart_info", "")]
    texts = [tools.call(now, *each) for each in [*everything, *calls.random_calls(case, seed=3, count=count)]]
    return "\n".join([*texts, json.dumps(prompts.opening(case)), prompts.CHECK, json.dumps(schema.SCHEMA)])


@pytest.mark.parametrize(("level", "name"), REAL)
def test_no_answer_reaches_the_model(level: int, name: str, mirrored: Path, opened: list[str]) -> None:
    case = world.open_case(level, name)
    text = rendered(case)
    assert any(file.endswith("products.jsonl") for file in opened), "the watch works"
    assert not [file for file in opened if "validation" in file]
    assert not [word for word in HIDDEN if word in text]
    assert not [row["sub_query"] for row in answer_of(case)["meta_info"] if row["sub_query"] in text]


def test_no_word_of_the_answer_reaches_the_model(tmp_path: Path) -> None:
    """A marker in every text of the ground truth; the model's texts are the same without the file."""
    wanted = {"query": "MARK", "ground_truth_products": [{"product_id": "MARK"}], "ground_truth_coupons": {"MARK": 1}}
    case = world.load(write_case(tmp_path, truth=wanted | {"meta_info": [{"MARK": "MARK"}]}), level=3, query="shoes")
    assert "MARK" not in rendered(case)
    (tmp_path / "validation_cases.json").unlink()
    assert rendered(world.load(tmp_path, level=3, query="shoes")) == rendered(case)


def test_own_descriptions_agree_with_the_published(mirrored: Path) -> None:
    """Names, order, types, enums, defaults and required keys; only the words differ."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(each) for key, each in value.items() if not (key == "description" and isinstance(each, str))}
        return [bare(each) for each in value] if isinstance(value, list) else value

    published = data.schema("shopping", 1)
    assert bare(schema.SCHEMA) == bare(published)
    assert list(tools.TOOLS) == [each["function"]["name"] for each in published]
    assert not {each["function"]["description"] for each in published} & {each["function"]["description"] for each in schema.SCHEMA}


@pytest.mark.parametrize("level", world.LEVELS)
def test_prompts_say_what_a_level_needs(level: int) -> None:
    text = prompts.system(level)
    assert "get_cart_info" in text
    assert "get_user_info" in text
    assert ("budget" in text) == (level > 1)
    assert ("coupon" in text) == (level == 3)
    assert text == text.strip()
    assert "\n\n\n" not in text
