"""The leaderboard of a small synthetic run folder, checked against numbers worked by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from selbench import leaderboard, records
from selbench.errors import RecordError
from selbench.report import figures

PROBLEMS, SAMPLES, STEPS, FINGERPRINT = 10, 4, 3, "0123456789abcdef"
STRATEGIES = {  # label: role, correct answers of 40 per seed
    "everything-v1@1": ("reference", [30, 32, 34]),
    "dice-v2@0.1": ("control", [20, 20, 20]),
    "alpha@server-v1@0.1": ("contender", [36, 38, 40]),
    "beta-v1@0.1": ("extra", [20, 20, 20]),
}


def write_evaluation(folder: Path, correct: int, *, truncated: int = 1, task: str = "sums", problems: int = PROBLEMS) -> None:
    rows, answers = [], problems * SAMPLES
    for number in range(answers):
        late = "truncated" if number < correct + truncated else "timeout" if number == answers - 1 else "incorrect"
        verdict = "correct" if number < correct else late
        row = dict.fromkeys(records.SAMPLE_COLUMNS, "") | {"problem": f"p{number % problems}", "sample": number // problems, "tokens": 5}
        rows.append(row | {"task": task, "verdict": verdict, "finish": "length" if verdict == "truncated" else "stop"})
    records.write_table(folder / f"eval/{task}/samples.parquet", rows, records.SAMPLE_COLUMNS)
    meta = {"seconds": 2.0, "problems": problems, "samples": SAMPLES, "grader": "math-1", "engine": "hf", "peak_memory_bytes": 5e6}
    records.write_json(folder / f"eval/{task}/meta.json", meta)
    records.write_json(folder / "DONE", {"schema": 1, "fingerprint": FINGERPRINT})


def write_training(folder: Path, seed: int) -> None:
    for step in range(1, STEPS + 1):
        line: dict[str, Any] = {"step": step, "loss": 1 / step, "tokens": 100 * step, "kept": 10 * step, "response_accuracy": 0.2 * step}
        line |= {"planted_recall": 0.25 * step, "seconds": dict.fromkeys(records.PHASES, 1.0 + seed), "peak_memory_bytes": 7e6}
        records.append_line(folder / "metrics.jsonl", line)


def write_tokens(folder: Path) -> None:
    rows = [
        {
            "step": step,
            "sample": 0,
            "position": t,
            "token": t,
            "student_entropy": t / 40,
            "reverse_kl": (t * 7 % 40) / 8,
            "kept": t % 10 == 0,
        }
        | {"planted": t % 3}
        for step in (1, STEPS)
        for t in range(40)
    ]
    records.write_table(folder / "tokens.parquet", rows)


def write_runs(tmp_path: Path) -> Path:
    """A protocol's folder of four strategies and three seeds, with its plan."""
    runs = tmp_path / "runs" / "mini"
    cells = []
    for label, (role, correct) in STRATEGIES.items():
        for seed, right in enumerate(correct):
            cell = f"toy/{label}/seed{seed}"
            write_evaluation(runs / cell, right)
            write_training(runs / cell, seed)
            write_tokens(runs / cell)
            name, _, budget = label.rpartition("@")
            cells.append(
                {"pair": "toy", "strategy": name.rpartition("-v")[0], "version": 1, "budget": float(budget), "seed": seed, "role": role}
                | {"source": "none", "folder": cell}
            )
    write_evaluation(runs / "toy/base-student", 4)
    write_evaluation(runs / "toy/base-teacher", 40, truncated=0)
    plan = {
        "schema": 1,
        "protocol": "mini",
        "fingerprint": FINGERPRINT,
        "command": "selbench run mini",
        "pairs": ["toy"],
        "tasks": ["sums"],
    }
    records.write_json(runs / "plan.json", plan | {"seeds": [0, 1, 2], "cells": cells})
    return runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_runs(tmp_path)


def row(board: leaderboard.Board, strategy: str) -> dict[str, Any]:
    (found,) = board.table[board.table.strategy == strategy].to_dict("records")
    return {str(name): value for name, value in found.items()}


