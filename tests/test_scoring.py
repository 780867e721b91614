"""The scoring sweep: each head product once per chunk, sequences no longer than what is wanted of them, little padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from selbench.models import Pair
from selbench.rollout import Rollouts
from selbench.scoring import hidden_rows, layout, micro_batches, needs_student, needs_teacher, signal_values
from selbench.strategy import STRATEGIES
from tests.draws import Draw, rollouts, same, seeds

NEEDS = sorted({need for strategy in STRATEGIES for need in strategy.needs})


class Products(TorchDispatchMode):
    """Counts the rows that go through a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.out, torch.ops.aten.mm.default):
            self.rows += args[0].shape[0]
        return func(*args, **(kwargs or {}))


def test_every_signal_of_a_chunk_shares_one_product_of_each_head() -> None:
    student_hidden, student_head, teacher_hidden, teacher_head = Draw(1).heads(21, 24)
    rows = layout(Rollouts.of([[1, 2]], [list(range(13))], ["stop"]))
    with Products() as seen:
        found = signal_values(NEEDS, rows, student_hidden.detach(), student_head, teacher_hidden, teacher_head, rows_per_chunk=5)
    assert seen.rows == 2 * 13
    assert found.keys() == set(NEEDS)


@pytest.mark.parametrize("need", ["student_entropy", "teacher_entropy", "reverse_kl", "position_fraction"])
def test_a_model_that_no_signal_needs_is_not_asked(need: str) -> None:
    student_hidden, student_head, teacher_hidden, teacher_head = Draw(1).heads(21, 21)
    rows = layout(Rollouts.of([[1, 2]], [list(range(13))], ["stop"]))
    with Products() as seen:
        signal_values(
            [need], rows, student_hidden.detach() if needs_student([need]) else None, student_head,
            teacher_hidden if needs_teacher([need]) else None, teacher_head,
        )  # fmt: skip
    assert seen.rows == 13 * {"reverse_kl": 2, "position_fraction": 0}.get(need, 1)


@given(seeds, st.integers(1, 6), st.one_of(st.none(), st.integers(1, 80)))
def test_micro_batches_stay_within_their_bounds(seed: int, size: int, tokens: int | None) -> None:
    batch = rollouts(Draw(seed), 9)
    groups = micro_batches(batch, size, tokens)
    assert sorted(i for group in groups for i in group) == list(range(9))
    for group in groups:
        width = max(len(batch.tokens[i]) for i in group)
        assert len(group) <= size
        assert tokens is None or len(group) == 1 or len(group) * width <= tokens


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_sequences_end_with_the_last_wanted_token(tiny_pair: Pair, share: float) -> None:
    """Causal attention: what stands behind the last wanted token is not computed, and the rows wanted are the same."""
    draw = Draw(3)
    batch = Rollouts.of([[5, 6, 7], [8], [9, 10]], [draw.below(90, n).tolist() for n in (30, 12, 21)], ["stop"] * 3)
    rows, body = layout(batch), tiny_pair.student.get_decoder()
    wanted = (rows.position < 25 * share) & (draw.normal(len(rows)) > 0)
    ran: list[tuple[int, int]] = []
    with torch.no_grad():
        whole, every = hidden_rows(body, batch, rows, [0, 1, 2], tiny_pair.device, ran=ran)
        part, here = hidden_rows(body, batch, rows, [0, 1, 2], tiny_pair.device, wanted, ran)
    assert torch.equal(every, torch.arange(len(rows)))
    assert torch.equal(here, wanted.nonzero().flatten())
    same(part, whole[wanted])
    assert ran == [(3, 32), (3, int(rows.column[wanted].max()))]


def test_a_group_without_a_wanted_token_gives_no_rows(tiny_pair: Pair) -> None:
    batch = Rollouts.of([[5, 6, 7]], [[8, 9]], ["stop"])
    rows = layout(batch)
    nothing = torch.zeros(2, dtype=torch.bool)
    hidden, here = hidden_rows(tiny_pair.student.get_decoder(), batch, rows, [0], tiny_pair.device, nothing)
    assert hidden.shape == (0, 64)
    assert len(here) == 0
