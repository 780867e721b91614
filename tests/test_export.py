"""Exports: lm-eval's own names and standard error, a model card that huggingface_hub reads back, and nothing of what is unfinished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selbench import export, records
from selbench.errors import ConfigError
from tests.test_cli import ROOT
from tests.test_pools import folder, written  # noqa: F401

PUBLISHED = ROOT / "results" / "tiny"
SMALL = ROOT / "results" / "models" / "cpu" / "smollm2-135m-instruct-q4_1"
PASSPORT = {"seed": 0, "models": {"student": {"source": "owner/small"}, "teacher": {"source": "owner/large"}}, "code": {"commit": "abc"}}


@pytest.fixture
def runs(folder: Path) -> Path:  # noqa: F811
    """The small protocol of two pooled tasks, with a passport beside each run."""
    for done in folder.glob("toy/**/DONE"):
        records.write_json(done.with_name("passport.json"), PASSPORT)
    return folder


def results_of(card: Any) -> list[Any]:
    """Its results as huggingface_hub parsed them."""
    return list(card.data.eval_results)


def test_keys_and_errors_are_lm_eval_s(runs: Path) -> None:
    from lm_eval.api.metrics import mean_stderr
    from lm_eval.result_schema import EvalResults

    (model,), left = export.read(runs / "toy/alpha@server-v1@0.1/seed0")
    assert left == []
    content = export.lm_eval_results(model)
    assert set(content) <= set(EvalResults.__annotations__)
    sums = content["results"]["selbench_sums"]
    assert sums["acc,keep_all"] == sums["exact_match,none"] == pytest.approx(36 / 40)
    assert sums["acc_stderr,keep_all"] == sums["exact_match_stderr,none"] == pytest.approx(mean_stderr([1.0] * 6 + [0.75] * 4))
    assert sums["truncated,keep_all"] == pytest.approx(1 / 40)
    assert content["results"]["both"]["acc,keep_all"] == content["groups"]["both"]["acc,keep_all"] == pytest.approx(46 / 60)
    assert content["group_subtasks"]["both"] == ["selbench_sums", "selbench_products"]
    assert content["n-samples"]["selbench_products"] == {"original": 5, "effective": 5}
    assert content["n-shot"] == {"selbench_sums": 0, "selbench_products": 0}
    assert (content["model_name"], content["git_hash"]) == ("mini/toy/alpha@server-v1@0.1/seed0", "abc")
    assert content["config"]["model_args"] == {"pretrained": "owner/small"}
    assert float(content["total_evaluation_time_seconds"]) == 4


def test_lm_eval_prints_the_file_as_its_own(runs: Path) -> None:
    from lm_eval.utils import make_table, sanitize_model_name

    (path,), _ = export.write(runs / "toy/alpha@server-v1@0.1/seed0", "lm-eval")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert path.parent.name == sanitize_model_name(content["model_name"])
    table = make_table(content)
    assert "|-selbench_sums|" in table.replace(" ", ""), "below its group"
    assert "|both|" in make_table(content, "groups").replace(" ", "")


def test_published_numbers_are_those_that_lm_eval_gave() -> None:
    """lm-eval computed `lm_eval_acc` itself when the run was evaluated; of the other model only the first problems were asked."""
    (model,), _ = export.read(PUBLISHED / "tiny/full-v1@1/seed0")
    content = export.lm_eval_results(model)
    assert content["results"]["selbench_arithmetic"]["acc,keep_all"] == model.runs["arithmetic"].meta["lm_eval_acc"]
    assert content["configs"]["selbench_arithmetic"]["generation_kwargs"]["max_gen_toks"] == 56
    (small,), _ = export.read(SMALL)
    found = export.lm_eval_results(small)
    assert found["n-samples"]["selbench_gsm8k"] == {"original": 1319, "effective": 64}
    assert found["configs"]["selbench_gsm8k"]["dataset_path"] == "openai/gsm8k"
    assert found["versions"]["selbench_gsm8k"] == 2


def test_a_model_card_is_read_back(runs: Path) -> None:
    from huggingface_hub import ModelCard

    (path,), _ = export.write(runs / "toy/alpha@server-v1@0.1/seed0", "model-card", runs / "cards")
    card = ModelCard.load(path)
    head = card.data.to_dict()
    assert (head["base_model"], head["library_name"]) == ("owner/small", "transformers")
    assert head["tags"] == ["selbench", "on-policy-distillation"]
    results = {result.dataset_name: result for result in results_of(card)}
    assert results["sums"].metric_value == 90.0
    assert results["sums"].metric_args == {"samples": 4, "problems": 10, "grader": "math-1"}
    assert {result.metric_type for result in results.values()} == {"accuracy"}
    assert head["model-index"][0]["name"] == "mini__toy__alpha@server-v1@0.1__seed0"
    assert "- both, all 3 seeds, against `dice-v2@0.1`: +" in card.text
    assert "distilled on-policy from `owner/large` on the tokens that `alpha@server-v1@0.1` keeps" in card.text
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_a_base_model_and_an_evaluation_have_cards(runs: Path) -> None:
    from huggingface_hub import ModelCard

    (path,), _ = export.write(runs / "toy/base-teacher", "model-card")
    assert "base_model" not in ModelCard.load(path).data.to_dict()
    (small,), _ = export.read(SMALL)
    card = ModelCard(export.model_card(small))
    assert {result.dataset_type for result in results_of(card)} == {"openai/gsm8k", "HuggingFaceH4/MATH-500"}
    assert "Against the baselines" not in card.text


def test_what_is_unfinished_is_left_out_and_named(runs: Path) -> None:
    (runs / "toy/beta-v1@0.1/seed1/DONE").unlink()
    paths, left = export.write(runs, "lm-eval")
    assert len(paths) == 4 * 3 + 2 - 1
    assert left == ["toy/beta-v1@0.1/seed1: left out (missing)"]
    first = {path: path.read_bytes() for path in paths}
    assert {path: path.read_bytes() for path in export.write(runs, "lm-eval")[0]} == first
    with pytest.raises(ConfigError, match=r"no finished model there \(toy/beta-v1@0\.1/seed1: left out"):
        export.write(runs / "toy/beta-v1@0.1/seed1", "lm-eval")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lm-eval or model-card"):
        export.write(PUBLISHED, "csv")
    with pytest.raises(ConfigError, match=r"no plan\.json and no eval"):
        export.write(tmp_path, "lm-eval")