def test_numbers(folder: Path) -> None:
    board = leaderboard.collect(folder)
    assert board.problems == []
    assert list(board.table.strategy) == [
        "teacher", "alpha@server-v1@0.1", "everything-v1@1", "beta-v1@0.1", "dice-v2@0.1", "student (untrained)",
    ]  # fmt: skip
    alpha = row(board, "alpha@server-v1@0.1")
    assert alpha["accuracy_percent"] == pytest.approx(95)
    assert alpha["spread_points"] == pytest.approx(5)
    assert (alpha["reference"], alpha["control"]) == ("everything-v1@1", "dice-v2@0.1")
    assert alpha["vs_reference_points"] == pytest.approx(15)
    assert alpha["vs_reference_low_points"] <= 15 <= alpha["vs_reference_high_points"]
    assert alpha["vs_control_points"] == pytest.approx(45)
    assert alpha["vs_control_verdict"] == "better"
    assert alpha["accuracy_low_percent"] < 95 < alpha["accuracy_high_percent"] <= 100
    assert (alpha["rank_low"], alpha["margin_points"]) == (1, 1)
    assert row(board, "dice-v2@0.1")["vs_reference_points"] == -row(board, "everything-v1@1")["vs_control_points"]
    assert alpha["truncated_percent"] == pytest.approx(100 * (1 + 1 + 0) / 120)
    assert alpha["ungraded_percent"] == pytest.approx(100 * (1 + 1 + 0) / 120)
    assert alpha["kept_percent"] == pytest.approx(10)
    assert alpha["planted_recall_percent"] == pytest.approx(50)
    assert alpha["rollout_seconds"] == pytest.approx(STEPS * 2)
    assert alpha["total_seconds"] == pytest.approx(len(records.PHASES) * STEPS * 2 + 2)
    assert alpha["peak_memory_mb"] == 7
    assert (alpha["problems"], alpha["samples"]) == (PROBLEMS, SAMPLES)
    assert row(board, "teacher")["accuracy_percent"] == 100


def test_records_without_a_ledger_leave_its_columns_empty(folder: Path) -> None:
    board = leaderboard.collect(folder)
    alpha = row(board, "alpha@server-v1@0.1")
    assert alpha["saved_seconds_percent"] == pytest.approx(0)  # seconds are in every record
    for name in ("update_tflop", "update_mfu_percent", "distil_peak_mb", "saved_flops_percent", "saved_memory_full_percent"):
        assert alpha[name] != alpha[name]
    assert not any(word in leaderboard.render(board, "markdown") for word in ("update TFLOP |", "MFU % |", "memory % vs"))


