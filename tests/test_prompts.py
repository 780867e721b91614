"""Training prompts: what is left out and counted, and what a run records of it."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selbench.config import Filters, load_protocol
from selbench.errors import ConfigError
from selbench.executors import run_inline
from selbench.models import PAIRS
from selbench.overlap import Problem
from selbench.prompt_sources import KNOWN, read_prompts
from selbench.prompts import REASONS, Prompt, PromptSet, check_planned, drop, load_prompts, prompts_changed, training_prompts
from selbench.records import write_json
from selbench.renderer import load_renderer
from selbench.task import TASKS
from tests.conftest import MakeCell
from tests.test_cli import problems as refused
from tests.test_cli import selbench

EMBEDDED = "selbench:tiny/prompts.jsonl"
DAPO, _, GSM8K = (known.hub_id for known in KNOWN)


def write(path: Path, *rows: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def refuses(action: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        action()
    return list(caught.value.problems)


def adds_up(prompts: PromptSet) -> bool:
    report = prompts.report
    return report.read == report.kept + sum(report.dropped.values()) and report.kept == len(prompts) == len(prompts.prompts)


# --- filters

SENTENCE = "Let {} be the number of ways to walk from one corner of the grid to the other in {} steps."
TEXTS = st.sampled_from([SENTENCE.format(a, b) for a in "NM" for b in (3, 4)] + ["1+1", "11", " ", "2+2"])
ROWS = st.lists(st.builds(Prompt, TEXTS, st.sampled_from([None, "1", "1 ", "2"])), max_size=12)
HELD_OUT = [Problem("t", "7", SENTENCE.format("n", "3,").upper()), Problem("t", "8", "1 + 1")]


def kept(rows: list[Prompt], **filters: Any) -> tuple[list[Prompt], Counter[str]]:
    out = drop(rows, Filters(**filters), HELD_OUT, lambda texts: [len(text) for text in texts])
    return [row for n, row in enumerate(rows) if n not in out], Counter(reason for reason, _ in out.values())


@given(ROWS, st.booleans(), st.sampled_from(["exact", "ngram", "none"]), st.sampled_from([None, 3, 90]))
def test_every_row_is_kept_or_counted_once(rows: list[Prompt], answer: bool, overlap: str, longest: int | None) -> None:
    left, counts = kept(rows, require_answer=answer, overlap=overlap, max_prompt_tokens=longest)
    assert len(rows) == len(left) + sum(counts.values())
    assert set(counts) <= set(REASONS)
    assert kept(left, require_answer=answer, overlap=overlap, max_prompt_tokens=longest) == (left, Counter())
    assert all(row.answer for row in left) or not answer
    assert all(len(row.problem) <= (longest or 1000) for row in left)
    assert len({row.problem for row in left}) == len(left)


@given(ROWS, st.randoms(use_true_random=False))
def test_what_is_left_out_does_not_depend_on_the_order(rows: list[Prompt], shuffle: random.Random) -> None:
    mixed = list(rows)
    shuffle.shuffle(mixed)
    (left, counts), (other, others) = kept(rows), kept(mixed)
    assert {row.problem for row in left} == {row.problem for row in other}
    assert counts == others


def test_reasons_by_hand() -> None:
    long = " ".join(f"word{n}" for n in range(40))
    rows = [
        Prompt("What is 1 + 1?", None),
        Prompt("What is  1 + 1?", "2"),  # the same but for white space: the one with an answer stays
        Prompt("2+3", "5"), Prompt("2 +3", "5"),  # text, not arithmetic, decides
        Prompt("4+4", "8"), Prompt("4+4", "9"), Prompt("4+4", None),
        Prompt(" 1+1", "2"),
        Prompt(SENTENCE.format("N", 4), "1"),
        Prompt(long, "1"),
        Prompt("", "1"),
    ]  # fmt: skip
    dropped = drop(rows, Filters(max_prompt_tokens=100), HELD_OUT, lambda texts: [len(text) for text in texts])
    assert dropped == {
        0: ("repeated", "of row 2"),
        4: ("conflicting", "3 rows, answers 8, 9"), 5: ("conflicting", "3 rows, answers 8, 9"), 6: ("conflicting", "3 rows, answers 8, 9"),
        7: ("equal", "t 8"), 8: ("near", "t 7"), 9: ("too_long", f"{len(long)} tokens, at most 100"), 10: ("empty", ""),
    }  # fmt: skip
    exact = drop(rows, Filters(overlap="exact"), HELD_OUT, None)
    assert (7 in exact, 8 in exact) == (True, False)
    assert not {7, 8} & drop(rows, Filters(overlap="none"), HELD_OUT, None).keys()


def test_the_report(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}+{n}", "answer": str(2 * n)} for n in range(20)]
    source = write(tmp_path / "mine.jsonl", *rows, *rows[:4], {"prompt": "1+1", "answer": "3"})
    prompts = load_prompts(source, Filters(), [Problem("sums", "a", "7 + 7")], not_checked={"other": "offline"})
    report = prompts.report
    assert adds_up(prompts)
    assert report.dropped == {**dict.fromkeys(REASONS, 0), "conflicting": 3, "repeated": 3, "equal": 1}
    assert [example["row"] for example in report.examples["repeated"]] == [21, 23, 24]
    assert report.examples["equal"] == [{"row": 8, "problem": "7+7", "detail": "sums a"}]
    lines = "".join(json.dumps([p.problem, p.answer, p.solution]) + "\n" for p in prompts)
    assert report.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    text = "\n".join(report.lines())
    assert f"18 of 25 kept from {source} (mine.jsonl); content {report.sha256[:12]}" in text
    assert "3 left out: with the problem of another row and a different answer; first: row 2 (3 rows, answers 2, 3) '1+1'" in text
    assert "checked for overlap with sums; not against other" in text
    assert json.loads(json.dumps(report.content()))["kept"] == 18


def test_real_sources_add_up(benchmark_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELBENCH_DATA", str(benchmark_data))
    tasks = "tasks=[math500,aime24,aime25,gsm8k]"
    found = {}
    for source in (DAPO, GSM8K):
        prompts = training_prompts(load_protocol("tiny", [f"prompts={source}", tasks]), [])
        assert adds_up(prompts)
        assert prompts.report.not_checked == {}
        found[source] = {reason: count for reason, count in prompts.report.dropped.items() if count}
    assert found == {DAPO: {"near": 1}, GSM8K: {"near": 4}}


def test_the_embedded_prompts_pass_the_defaults_whole() -> None:
    protocol = load_protocol("tiny")
    prompts = training_prompts(protocol, [PAIRS.get("tiny")])
    assert (prompts.report.read, prompts.report.kept, sum(prompts.report.dropped.values())) == (4096, 4096, 0)
    assert prompts.report.checked == protocol.tasks
    assert prompts.prompts == read_prompts(EMBEDDED).prompts


def test_tokens_are_those_of_the_student() -> None:
    """The embedded tokenizer has one token a character, and the chat template adds its own."""
    pair = PAIRS.get("tiny")
    lengths = Counter(len(prompt.problem) for prompt in load_prompts(EMBEDDED))
    extra = len(load_renderer(pair.student, template="{problem}", system=None, thinking=None).encode("1+1")) - 3
    prompts = training_prompts(load_protocol("tiny", [f"filters.max_prompt_tokens={7 + extra}"]), [pair])
    assert prompts.report.kept == sum(count for length, count in lengths.items() if length <= 7)
    assert prompts.report.dropped["too_long"] == 4096 - prompts.report.kept > 0
    asked = load_protocol("tiny", [f"filters.max_prompt_tokens={7 + extra}", "model.template=Add up {problem} now"])
    (line,) = refuses(lambda: training_prompts(asked, [pair]))
    assert line == f"prompts {EMBEDDED}: none of 4096 rows is left: 4096 too long; change filters or the source"


# --- runs


def test_the_tasks_whose_problems_are_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELBENCH_DATA", raising=False)
    held_out = TASKS.get("arithmetic").load()[0]
    source = write(tmp_path / "mine.jsonl", {"prompt": held_out["problem"]}, {"prompt": "1+1"})
    base = [f"prompts={source}", "tasks=[arithmetic,gsm8k]"]
    prompts = training_prompts(load_protocol("tiny", base), [])
    assert [p.problem for p in prompts] == ["1+1"]
    assert "set SELBENCH_DATA" in prompts.report.not_checked["gsm8k"]
    assert len(training_prompts(load_protocol("tiny", [*base, "filters.overlap=none"]), [])) == 2
    assert len(training_prompts(load_protocol("tiny", [*base, "filters.tasks=[]"]), [])) == 2
    assert "set SELBENCH_DATA" in refuses(lambda: training_prompts(load_protocol("tiny", [*base, "filters.tasks=[gsm8k]"]), []))[0]
    (line,) = refuses(lambda: training_prompts(load_protocol("tiny", [*base, "filters.tasks=[arithmetics]"]), []))
    assert "did you mean arithmetic?" in line
    write(tmp_path / "mine.jsonl", {"prompt": "1+1"}, {"prompt": "2+2"}, {"prompt": "3+3"})  # the file is read again
    assert len(training_prompts(load_protocol("tiny", base), [])) == 3


def test_filters_decide_the_weights(make_cell: MakeCell) -> None:
    one, other = make_cell("full"), make_cell("full", **{"filters.require_answer": True})
    assert one.training_fingerprint() != other.training_fingerprint()


def test_other_prompts_in_the_same_folder(tmp_path: Path) -> None:
    prompts = load_prompts(EMBEDDED)
    check_planned(prompts, tmp_path)
    write_json(tmp_path / "prompts.json", prompts.report.content())
    other = load_prompts(write(tmp_path / "mine.jsonl", {"prompt": "1+1"}))
    assert prompts_changed(other, tmp_path) == []  # nothing is trained yet
    (tmp_path / "pair/strategy/seed0").mkdir(parents=True)
    (tmp_path / "pair/strategy/seed0/metrics.jsonl").touch()
    assert prompts_changed(prompts, tmp_path) == []
    (line,) = prompts_changed(other, tmp_path)
    assert "trained on other prompts" in line
    (line,) = refuses(lambda: check_planned(other, tmp_path))
    assert "planned for prompts with content" in line


def test_a_run_records_its_prompts(make_cell: MakeCell, tmp_path: Path) -> None:
    cell = make_cell("full", **{"training.steps": 1, "training.prompts_per_step": 2, "evaluation.problems": 1, "evaluation.samples": 1})
    assert run_inline([cell], tmp_path, "cpu", lambda running: None) == []
    recorded = json.loads((tmp_path / cell.folder / "passport.json").read_text())["training_prompts"]
    expected = training_prompts(cell.protocol, [PAIRS.get("tiny")]).report
    assert recorded == json.loads(json.dumps(expected.identity()))
    assert recorded["sha256"] == load_prompts(EMBEDDED).report.sha256


@pytest.mark.slow
def test_the_plan_and_the_folder_show_the_report(tmp_path: Path) -> None:
    held_out = TASKS.get("arithmetic").load()[0]
    write(tmp_path / "mine.jsonl", {"prompt": held_out["problem"], "answer": "1"}, {"prompt": "1+1", "answer": "2"}, {"prompt": "12+3"})
    what = ["run", "--prompts", "mine.jsonl", "--strategies", "full", "--seeds", "0", "filters.require_answer=true", "training.steps=1"]
    what += ["evaluation.problems=2", "evaluation.samples=1"]
    plan = selbench(*what, "--dry-run", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert "prompts      1 of 3 kept from mine.jsonl" in plan.stdout
    assert "1 left out: equal to an evaluation problem; first: row 1 (arithmetic" in plan.stdout
    assert "1 left out: without an answer; first: row 3 '12+3'" in plan.stdout
    assert not (tmp_path / "runs").exists()
    assert selbench(*what, "-q", cwd=tmp_path).returncode == 0
    (written,) = tmp_path.glob("runs/*/prompts.json")
    content = json.loads(written.read_text())
    assert (content["read"], content["kept"], content["dropped"]["equal"], content["dropped"]["unanswered"]) == (3, 1, 1, 1)
    (passport,) = tmp_path.glob("runs/*/*/*/*/passport.json")
    assert json.loads(passport.read_text())["training_prompts"]["sha256"] == content["sha256"]
    write(tmp_path / "mine.jsonl", {"prompt": "2+2", "answer": "4"})
    (line,) = refused(*what, "training.steps=1", cwd=tmp_path)
    assert "trained on other prompts" in line
