"""Gradient alignment for any input: one for the ideal teacher, undefined where a direction vanishes (methods 12)."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from selbench.diagnose.alignment import alignment
from tests.draws import Draw, same, seeds


@given(seeds, st.floats(0.3, 3))
def test_alignment_is_one_for_the_ideal_teacher(seed: int, temperature: float) -> None:
    draw = Draw(seed)
    p, success = draw.normal(6, 5).softmax(-1), draw.normal(6, 5).sigmoid()
    for sign in (1, -1):
        teacher = (p.log() + sign * success / temperature).softmax(-1)
        same(alignment("reverse_kl", p, teacher, success), torch.full((6,), float(sign)), within=1e-4)
        same(alignment("reverse_kl", p, teacher, 7 * success), alignment("reverse_kl", p, teacher, success))


def test_alignment_is_undefined_where_a_direction_vanishes() -> None:
    p, q, success = (Draw(seed).normal(6, 5) for seed in (1, 2, 3))
    p, q, success = p.softmax(-1), q.softmax(-1), success.sigmoid()
    assert bool(alignment("reverse_kl", p, p, success).isnan().all())
    assert bool(alignment("reverse_kl", p, q, torch.full((6, 5), 0.7)).isnan().all())
