"""Intervals over seeds and problems: against plain loops, scipy's one-factor tests and their known variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from selbench.stats import SCOPES, THESE, differences, hierarchical_bootstrap, levels, paired_interval, seed_spread, seed_t
from selbench.stats.crossed import mean_squares, run_variances

Array = NDArray[np.float64]


def correctness(seed: int, seeds: int = 3, problems: int = 40) -> tuple[Array, Array]:
    """Two strategies on the same hard and easy problems, k = 4. Two (S, P) arrays."""
    rng = np.random.default_rng(seed)
    easiness = rng.beta(1.0, 1.0, size=problems)
    chances = np.stack([np.clip(easiness + 0.1, 0, 1), easiness])[:, None]
    left, right = (rng.random((4, 2, seeds, problems)) < chances).mean(axis=0)
    return left, right


def loop_bootstrap(a: Array, b: Array, draws: int) -> tuple[float, float]:
    """The definition, one draw at a time."""
    rng = np.random.default_rng(5)
    means = []
    for _ in range(draws):
        rows, columns = (rng.choice(np.arange(size), size) for size in a.shape)
        means.append(np.mean([a[i, j] - b[i, j] for i in rows for j in columns]))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def test_agrees_with_the_loop() -> None:
    a, b = correctness(1)
    found = paired_interval(a, b, draws=20_000)
    low, high = loop_bootstrap(a, b, draws=3_000)
    assert found.mean == pytest.approx(float((a - b).mean()), abs=1e-15)
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.high == pytest.approx(high, abs=0.006)


def test_one_seed_is_the_ordinary_paired_bootstrap() -> None:
    """With one seed the width follows from the standard error of the per-problem differences."""
    a, b = correctness(2, seeds=1, problems=400)
    found = paired_interval(a, b, draws=20_000)
    error = float((a - b).std(ddof=0)) / math.sqrt(400)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(error, rel=0.04)


def test_variance_of_the_crossed_bootstrap() -> None:
    """Additive seed and problem effects: the bootstrap variance is the sum of the two plug-in variances."""
    rng = np.random.default_rng(3)
    seeds, problems = rng.normal(0, 0.05, size=(6, 1)), rng.normal(0, 0.3, size=(1, 300))
    found = paired_interval(seeds + problems, np.zeros((6, 300)), draws=20_000)
    error = math.sqrt(float(seeds.var()) / 6 + float(problems.var()) / 300)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(error, rel=0.05)


def test_pairing_removes_what_both_sides_share() -> None:
    a, b = correctness(4, problems=200)
    paired = paired_interval(a, b)
    shuffled = paired_interval(a, b[:, np.random.default_rng(0).permutation(200)])
    assert paired.high - paired.low < 0.7 * (shuffled.high - shuffled.low)


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(6)
    inside = 0
    for _ in range(300):
        difference = 0.1 + rng.normal(0, 0.05, size=(10, 1)) + rng.normal(0, 0.3, size=(1, 100)) + rng.normal(0, 0.2, size=(10, 100))
        found = paired_interval(difference, np.zeros_like(difference), draws=400)
        inside += found.low <= 0.1 <= found.high
    assert 0.88 <= inside / 300 <= 0.99


def test_constant_difference_has_no_width() -> None:
    a, _ = correctness(7)
    found = paired_interval(a + 0.25, a, draws=100)
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_deterministic_antisymmetric_and_seeded() -> None:
    a, b = correctness(8)
    there, back = paired_interval(a, b, draws=500), paired_interval(b, a, draws=500)
    assert there == paired_interval(a, b, draws=500)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low))
    assert there != paired_interval(a, b, draws=500, seed=1)
    narrow = paired_interval(a, b, draws=500, level=0.5)
    assert there.low < narrow.low < narrow.high < there.high


@pytest.mark.parametrize(
    ("a", "b"), [(np.zeros((2, 3)), np.zeros((2, 4))), (np.zeros(3), np.zeros(3)), (np.zeros((0, 3)), np.zeros((0, 3)))]
)
def test_refuses_unpaired_shapes(a: Array, b: Array) -> None:
    with pytest.raises(ValueError, match="equal, non-empty"):
        paired_interval(a, b)


def test_refuses_missing_values() -> None:
    with pytest.raises(ValueError, match="not finite"):
        paired_interval(np.full((1, 2), np.nan), np.zeros((1, 2)))


def test_seed_spread() -> None:
    assert seed_spread([0.7, 0.8, 0.9]) == pytest.approx(0.1)
    assert math.isnan(seed_spread([0.7]))


# Crossed effects


def noise(draw: int, strategies: int = 4, seeds: int = 3, problems: int = 12) -> Array:
    """(M, S, P) with effects of each factor."""
    rng = np.random.default_rng(draw)
    shape = (strategies, seeds, problems)
    return np.clip(0.5 + sum(rng.normal(0, 0.1, [n if d in dims else 1 for d, n in enumerate(shape)]) for dims in FACTORS), 0, 1)


FACTORS = ((0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2))
TABLES = st.builds(noise, st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 5), st.integers(3, 20))


@settings(max_examples=40, deadline=None)
@given(TABLES)
def test_mean_squares_add_up_to_the_variance(values: Array) -> None:
    """Two-way analysis of variance, by its definition."""
    x = values[0]
    seeds, problems = x.shape
    rows, columns = x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    expected = [problems * float(rows.var(ddof=1)), seeds * float(columns.var(ddof=1))]
    expected.append(float(((x - rows - columns + x.mean()) ** 2).sum()) / ((seeds - 1) * (problems - 1)))
    assert mean_squares(x) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(TABLES, st.integers(0, 5), st.sampled_from(SCOPES))
def test_effects_know_no_order_and_no_constant(values: Array, seed: int, scope: str) -> None:
    rng = np.random.default_rng(seed)
    first = differences(values)
    mixed = values[:, rng.permutation(values.shape[1])][:, :, rng.permutation(values.shape[2])]
    for other in (differences(mixed), differences(values + 0.25), differences(values + rng.normal(size=(1, *values.shape[1:])))):
        for name in ("interval", "differs", "above", "below"):
            assert np.asarray(getattr(other, name)(scope=scope)) == pytest.approx(np.asarray(getattr(first, name)(scope=scope)), abs=1e-7)
    assert levels(mixed).interval(scope=scope) == pytest.approx(np.asarray(levels(values).interval(scope=scope)), abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_two_strategies_on_these_problems_are_students_t_over_seeds(draw: int, seeds: int) -> None:
    values = noise(draw, 2, seeds)
    by_seed = (values[1] - values[0]).mean(axis=1)
    found = scipy.stats.ttest_1samp(by_seed, 0)
    effects, ends = differences(values), found.confidence_interval(0.95)
    assert float(effects.differs(scope=THESE)[0]) == pytest.approx(found.pvalue)
    assert seed_t(by_seed) == pytest.approx(found.pvalue)
    interval = effects.at(0, scope=THESE)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((by_seed.mean(), ends.low, ends.high))
    same = max(scipy.stats.ttest_1samp(by_seed, m, alternative=side).pvalue for m, side in ((-0.1, "greater"), (0.1, "less")))
    assert float(effects.equivalent(0.1, THESE)[0]) == pytest.approx(same)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40))
def test_one_run_is_the_paired_t_over_problems(draw: int, problems: int) -> None:
    values = noise(draw, 3, 1, problems)
    effects = differences(values)
    for place in (0, 1):
        found = scipy.stats.ttest_rel(values[place + 1, 0], values[0, 0])
        ends = found.confidence_interval(0.95)
        assert (effects.at(place).low, effects.at(place).high) == pytest.approx((ends.low, ends.high))
        assert float(effects.differs()[place]) == pytest.approx(found.pvalue)
    assert np.isnan(effects.differs(scope=THESE)).all()
    assert np.isnan(effects.interval(scope=THESE)).all()
    from lm_eval.api.metrics import mean_stderr

    assert float(levels(values).error()[0]) == pytest.approx(mean_stderr(list(values[0, 0]))), "the harness's standard error"


@settings(max_examples=40, deadline=None)
@given(TABLES, st.sampled_from((0.9, 0.95, 0.99)), st.sampled_from(SCOPES))
def test_intervals_end_where_the_p_values_of_the_comparison_alone_do(values: Array, level: float, scope: str) -> None:
    """p-values of families take the larger variance; of two strategies there is one variance alone."""
    for x in (values, values[:2]):
        effects = differences(x)
        alone = effects.alone()
        low, high = effects.interval(level, scope)
        for place in range(len(x) - 1):
            assert alone.above(float(low[place]), scope)[place] == pytest.approx((1 - level) / 2)
            assert alone.below(float(high[place]), scope)[place] == pytest.approx((1 - level) / 2)
            assert len(x) > 2 or effects.above(float(low[place]), scope)[place] == pytest.approx((1 - level) / 2)
        assert (effects.seed_ceiling >= effects.seed_variance).all()


def test_variances_of_runs_are_told_apart() -> None:
    """Of 4,000 tables: unbiased for each strategy by Grubbs, before the cut at zero; one run's noise does not leak into the others'."""
    deviations = np.array([2.0, 1.0, 1.0, 1.0, 0.5, 1.0])
    runs = np.random.default_rng(4).normal(0, 1, (4000, 6, 9, 1)) * deviations[:, None, None]
    x = runs + np.random.default_rng(5).normal(0, 3, (4000, 1, 9, 1)) + np.zeros((1, 1, 1, 2))
    found = run_variances(x).mean(axis=0) / 2  # mean squares count both problems
    assert found == pytest.approx(deviations**2, rel=0.1)
    assert run_variances(x[:, :2]).mean(axis=0) / 2 == pytest.approx([2.5, 2.5], rel=0.1), "two share theirs"


@pytest.mark.parametrize(("seeds", "noisy"), [(3, 0), (3, 1), (5, 0), (5, 1)])
def test_intervals_cover_where_one_strategy_is_noisier(seeds: int, noisy: int) -> None:
    """The baseline, then another one, with twice the deviation of the rest: 3,000 tables of nine."""
    deviations = np.where(np.arange(9) == noisy, 2.0, 1.0)
    values = np.random.default_rng(seeds).normal(0, 1, (3000, 9, seeds, 2)) * 1e-9
    values += np.random.default_rng(seeds + 10).normal(0, 0.01, (3000, 9, seeds, 1)) * deviations[:, None, None]
    low, high = differences(values).interval()
    covered = ((low <= 0) & (high >= 0)).mean(axis=0)
    assert 0.925 <= covered[0] <= 0.97
    assert 0.925 <= covered.mean() <= 0.97


def test_the_noise_of_the_table_is_learnt_from_all() -> None:
    calm, wild = noise(0, 8, 3, 40), noise(0, 8, 3, 40)
    wild[2:] += np.random.default_rng(1).normal(0, 0.5, size=(6, 3, 1))
    assert float(differences(wild).error()[0]) > 1.5 * float(differences(calm).error()[0])
    assert float(differences(wild, 2).mean[0]) == pytest.approx(-float(differences(wild).mean[1]))


def test_where_all_answers_agree_the_ends_are_clopper_and_pearsons() -> None:
    for share, right in ((0.0, 0), (1.0, 20)):
        found = levels(np.full((1, 3, 20), share)).at(0)
        ends = scipy.stats.binomtest(right, 20).proportion_ci(0.95, method="exact")
        assert (found.low, found.high) == pytest.approx((ends.low, ends.high))


def test_equal_means_by_chance_are_not_certainty() -> None:
    """Both seeds 1/2 in all, problems apart: no spread between seeds is seen, and there is noise all the same."""
    values = np.array([[[0, 0, 0, 0], [0, 0, 0, 0]], [[1, 0, 1, 0], [0, 1, 0, 1]]], dtype=float)
    effects = differences(values)
    assert float(effects.error()[0]) > 0.1
    assert float(effects.differs()[0]) > 0.05


@pytest.mark.parametrize("bad", [np.zeros((2, 3)), np.zeros((2, 3, 1)), np.zeros((0, 3, 4)), np.full((2, 3, 4), np.nan)])
def test_effects_refuse(bad: Array) -> None:
    with pytest.raises(ValueError, match=r"two problems or more|not finite"):
        levels(bad)
    with pytest.raises(ValueError, match="unknown scope"):
        levels(noise(0)).interval(scope="all problems")
    with pytest.raises(ValueError, match="two strategies"):
        differences(noise(0, 1))


# Hierarchical bootstrap


def test_bootstrap_of_one_run_is_scipys() -> None:
    answers = (np.random.default_rng(0).random((1, 40, 8)) < 0.3).astype(int)
    found = hierarchical_bootstrap(answers, ("problem",), draws=20_000)
    ends = scipy.stats.bootstrap((answers[0].mean(axis=1),), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=0.004)


def test_each_level_of_the_bootstrap_brings_its_variance() -> None:
    rng = np.random.default_rng(1)
    chance = np.clip(0.5 + rng.normal(0, 0.1, (12, 1, 1)) + rng.normal(0, 0.25, (1, 50, 1)), 0.02, 0.98)
    answers = (rng.random((12, 50, 4)) < chance).astype(int)
    shares = answers.mean(axis=2)
    expected: dict[tuple[str, ...], float] = {
        ("seed",): shares.mean(axis=1).var() / 12,
        ("problem",): shares.mean(axis=0).var() / 50,
        ("sample",): (shares * (1 - shares)).mean() / 4 / 600,
    }
    expected |= {("seed", "problem"): expected["seed",] + expected["problem",], ("seed", "sample"): expected["seed",] + expected["sample",]}
    for names, variance in expected.items():
        found = hierarchical_bootstrap(answers, names, draws=2000)
        assert (found.high - found.low) / (2 * 1.96) == pytest.approx(math.sqrt(variance), rel=0.12), names
        assert found.low < found.mean < found.high
    assert hierarchical_bootstrap(answers, draws=500) == hierarchical_bootstrap(answers, draws=500)
    with pytest.raises(ValueError, match="cannot resample tokens"):
        hierarchical_bootstrap(answers, ("tokens",))
