"""What must hold of the losses and of gradient alignment for any input (methods 12); `dense` is the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selbench.diagnose.alignment import alignment
from selbench.losses import DIVERGENCES, NORMALISERS, Head, Kind, chunked_divergence, dense, loss_weights
from selbench.signals import Tensor
from tests.draws import Draw, same, seeds

KINDS: list[Kind] = list(DIVERGENCES)  # type: ignore[arg-type]
SHAPES = [(21, 21, {}), (21, 26, {"softcap": 3.0}), (26, 21, {"scale": 0.7, "softcap": 5.0})]


def close(found: Tensor, expected: Tensor, within: float, scale: Tensor | None = None) -> None:
    """The error is small beside `scale`, which is the size of `expected` unless its terms cancel."""
    size = float((expected if scale is None else scale).detach().float().norm())
    assert float((found.detach().float() - expected.detach().float()).norm()) <= within * max(size, 1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("student", "teacher", "options"), SHAPES)
@given(seed=seeds, step=st.sampled_from([1, 4, 5, 13, 100]))
@settings(max_examples=5)
def test_chunked_equals_dense(kind: Kind, student: int, teacher: int, options: dict[str, float], seed: int, step: int) -> None:
    draw = Draw(seed)
    hidden, head, teacher_hidden, teacher_head = draw.heads(student, teacher, **options)
    token, weight = draw.below(21, 13), draw.normal(13).abs()
    assert head.bias is not None
    z = (hidden @ head.weight.T + head.bias)[:, :21] * head.scale
    z = z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)
    rows = dense(kind, z, (teacher_hidden @ teacher_head.weight.T)[:, :21], token)
    inputs = hidden, head.weight, head.bias
    expected = torch.autograd.grad((rows * weight).sum(), inputs)
    total, found_rows = chunked_divergence(
        hidden, head, teacher_hidden, teacher_head, kind=kind, token=token, weight=weight, rows_per_chunk=step
    )
    close(total, (rows * weight).sum(), 1e-6, (rows * weight).abs().sum())
    close(found_rows, rows, 1e-6)
    for found, due in zip(torch.autograd.grad(2 * total, inputs), expected, strict=True):
        close(found, 2 * due, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds)
def test_half_precision_models_are_a_hundredth_off_at_most(kind: Kind, seed: int) -> None:
    draw = Draw(seed)
    hidden, head, teacher_hidden, teacher_head = draw.heads()
    token, exact = draw.below(21, 13), [x.detach().bfloat16() for x in (hidden, head.weight, teacher_hidden, teacher_head.weight)]

    def results(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x, weight, teacher_x, teacher_weight = (y.to(dtype).requires_grad_() for y in exact)
        total, rows = chunked_divergence(x, Head(weight), teacher_x, Head(teacher_weight), kind=kind, token=token, rows_per_chunk=4)
        return rows, *torch.autograd.grad(total, (x, weight))

    for found, due in zip(results(torch.bfloat16), results(torch.float32), strict=True):
        close(found, due, 2e-2 if kind == "k3" else 1e-2)  # k3 exponentiates the rounding of the logits


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds)
def test_unselected_rows_are_as_good_as_absent(kind: Kind, seed: int) -> None:
    """Weight 0, another split into micro-batches, and deleting the rows are one and the same."""
    draw = Draw(seed)
    hidden, head, teacher_hidden, teacher_head = draw.heads()
    token, sample, index = draw.below(21, 13), torch.arange(13) // 5, draw.order(13)[:6].sort().values
    for normaliser in NORMALISERS:
        share = loss_weights(torch.ones(6), sample[index], normaliser, valid=13, samples=3)
        weight = torch.zeros(13).scatter(0, index, share)
        whole, _ = chunked_divergence(hidden, head, teacher_hidden, teacher_head, kind=kind, token=token, weight=weight, rows_per_chunk=4)
        parts = torch.zeros(())
        for part in (slice(0, 2), slice(2, 3), slice(3, 6)):
            i = index[part]
            inputs = hidden[i], head, teacher_hidden[i], teacher_head
            parts = parts + chunked_divergence(*inputs, kind=kind, token=token[i], weight=share[part])[0]
        first, second = (torch.autograd.grad(loss, (hidden, head.weight)) for loss in (whole, parts))
        assert bool((first[0][weight == 0] == 0).all())
        for found, due in zip(first, second, strict=True):
            close(found, due, 1e-6)
        close(whole, parts, 1e-6, torch.ones(()))


def test_a_response_that_keeps_nothing_still_counts_as_a_response() -> None:
    weight = loss_weights(torch.ones(3), torch.tensor([0, 2, 2]), "per_sample_kept", valid=9, samples=4)
    same(weight, torch.tensor([1 / 4, 1 / 8, 1 / 8]))


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds)
def test_a_teacher_like_the_student_teaches_nothing(kind: Kind, seed: int) -> None:
    draw = Draw(seed)
    hidden, head, *_ = draw.heads()
    total, rows = chunked_divergence(hidden, head, hidden.detach(), head, kind=kind, token=draw.below(21, 13), rows_per_chunk=5)
    for found in (rows, *torch.autograd.grad(total, (hidden, head.weight))):
        same(found, torch.zeros_like(found), within=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_gets_no_gradient(kind: Kind) -> None:
    draw = Draw(1)
    hidden, head, teacher_hidden, teacher_head = draw.heads()
    inputs = hidden, head.weight, teacher_hidden.requires_grad_(), teacher_head.weight.requires_grad_()
    total, rows = chunked_divergence(hidden, head, teacher_hidden, teacher_head, kind=kind, token=draw.below(21, 13))
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    assert [g is not None and bool(g.any()) for g in gradients] == [True, True, False, False]
    assert not rows.requires_grad


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
