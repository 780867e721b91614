"""The step benchmark: rivals agree with dense float64, ratios and tables from made-up records, one tiny run through real processes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from selbench.bench import fresh, real, step, step_report
from selbench.bench.inputs import Inputs, calibrate, drawn, inputs_of, pick
from selbench.bench.rivals import RIVALS, Entry, all_entries, parse_entries
from selbench.errors import ConfigError
from selbench.models import PAIRS

TINY = Path(step.__file__).parents[1] / "tiny"
SPEC: dict[str, Any] = {
    "vocabulary": 64, "rows": 16, "width": 8, "teacher_width": 16, "dtype": "float32", "device": "cpu", "seed": 3, "target_entropy": 0.4,
    "scale": 5.0, "budget": 100.0,
}  # fmt: skip
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("trl_gkd", "trl_distillation")]  # trl alone takes seconds to import


def library_of(name: str) -> None:
    library = RIVALS[name].library
    if library:
        pytest.importorskip(library, reason=f"{name} is measured only where {library} is installed")
        if library == "trl":
            importlib.import_module("trl.trainer.distillation_trainer")


@pytest.mark.parametrize("budget", [100.0, 25.0])
@pytest.mark.parametrize("name", ["dense", "dense_then_chunk", "liger", "liger_128", "selbench", *SLOW])
def test_exact_rivals_agree_with_dense_float64(name: str, budget: float) -> None:
    library_of(name)
    found = fresh.exactness(inputs_of({**SPEC, "budget": budget}), RIVALS[name])
    assert found["loss_error"] < 1e-6
    assert max(found["hidden_relative"], found["weight_relative"]) < 1e-4
    assert max(found["hidden_one_minus_cosine"], found["weight_one_minus_cosine"]) < 1e-8


def test_top_k_is_another_objective_and_says_so() -> None:
    x = inputs_of(SPEC)
    teacher = (x.teacher_hidden @ x.teacher_weight.T).log_softmax(-1)
    student = (x.student_hidden @ x.student_weight.T).log_softmax(-1)
    top = teacher.topk(32, -1).indices
    expected = (teacher.exp() * (teacher - student)).gather(-1, top).sum(-1).mean()
    assert float(RIVALS["verl_topk"].run(x).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert [name for name, rival in RIVALS.items() if not rival.exact] == ["verl_topk"]


def test_inputs_are_the_same_for_everyone_and_as_peaked_as_asked() -> None:
    spec = {**SPEC, "vocabulary": 512, "rows": 64, "width": 32, "teacher_width": 64}
    found = calibrate(spec)
    assert found["mean_entropy"] == pytest.approx(0.4, abs=0.01)
    assert 0.01 < found["mean_reverse_kl"] < 1
    (first, _), (second, _) = drawn(spec | found), drawn(spec | found)
    for name in ("student_hidden", "student_weight", "teacher_hidden", "teacher_weight", "token"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_pick_keeps_the_largest_scores() -> None:
    score = torch.tensor([0.1, 0.9, 0.3, 0.8])
    kept = pick(score, 50)
    assert kept is not None
    assert kept.tolist() == [1, 3]
    assert pick(score, 100) is None
    one = pick(score, 1)
    assert one is not None
    assert one.tolist() == [1]


def test_speed_reports_the_kept_rows_and_leaves_both_gradients() -> None:
    x = inputs_of({**SPEC, "budget": 25.0})
    found = fresh.speed(x, RIVALS["selbench"])
    assert found["kept"] == 4
    assert found["ms"] > 0
    assert found["gradient_bytes"] == 4 * (16 * 8 + 64 * 8)
    hidden = x.student_hidden.grad
    assert hidden is not None
    assert int(hidden.abs().sum(-1).count_nonzero()) == 4


def test_first_rows_are_leaves_of_their_own() -> None:
    x = Inputs(torch.ones(4, 2), torch.ones(3, 2), torch.ones(4, 5), torch.ones(3, 5), torch.arange(4)).leaves()
    few = x.first(2)
    RIVALS["dense"].run(few).backward()  # type: ignore[no-untyped-call]
    assert few.student_weight.grad is not None
    assert x.student_weight.grad is None
    assert few.student_hidden.shape == (2, 2)


def made_up() -> list[dict[str, Any]]:
    size = {"vocabulary": 64, "rows": 16, "budget": 100.0}
    times = {"dense": (10.0, 20.0, 40.0), "trl_gkd": (8.0, 18.0, 100.0), "verl_topk": (1.0, 1.0, 1.0), "selbench": (5.0, 5.0, 20.0)}
    records = [
        {"entry": name, **size, "round": turn, "ms": ms, "peak_bytes": 100 + turn, "loss": 0.5, "kept": 16}
        for name, values in times.items() for turn, ms in enumerate(values)
    ]  # fmt: skip
    records.append({"entry": "liger", **size, "round": 0, "error": "does not fit"})
    records.append({"entry": "selbench@10", **size, "budget": 10.0, "round": 0, "ms": 1.0, "peak_bytes": 7, "loss": 0.6, "kept": 2})
    return records


def test_ratios_are_medians_within_rounds_and_the_best_rival_computes_the_same() -> None:
    by_entry = {record["entry"]: record for record in step.summarise(made_up())}
    ours = by_entry["selbench"]
    assert ours["best"] == "trl_gkd"  # of the exact ones the fastest by its median; neither ours nor the truncated one
    assert ours["to_dense"] == pytest.approx(0.5)  # 0.5, 0.25, 0.5
    assert ours["to_best"] == pytest.approx(5 / 18)  # 5/8, 5/18, 1/5
    assert (ours["ms"], ours["ms_least"], ours["ms_most"], ours["peak_bytes"]) == (5.0, 5.0, 20.0, 102)
    assert by_entry["liger"]["error"] == "does not fit"
    assert by_entry["selbench@10"]["to_dense"] == pytest.approx(0.1)


def test_table_and_figure_from_made_up_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = {"vocabulary": 64, "rows": 16, "width": 8, "teacher_width": 16, "mean_entropy": 0.4, "mean_reverse_kl": 0.1, "scale": 5.0}
    exact = {"entry": "selbench", "vocabulary": 64, "loss_relative": 1e-7, "hidden_relative": 1e-6, "weight_relative": 2e-6}
    found = {
        "settings": {"dtype": "float32"}, "real": None, "left_out": ["trl needs trl"], "sizes": [size], "exactness": [exact],
        "summary": step.summarise(made_up()), "flat": [{"vocabulary": 64, "rows": 16, "error": "killed: out of memory"}],
    }  # fmt: skip
    step_report.render(found)
    shown = capsys.readouterr().out
    for words in ("selbench@10", "does not fit", "0.50", "2e-06", "killed: out of memory", "left out: trl needs trl"):
        assert words in shown
    step_report.figure(found, tmp_path / "step.svg")
    assert "<svg" in (tmp_path / "step.svg").read_text()


def test_names_budgets_and_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean selbench") as caught:
        parse_entries(["selbnch", "dense@0", "dense@x", "liger_triton"], "cpu")
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match="did you mean float32"):
        step.Settings(dtype="float23")
    with pytest.raises(ConfigError, match="larger than --width"):
        step.Settings(width=8, teacher_width=8)
    assert parse_entries(["selbench@10", "selbench@10"], "cpu")[0] == [Entry("selbench", 10.0)]
    assert {entry.label for entry in all_entries()} >= {"dense", "selbench", "selbench@1"}


def test_what_does_not_fit_is_not_tried() -> None:
    assert Entry("selbench").fits(151_936, 10**6, 2**30)
    assert not Entry("dense").fits(151_936, 8192, 24 * 2**30)
    assert Entry("dense", 1.0).fits(151_936, 8192, 24 * 2**30)


def test_a_process_that_fails_says_why() -> None:
    assert "KeyError" in step.fresh({"measure": "nothing"})["error"]


def here(spec: dict[str, Any], module: str = "fresh") -> dict[str, Any]:
    """What a fresh process would answer, from this one."""
    if module == "real":
        return real.collect(spec)
    return (
        calibrate(spec)
        if spec["measure"] == "calibrate"
        else getattr(fresh, spec["measure"])(inputs_of(spec), RIVALS[spec["implementation"]])
    )


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "fresh", here)
    monkeypatch.setattr(fresh, "TIMED", 1)


def test_whole_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    settings = step.Settings((64, 32), (16,), 8, rounds=2, only=("dense", "selbench", "selbench@25"), flat=(16, 32), flat_vocabulary=64)
    found = step.measure(settings, "selbench bench step")
    assert [(r["vocabulary"], r["entry"]) for r in found["summary"][:4]] == [
        (64, "dense"),
        (64, "selbench"),
        (64, "selbench@25"),
        (32, "dense"),
    ]
    assert len(found["measurements"]) == 12
    assert all("error" not in record for record in (*found["summary"], *found["exactness"], *found["flat"]))
    assert found["summary"][1]["loss"] == pytest.approx(found["summary"][0]["loss"], rel=1e-4)
    assert all(one["loss_relative"] < 1e-4 for one in found["exactness"])
    assert found["hardware"]["threads"] >= 1
    json.dumps(found, default=str)


def test_real_rows_of_the_embedded_pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_this_process(monkeypatch)
    pair = PAIRS.get("tiny")
    kept = step.Real(pair.student, pair.teacher, str(TINY / "prompts.jsonl"), max_tokens=8, tensors=tmp_path / "rows.safetensors")
    settings = step.Settings(rows=(16,), rounds=1, only=("dense", "selbench@25"), real=kept)
    found = step.measure(settings)
    assert found["real"]["response_tokens"] >= 16
    assert found["sizes"][0]["mean_reverse_kl"] == pytest.approx(found["real"]["mean_reverse_kl"], rel=0.05)
    dense, ours = found["summary"]
    assert ours["loss"] > dense["loss"]  # the rows kept are those farthest from the teacher
    again = step.measure(settings)
    assert again["real"] == found["real"]  # read, not drawn again
    with pytest.raises(ConfigError, match="remove it"):
        step.measure(step.Settings(rows=(17,), rounds=1, only=("dense",), real=kept))


def test_end_to_end_through_processes() -> None:
    found = step.measure(step.Settings((64,), (16,), 8, rounds=1, only=("selbench@25",)))
    (record,) = found["summary"]
    assert (record["kept"], record["entry"], record["to_dense"]) == (4, "selbench@25", None)
    assert found["exactness"][0]["loss_relative"] < 1e-4
