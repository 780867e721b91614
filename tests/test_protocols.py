"""The protocols of the papers: every value has a source, every published number its row, nothing of it decides a result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from selbench.card import DEFAULT, card, flatten, print_card, raw_protocol
from selbench.config import DOCUMENTATION, Protocol, load_protocol, protocol_names
from selbench.errors import ConfigError
from selbench.models import pair_settings
from selbench.plan import cells_of, choices, name_problems
from selbench.records import BASE
from selbench.templates import TEMPLATES

ROOT = Path(__file__).parents[1]
SOURCED = [name for name in protocol_names() if name not in ("tiny", "tiny-agent", "custom")]
PAPERS = [name for name in SOURCED if raw_protocol(name).get("published")]


def load(name: str, *overrides: str) -> Protocol:
    return load_protocol(name, overrides, also=name_problems, beneath=pair_settings)


def leaves(name: str) -> dict[str, Any]:
    return flatten({key: value for key, value in raw_protocol(name).items() if key not in ("name", *DOCUMENTATION)})


def test_the_protocols_that_are_shipped() -> None:
    assert set(PAPERS) == {
        "tip-qwen3-8b-4b", "tip-qwen2.5-14b-1.5b", "tip-llama-70b-8b", "taopd-qwen3-4b-1.7b", "revisiting-qwen2.5-7b", "tip-deepplanning",
    }  # fmt: skip
    assert set(SOURCED) - set(PAPERS) == {"qwen2.5-coder-gsm8k"}


@pytest.mark.parametrize("name", SOURCED)
def test_every_value_has_a_source_and_no_source_dangles(name: str) -> None:
    assert set(leaves(name)) == set(raw_protocol(name)["sources"])
    assert all(text.strip() for text in raw_protocol(name)["sources"].values())


@pytest.mark.parametrize("name", SOURCED)
def test_a_protocol_is_valid_under_its_own_name(name: str) -> None:
    protocol = load(name)
    assert protocol.name == name
    assert protocol.model.template in TEMPLATES
    assert cells_of(protocol)
    assert protocol.summary


@pytest.mark.parametrize("name", PAPERS)
def test_published_numbers_belong_to_the_protocol(name: str) -> None:
    protocol = load(name)
    assert choices(protocol.strategies, protocol.budget)
    for row in protocol.published:
        assert row.strategy in {*protocol.strategies, *BASE}, row
        assert row.task in protocol.tasks or " " in row.task, row
        assert 0 < row.value < 100
        assert row.metric.endswith("%")
        assert "[P~]" in row.source or "reproduction" in row.source, row  # nothing here was read in a PDF
    assert protocol.criteria


@pytest.mark.parametrize(
    ("name", "task", "strategy", "value", "spread"),
    [
        ("tip-qwen3-8b-4b", "math500", "tip_softor@0.5", 79.1, 0.8),
        ("tip-qwen3-8b-4b", "math500", "full", 76.7, 0.7),
        ("tip-qwen3-8b-4b", "aime25", "tip_softor@0.2", 23.2, 1.2),
        ("tip-llama-70b-8b", "aime24", "entropy@0.2", 18.8, 1.3),
        ("tip-qwen2.5-14b-1.5b", "aime25", "full", 2.1, 0.9),
        ("taopd-qwen3-4b-1.7b", "average of six sets", "teachability@0.1", 44.89, None),
        ("revisiting-qwen2.5-7b", "math500", "full", 82.0, None),
    ],
)
def test_published_values(name: str, task: str, strategy: str, value: float, spread: float | None) -> None:
    first = next(row for row in load(name).published if (row.task, row.strategy) == (task, strategy))
    assert (first.value, first.spread) == (value, spread)


def test_settings_of_the_papers() -> None:
    tip = load("tip-qwen3-8b-4b")
    assert tip.training.steps == 15 * (13_918 // 256)
    assert (tip.training.prompts_per_step, tip.training.learning_rate, tip.training.weight_decay) == (256, 1e-6, 0.1)
    assert (tip.evaluation.temperature, tip.evaluation.top_p, tip.evaluation.top_k, tip.evaluation.samples) == (0.7, 0.8, 20, 16)
    assert tip.model.thinking is False
    revisiting = load("revisiting-qwen2.5-7b")
    assert (revisiting.loss.kind, revisiting.loss.top_k, revisiting.loss.tail) == ("local_support", 32, "renormalise")
    assert (revisiting.training.top_p, revisiting.training.learning_rate, revisiting.training.steps) == (0.9, 2e-6, 400)
    assert revisiting.loss.special_token_mask == ("<", "think", "<|im_end|>")
    taopd = load("taopd-qwen3-4b-1.7b")
    assert (taopd.training.betas, taopd.loss.kind, taopd.loss.normaliser) == ((0.9, 0.98), "policy_gradient", "per_sample_kept")


def test_documentation_decides_nothing() -> None:
    protocol = load("tip-qwen3-8b-4b")
    bare = protocol.model_copy(update={"sources": {}, "published": (), "criteria": (), "summary": ""})
    assert bare.fingerprint() == protocol.fingerprint()
    first, second = cells_of(protocol)[1], cells_of(bare)[1]
    assert first.training_fingerprint() == second.training_fingerprint()
    assert first.evaluation_fingerprint("x", 1) == second.evaluation_fingerprint("x", 1)
    assert load("tip-qwen3-8b-4b", "training.steps=3").fingerprint() != protocol.fingerprint()


def test_a_changed_value_loses_its_source() -> None:
    changed = load("tip-qwen3-8b-4b", "training.steps=3", "evaluation.samples=2")
    moved = {key for key, text in changed.sources.items() if text == "given in this run"}
    assert moved == {"training.steps", "evaluation.samples"}
    assert changed.name != "tip-qwen3-8b-4b"
    assert "given in this run" not in load("tip-qwen3-8b-4b").sources.values()


def test_a_published_row_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    row = '{task: arithmetic, strategy: full, valu: 3, metric: "%", source: none}'
    path.write_text(f"name: mine\npairs: [tiny]\nprompts: selbench:tiny/prompts.jsonl\ntasks: [arithmetic]\npublished:\n  - {row}\n")
    with pytest.raises(ConfigError) as refused:
        load(str(path))
    assert any("unknown key 'published.0.valu': did you mean value" in problem for problem in refused.value.problems)


@pytest.mark.parametrize("name", protocol_names())
def test_a_card_shows_every_setting_in_100_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_card(name)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    joined = " ".join(shown.split())
    for row in card(name)["settings"]:
        assert row["key"] in joined, row
    for row in card(name)["published"]:
        assert f"{row['value']:g}" in joined
    print_card(name, as_json=True)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(card(name)))


def test_a_card_covers_the_whole_protocol() -> None:
    """Settings of the card, defaults included, are all keys of the protocol, each once."""
    name = "tip-qwen3-8b-4b"
    listed = [row["key"] for row in card(name)["settings"]]
    assert len(listed) == len(set(listed))
    content = load(name).model_dump(mode="json", exclude={"name", *DOCUMENTATION})
    assert set(listed) == set(flatten(content))
    assert {row["source"] for row in card(name)["settings"] if row["key"] == "engine"} == {DEFAULT}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["tip-qwen3-8b-4"], "did you mean tip-qwen3-8b-4b"), (["entropy", "--json"], "only protocols are shown as JSON")],
)
def test_bad_words_are_refused(arguments: list[str], expected: str) -> None:
    done = subprocess.run([sys.executable, "-m", "selbench", "show", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr
