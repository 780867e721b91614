"""Seeds and samples for a wanted effect: by hand, as properties, from the published records, and as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from selbench import cli
from selbench.designs import MOST_SEEDS, Cost, Setting, assumed, designs, from_runs
from selbench.errors import ConfigError
from selbench.stats import THESE, Components
from tests.test_cli import problems

TINY = Path(__file__).parents[1] / "results" / "tiny"


def setting(seed: float, problem: float, sample: float, cost: Cost | None = None, *, count: int = 400, strategies: int = 3) -> Setting:
    return Setting("toy", Components(seed, problem, 0.0, sample), count, strategies, strategies - 1, cost, "made up")


def test_by_hand() -> None:
    """Seeds alone: variance 0.0004 of 4 seeds is an error of one point; 6 degrees of freedom, alpha 0.05 / 2."""
    one = setting(0.0004, 0.0, 0.0, Cost(training=100, answer=0.5, unit="CPU hours", source="hand"))
    t = 2.96869 + 0.90570  # t(0.9875; 6) and t(0.8; 6)
    assert one.detectable(4, 1, 0.8) == pytest.approx(t, abs=1e-4)
    assert one.hours(4, 2) == pytest.approx(3 * 4 * (100 + 0.5 * 400 * 2) / 3600)
    assert setting(0.0004, 0.0, 0.0).hours(4, 2) is None


def test_problems_set_the_limit() -> None:
    """Problems alone: sqrt(0.04 / 400) is one point, and no seeds help; four times the problems halve it."""
    one = setting(0.0, 0.04, 0.0, strategies=2)
    normal = 1.959964 + 0.841621
    assert one.detectable(2, 1, 0.8) == pytest.approx(normal, rel=0.005)
    assert one.detectable(60, 64, 0.8) == one.detectable(2, 1, 0.8)
    found = designs(one, normal / 2, 0.8)
    assert found.best is None
    assert found.problems_needed == pytest.approx(1600, rel=0.005)
    these = designs(one, normal / 2, 0.8, THESE)
    assert these.best == (2, 1)  # nothing varies on these problems


def variance(most: float) -> st.SearchStrategy[float]:
    return st.one_of(st.just(0.0), st.floats(1e-6, most))


@settings(max_examples=25, deadline=None)
@given(
    seed=variance(2e-3), problem=variance(0.05), sample=variance(0.5), effect=st.floats(0.5, 20), power=st.floats(0.5, 0.95),
    answer=st.floats(0, 10),
)  # fmt: skip
def test_the_cheapest_that_is_enough(seed: float, problem: float, sample: float, effect: float, power: float, answer: float) -> None:
    one = setting(seed, problem, sample, Cost(60, answer, "CPU hours", "drawn"))
    found = designs(one, effect, power)
    enough = [
        (hours, s, k)
        for s, row, costs in zip(found.seeds, found.points, found.hours, strict=True)
        for k, points, hours in zip(found.samples, row, costs, strict=True)
        if points <= effect and s <= MOST_SEEDS
    ]
    assert np.all(np.diff(found.points, axis=1) <= 1e-9)  # more samples never show less
    assert np.all(np.diff(found.points, axis=0) <= 1e-9)
    if found.best is None:
        assert enough == []
        return
    assert one.detectable(*found.best, power) <= effect
    assert (one.hours(*found.best), *found.best) == min(enough)


def test_the_published_records_as_a_pilot() -> None:
    (one,) = from_runs(TINY, 0.8)
    plan = json.loads((TINY / "plan.json").read_text())
    strategies = {(cell["strategy"], cell["budget"]) for cell in plan["cells"]}
    assert (one.strategies, one.comparisons) == (len(strategies), 2 * (len(strategies) - 2))
    assert one.cost is not None
    assert one.cost.unit == "CPU hours"
    assert min(one.components.seed, one.components.problem, one.components.sample) > 0
    assert one.judged is not None
    assert one.detectable(3, 4, 0.8) < one.judged  # the leaderboard allows for a strategy noisier than the rest
    (quiet,) = from_runs(TINY, 0.8, strategy="entropy")
    assert quiet.components != one.components
    assert quiet.source.startswith(f"{TINY}: difference of entropy-v1@0.1 to full-v1@1")


def test_what_is_assumed_is_said() -> None:
    one = assumed("math500", 500, 2, 1, None)
    found = one.components
    assert (found.seed, found.interaction) == (0.01**2, 0.0)
    assert found.problem == pytest.approx(1 / 9)
    assert found.sample == pytest.approx(1 / 3)
    for words in ("assumed, not measured", "33.3 points", "training seeds by 1 (", "says either"):
        assert words in one.source
    assert assumed("math500", 500, 2, 1, None, seed_points=2, problem_points=10).components.problem == pytest.approx(0.01)


def test_the_verb() -> None:
    said = CliRunner().invoke(cli.app, ["plan", "--task", "aime24", "--effect", "10", "--problem-points", "10"])
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert lines[0] == "aime24: the true difference that 30 problems show with 80% power, points"
    marked = [line for line in lines if line.count("**") == 2 and line.startswith("|")]
    (best,) = [line for line in lines if line.startswith("10 points with 80% power: **")]
    assert len(marked) == 1
    assert f"**{marked[0].split('|')[1].strip()} seeds x " in best
    assert "no cost: no runs and no protocol" in lines[-1]
    found = json.loads(CliRunner().invoke(cli.app, ["plan", "tip-qwen3-8b-4b", "--gpu", "h200", "--task", "math500", "--json"]).output)
    assert (found[0]["problems"], found[0]["cost"]["unit"]) == (500, "GPU hours")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give a protocol's folder with runs, a protocol, or --task NAME"),
        (["--task", "math50"], "unknown task 'math50': did you mean math500?"),
        (["--task", "math500", "--effect", "0"], "--effect 0: points between 0 and 100"),
        (["--task", "math500", "--power", "80"], "--power 80: a chance between 0 and 1"),
        (["--task", "math500", "--gpu", "h100"], "--gpu needs the name of a protocol"),
        (["--task", "math500", "--strategy", "entropy"], "--strategy chooses among runs"),
        ([str(TINY.parent)], "no plan.json there"),
        ([str(TINY), "--task", "arithmetics"], "did you mean arithmetic?"),
        ([str(TINY), "--strategy", "entropi"], "did you mean entropy-v1@0.1"),
        ([str(TINY), "--seed-points", "1"], "stand for what is not measured"),
        (["tinny"], "unknown protocol 'tinny'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        CliRunner().invoke(cli.app, ["plan", *arguments], catch_exceptions=False)
    (line,) = refused.value.problems
    assert expected in line


def test_exit_code() -> None:
    assert problems("plan", "--task", "math500", "--effect", "0") == ["--effect 0: points between 0 and 100"]
