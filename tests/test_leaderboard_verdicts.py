"""The columns of the comparison in the leaderboard: verdicts in every format, what is missing or wrong, and the same bytes in any order."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from selbench import leaderboard, records
from selbench.errors import RecordError
from tests.test_leaderboard import row, write_runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_runs(tmp_path)


def test_verdicts_are_in_every_format(folder: Path) -> None:
    board = leaderboard.collect(folder)
    texts = {form: leaderboard.render(board, form) for form in leaderboard.FORMATS}
    beta = row(board, "beta-v1@0.1")
    assert (beta["vs_reference_verdict"], beta["vs_control_verdict"]) == ("worse", "undecided")
    assert row(board, "alpha@server-v1@0.1")["vs_reference_verdict"] == "better"
    assert "% note: undecided, `beta-v1@0.1` vs `dice-v2@0.1`: +0.0 points, p = 1.000 after Holm over 4: " in texts["latex"]
    assert "- undecided, `beta-v1@0.1` vs `dice-v2@0.1`: +0.0 points, p = 1.000 after Holm over 4: " in texts["markdown"]
    assert "margin ±1 points; family: all strategies of a pair and task against both baselines" in texts["markdown"]
    (line,) = (line for line in texts["markdown"].splitlines() if line.startswith("| `beta-v1@0.1` | 3/3 | 50.0 ± 0.0 ["))
    assert [line.count("] undecided |"), line.count("] worse |")] == [1, 1]
    assert "] undecided & " in texts["latex"]
    assert "] worse & " in texts["latex"]
    found = pd.read_csv(io.StringIO(texts["csv"])).set_index("strategy").loc["beta-v1@0.1"]
    (stored,) = (each for each in json.loads(texts["json"])["rows"] if each["strategy"] == "beta-v1@0.1")
    for name in ("vs_reference_verdict", "vs_control_verdict", "vs_reference_reason", "tie_group"):
        assert found[name] == stored[name] == beta[name]
    for name in ("vs_reference_p", "vs_reference_equivalent_p", "vs_reference_detectable_points", "accuracy_these_problems_low_percent"):
        assert found[name] == stored[name] == pytest.approx(beta[name], rel=1e-5)


def test_one_seed_decides_nothing(folder: Path) -> None:
    plan = records.read_json(folder / "plan.json")
    records.write_json(folder / "plan.json", plan | {"cells": [cell for cell in plan["cells"] if cell["seed"] == 1]})
    board = leaderboard.collect(folder)
    trained = board.table[~board.table.role.isin(["student", "teacher"])]
    words = pd.concat([trained["vs_reference_verdict"], trained["vs_control_verdict"]]).dropna()
    assert (len(words), set(words)) == (6, {"undecided"})
    assert set(trained["tie_group"]) == {"a"}
    notes = [line for line in leaderboard.render(board, "markdown").splitlines() if line.startswith("- undecided")]
    assert len(notes) == 1, "one reason, one line"
    assert notes[0].count(" vs ") == 6
    assert "one training seed" in notes[0]


@pytest.mark.parametrize(("role", "other"), [("reference", "control"), ("control", "reference")])
def test_a_missing_baseline_is_named(folder: Path, role: str, other: str) -> None:
    plan = records.read_json(folder / "plan.json")
    records.write_json(folder / "plan.json", plan | {"cells": [cell for cell in plan["cells"] if cell["role"] != role]})
    board = leaderboard.collect(folder)
    (note,) = board.notes
    assert note.startswith(f"no {role} (")
    assert note in leaderboard.render(board, "markdown")
    assert json.loads(leaderboard.render(board, "json"))["notes"] == [note]
    assert board.table[[name for name in leaderboard.COLUMNS if name.startswith(f"vs_{role}_")]].isna().all(axis=None)
    assert row(board, "alpha@server-v1@0.1")[f"vs_{other}_verdict"] in ("better", "undecided")
    assert board.problems == []


def test_margins_and_family_are_the_protocols(folder: Path) -> None:
    plan = records.read_json(folder / "plan.json")
    before = row(leaderboard.collect(folder), "beta-v1@0.1")
    records.write_json(folder / "plan.json", plan | {"margins": {"sums": 60}, "family": "baseline"})
    board = leaderboard.collect(folder)
    beta = row(board, "beta-v1@0.1")
    assert (before["vs_control_verdict"], beta["vs_control_verdict"]) == ("undecided", "equivalent")
    assert beta["margin_points"] == 60
    assert beta["vs_reference_p"] <= before["vs_reference_p"]
    assert "margin ±60 points; family: all strategies of a pair and task against each baseline" in leaderboard.render(board, "markdown")
    records.write_json(folder / "plan.json", plan | {"margins": {"sums": 0}})
    with pytest.raises(RecordError, match="margins are points between 0 and 100, not sums 0"):
        leaderboard.collect(folder)


def test_the_order_of_the_records_does_not_matter(folder: Path) -> None:
    plan = records.read_json(folder / "plan.json")
    (folder / "toy/beta-v1@0.1/seed1/DONE").unlink()
    first = [leaderboard.render(leaderboard.collect(folder), form) for form in leaderboard.FORMATS]
    for path in folder.rglob("samples.parquet"):
        records.read_table(path).sample(frac=1, random_state=3).to_parquet(path, index=False)
    records.write_json(folder / "plan.json", plan | {"cells": plan["cells"][::-1]})
    assert [leaderboard.render(leaderboard.collect(folder), form) for form in leaderboard.FORMATS] == first


def test_bad_records_are_one_line_each(folder: Path) -> None:
    samples = folder / "toy/beta-v1@0.1/seed0/eval/sums/samples.parquet"
    rows = records.read_table(samples)
    rows.loc[5] = rows.loc[4]
    rows.to_parquet(samples)
    records.write_json(folder / "toy/beta-v1@0.1/seed1/eval/sums/meta.json", {"schema": 99})
    assert leaderboard.collect(folder).problems == [
        "toy/beta-v1@0.1/seed0/eval/sums/samples.parquet: 1 answers stand there twice, the first is sample 0 of p4; evaluate again",
        "toy/beta-v1@0.1/seed1/eval/sums/meta.json: written by a newer selbench (schema 99, this one reads 1); update selbench",
    ]
    plan = records.read_json(folder / "plan.json")
    records.write_json(folder / "plan.json", plan | {"cells": [*plan["cells"], plan["cells"][0]]})
    with pytest.raises(RecordError, match="more than once"):
        leaderboard.collect(folder)
    records.write_json(folder / "plan.json", {name: plan[name] for name in plan if name != "cells"})
    with pytest.raises(RecordError, match="no cells in it"):
        leaderboard.collect(folder)
