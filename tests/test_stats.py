"""The paired interval against a plain double loop and against its known variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from selbench.stats import paired_interval, seed_spread

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
