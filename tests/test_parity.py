"""Stock lm-eval gives the verdicts of `selbench eval` on the same responses: problem by problem, whatever the finish reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from selbench import eval_model
from selbench.config import Evaluation, Model
from selbench.evaluate import evaluate_task
from selbench.records import read_table
from selbench.task import MIRROR, TASKS
from tests.test_eval import ROOT, TINY, Parrot, samples_of, told


def stock(task: str, responses: dict[str, list[str]], limit: int | None) -> dict[str, float]:
    """`acc` of each problem by stock lm-eval, whose model says the stored responses."""
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Replay(LM):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            left: dict[str, Iterator[str]] = {problem: iter(texts) for problem, texts in responses.items()}
            return [next(left[request.doc["id"]]) for request in requests]

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            raise TypeError("not asked for")

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            raise TypeError("not asked for")

    name = TASKS.get(task).lm_eval_name
    manager = TaskManager(include_path=str(ROOT / "tasks"), include_defaults=False)
    results = simple_evaluate(model=Replay(), tasks=[name], task_manager=manager, limit=limit, bootstrap_iters=0, log_samples=True)
    assert results is not None
    found = {sample["doc"]["id"]: sample["acc"] for sample in results["samples"][name]}
    assert results["results"][name]["acc,keep_all"] == pytest.approx(sum(found.values()) / len(found))
    return found


def assert_parity(task: str, table: pd.DataFrame, limit: int | None) -> pd.Series:
    """Stock lm-eval's `acc` is selbench's share of correct records, for every problem. Gives that share."""
    stored = table.sort_values("sample").groupby("problem", sort=False)["response"]
    share = (table["verdict"] == "correct").groupby(table["problem"]).mean()
    found = stock(task, {str(problem): list(texts) for problem, texts in stored}, limit)
    assert found.keys() == set(share.index)
    assert {problem: acc for problem, acc in found.items() if acc != pytest.approx(share[problem])} == {}
    return share


def test_stock_lm_eval_agrees_on_the_tiny_student(tmp_path: Path) -> None:
    evaluation = Evaluation(problems=30, max_tokens=30, template="{problem}")
    eval_model.evaluate_model(TINY, [TASKS.get("arithmetic")], Model(), evaluation, tmp_path, "cpu", quiet=True)
    table = samples_of(tmp_path)
    assert 0.1 < (table["finish"] == "length").mean() < 0.9
    share = assert_parity("arithmetic", table, 30)
    assert 0 < share.mean() < 1


NASTY = [
    "{gold}", "{gold}.", "\\boxed{{{gold}}}", "$\\boxed{{{gold}}}$.", "\\fbox{{{gold}}}", "so \\boxed{{{gold}", "\\boxed{{", "\\boxed{{}}",
    "\\boxed{{1}} no: \\boxed{{{gold}}}", "\\boxed{{{gold}}} no: \\boxed{{999983}}", "\\boxed{{{gold}}} or \\boxed{{999983}}",
    "\\boxed{{{gold}}}, so \\boxed{{999983", "The answer is {gold}", "The answer is {gold}.", "The answer is 999983.", "ANSWER: {gold} ",
    "**Answer:** ${gold}$", "#### {gold}", "#### {gold}\n#### 999983", "Answer:\n\\[ {gold} \\]", "", "   \n ", "I do not know.",
    "<think>\\boxed{{{gold}}}", "<think>\\boxed{{{gold}}}</think>", "<think>\\boxed{{999983}}</think> so \\boxed{{{gold}}}",
    "<think>it is {gold}</think> The answer is {gold}.", "\\boxed{{{gold}}}</think> thus 999983.", "a <think> b </think> c <think> {gold}",
    "5 + 8 = 999983", "we get {gold} and then we carry the", "we get {gold} in the end.", "first 999983, then {gold}", "= {gold} m",
    "The answer is {gold}. I hope it is correct.", "\\boxed{{x = {gold}}}", "\\boxed{{{gold}\\text{{ cm}}}}", "\\boxed{{\\frac{{1}}{{0}}}}",
    "\\boxed{{\\unknown{{{gold}}}}}", "\ufffd \x00 \\boxed{{{gold}}} \x0c",
]  # fmt: skip


@pytest.mark.parametrize(("name", "limit"), [("math500", 20), ("aime24", 5), ("aime25", 5), ("gsm8k", 40)])
def test_stock_lm_eval_agrees_on_nasty_responses(
    name: str, limit: int, benchmark_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a response was cut decides no verdict: lm-eval, which is not told, says the same of all 40 ways to answer."""
    monkeypatch.setenv(MIRROR, str(benchmark_data))
    assert len(NASTY) == len(set(NASTY)) == 40
    task = TASKS.get(name)
    rows = task.load()[:limit]
    texts = [NASTY[n % 40].format(gold=rows[n // task.samples]["answer"]) for n in range(limit * task.samples)]
    tables = []
    for finish in (["stop", "length"], ["stop"], ["length"]):
        folder = tmp_path / "-".join(finish)
        evaluate_task(task, Parrot(len(texts), finish=finish), told(texts), Evaluation(problems=limit), 0, folder, "f")
        tables.append(read_table(folder / "samples.parquet"))
    mixed, whole, cut_off = tables
    assert list(mixed["response"]) == texts
    assert set(mixed["finish"]) == {"stop", "length"}
    right = [list(table["verdict"] == "correct") for table in tables]
    assert right[0] == right[1] == right[2]
    assert 0.2 < sum(right[0]) / len(texts) < 0.8
    assert "truncated" not in set(whole["verdict"])
    assert "unparsed_answer" in set(whole["verdict"])
    assert "truncated" in set(cut_off["verdict"])
    assert not {"timeout", "error"} & set(mixed["verdict"])
    assert_parity(name, mixed, limit)


def small_model() -> str:
    """A small instruction-tuned model, should there be one on this machine."""
    places = [os.environ.get("SELBENCH_TEST_MODELS"), os.environ.get("SELBENCH_MODELS")]
    for place in filter(None, places):
        if (folder := Path(place).expanduser() / "smollm2-135m-instruct").is_dir():
            return str(folder)
    pytest.skip("no smollm2-135m-instruct under SELBENCH_TEST_MODELS or SELBENCH_MODELS")


@pytest.mark.slow
def test_stock_lm_eval_agrees_on_a_real_model(benchmark_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR, str(benchmark_data))
    evaluation = Evaluation(problems=8, max_tokens=64, temperature=0, template="boxed-qwen", batch=8)
    eval_model.evaluate_model(small_model(), [TASKS.get("gsm8k")], Model(), evaluation, tmp_path, "cpu", quiet=True)
    table = samples_of(tmp_path, "gsm8k")
    assert len(table) == 8
    assert "length" in set(table["finish"])
    assert_parity("gsm8k", table, 8)


@pytest.mark.slow
def test_the_command_of_lm_eval(benchmark_data: Path, tmp_path: Path) -> None:
    run = [
        sys.executable, "-m", "lm_eval", "run", "--include_path", str(ROOT / "tasks"), "--tasks", "selbench_gsm8k", "--model", "dummy",
        "--limit", "4", "--log_samples", "--output_path", str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), MIRROR: str(benchmark_data), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = tmp_path.rglob("samples_selbench_gsm8k_*.jsonl")
    logged = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [sample["doc"]["id"] for sample in logged] == ["0", "1", "2", "3"]
    assert all(sample["acc"] == 0 for sample in logged)
    assert all(sample["arguments"]["gen_args_0"]["arg_0"].count("\\boxed{}") == 1 for sample in logged)