def test_costs_of_records_with_a_ledger(folder: Path) -> None:
    for label in STRATEGIES:
        for seed in range(3):
            path, whole = folder / f"toy/{label}/seed{seed}", label == "everything-v1@1"
            flops = {"teacher": 1e12, "score": 0.0 if whole else 2e12, "select": 0.0, "distil": (4 - seed) * 1e12}
            peaks = {"distil": 80e6 if whole else 76e6 + seed * 1e6}
            steps = [
                step | {"flops": flops, "baseline_flops": 5e12, "peak_bytes": peaks, "chunk_bytes": 0, "dense_bytes": 22e6}
                | {"seconds": step["seconds"] | {"score": 0.0 if whole else 1.0 + seed}}
                for step in records.read_metrics(path / "metrics.jsonl")
            ]  # fmt: skip
            (path / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
            roofline = {"device": "cpu", "bf16": 1e12, "fp32": 1e13, "copy_bytes_per_second": 1e10, "rate": "fp32"}
            records.write_json(path / "ledger.json", {"schema": 1, "roofline": roofline})
    board = leaderboard.collect(folder)
    alpha, full = row(board, "alpha@server-v1@0.1"), row(board, "everything-v1@1")
    assert alpha["update_tflop"] == pytest.approx(STEPS * (7 + 6 + 5) / 3)
    assert alpha["update_mfu_percent"] == pytest.approx(100 * (0.7 / 4 + 0.6 / 8 + 0.5 / 12) / 3)
    assert alpha["saved_flops_percent"] == pytest.approx(100 * (1 - 18 / 15))
    assert alpha["saved_seconds_percent"] == pytest.approx(100 * (1 - 4 / 3))
    assert alpha["distil_peak_mb"] == 78
    assert alpha["saved_memory_full_percent"] == pytest.approx(100 * (1 - 78 / 80))
    assert alpha["saved_memory_dense_percent"] == pytest.approx(100 * (22 / 98 + 22 / 99 + 22 / 100) / 3)
    assert full["saved_seconds_percent"] != full["saved_seconds_percent"]
    text = leaderboard.render(board, "markdown")
    assert "saved FLOPs % vs full | saved seconds % vs full | saved memory % vs full | saved memory % vs dense |" in text
    assert "| 78 | 18 | 9.7 | -20.0 | -33.3 | 2.5 | 22.2 |" in text


def test_incomplete_rows_are_never_averaged(folder: Path) -> None:
    (folder / "toy/beta-v1@0.1/seed1/DONE").unlink()
    (folder / "toy/everything-v1@1/seed2/DONE").unlink()
    records.write_json(folder / "toy/everything-v1@1/seed2/FAILED.json", {"error": "out of memory"})
    board = leaderboard.collect(folder)
    beta, reference, alpha = (row(board, name) for name in ("beta-v1@0.1", "everything-v1@1", "alpha@server-v1@0.1"))
    assert (beta["status"], reference["status"]) == ("missing 1/3", "failed 1/3")
    assert board.problems == ["toy/everything-v1@1/seed2: failed with out of memory"]
    for empty in (beta["accuracy_percent"], beta["accuracy_low_percent"], beta["total_seconds"], alpha["vs_reference_points"]):
        assert empty != empty
    assert beta["vs_control_verdict"] != beta["vs_control_verdict"]
    assert board.notes == ["the reference `everything-v1@1` is not complete (failed 1/3): nothing is compared with it"]
    assert alpha["vs_control_points"] == pytest.approx(45)
    assert list(board.table.strategy)[-3:] == ["beta-v1@0.1", "everything-v1@1", "student (untrained)"]
    text = leaderboard.render(board, "markdown")
    assert "| `beta-v1@0.1` | 2/3 | missing 1/3 |" in text
    assert "out of memory" in text


def test_unreadable_files_are_named_and_the_rest_kept(folder: Path) -> None:
    (folder / "toy/beta-v1@0.1/seed0/eval/sums/samples.parquet").write_bytes(b"PAR1 torn")
    samples = folder / "toy/alpha@server-v1@0.1/seed1/eval/sums/samples.parquet"
    records.read_table(samples).iloc[:-1].to_parquet(samples)
    (folder / "toy/dice-v2@0.1/seed0/eval/sums/meta.json").write_text("{}")
    records.write_json(folder / "toy/dice-v2@0.1/seed1/DONE", {"schema": 1, "fingerprint": "older"})
    board = leaderboard.collect(folder)
    texts = "\n".join(board.problems)
    assert "alpha@server-v1@0.1/seed1/eval/sums/samples.parquet: 39 answers where 10 problems x 4 samples are due" in texts
    assert "toy/beta-v1@0.1/seed0/eval/sums/samples.parquet: not readable" in texts
    assert "toy/dice-v2@0.1/seed1/DONE: finished under another protocol fingerprint" in texts
    assert len(board.problems) == 4
    assert all("\n" not in problem and str(folder) not in problem for problem in board.problems)
    assert row(board, "everything-v1@1")["accuracy_percent"] == pytest.approx(80)
    assert row(board, "beta-v1@0.1")["status"] == "unreadable 1/3"
    assert row(board, "dice-v2@0.1")["status"] == "unreadable 2/3"


def test_other_problems_are_not_compared(folder: Path) -> None:
    samples = folder / "toy/beta-v1@0.1/seed0/eval/sums/samples.parquet"
    rows = records.read_table(samples)
    rows["problem"] = rows["problem"].replace("p3", "p77")
    rows.to_parquet(samples)
    board = leaderboard.collect(folder)
    assert "other problems or samples" in board.problems[0]
    assert row(board, "beta-v1@0.1")["status"] == "unreadable 1/3"


def test_no_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"plan\.json"):
        leaderboard.collect(tmp_path)


def test_files_are_byte_stable(folder: Path) -> None:
    (folder / "toy/beta-v1@0.1/seed1/DONE").unlink()
    first = [path.read_bytes() for path in leaderboard.write(leaderboard.collect(folder), folder)]
    paths = leaderboard.write(leaderboard.collect(folder), folder)
    assert [path.name for path in paths] == ["leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.json"]
    assert [path.read_bytes() for path in paths] == first
    markdown, csv, latex, content = (raw.decode() for raw in first)
    assert "95.0 ± 5.0" in markdown
    assert "**" not in markdown
    assert FINGERPRINT[:12] in markdown
    assert "selbench run mini" in markdown
    assert len(csv.splitlines()) == 7
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 2
    alpha = json.loads(content)["rows"][1]
    assert alpha["accuracy_percent"] == 95
    assert alpha["planted_recall_uncertain_percent"] is None


def test_figures_are_byte_stable(folder: Path) -> None:
    drawn = [path for draw in (figures.cost_bars, figures.learning_curves, figures.quadrants) for path in draw(folder)]
    first = {path: path.read_bytes() for path in drawn}
    assert [path.name for path in drawn] == [f"{stem}-toy.{kind}" for stem in ("cost", "learning", "quadrants") for kind in ("png", "svg")]
    assert all(path.read_bytes() == first[path] for path in (*figures.cost_bars(folder), *figures.learning_curves(folder)))
    assert b"<dc:date>" not in b"".join(first.values())


def test_tables_need_no_torch() -> None:
    code = "import sys, selbench.leaderboard; print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "[]"
