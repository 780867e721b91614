"""The selector without a sort against the definition: one triple sort, and a walk over the responses token by token."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selbench.signals import Signals, StrategyError, Tensor, median, min_max, order_statistics, prefix_ema, quantile
from selbench.strategy import Selection, Strategy, budget_count, keep_order, select
from tests.draws import Draw, seeds

WIDE = pytest.mark.parametrize("levels", [1, 2, 5, 1000])  # how many scores there are: few make many ties
LARGEST = torch.finfo(torch.float32).max


def the_score(s: Signals) -> Tensor:
    """The signal as it is."""
    return s.reverse_kl


def rule(**options: Any) -> Strategy:
    return Strategy("any", 1, the_score, ("reverse_kl", "student_entropy"), 0.5, "none", **options)


def batch(seed: int, rows: int, levels: int, *, gap: int = 1) -> Signals:
    """Responses of random length in random row order, some positions missing; few levels of score, zeros of both signs among them."""
    draw = Draw(seed)
    sample = draw.below(max(1, rows // 7), rows) * gap + 3
    position = draw.below(max(2, rows // 3), rows)
    score = (draw.below(levels, rows) - levels // 2).float()
    score = torch.where(draw.below(2, rows).bool(), score, -1 * score)
    extremes = torch.tensor([LARGEST, -LARGEST, 1e-40, -0.0])[draw.below(4, rows)]
    score = torch.where(draw.below(10, rows) == 0, extremes, score)
    return Signals({"reverse_kl": score, "student_entropy": draw.below(4, rows).float()}, position=position, sample=sample)


def defined(strategy: Strategy, s: Signals, budget: float) -> Selection:
    """What `select` must return, by the plainest means."""
    score = s.reverse_kl
    allowed = torch.ones(len(s), dtype=torch.bool) if strategy.candidates is None else strategy.candidates(s)
    order = [i for i in keep_order(score, s.position, s.sample).tolist() if allowed[i]]
    count = min(budget_count(len(s), budget), len(order))
    kept, ties = set(order[:count]), 0
    if 0 < count < len(order):
        ties = sum(bool(score[i] == score[order[count - 1]]) for i in order[count:])
    if strategy.min_per_sample and budget < 1:
        fill = score if strategy.fill is None else strategy.fill(s)
        owner = s.sample.tolist()
        for i in keep_order(fill, s.position, s.sample).tolist():
            if i not in kept and sum(owner[j] == owner[i] for j in kept) < strategy.min_per_sample:
                kept.add(i)
    index = torch.tensor(sorted(kept), dtype=torch.int64)
    return Selection(index, torch.ones(len(index)), int(allowed.sum()), len(index) - count, ties)


def agree(found: Selection, expected: Selection) -> None:
    assert found.index.tolist() == expected.index.tolist()
    assert found.index.dtype == torch.int64
    assert torch.equal(found.weight, expected.weight)
    assert (found.candidates, found.filled, found.ties) == (expected.candidates, expected.filled, expected.ties)


@given(seeds, st.integers(1, 90))
def test_the_order_is_score_then_position_then_sample_then_row(seed: int, rows: int) -> None:
    s = batch(seed, rows, 3)
    columns = zip((-s.reverse_kl).tolist(), s.position.tolist(), s.sample.tolist(), range(rows), strict=True)
    assert keep_order(s.reverse_kl, s.position, s.sample).tolist() == [key[-1] for key in sorted(columns)]


@WIDE
@given(seed=seeds, rows=st.one_of(st.integers(1, 90), st.integers(5000, 20_000)), budget=st.floats(0.001, 1))
def test_the_kept_tokens_are_those_of_the_triple_sort(levels: int, seed: int, rows: int, budget: float) -> None:
    s = batch(seed, rows, levels)
    agree(select(rule(), s, budget, 0), defined(rule(), s, budget))


@WIDE
@given(seed=seeds, rows=st.integers(1, 90), budget=st.floats(0.001, 1), share=st.integers(0, 4))
def test_candidates(levels: int, seed: int, rows: int, budget: float, share: int) -> None:
    s = batch(seed, rows, levels)
    strategy = rule(candidates=lambda view: view.student_entropy < share)  # none to all of them
    agree(select(strategy, s, budget, 0), defined(strategy, s, budget))


@WIDE
@pytest.mark.parametrize("own", [True, False])
@given(seed=seeds, rows=st.integers(1, 60), budget=st.floats(0.001, 1), minimum=st.integers(1, 3), gap=st.sampled_from([1, 10**9]))
def test_the_minimum_of_each_response(levels: int, own: bool, seed: int, rows: int, budget: float, minimum: int, gap: int) -> None:
    s = batch(seed, rows, levels, gap=gap)
    strategy = rule(min_per_sample=minimum, fill=None if own else lambda view: view.student_entropy)
    agree(select(strategy, s, budget, 0), defined(strategy, s, budget))
    agree(select(replace(strategy, candidates=lambda view: view.student_entropy < 2), s, budget, 0),
          defined(replace(strategy, candidates=lambda view: view.student_entropy < 2), s, budget))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32])
@given(seed=seeds, rows=st.integers(1, 60), budget=st.floats(0.001, 1))
def test_scores_of_any_type(dtype: torch.dtype, seed: int, rows: int, budget: float) -> None:
    s = batch(seed, rows, 5)
    cast = s.reverse_kl.clamp(-100, 100).to(dtype)
    s = Signals({"reverse_kl": cast, "student_entropy": s.student_entropy}, position=s.position, sample=s.sample)
    agree(select(rule(), s, budget, 0), defined(rule(), s, budget))


@pytest.mark.parametrize("minimum", [0, 2])
def test_an_empty_batch(minimum: int) -> None:
    empty = {"reverse_kl": torch.zeros(0), "student_entropy": torch.zeros(0)}
    none = torch.zeros(0, dtype=torch.int64)
    chosen = select(rule(min_per_sample=minimum), Signals(empty, position=none, sample=none), 0.5, 0)
    assert (len(chosen.index), chosen.candidates, chosen.filled, chosen.ties) == (0, 0, 0, 0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused(wrong: float) -> None:
    s = batch(0, 50, 5)
    s.reverse_kl[31] = wrong
    with pytest.raises(StrategyError, match="NaN or infinity for 1 of 50"):
        select(rule(), s, 0.5, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bfloat16])
@given(seed=seeds, rows=st.one_of(st.integers(1, 300), st.integers(5000, 20_000)), shares=st.lists(st.floats(0, 0.9999), min_size=1))
def test_order_statistics_are_those_of_a_sort(dtype: torch.dtype, seed: int, rows: int, shares: list[float]) -> None:
    """Batches beyond what a partition happens to sort entirely; neighbours and repeated places among those asked for."""
    z = (1000 * Draw(seed).normal(rows)).to(dtype)
    places = sorted(min(int(share * rows) + step, rows - 1) for share in shares for step in (0, 1))
    assert torch.equal(order_statistics(z, places), z.sort().values[places])
    assert torch.equal(order_statistics(z[::2], [0]), z[::2].sort().values[:1])


# normalisers: the floats of the plain formulas, not merely close ones


def sorted_quantile(z: Tensor, low: float, high: float) -> Tensor:
    ordered = z[z.isfinite()].sort().values
    if not len(ordered):
        return z * 0

    def at(q: float) -> Tensor:
        place = q * (len(ordered) - 1)
        below = ordered[int(place)]
        return below + (place - int(place)) * (ordered[min(int(place) + 1, len(ordered) - 1)] - below)

    return scaled(z, at(low), at(high))


def scaled(z: Tensor, low: Tensor, high: Tensor) -> Tensor:
    if float(high - low) < 1e-12:
        return torch.zeros_like(z)
    return ((z - low) / (high - low)).clamp(0, 1).nan_to_num(0.0).where(z.isfinite(), torch.zeros(()))


@pytest.mark.parametrize("spoilt", [(), (math.nan,), (math.inf, -math.inf), (LARGEST, -LARGEST)])
@given(
    seed=seeds,
    rows=st.one_of(st.integers(1, 400), st.integers(5000, 20_000)),
    low=st.floats(0, 0.49),
    high=st.floats(0.5, 1),
    constant=st.booleans(),
)
def test_quantile_and_min_max_to_the_bit(spoilt: tuple[float, ...], seed: int, rows: int, low: float, high: float, constant: bool) -> None:
    z = torch.cat([torch.full((rows,), 0.3) if constant else (4 * Draw(seed).normal(rows)).exp(), torch.tensor(spoilt)])
    assert torch.equal(quantile(z, low, high), sorted_quantile(z, low, high))
    finite = z[z.isfinite()]
    assert torch.equal(min_max(z), scaled(z, finite.min(), finite.max()))


def test_whole_numbers_are_scaled_as_well() -> None:
    z = torch.tensor([4, 0, 2, 1])
    assert min_max(z).tolist() == [1, 0, 0.5, 0.25]
    assert torch.equal(quantile(z), sorted_quantile(z, 0.05, 0.95))


@given(seeds, st.integers(1, 400), st.integers(1, 50))
def test_median_to_the_bit(seed: int, rows: int, levels: int) -> None:
    z = Draw(seed).below(levels, rows).float() / 7
    assert torch.equal(median(z), z.quantile(0.5))
    neighbours = (Draw(seed).below(3, rows).int() + 1065353216).view(torch.float32)  # 1 and the two floats above it
    assert torch.equal(median(neighbours), neighbours.quantile(0.5))
    assert bool(median(torch.cat([z, torch.tensor([math.nan])])).isnan())


@given(seeds, st.integers(0, 80), st.floats(0, 1))
def test_prefix_ema_to_the_bit(seed: int, rows: int, alpha: float) -> None:
    s, z = batch(seed, rows, 5), Draw(seed + 1).normal(rows)
    order = sorted(range(rows), key=lambda i: (int(s.sample[i]), int(s.position[i]), i))
    expected = z.clone()
    for before, row in pairwise(order):
        if s.sample[before] == s.sample[row]:
            expected[row] = alpha * expected[before] + (1 - alpha) * z[row]
    assert torch.equal(prefix_ema(z, s, alpha), expected)


def test_a_draw_is_a_function_of_the_token_alone() -> None:
    """Literal values, so that a faster hash is still the same hash; and more tokens than are hashed together."""
    rows = 150_000
    s = Signals({}, position=torch.arange(rows) % 300, sample=torch.arange(rows) // 300, seed=5)
    draws, order = s.uniform("x"), Draw(0).order(rows)
    assert draws[[0, 1, 300, 149_999]].tolist() == [0.2756553507622626, 0.5658745296574117, 0.9618891588365004, 0.09391525164575604]
    shuffled = Signals({}, position=s.position[order], sample=s.sample[order], seed=5)
    assert torch.equal(shuffled.uniform("x"), draws[order])
