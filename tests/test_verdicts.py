"""Verdicts: the word, its reason, and that it is seldom wrong on tables of known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from selbench.bench.calibration import Case, simulate
from selbench.stats import SCOPES, differences, join
from selbench.verdicts import WORDS, decide, judge, verdict

Array = NDArray[np.float64]


def table(effects: list[float], *, seeds: int = 3, problems: int = 60, noise: float = 0.02, draw: int = 0) -> Array:
    """(M, S, P): a baseline and strategies with these true differences, normal noise between seeds, problems and cells."""
    rng = np.random.default_rng(draw)
    shape = (len(effects) + 1, seeds, problems)
    means = 0.5 + np.array([0.0, *effects])[:, None, None]
    fit = rng.normal(0, noise * 3, size=(shape[0], 1, problems))
    return means + rng.normal(0, noise / 4, size=(*shape[:2], 1)) + fit + rng.normal(0, noise * 3, size=shape)


def test_each_word_where_it_is_plain() -> None:
    found = judge(differences(table([0.2, -0.2, 0.0], problems=400, noise=0.01)), margin=0.03)
    assert [each.word for each in found] == ["better", "worse", "equivalent"]
    unclear = judge(differences(table([0.02], noise=0.2)), margin=0.01)[0]
    assert unclear.word == "undecided"
    assert unclear.detectable > 0.02
    assert "would have shown" in unclear.reason


def test_a_difference_inside_the_margin_is_equivalent_and_said_to_be_there() -> None:
    found = judge(differences(table([0.02, 0.02], problems=2000, noise=0.01)), margin=0.05)[0]
    assert found.word == "equivalent"
    assert found.p < 0.05
    assert "not zero, but less than the margin" in found.reason
    assert judge(differences(table([0.02, 0.02], problems=2000, noise=0.01)))[0].word == "better", "no margin, no equivalence"


def test_one_seed_decides_nothing() -> None:
    for each in judge(differences(table([0.4, 0.0], seeds=1)), margin=0.05):
        assert each.word == "undecided"
        assert each.reason.startswith("one training seed")
        assert math.isnan(each.p) and math.isnan(each.p_equivalent) and math.isnan(each.detectable)  # noqa: PT018
        assert each.interval.low < each.interval.mean < each.interval.high, "the interval over problems stands, for that run"


def test_three_lucky_seeds_are_no_evidence() -> None:
    """Runs 2 points apart, the same on every problem: problems say certainly, the seeds of the whole table say noise."""
    runs = np.array([[0.50, 0.54, 0.46], [0.55, 0.55, 0.55], [0.53, 0.47, 0.50], [0.46, 0.54, 0.50]])
    values = np.repeat(runs[:, :, None], 200, axis=2)
    assert [each.word for each in judge(differences(values))] == ["undecided"] * 3


def test_where_nothing_varies_the_problems_are_counted() -> None:
    """Nothing varies: 500 problems without one difference exclude 2 points, 30 problems do not exclude 3."""
    assert verdict(np.zeros((3, 500)), margin=0.02).word == "equivalent"
    assert verdict(np.zeros((3, 500)), margin=0.02).p_equivalent == pytest.approx(0.98**500)
    assert verdict(np.zeros((3, 30)), margin=0.03).word == "undecided"
    assert verdict(np.ones((2, 30))).p == pytest.approx(2 * 0.5**30)
    assert verdict(np.ones((2, 30))).word == "better"
    assert verdict(-np.ones((2, 30))).word == "worse"


def test_the_single_comparison_is_a_family_of_one() -> None:
    values = table([0.05])
    alone, family = verdict(values[1] - values[0], margin=0.03), judge(differences(values), margin=0.03)[0]
    assert alone.word == family.word
    assert (alone.p, alone.p_equivalent, alone.detectable) == pytest.approx((family.p, family.p_equivalent, family.detectable))


def test_a_larger_family_asks_for_more() -> None:
    values = table([0.05, 0.0, 0.0, 0.0])
    effects = differences(values)
    both = judge(join(effects, differences(values, 1)), margin=0.03)
    assert len(both) == 8
    for one, two in zip(judge(effects, margin=0.03), both[:4], strict=True):
        assert two.p >= one.p - 1e-12
        assert two.p_equivalent >= one.p_equivalent - 1e-12
        assert two.detectable > one.detectable
        assert two.interval == one.interval, "an interval is of its comparison alone"
    with pytest.raises(ValueError, match="same seeds and problems"):
        join(effects, differences(values[:, :2]))


@pytest.mark.parametrize(("margin", "level"), [(0.0, 0.95), (1.0, 0.95), (-0.02, 0.95), (2.0, 0.95), (0.02, 95.0), (0.02, 0.0)])
def test_refuses_points_for_shares(margin: float, level: float) -> None:
    with pytest.raises(ValueError, match="shares inside"):
        judge(differences(table([0.1])), margin=margin, level=level)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 5), st.sampled_from(SCOPES))
def test_order_and_sign(draw: int, seeds: int, strategies: int, scope: str) -> None:
    """Neither the order of seeds, problems and strategies nor a constant matters; turning the sign swaps better and worse."""
    rng = np.random.default_rng(draw)
    values = table(list(rng.normal(0, 0.1, strategies)), seeds=seeds, problems=12, draw=draw)
    codes = decide(differences(values), margin=0.05, scope=scope)
    mixed = values[:, rng.permutation(seeds)][:, :, rng.permutation(12)] + 0.1
    assert decide(differences(mixed), margin=0.05, scope=scope).tolist() == codes.tolist()
    order = rng.permutation(strategies)
    assert decide(differences(values[[0, *(1 + order)]]), margin=0.05, scope=scope).tolist() == codes[order].tolist()
    turned = decide(differences(1 - values), margin=0.05, scope=scope)
    assert turned.tolist() == [{1: 2, 2: 1}.get(int(code), int(code)) for code in codes]
    assert [each.word for each in judge(differences(values), margin=0.05, scope=scope)] == [WORDS[code] for code in codes]


def test_leading_axes_are_families_of_their_own() -> None:
    tables = np.stack([table([0.1, 0.0, -0.1], draw=draw) for draw in range(4)])
    together = decide(differences(tables), margin=0.03)
    assert together.tolist() == [decide(differences(each), margin=0.03).tolist() for each in tables]


def test_false_claims_and_coverage_on_simulated_answers() -> None:
    """300 tables: four binomial deviations around what 2,000 show in results/bench/calibration.json."""
    case = Case("AIME, k = 16", "typical", 3, "all equal")
    found = simulate(case, 300)
    assert found["false"]["verdict"] <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 300)
    for name in (f"difference, {scope}" for scope in SCOPES):
        assert 0.93 <= found["coverage"][name] <= 0.99
    assert found["false"]["sign flips over problems, one seed"] > found["false"]["verdict"], "runs are not strategies"
    assert simulate(case, 20) == simulate(case, 20)


def test_power_grows_with_the_effect_and_equivalence_is_not_claimed_at_the_margin() -> None:
    ladder = simulate(Case("AIME, k = 16", "typical", 5, "ladder"), 200)
    better = ladder["words"]["better"]
    assert better[-1] > 0.9
    assert better[1] < better[4] < better[6] < better[7]
    edge = simulate(Case("AIME, k = 16", "no noise between runs", 5, "all at the margin"), 200)
    assert edge["false"]["equivalent"] <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)
