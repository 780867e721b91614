"""Whole runs: killed and resumed, crashed cells, lm-eval alone, the embedded pair."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from selbench.evaluate import evaluate_task
from selbench.executors import run_inline
from selbench.models import Pair
from selbench.records import VERDICTS, read_metrics
from selbench.rollout import Progress, Rollouts, Sampling, numbers
from selbench.rollout.hf import HFEngine
from selbench.task import TASKS
from tests.conftest import MakeCell
from tests.test_cli import ROOT, selbench

RUN = ["run", "training.steps=8", "training.checkpoint_every=3", "evaluation.problems=6", "evaluation.samples=2"]
WHICH = ["--strategies", "full,tip_softor", "--seeds", "0", "--jobs", "2"]


def settled(root: Path) -> dict[str, Any]:
    """All that a run leaves behind but seconds and memory."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix == ".parquet" or path.name == "model.safetensors":
            found[name] = path.read_bytes()
        elif path.name == "metrics.jsonl":
            found[name] = [
                {k: v for k, v in row.items() if k not in ("seconds", "peak_bytes", "peak_memory_bytes")} for row in read_metrics(path)
            ]
    return found


@pytest.mark.slow
def test_kill_at_any_instant_and_run_again_is_bit_identical(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert selbench(*RUN, *WHICH, "--output", str(whole)).returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for least in (2, 5):  # killed twice: before and after the first checkpoint
        process = subprocess.Popen([sys.executable, "-m", "selbench", *RUN, *WHICH, "--output", str(broken)], env=environment)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if any(len(path.read_bytes().splitlines()) >= least for path in broken.rglob("metrics.jsonl")):
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not list(broken.rglob("tip_softor*/seed0/DONE"))
    assert selbench(*RUN, *WHICH, "--output", str(broken)).returncode == 0
    (one,), (other,) = whole.iterdir(), broken.iterdir()
    first, second = settled(one), settled(other)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    first_table, second_table = (pd.read_csv(folder / "leaderboard.csv") for folder in (one, other))
    measured = [c for c in first_table.columns if c.endswith("_mb") or any(word in c for word in ("seconds", "memory", "mfu"))]
    pd.testing.assert_frame_equal(first_table.drop(columns=measured), second_table.drop(columns=measured))


@pytest.mark.slow
def test_a_crashed_cell_is_reported_and_the_others_finish(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import os\nfrom selbench import register_strategy\n"
        "@register_strategy('dies', version=1, source='none')\ndef dies(s):\n    'score = none.'\n    os._exit(9)\n"
        "@register_strategy('raises', version=1, source='none')\ndef raises(s):\n    'score = none.'\n    return s.position[:1].float()\n"
    )
    which = ["--strategies", "dies,raises,full", "--seeds", "0", "--plugin", "bad.py", "--jobs", "2", "--json"]
    done = selbench("run", "training.steps=2", "evaluation.problems=4", *which, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    rows = {row["strategy"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["full-v1@1"]["accuracy_percent"] is not None
    assert rows["dies-v1@0.1"]["accuracy_percent"] is None
    (root,) = (tmp_path / "runs").iterdir()
    errors = {path.parts[-3]: json.loads(path.read_text())["error"] for path in root.rglob("FAILED.json")}
    assert "exit code 9" in errors["dies-v1@0.1"]
    assert "wrong shape" in errors["raises-v1@0.1"]


class ScriptedEngine:
    """Gives prepared responses: what an evaluation makes of each outcome."""

    name = "scripted"

    def __init__(self, pair: Pair, responses: list[tuple[str, str]]) -> None:
        self.pair, self.responses = pair, responses

    def generate(
        self, prompts: Any, sampling: Sampling, seed: int, progress: Progress | None = None, first: int | Sequence[int] = 0
    ) -> Rollouts:
        texts = [self.responses[number % len(self.responses)] for number in numbers(first, len(prompts))]
        return Rollouts.of(prompts, [self.pair.renderer.encode_text(text) for text, _ in texts], [finish for _, finish in texts])

    def sync(self, student: Any) -> None: ...

    def rest(self) -> None: ...

    def close(self) -> None: ...


def test_nothing_is_scored_zero_silently(tiny_pair: Pair, make_cell: MakeCell, tmp_path: Path) -> None:
    gold = TASKS.get("arithmetic").rows()[0]["answer"]
    engine = ScriptedEngine(tiny_pair, [(f"#{gold}", "stop"), ("#1", "stop"), ("5+8+0=13,4+7", "length"), ("none", "stop")])
    settings = make_cell("full", **{"evaluation.problems": 1}).protocol.evaluation
    accuracy = evaluate_task(TASKS.get("arithmetic"), engine, tiny_pair.renderer, settings, 0, tmp_path, "f")
    records = pd.read_parquet(tmp_path / "samples.parquet")
    assert accuracy == 0.25
    assert list(records["verdict"]) == ["correct", "incorrect", "truncated", "unparsed_answer"]
    assert list(records["tokens"]) == [len(gold) + 1, 2, 12, 4]
    assert set(records["verdict"]) <= set(VERDICTS)


def test_the_embedded_pair_is_what_it_claims(tiny_pair: Pair) -> None:
    """The teacher is right, the student half wrong, and wrong in the planted way."""
    from selbench.tiny.text import planted_labels

    rows = TASKS.get("arithmetic").rows()[:90]
    share = {}
    for role, model in (("teacher", tiny_pair.teacher), ("student", tiny_pair.student)):
        assert model is not None
        engine = HFEngine(model, end_ids=tiny_pair.renderer.end_ids, pad_id=tiny_pair.renderer.pad_id)
        made = engine.generate([tiny_pair.renderer.encode(row["problem"]) for row in rows], Sampling(56, temperature=0), 0)
        texts = [tiny_pair.renderer.decode(ids) for ids in made.responses()]
        share[role] = sum(text.split("#")[-1].lstrip("0") == row["answer"] for text, row in zip(texts, rows, strict=True)) / len(rows)
        planted = [any(planted_labels(text)) for text in texts]
        if role == "student":
            wrong = [text.split("#")[-1].lstrip("0") != row["answer"] for text, row in zip(texts, rows, strict=True)]
            assert sum(w and p for w, p in zip(wrong, planted, strict=True)) >= 0.9 * sum(wrong)
    assert share["teacher"] > 0.98
    assert 0.3 < share["student"] < 0.8


def test_training_prompts_and_test_problems_are_disjoint() -> None:
    from selbench.prompts import load_prompts

    training = {prompt.problem for prompt in load_prompts("selbench:tiny/prompts.jsonl")}
    assert not training & {row["problem"] for row in TASKS.get("arithmetic").rows()}


@pytest.mark.slow
def test_the_task_runs_in_stock_lm_eval(tmp_path: Path) -> None:
    from selbench.models import PAIRS

    command = [
        sys.executable,
        "-m",
        "lm_eval",
        "run",
        "--include_path",
        str(ROOT / "tasks"),
        "--tasks",
        "selbench_arithmetic",
        "--model",
        "hf",
    ]
    command += [
        "--model_args",
        f"pretrained={PAIRS.get('tiny').teacher},dtype=float32",
        "--apply_chat_template",
        "--limit",
        "6",
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--output_path", str(tmp_path)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = tmp_path.rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["selbench_arithmetic"]["acc,keep_all"] == 1.0


def test_a_failed_job_leaves_its_reason(make_cell: MakeCell, tmp_path: Path) -> None:
    cell = make_cell("full", **{"training.max_prompt_tokens": 1, "training.steps": 1})
    assert run_inline([cell], tmp_path, "cpu", lambda running: None) == [cell]
    assert "max_prompt_tokens" in json.loads((tmp_path / cell.folder / "FAILED.json").read_text())["error"]
