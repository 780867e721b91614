"""Comparisons worked by hand on small arrays, the paired story of two strategies, and what a large table costs."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from selbench import comparison, records
from selbench.comparison import Entry
from selbench.errors import ConfigError
from selbench.stats import LIKE, THESE, differences, join, levels, only
from selbench.story import story
from selbench.verdicts import judge
from tests.test_leaderboard import FINGERPRINT, write_runs, write_training

Array = NDArray[np.float64]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_runs(tmp_path)


def entry(name: str, role: str, values: Any, seeds: str = "0123456789") -> Entry:
    return Entry(name, role, "complete", {f"seed{seed}": np.array(row, dtype=float) for seed, row in zip(seeds, values, strict=False)})


def group(count: int = 2, *, seeds: int = 3, problems: int = 40) -> list[Entry]:
    """A reference, a control and contenders of seeded noise."""
    rng = np.random.default_rng(5)
    names = [("whole@1", "reference"), ("dice@0.1", "control"), *((f"c{n}@0.1", "contender") for n in range(count))]
    means = [0.7, 0.4, *(0.7 + 0.1 * n for n in range(count))]
    return [entry(*name, rng.binomial(4, mean, size=(seeds, problems)) / 4) for name, mean in zip(names, means, strict=True)]


def test_a_comparison_by_hand() -> None:
    """Differences [[.4, .2], [.2, 0]]: seeds and problems each add .01 to the variance, both with one degree of freedom (Cauchy's t)."""
    flat = [[0.5, 0.5], [0.5, 0.5]]
    found = comparison.compare([entry("base@1", "reference", flat), entry("ours@0.1", "contender", [[0.9, 0.7], [0.7, 0.5]])])
    ours, error = found.columns["ours@0.1"], math.sqrt(0.02)
    t = math.tan(math.pi * 0.475)
    assert ours["vs_reference_points"] == pytest.approx(20)
    assert ours["vs_reference_low_points"] == pytest.approx(20 - 100 * t * error)
    assert ours["vs_reference_high_points"] == pytest.approx(20 + 100 * t * error)
    assert ours["vs_reference_p"] == pytest.approx(1 - 2 * math.atan(0.2 / error) / math.pi)
    assert ours["vs_reference_detectable_points"] == pytest.approx(100 * error * (t + math.tan(math.pi * 0.3)))
    assert ours["vs_reference_verdict"] == "undecided"
    assert (ours["rank_low"], ours["rank_high"], ours["tie_group"]) == (1, 2, "a")
    assert "vs_control_points" not in ours
    assert [note.split(" (")[0] for note in found.notes] == ["no control"]


def test_the_family_is_all_contenders_against_both_baselines() -> None:
    entries = group()
    columns = comparison.compare(entries, margin=3).columns
    order = sorted(entries, key=lambda each: each.strategy)  # c0, c1, dice, whole
    values = comparison.stack(order, ["seed0", "seed1", "seed2"])
    dice, whole = differences(values, 2), differences(values, 3)
    expected = judge(join(only(dice, [0, 1]), only(whole, [0, 1])), margin=0.03)
    for (name, role), verdict in zip([(c, role) for role in ("control", "reference") for c in ("c0@0.1", "c1@0.1")], expected, strict=True):
        assert columns[name][f"vs_{role}_p"] == pytest.approx(verdict.p)
        assert columns[name][f"vs_{role}_verdict"] == verdict.word
        assert columns[name][f"vs_{role}_reason"] == verdict.reason
    apart = comparison.compare(entries, margin=3, family="baseline").columns
    assert apart["c1@0.1"]["vs_reference_p"] == pytest.approx(judge(only(whole, [0, 1]), margin=0.03)[1].p)
    one, other = columns["dice@0.1"], columns["whole@1"]
    assert one["vs_reference_p"] == pytest.approx(judge(only(whole, [2]), margin=0.03)[0].p), "a family of its own"
    assert (one["vs_reference_verdict"], other["vs_control_verdict"]) == ("worse", "better")
    assert one["vs_reference_low_points"] == pytest.approx(-other["vs_control_high_points"])
    assert one["vs_reference_p"] == other["vs_control_p"]


def test_scores_have_two_intervals() -> None:
    entries = group()
    columns = comparison.compare([*entries, Entry("teacher", "teacher", "complete", {"base-teacher": np.array([0.5, 1.0, 1.0])})]).columns
    effects = levels(comparison.stack(sorted(entries, key=lambda each: each.strategy), ["seed0", "seed1", "seed2"]))
    for scope, stem in ((LIKE, "accuracy"), (THESE, "accuracy_these_problems")):
        low, high = effects.interval(scope=scope)
        assert columns["c1@0.1"][f"{stem}_low_percent"] == pytest.approx(100 * low[1])
        assert columns["c1@0.1"][f"{stem}_high_percent"] == pytest.approx(min(100 * high[1], 100))
    assert 0 <= columns["teacher"]["accuracy_low_percent"] < 100
    assert "accuracy_these_problems_low_percent" not in columns["teacher"], "one evaluation, nothing that varies"
    assert "rank_low" not in columns["teacher"]


def test_incomplete_strategies_change_nothing() -> None:
    entries = group()
    lost = Entry("lost@0.1", "contender", "failed 1/3", {})
    with_lost = comparison.compare([lost, *entries])
    assert with_lost.columns.pop("lost@0.1").keys() <= {"reference", "control"}
    assert with_lost == comparison.compare(entries)
    assert comparison.compare([lost]).columns.keys() == {"lost@0.1"}


def test_unbalanced_seeds_are_said() -> None:
    reference, control, first, second = group(seeds=4)
    short = Entry(second.strategy, second.role, "complete", {seed: second.shares[seed] for seed in ("seed1", "seed2")})
    other = Entry("other@0.1", "contender", "complete", {"seed9": first.shares["seed0"], "seed1": first.shares["seed1"]})
    found = comparison.compare([reference, control, first, short, other])
    (note,) = found.notes
    assert note == (
        "c0@0.1, dice@0.1, whole@1: more seeds than all have in common; scores use all of them, differences and ranks only seed1, seed2"
    )
    points = 100 * np.mean([first.shares[seed] - reference.shares[seed] for seed in ("seed1", "seed2")])
    assert found.columns["c0@0.1"]["vs_reference_points"] == pytest.approx(points)
    alone = found.columns["other@0.1"]
    assert alone["vs_reference_verdict"] == alone["vs_control_verdict"] == "undecided"
    assert alone["vs_reference_reason"] == (
        "its seeds (seed1, seed9) are not those of the other strategies (seed1, seed2): run the same seeds"
    )
    assert "vs_reference_points" not in alone


def test_the_control_of_the_same_budget_is_the_opponent() -> None:
    reference, control, first, second = group()
    wide = Entry("dice@0.5", "control", "complete", second.shares)
    half = Entry("c0@0.5", "contender", "complete", first.shares)
    odd = Entry("c0@0.3", "contender", "complete", first.shares)
    found = comparison.compare([reference, control, wide, first, half, odd])
    assert (found.columns["c0@0.1"]["control"], found.columns["c0@0.5"]["control"]) == ("dice@0.1", "dice@0.5")
    assert found.columns["c0@0.5"]["vs_control_points"] == pytest.approx(
        100 * np.mean([first.shares[seed] - second.shares[seed] for seed in first.shares])
    )
    assert "control" not in found.columns["c0@0.3"]
    assert found.notes == ["c0@0.3: no control of that budget, and several others; run one at the same budget"]


def test_one_problem_decides_nothing() -> None:
    found = comparison.compare(group(problems=1)).columns["c1@0.1"]
    assert (found["vs_reference_verdict"], found["vs_control_reason"]) == ("undecided", comparison.ONE_PROBLEM)
    assert "accuracy_low_percent" not in found


def test_the_story_of_two_strategies(folder: Path) -> None:
    text = story(folder, "alpha", "dice-v2@0.1")
    assert text.startswith("`alpha@server-v1@0.1` against `dice-v2@0.1`; protocol `mini`, fingerprint `0123456789ab`.")
    assert "95.0 % and 50.0 %; difference +45.0 [" in text
    assert "points; better: +45.0 points, p " in text
    assert "Problems won 10, lost 0, tied 0, by the mean of 3 seeds x 4 samples. Sign-flip test over problems" in text
    assert "runs alone: p 0.002." in text  # 2 of 2**10 sign patterns
    assert "| p0 | 100.0 | 50.0 | +50.0 |" in text
    assert "`toy/alpha@server-v1@0.1/seed2/eval/sums/samples.parquet`" in text
    assert "Problems won 0, lost 0, tied 10" in story(folder, "beta-v1@0.1", "dice")
    (folder / "toy/beta-v1@0.1/seed1/DONE").unlink()
    assert "`beta-v1@0.1` is not complete (missing 1/3): nothing to compare." in story(folder, "alpha", "beta")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("alhpa@server-v1@0.1", "dice", "did you mean alpha@server-v1@0.1"),
        ("dice", "dice-v2", "both are dice-v2@0.1"),
        ("", "dice", "may be alpha"),
    ],
)
def test_a_story_needs_two_names(folder: Path, first: str, second: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        story(folder, first, second)


def write_large(root: Path, tasks: int) -> None:
    """500 problems x 4 samples x 8 strategies x 3 seeds a task."""
    rng = np.random.default_rng(0)
    names = [f"task{number}" for number in range(tasks)]
    cells = []
    for number, role in enumerate(["reference", "control", *["contender"] * 6]):
        for seed in range(3):
            cell = f"toy/s{number}-v1@0.1/seed{seed}"
            cells.append({"pair": "toy", "seed": seed, "role": role, "folder": cell})
            write_evaluations(root / cell, names, rng.uniform(0, 1, 500), rng)
            write_training(root / cell, seed)
    for base in records.BASE:
        write_evaluations(root / "toy" / base, names, rng.uniform(0, 1, 500), rng)
    plan = {"schema": 1, "protocol": "large", "fingerprint": FINGERPRINT, "command": "none", "pairs": ["toy"], "tasks": names}
    records.write_json(root / "plan.json", plan | {"seeds": [0, 1, 2], "cells": cells})


def write_evaluations(cell: Path, tasks: list[str], shares: Array, rng: np.random.Generator) -> None:
    for task in tasks:
        right = rng.random((500, 4)) < shares[:, None]
        rows = [
            {"problem": f"problem {p}", "sample": s, "verdict": "correct" if right[p, s] else "incorrect", "response": "x" * 200}
            for p in range(500)
            for s in range(4)
        ]
        records.write_table(cell / "eval" / task / "samples.parquet", rows)
        meta = {"seconds": 1.0, "problems": 500, "samples": 4, "grader": "g", "engine": "hf"}
        records.write_json(cell / "eval" / task / "meta.json", meta)
    records.write_json(cell / "DONE", {"schema": 1, "fingerprint": FINGERPRINT})


LARGE = """
import resource, sys, time
from pathlib import Path
from selbench import leaderboard
board = leaderboard.collect(Path(sys.argv[1]))
texts = [leaderboard.render(board, form) for form in leaderboard.FORMATS]
assert board.problems == [] and board.table["vs_reference_verdict"].notna().sum() == 7 * len(board.plan["tasks"])
print(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


@pytest.mark.slow
def test_a_tenth_of_a_million_records(tmp_path: Path) -> None:
    """All of it: 10^6 records in a minute and 2 GB; here 96,000 of the strategies' and 8,000 of the untrained models'."""
    write_large(tmp_path, 2)
    done = subprocess.run([sys.executable, "-c", LARGE, str(tmp_path)], check=True, capture_output=True, text=True)
    seconds, gigabytes = map(float, done.stdout.split())
    assert seconds < 10, "imports included"
    assert gigabytes < 1
