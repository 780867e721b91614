"""Tests, corrections, ranks and planning: against scipy, enumeration, plain loops and simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from selbench.stats import (
    Components,
    beats,
    benjamini_hochberg,
    detectable_effect,
    differences,
    holm,
    mcnemar,
    rank_intervals,
    required_samples,
    required_seeds,
    seed_t,
    sign_flip,
    tie_groups,
    variance_components,
)
from selbench.stats.crossed import LIKE, THESE

Array = NDArray[np.float64]
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)
ROWS = st.lists(st.integers(-4, 4).map(lambda n: n / 4), min_size=1, max_size=9)
ANSWERS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(P_VALUES)
def test_holm_by_its_definition(p: list[float]) -> None:
    """Rejected at alpha: all before the first p in order that exceeds alpha / (m - rank)."""
    adjusted = holm(p)
    for alpha in (0.01, 0.05, 0.2, *adjusted[adjusted < 1]):
        alive = True
        for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
            alive = alive and p[place] * (len(p) - rank) <= alpha
            assert (adjusted[place] <= alpha) == alive
    assert (adjusted >= np.array(p)).all()


@settings(max_examples=40, deadline=None)
@given(P_VALUES)
def test_benjamini_hochberg_is_scipys(p: list[float]) -> None:
    assert benjamini_hochberg(p) == pytest.approx(scipy.stats.false_discovery_control(p))
    assert (benjamini_hochberg(p) <= holm(p) + 1e-12).all()
    assert holm([p, p[::-1]])[0] == pytest.approx(holm(p)), "leading axes are families of their own"


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_sign_flips_by_enumeration(row: list[float]) -> None:
    sums = [abs(sum(sign * value for sign, value in zip(signs, row, strict=True))) for signs in product((-1, 1), repeat=len(row))]
    expected = np.mean([value >= abs(sum(row)) - 1e-9 for value in sums])
    assert float(sign_flip(row)) == pytest.approx(expected)
    assert float(sign_flip([-value for value in row[::-1]] + [0.0])) == pytest.approx(expected)


def test_sign_flips_of_twenty_problems_are_scipys_exact_test() -> None:
    row = np.random.default_rng(0).normal(0.3, 1, size=12)
    exact = scipy.stats.permutation_test((row,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert float(sign_flip(row)) == pytest.approx(exact.pvalue)


def test_many_problems_are_drawn() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal([[0.0], [0.2], [3.0]], 1, size=(3, 200))
    found = sign_flip(rows, draws=20_000)
    assert found[2] == pytest.approx(1 / 20_001), "never zero"
    for row, p in zip(rows[:2], found[:2], strict=True):
        assert p == pytest.approx(scipy.stats.ttest_1samp(row, 0).pvalue, abs=0.02)
        assert float(sign_flip(row, draws=20_000)) == pytest.approx(p), "the same draws for all rows"
    assert (sign_flip(rows, seed=1) != sign_flip(rows)).any()
    with pytest.raises(ValueError, match="finite differences"):
        sign_flip([np.nan, 1.0])


@settings(max_examples=40, deadline=None)
@given(ANSWERS)
def test_mcnemar_is_the_binomial_on_what_differs(answers: list[tuple[int, int]]) -> None:
    won, lost = answers.count((1, 0)), answers.count((0, 1))
    tail = sum(math.comb(won + lost, n) for n in range(min(won, lost) + 1)) / 2 ** (won + lost)
    a, b = zip(*answers, strict=True)
    assert mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(a, b) == mcnemar(b, a)
    if won + lost <= 20:
        assert mcnemar(a, b) == pytest.approx(float(sign_flip(np.subtract(a, b)))), "on one answer, sign flips are the same test"


def test_tests_refuse_and_say_what_is_undefined() -> None:
    assert math.isnan(seed_t([0.1]))
    assert math.isnan(seed_t([0.1, 0.1]))
    assert seed_t([0.0, 0.0]) == 1
    with pytest.raises(ValueError, match="by seed"):
        seed_t([])
    with pytest.raises(ValueError, match="one answer of 0 or 1"):
        mcnemar([0.5], [1])


# Ranks


def test_ranks_by_hand() -> None:
    """a beats c and d, b beats d: a and b tie, b and c tie, c and d tie."""
    better = np.zeros((4, 4), dtype=bool)
    better[0, 2] = better[0, 3] = better[1, 3] = True
    assert rank_intervals(better).tolist() == [[1, 2], [1, 3], [2, 4], [3, 4]]
    assert tie_groups([4, 3, 2, 1], better) == [[0, 1], [1, 2], [2, 3]]
    assert tie_groups([1, 1, 1], np.zeros((3, 3))) == [[0, 1, 2]]
    assert rank_intervals(np.zeros((3, 3))).tolist() == [[1, 3]] * 3
    assert tie_groups([], np.zeros((0, 0))) == []


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 4))
def test_ranks_hold_the_order_of_the_means(draw: int, strategies: int, seeds: int) -> None:
    rng = np.random.default_rng(draw)
    values = rng.normal(0, 1, (strategies, 1, 1)) + rng.normal(0, 0.2, (strategies, seeds, 15))
    better, means = beats(values), values.mean(axis=(1, 2))
    ranks = scipy.stats.rankdata(-means)
    intervals = rank_intervals(better)
    assert ((intervals[:, 0] <= ranks) & (ranks <= intervals[:, 1])).all()
    assert not better.any() or seeds > 1, "one seed ranks nothing"
    groups = tie_groups(means, better)
    assert sorted({place for group in groups for place in group}) == list(range(strategies))
    assert not any(better[np.ix_(group, group)].any() for group in groups)
    order = rng.permutation(strategies)
    assert (beats(values[order]) == better[np.ix_(order, order)]).all()


# Planning


def answers(components: Components, shape: tuple[int, int, int], draw: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(draw)
    seeds, problems, samples = shape
    sizes = ((seeds, 1, 1), (1, problems, 1), (seeds, problems, 1))
    parts = (components.seed, components.problem, components.interaction)
    chance = 0.5 + sum(rng.normal(0, math.sqrt(part), size) for part, size in zip(parts, sizes, strict=True))
    return (rng.random((seeds, problems, samples)) < np.clip(chance, 0, 1)).astype(np.int64)


def test_components_are_found_again() -> None:
    true = Components(0.002, 0.01, 0.004, 0.234)
    found = variance_components(answers(true, (300, 300, 8), 0))
    assert (found.seed, found.problem, found.interaction, found.sample) == pytest.approx((0.002, 0.01, 0.004, 0.234), rel=0.2)
    apart = variance_components(answers(true, (300, 300, 8), 0), answers(true, (300, 300, 8), 1))
    assert (apart.seed, apart.problem, apart.sample) == pytest.approx((0.004, 0.02, 0.468), rel=0.2)
    single = variance_components(answers(true, (300, 300, 1), 0))
    assert single.interaction == 0
    assert single.sample == pytest.approx(0.238, rel=0.1)


def test_the_error_of_a_plan_is_the_error_of_the_data() -> None:
    """Two strategies: the standard error from the components is the one of the very data they come from."""
    one, two = (answers(Components(0.003, 0.01, 0.004, 0.2), (6, 80, 4), draw) for draw in (0, 1))
    components, effects = variance_components(one, two), differences(np.stack([two, one]).mean(axis=3))
    for scope in (LIKE, THESE):
        assert components.error(6, 80, 4, scope) == pytest.approx(float(effects.error(scope)[0]))


def test_planned_power_is_found_by_simulation() -> None:
    components = Components(0.0004, 0.004, 0.002, 0.02)
    effect = detectable_effect(components, 5, 40, 4)
    rng = np.random.default_rng(3)
    shape = (2000, 5, 40)
    cell = components.interaction + components.sample / 4
    values = (
        effect + rng.normal(0, 0.02, (2000, 5, 1)) + rng.normal(0, math.sqrt(0.004), (2000, 1, 40)) + rng.normal(0, math.sqrt(cell), shape)
    )
    found = differences(np.stack([np.zeros(shape), values], axis=1))
    assert float((found.differs() <= 0.05).mean()) == pytest.approx(0.8, abs=0.07)


def test_required_is_the_first_that_suffices() -> None:
    components = Components(0.0002, 0.004, 0.002, 0.02)
    seeds = required_seeds(components, 0.03, 500, 4, comparisons=8, strategies=9)
    assert seeds is not None
    assert detectable_effect(components, seeds, 500, 4, comparisons=8, strategies=9) <= 0.03
    assert detectable_effect(components, seeds - 1, 500, 4, comparisons=8, strategies=9) > 0.03
    samples = required_samples(components, 0.033, 3, 100, strategies=9)
    assert samples is not None
    assert samples > 1
    assert detectable_effect(components, 3, 100, samples, strategies=9) <= 0.033
    assert detectable_effect(components, 3, 100, samples // 2, strategies=9) > 0.033
    assert required_seeds(components, 0.001, 30, 32) is None, "30 problems cannot show a tenth of a point"
    assert required_seeds(components, 0.02, 30, 32, scope=THESE) is not None
    assert math.isinf(detectable_effect(components, 1, 30, 32)), "one seed shows nothing"
    with pytest.raises(ValueError, match="inside"):
        detectable_effect(components, 3, 30, 32, power=80.0)
    with pytest.raises(ValueError, match="two seeds"):
        variance_components(np.zeros((1, 30, 4)))
