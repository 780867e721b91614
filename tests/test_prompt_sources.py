"""Where training prompts come from: field names, broken files, mirrors, the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selbench.config import Filters
from selbench.errors import ConfigError
from selbench.prompt_sources import KNOWN, WRAPPERS, Prompt, read_prompts
from selbench.prompts import load_prompts
from tests.test_prompts import write

DAPO, DEEPMATH, GSM8K = (known.hub_id for known in KNOWN)


def refusal(source: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_prompts(source, **options)
    (line,) = caught.value.problems
    return line


def test_the_field_names_of_a_file(tmp_path: Path) -> None:
    wrapped = f"{WRAPPERS[0][0]}\n\nWhat is $2+2$?\n\n{WRAPPERS[0][1]}"
    source = write(
        tmp_path / "mine.jsonl",
        {"problem": "1+1", "answer": 2},
        {"question": "Nine sheep, two die?", "answer": "9-2 = <<9-2=7>>7\n#### 7"},
        {"prompt": "3+3", "final_answer": "6", "solution": "3+3 is 6", "more": None},
        {
            "prompt": [{"role": "system", "content": "Short."}, {"role": "user", "content": wrapped}],
            "reward_model": {"ground_truth": "4"},
        },
        {"prompt": "5+5", "solution": "10", "reward_model": {"ground_truth": "10"}},
        {"prompt": "a\u2028line separator in a text", "answer": ""},
        {"prompt": wrapped + " Thanks."},
    )
    raw = read_prompts(source)
    assert raw.prompts == (
        Prompt("1+1", "2"),
        Prompt("Nine sheep, two die?", "7", "9-2 = <<9-2=7>>7\n#### 7"),
        Prompt("3+3", "6", "3+3 is 6"),
        Prompt("What is $2+2$?", "4"),
        Prompt("5+5", "10"),
        Prompt("a\u2028line separator in a text", None),
        Prompt(wrapped + " Thanks.", None),
    )
    assert (raw.origin, raw.revision, raw.unwrapped) == ("mine.jsonl", None, 1)
    assert {prompt.solution for prompt in read_prompts(source, solutions=False).prompts} == {None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no prompt in it"),
        ("\n\n", "no prompt in it"),
        ('{"prompt": "1+1"}\n{"prompt": ', "line 2 is not JSON"),
        ("[1]\n", "line 1 is not an object"),
        ('{"text": "1+1", "gold": 2}', "line 1 has none of the fields prompt, problem, question; it has text, gold"),
        ('{"prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}', "line 1: 2 messages by the user"),
        ('{"prompt": "  "}', "none of 1 rows is left: 1 without a problem text"),
        ('{"prompt": "1+1", "answer": "2"}\n{"prompt": "1+1", "answer": "3"}', "2 with the problem of another row and a different answer"),
    ],
)
def test_a_file_that_cannot_be_used(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    assert expected in refusal(str(path))


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes('{"prompt": "é"}'.encode("latin-1"))
    assert "not UTF-8 text" in refusal(str(path))


def test_no_answer_column(tmp_path: Path) -> None:
    source = write(tmp_path / "mine.jsonl", {"prompt": "1+1"}, {"prompt": "2+2"})
    assert [prompt.answer for prompt in load_prompts(source)] == [None, None]
    line = refusal(source, filters=Filters(require_answer=True))
    assert "none of 2 rows is left: 2 without an answer; change filters or the source" in line


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.hub_id)
def test_offline_names_the_mirror(known: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in (None, str(tmp_path)):  # not set, and set to a folder without the file
        monkeypatch.delenv("SELBENCH_DATA", raising=False)
        if folder:
            monkeypatch.setenv("SELBENCH_DATA", folder)
        assert f"set SELBENCH_DATA to a folder that holds {known.mirror}" in refusal(known.hub_id)


def test_offline_and_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELBENCH_DATA", raising=False)
    assert f"did you mean {DAPO}?" in refusal("open-r1/DAPO-Math-17k-Procesed")
    assert "id@<40-digit commit> or id:config:split" in refusal("a/b@main")


def test_mirrors_of_the_known_sets(benchmark_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SELBENCH_DATA", str(benchmark_data))
    dapo, gsm8k = load_prompts(DAPO), load_prompts(GSM8K)
    assert (len(dapo), len(gsm8k)) == (2000, 7473)
    assert (dapo[0].answer, dapo[0].solution) == ("113", None)
    assert (gsm8k[0].answer, str(gsm8k[0].solution).endswith("#### 72")) == ("72", True)
    assert dapo.report.origin == "dapo_math_17k/train.jsonl in $SELBENCH_DATA"
    assert dapo.report.revision is None
    assert load_prompts(f"{DAPO}:en:train").report.sha256 == dapo.report.sha256
    assert load_prompts(str(benchmark_data / "dapo_math_17k/train.jsonl")).report.sha256 == dapo.report.sha256
    write(tmp_path / "deepmath_103k/train.jsonl", {"question": "1+1", "final_answer": "2", "difficulty": 1.0, "r1_solution_1": "Two."})
    monkeypatch.setenv("SELBENCH_DATA", str(tmp_path))
    assert load_prompts(DEEPMATH).prompts == (Prompt("1+1", "2", "Two."),)


def test_a_hub_dataset_with_its_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the hub is asked for, and what becomes of its rows; only the connection is replaced."""
    import datasets

    import selbench.prompt_sources as sources

    rows = [{"question": f"{n}+1", "answer": f"…\n#### {n + 1}", "other": "x"} for n in range(5)]
    asked: list[tuple[Any, ...]] = []

    def load(hub_id: str, config: str | None, *, split: str, revision: str | None) -> Any:
        asked.append((hub_id, config, split, revision))
        return datasets.Dataset.from_list(rows)

    monkeypatch.delenv("SELBENCH_DATA", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(sources, "hub_revision", lambda hub_id: "c" * 40)
    assert "5 rows, expected 7473 or more" in refusal(GSM8K)
    prompts = load_prompts(f"{GSM8K}:socratic:train[:5]")
    assert prompts[4] == Prompt("4+1", "5", "…\n#### 5")
    assert (prompts.report.origin, prompts.report.revision) == (f"{GSM8K}:socratic:train[:5]", "c" * 40)
    assert load_prompts(f"{GSM8K}@{'d' * 40}").report.revision == "d" * 40
    monkeypatch.setattr(sources, "hub_revision", lambda hub_id: None)
    assert load_prompts("some/where").report.revision is None
    assert asked == [
        (GSM8K, "main", "train", "c" * 40), (GSM8K, "socratic", "train[:5]", "c" * 40), (GSM8K, "main", "train", "d" * 40),
        ("some/where", None, "train", None),
    ]  # fmt: skip
