"""Tasks that are judged together: the union of their problems, against numbers worked by hand; never from what is incomplete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from selbench import comparison, leaderboard, records
from selbench.comparison import Entry
from selbench.errors import ConfigError, RecordError
from selbench.outcomes import Reader
from selbench.plan import name_problems
from selbench.story import story
from selbench.task import TASKS, Task, pools_of
from tests.test_leaderboard import STRATEGIES, write_evaluation, write_runs

PRODUCTS = {"everything-v1@1": 12, "dice-v2@0.1": 4, "alpha@server-v1@0.1": 10, "beta-v1@0.1": 6}  # right of 5 problems x 4


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small protocol with a second task, and both as the pool `both`."""
    runs = write_runs(tmp_path_factory.mktemp("written"))
    for label, right in PRODUCTS.items():
        for seed in range(3):
            write_evaluation(runs / f"toy/{label}/seed{seed}", right, task="products", problems=5)
    for base in records.BASE:
        write_evaluation(runs / "toy" / base, 8, task="products", problems=5)
    change(runs, tasks=["sums", "products"], pools={"both": ["sums", "products"]})
    return runs


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "mini"))


def change(runs: Path, **keys: Any) -> None:
    records.write_json(runs / "plan.json", records.read_json(runs / "plan.json") | keys)


def pooled(board: leaderboard.Board, strategy: str, task: str = "both") -> dict[str, Any]:
    table = board.table
    (found,) = table[(table.strategy == strategy) & (table.task == task)].to_dict("records")
    return {str(name): value for name, value in found.items()}


def test_a_pool_is_the_union_of_its_problems(folder: Path) -> None:
    """alpha: (36 + 10), (38 + 10) and (40 + 10) right of 60, each with a truncated answer of products, two with one of sums."""
    board = leaderboard.collect(folder)
    assert board.problems == []
    assert list(dict.fromkeys(board.table.task)) == ["sums", "products", "both"]
    alpha = pooled(board, "alpha@server-v1@0.1")
    assert (alpha["problems"], alpha["samples"]) == (15, 4)
    assert alpha["accuracy_percent"] == pytest.approx(100 * (46 + 48 + 50) / 180)
    assert alpha["truncated_percent"] == pytest.approx(100 * (3 + 2) / 180)
    assert alpha["evaluation_seconds"] == 4
    assert alpha["total_seconds"] == pytest.approx(pooled(board, "alpha@server-v1@0.1", "sums")["total_seconds"] + 2)
    assert alpha["kept_percent"] == pytest.approx(10)


def test_intervals_and_verdicts_are_those_of_the_union(folder: Path) -> None:
    change(folder, margins={"both": 5})
    board = leaderboard.collect(folder)
    reader = Reader(folder, {"fingerprint": board.plan["fingerprint"]})
    entries = []
    for label, (role, _) in STRATEGIES.items():
        cells = {f"seed{seed}": f"toy/{label}/seed{seed}" for seed in range(3)}
        shares = {
            seed: np.concatenate([reader.read("toy", task, cell).shares for task in ("sums", "products")])  # type: ignore[union-attr]
            for seed, cell in cells.items()
        }
        entries.append(Entry(label, role, "complete", shares))
    for strategy, columns in comparison.compare(entries, margin=5).columns.items():
        found = pooled(board, strategy)
        for name, value in columns.items():
            assert found[name] == value or found[name] == pytest.approx(value, nan_ok=True), (strategy, name)
    alpha = pooled(board, "alpha@server-v1@0.1")
    assert alpha["vs_control_verdict"] == "better"
    assert (alpha["margin_points"], pooled(board, "alpha@server-v1@0.1", "sums")["margin_points"]) == (5, 1)


def test_an_incomplete_pool_is_marked_and_not_averaged(folder: Path) -> None:
    (folder / "toy/beta-v1@0.1/seed1/eval/products/samples.parquet").write_bytes(b"PAR1 torn")
    (folder / "toy/everything-v1@1/seed0/DONE").unlink()
    board = leaderboard.collect(folder)
    assert pooled(board, "beta-v1@0.1", "sums")["status"] == "complete"
    beta, whole, alpha = (pooled(board, name) for name in ("beta-v1@0.1", "everything-v1@1", "alpha@server-v1@0.1"))
    assert (beta["status"], whole["status"]) == ("unreadable 1/3", "missing 1/3")
    for empty in (beta["accuracy_percent"], beta["vs_control_points"], alpha["vs_reference_points"]):
        assert np.isnan(empty)
    assert len(board.problems) == 1, "said once, for the task and its pool"
    assert "toy, both" not in "\n".join(board.notes), "what holds everywhere is said without its places"
    assert "| both | – | `beta-v1@0.1` | 2/3 | unreadable 1/3 |" in leaderboard.render(board, "markdown")


def test_a_pool_of_unequal_samples_counts_problems(folder: Path) -> None:
    for path in folder.glob("toy/*/**/products/samples.parquet"):
        rows = records.read_table(path)
        rows[rows["sample"] < 2].to_parquet(path)
        records.write_json(path.with_name("meta.json"), records.read_json(path.with_name("meta.json")) | {"samples": 2})
    board = leaderboard.collect(folder)
    alpha = pooled(board, "alpha@server-v1@0.1")  # products: its 10 right answers are all of these 10
    assert alpha["accuracy_percent"] == pytest.approx(100 * (0.9 + 0.95 + 1.0) / 3 * 10 / 15 + 100 * 5 / 15)
    assert pd.isna(alpha["samples"])
    assert "x each task's samples" in story(folder, "alpha", "dice")


def test_pools_are_named_in_every_format(folder: Path) -> None:
    board = leaderboard.collect(folder)
    assert "both is sums and products together" in leaderboard.render(board, "markdown")
    assert "both is sums and products together" in leaderboard.render(board, "latex")
    assert json.loads(leaderboard.render(board, "json"))["pools"] == {"both": ["sums", "products"]}
    text = story(folder, "alpha", "dice")
    part = text.split("## toy, both")[1]
    assert (
        "`toy/alpha@server-v1@0.1/seed0/eval/sums/samples.parquet`, `toy/alpha@server-v1@0.1/seed0/eval/products/samples.parquet`" in part
    )
    assert "| sums/p0 |" in part


@pytest.mark.parametrize("pools", [{"sums": ["sums", "products"]}, {"both": ["sums"]}, {"both": ["sums", "sums"]}, {"both": ["sums", "x"]}])
def test_a_pool_is_of_the_plan_s_own_tasks(folder: Path, pools: dict[str, list[str]]) -> None:
    change(folder, pools=pools)
    with pytest.raises(RecordError, match="is not of two or more of its tasks"):
        leaderboard.collect(folder)


def test_tasks_declare_their_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pools_of(["math500", "aime24", "aime25"]) == {"aime": ["aime24", "aime25"]}
    assert pools_of(["aime25", "math500"]) == {}, "one task is no pool"
    assert name_problems({"margins": {"aime": 3}}) == []
    assert "unknown task 'amie'" in name_problems({"margins": {"amie": 3}})[0]
    tasks = {name: Task(name, 1, list, tmp_path / name, name, 1, "none", pool="gsm8k") for name in ("one", "two")}
    monkeypatch.setattr(TASKS, "_entries", TASKS._entries | tasks)
    with pytest.raises(ConfigError, match="its pool 'gsm8k' is the name of a task"):
        pools_of(["one", "two"])
