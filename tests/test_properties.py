"""What must hold of signals, selection and layout for any input (methods 12)."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selbench import min_max, quantile, rank
from selbench.rollout import Rollouts
from selbench.scoring import all_hidden, layout, micro_batches, signal_values, signals_from_logits
from selbench.signals import SIGNALS, Signals, Tensor
from selbench.strategy import STRATEGIES, budget_count, select
from tests.draws import Draw, reordered, rollouts, same, seeds
from tests.reference import cost_of

NAMES = [strategy.name for strategy in STRATEGIES]
SCORED = [strategy.name for strategy in STRATEGIES if strategy.kind == "scores"]
NESTED = [strategy.name for strategy in STRATEGIES if strategy.min_per_sample == 0]  # a fill on top of the budget need not be
NEEDS = [name.replace("_K", "_5") for name in SIGNALS if name != "position_fraction"]


# signals


@given(seeds, st.floats(-50, 50))
def test_signals_ignore_shifts_of_the_logits_and_the_order_of_the_vocabulary(seed: int, shift: float) -> None:
    draw = Draw(seed)
    student, teacher, token = draw.logits()
    order = draw.order(19)
    expected = dict(signals_from_logits(NEEDS, student, teacher, token))
    for found in (
        dict(signals_from_logits(NEEDS, student + shift, teacher - shift, token)),
        dict(signals_from_logits(NEEDS, student[:, order], teacher[:, order], order.argsort()[token])),
    ):
        for name in NEEDS:
            same(found[name], expected[name], within=2e-4 if "server" in name else 2e-5)  # server: logarithms of 1e-12


@given(seeds)
def test_bounds_and_identities_of_signals(seed: int) -> None:
    student, teacher, token = Draw(seed).logits()
    s = dict(signals_from_logits(NEEDS, student, teacher, token))
    slack = 1e-6
    upper = {"student_entropy": math.log(19), "teacher_entropy": math.log(19), "jsd": math.log(2), "student_logprob": 0.0}
    upper |= {name: 1.0 for name in s if name.split("_")[0] in ("compatibility", "overlap", "topk", "bhattacharyya")}
    for name, values in s.items():
        assert values.shape == (24,)
        assert name.endswith("logprob") or float(values.min()) >= -slack, name
        assert float(values.max()) <= upper.get(name, torch.inf) + slack, name
    assert bool((s["compatibility_topk_5"] <= s["compatibility_mass_5"] + slack).all())
    d, c = quantile(s["forward_kl"]), quantile(s["compatibility_mass_5"])
    same(d * c + d * (1 - c), d)
    whole = dict(signals_from_logits(["gathered_forward_kl_19", "server_forward_kl_19", "compatibility_mass_19"], student, teacher, token))
    same(whole["gathered_forward_kl_19"], s["forward_kl"])
    same(whole["server_forward_kl_19"], s["forward_kl"], within=1e-4)
    same(whole["compatibility_mass_19"], torch.ones(24))
    same(cost_of("local_support", student, teacher, token, top_k=19)[0], s["reverse_kl"])


@given(seeds)
def test_normalisers_are_bounded_monotone_and_blind_to_what_is_not_finite(seed: int) -> None:
    z = Draw(seed).normal(30)
    for normalise in (min_max, quantile, rank):
        scaled = normalise(z)
        assert float(scaled.min()) == 0
        assert float(scaled.max()) == 1
        assert bool((scaled[z.argsort()].diff() >= 0).all())
    for normalise in (min_max, quantile):
        same(normalise(torch.cat([z, torch.tensor([torch.nan, torch.inf, -torch.inf])])), torch.cat([normalise(z), torch.zeros(3)]))
        same(normalise(torch.full((5,), 0.3)), torch.zeros(5))
        same(normalise(3 * z + 7), normalise(z))


@given(seeds, st.integers(1, 30))
def test_signals_do_not_depend_on_the_chunk_size(seed: int, rows_per_chunk: int) -> None:
    student_hidden, student_head, teacher_hidden, teacher_head = Draw(seed).heads(student=21, teacher=24)
    rows = layout(Rollouts.of([[1, 2]], [list(range(13))], ["stop"]))
    inputs = rows, student_hidden.detach(), student_head, teacher_hidden, teacher_head
    expected, found = (
        signal_values([*NEEDS, "position_fraction"], *inputs),
        signal_values([*NEEDS, "position_fraction"], *inputs, rows_per_chunk),
    )
    for name in expected:
        same(found[name], expected[name], within=1e-6)


# selection


@pytest.mark.parametrize("name", SCORED)
@given(seed=seeds, rows=st.integers(1, 60), budget=st.floats(0.01, 0.99))
def test_the_budget_is_met_exactly(name: str, seed: int, rows: int, budget: float) -> None:
    strategy, seen = STRATEGIES.get(name), Draw(seed).signals(rows)
    chosen = select(strategy, seen, budget, seed)
    due = max(1, math.ceil(budget * rows - 1e-9))
    assert len(chosen.index) - chosen.filled == min(due, chosen.candidates)
    assert bool((chosen.index.diff() > 0).all())
    assert bool((chosen.weight == 1).all())
    if strategy.min_per_sample:
        assert set(seen.sample[chosen.index].tolist()) == set(seen.sample.tolist())


@pytest.mark.parametrize(("valid", "budget", "count"), [(100, 0.07, 7), (100, 0.071, 8), (6, 0.2, 2), (3, 0.01, 1), (5, 1.0, 5)])
def test_budget_count(valid: int, budget: float, count: int) -> None:
    assert budget_count(valid, budget) == count


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds, rows=st.integers(2, 50))
def test_a_full_budget_keeps_everything(name: str, seed: int, rows: int) -> None:
    strategy = STRATEGIES.get(name)
    chosen = select(strategy, Draw(seed).signals(rows), 1.0, seed)
    if strategy.candidates is None:
        assert chosen.index.tolist() == list(range(rows))  # with equal weights: bit for bit the loss of `full`
    else:
        assert chosen.index.tolist() == strategy.candidates(Draw(seed).signals(rows)).nonzero().flatten().tolist()
        assert len(chosen.index) <= (rows + 1) // 2  # an odd batch has its median token in the lower half


@pytest.mark.parametrize("name", NESTED)
@given(seed=seeds, low=st.floats(0.01, 0.99), high=st.floats(0.01, 0.99))
def test_a_smaller_budget_keeps_a_subset(name: str, seed: int, low: float, high: float) -> None:
    seen, low, high = Draw(seed).signals(40), min(low, high), max(low, high)
    small, large = (select(STRATEGIES.get(name), seen, budget, seed).index.tolist() for budget in (low, high))
    assert set(small) <= set(large)


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds, budget=st.floats(0.05, 0.9))
def test_selection_does_not_depend_on_the_order_of_rows(name: str, seed: int, budget: float) -> None:
    draw = Draw(seed)
    seen = draw.signals(50)
    order = draw.order(50)
    kept, shuffled = (select(STRATEGIES.get(name), batch, budget, seed) for batch in (seen, reordered(seen, order)))
    assert sorted(order[shuffled.index].tolist()) == kept.index.tolist()


@given(seeds)
def test_soft_or_is_at_least_its_parts(seed: int) -> None:
    seen, strategy = Draw(seed).signals(30), STRATEGIES.get("tip_softor")
    h, d, constant = min_max(seen.student_entropy), min_max(seen.reverse_kl), torch.full((30,), 0.5)

    def soft_or(entropy: Tensor, divergence: Tensor) -> Tensor:
        values = {"student_entropy": entropy, "reverse_kl": divergence}
        return strategy.score(Signals(values, position=seen.position, sample=seen.sample))

    assert bool((soft_or(seen.student_entropy, seen.reverse_kl) >= torch.maximum(h, d) - 1e-6).all())
    same(soft_or(seen.reverse_kl, seen.student_entropy), soft_or(seen.student_entropy, seen.reverse_kl))
    same(soft_or(seen.student_entropy, constant), h)
    same(soft_or(constant, seen.reverse_kl), d)


@pytest.mark.parametrize("name", ["random", "entropy_multinomial"])
def test_draws_follow_the_seed(name: str) -> None:
    seen = Draw(0).signals(60)
    first, again, other = (select(STRATEGIES.get(name), seen, 0.5, seed).index.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_random_is_uniform() -> None:
    seen = Draw(0).signals(40)
    kept = torch.stack([torch.bincount(select(STRATEGIES.get("random"), seen, 0.25, seed).index, minlength=40) for seed in range(800)])
    frequency = kept.double().mean(0)
    assert float((frequency - 0.25).abs().max()) < 0.065  # 4.2 standard errors for the worst of 40 tokens
    grid = Signals({}, position=torch.arange(200).repeat(200), sample=torch.arange(200).repeat_interleave(200), seed=3)
    draws = grid.uniform("any")
    assert len(set(draws.tolist())) == 40_000
    assert float((draws.sort().values - (torch.arange(40_000) + 0.5) / 40_000).abs().max()) < 0.01  # Kolmogorov-Smirnov
    assert abs(float(torch.corrcoef(torch.stack([draws, grid.uniform("other")]))[0, 1])) < 0.02


# layout


def echo(input_ids: Tensor, attention_mask: Tensor | None, **_: Any) -> Any:
    """A backbone whose hidden state says which token it stands on, and where; NaN on padding."""
    attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    column = torch.arange(input_ids.shape[1]).expand_as(input_ids)
    state = torch.stack([input_ids, column], -1).float()
    return SimpleNamespace(last_hidden_state=state.masked_fill(attention_mask.unsqueeze(-1) == 0, torch.nan))


@given(seeds, st.integers(1, 6))
def test_layout_takes_the_student_s_tokens_and_the_state_before_each(seed: int, size: int) -> None:
    batch = rollouts(Draw(seed))
    rows, groups = layout(batch), micro_batches(batch, size)
    assert rows.token.tolist() == [token for response in batch.responses() for token in response]
    assert sorted(i for group in groups for i in group) == list(range(5))
    assert max(map(len, groups)) <= size
    hidden = all_hidden(echo, batch, rows, groups, torch.device("cpu"))  # type: ignore[arg-type]
    for i, (row, column) in enumerate(zip(rows.sequence.tolist(), rows.column.tolist(), strict=True)):
        assert batch.mask[row][column] == 1
        assert hidden[i].tolist() == [batch.tokens[row][column - 1], column - 1]
        assert int(rows.sample[i]) == batch.sample[row]
        assert int(rows.position[i]) == column - batch.mask[row].index(1)


@given(seeds)
def test_masked_tokens_change_nothing(seed: int) -> None:
    """Other words where the mask is 0, and NaN in the states that would predict them: the same signals, so the same choice."""
    draw = Draw(seed)
    batch = rollouts(draw)
    pairs = [zip(tokens, mask, strict=True) for tokens, mask in zip(batch.tokens, batch.mask, strict=True)]
    other = dataclasses.replace(batch, tokens=tuple(tuple(t if m else 49 - t for t, m in pair) for pair in pairs))
    _, student_head, _, teacher_head = draw.heads(50, 50)
    rows, states = layout(batch), draw.normal(5, 20, 11)
    valid = torch.zeros(5, 20, 1, dtype=torch.bool).index_put((rows.sequence, rows.column - 1), torch.tensor(True))
    expected, found = (
        signal_values(NEEDS, at, state[at.sequence, at.column - 1, :6], student_head, state[at.sequence, at.column - 1, 6:], teacher_head)
        for at, state in ((rows, states), (layout(other), states.where(valid, torch.nan)))
    )
    for name in NEEDS:
        assert torch.equal(found[name], expected[name])


def test_without_first_takes_one_occurrence_of_each_id_out() -> None:
    batch = Rollouts(((9, 4, 9, 4, 9), (4, 1, 2, 3, 4)), ((0, 1, 1, 1, 1), (0, 1, 1, 1, 1)), (1, 1), ("stop", "length"), (0, 1))
    masked = batch.without_first([9, 4, 77])
    assert masked == dataclasses.replace(batch, mask=((0, 0, 0, 1, 1), (0, 1, 1, 1, 0)))
    assert layout(masked).token.tolist() == [4, 9, 1, 2, 3]


def test_positions_count_masked_response_tokens() -> None:
    batch = Rollouts.of([[9]], [[4, 5, 6]], ["stop"])
    assert layout(batch.without_first([4])).position.tolist() == [1, 2]
