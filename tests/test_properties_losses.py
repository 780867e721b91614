"""What must hold of the losses for any input (methods 12); the textbook in float64 is the reference."""

from __future__ import annotations

import shutil
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from selbench import losses
from selbench.divergences import Node
from selbench.losses import DIVERGENCES, NORMALISERS, TAILS, Head, Kind, chunked_divergence, loss_weights
from selbench.signals import Tensor
from tests.draws import Draw, same, seeds
from tests.reference import dense

KINDS: list[Kind] = list(DIVERGENCES)  # type: ignore[arg-type]
CASES: list[tuple[Kind, dict[str, Any]]] = [
    *((kind, {}) for kind in KINDS), ("jsd", {"beta": 0.1}), ("skew_kl", {"alpha": 0.7}), ("skew_reverse_kl", {"alpha": 0.5}),
    *(("local_support", {"top_k": k, "tail": tail}) for tail in TAILS for k in (2, 5)),
]  # fmt: skip
RESTLESS = ({"kind": "k1"}, {"tail": "none"}, {"tail": "sampled"})  # a gradient where both agree: methods 1.2 and 1.5
SHAPES = [(21, 21, {}), (21, 26, {"softcap": 3.0}), (26, 21, {"scale": 0.7, "softcap": 5.0})]


def close(found: Tensor, expected: Tensor, within: float, scale: Tensor | None = None) -> None:
    """The error is small beside `scale`, which is the size of `expected` unless its terms cancel: two nearby distributions differ by
    hundredths of a nat, as a sum of log-probabilities of several nats, each rounded."""
    size = float((expected if scale is None else scale).detach().double().norm())
    assert float((found.detach().double() - expected.detach().double()).norm()) <= within * max(size, 1.0)


def whole(kind: Kind, hidden: Tensor, head: Head, teacher_hidden: Tensor, teacher: Head, token: Tensor, **options: Any) -> Tensor:
    """D (N,) by the textbook in float64, from whole logits of the shared columns."""
    size = min(len(head.weight), len(teacher.weight))
    logits: list[Tensor] = []
    for x, h in ((hidden, head), (teacher_hidden, teacher)):
        z = x.double() @ h.weight.double().T + (0 if h.bias is None else h.bias.double())
        z = z[:, :size] * h.scale
        logits.append(z if h.softcap is None else h.softcap * torch.tanh(z / h.softcap))
    return dense(kind, logits[0], logits[1], token, **options)


@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
@pytest.mark.parametrize(("student", "teacher", "shape"), SHAPES)
@given(
    seed=seeds, step=st.sampled_from([1, 4, 5, 13, 100]), temperature=st.sampled_from([1.0, 0.6, 2.0]), share=st.sampled_from([1.0, 0.4])
)
@settings(max_examples=4)
def test_chunked_equals_the_textbook_in_float64(
    kind: Kind, options: dict[str, Any], student: int, teacher: int, shape: dict[str, float], seed: int, step: int, temperature: float,
    share: float,
) -> None:  # fmt: skip
    """Loss and gradients of hidden rows, head and bias in float32, within 1e-6 of float64; rows of weight 0 have no part."""
    draw = Draw(seed)
    hidden, head, teacher_hidden, teacher_head = draw.heads(student, teacher, **shape)
    token, weight = draw.below(21, 13), draw.normal(13).abs() * (draw.normal(13).argsort().argsort() < share * 13)
    assert head.bias is not None
    rows = whole(kind, hidden, head, teacher_hidden, teacher_head, token, temperature=temperature, **options)
    inputs = hidden, head.weight, head.bias
    expected = torch.autograd.grad((rows * weight).sum(), inputs)
    total, found_rows = chunked_divergence(
        hidden, head, teacher_hidden, teacher_head, kind=kind, token=token, weight=weight, rows_per_chunk=step, temperature=temperature,
        **options,
    )  # fmt: skip
    close(total, (rows * weight).sum(), 1e-6, (rows * weight).abs().sum())
    close(found_rows[weight > 0], rows[weight > 0], 1e-6)
    assert bool(found_rows[weight == 0].isnan().all())
    for found, due in zip(torch.autograd.grad(2 * total, inputs), expected, strict=True):
        close(found, 2 * due, 1e-6)


@given(
    seed=seeds, rows=st.integers(1, 40), own=st.integers(2, 70), other=st.integers(2, 70), width=st.integers(1, 9), step=st.integers(1, 45),
    share=st.floats(0, 1), kind=st.sampled_from(KINDS),
)  # fmt: skip
@settings(max_examples=60)
def test_any_shape_any_chunk_any_mask(seed: int, rows: int, own: int, other: int, width: int, step: int, share: float, kind: Kind) -> None:
    """Vocabularies of two sizes, one of them smaller than the top K; one row, one column more than the chunk, nothing kept."""
    draw, size = Draw(seed), min(own, other)
    hidden, weight = (draw.normal(*shape).requires_grad_() for shape in ((rows, width), (own, width)))
    teacher_hidden, teacher_head = draw.normal(rows, 3), Head(draw.normal(other, 3))
    token, kept = draw.below(size, rows), (draw.order(rows) < share * rows).float()
    expected = torch.autograd.grad((whole(kind, hidden, Head(weight), teacher_hidden, teacher_head, token) * kept).sum(), (hidden, weight))
    total, _ = chunked_divergence(
        hidden, Head(weight), teacher_hidden, teacher_head, kind=kind, token=token, weight=kept, rows_per_chunk=step
    )
    for found, due in zip(torch.autograd.grad(total, (hidden, weight)), expected, strict=True):
        close(found, due, 1e-5 if kind == "k3" else 2e-6)  # k3 exponentiates what float32 rounded


@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
@given(seed=seeds)
@settings(max_examples=3)
def test_in_float64_nothing_is_lost(kind: Kind, options: dict[str, Any], seed: int) -> None:
    draw = Draw(seed)
    hidden, head, teacher_hidden, teacher_head = draw.heads(21, 24)
    hidden, weight, teacher_hidden, teacher_weight = (
        x.detach().double().requires_grad_() for x in (hidden, head.weight, teacher_hidden, teacher_head.weight)
    )
    inputs, token = (hidden, Head(weight), teacher_hidden.detach(), Head(teacher_weight.detach())), draw.below(21, 13)
    total, _ = chunked_divergence(*inputs, kind=kind, token=token, rows_per_chunk=5, **options)
    expected = torch.autograd.grad(whole(kind, *inputs, token, **options).sum(), (hidden, weight))
    for found, due in zip(torch.autograd.grad(total, (hidden, weight)), expected, strict=True):
        close(found, due, 1e-13)


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
        assert found.dtype in (torch.float32, torch.bfloat16)
        close(found, due, 2e-2 if kind == "k3" else 1e-2)  # k3 exponentiates the rounding of the logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_what_stands_in_rows_of_weight_zero_poisons_nothing(kind: Kind, poison: float) -> None:
    draw = Draw(4)
    hidden, head, teacher_hidden, teacher_head = draw.heads()
    token, weight = draw.below(21, 13), (draw.normal(13) > 0).float()

    def results(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        total, _ = chunked_divergence(x, head, y, teacher_head, kind=kind, token=token, weight=weight, rows_per_chunk=3)
        return total, *torch.autograd.grad(total, (x, head.weight))

    bad = [x.detach().masked_fill((weight == 0).unsqueeze(-1), poison) for x in (hidden, teacher_hidden)]
    for found, due in zip(results(bad[0].requires_grad_(), bad[1]), results(hidden, teacher_hidden), strict=True):
        assert torch.equal(found, due)


def test_no_weight_at_all_is_no_loss() -> None:
    hidden, head, teacher_hidden, teacher_head = Draw(1).heads(21, 19)
    for rows in (13, 0):
        some = hidden[:rows]
        total, _ = chunked_divergence(
            some,
            head,
            teacher_hidden[:rows],
            teacher_head,
            kind="jsd",
            token=torch.zeros(rows, dtype=torch.int64),
            weight=torch.zeros(rows),
        )
        assert float(total.detach()) == 0
        assert all(bool((g == 0).all()) for g in torch.autograd.grad(total, (some, head.weight)))


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jsd", "skew_kl", "skew_reverse_kl"])
def test_tokens_far_below_the_likeliest_are_counted_for_nothing(kind: Kind) -> None:
    """Probabilities of e^-70 and less of the likeliest stand for each other, in the rows of logits that reach further down."""
    random = torch.Generator().manual_seed(4)
    z = torch.empty(6, 300, dtype=torch.float64).normal_(0, 60, generator=random).requires_grad_()
    y = z.detach() + torch.empty(6, 300).normal_(0, 2, generator=random)
    token = z.argmax(-1)
    exact = dense(kind, z, y, token)
    (slope,) = torch.autograd.grad(exact.sum(), z)
    ours = DIVERGENCES[kind](Node(z.detach().float(), y.float(), token))
    assert bool((z.amax(-1) - z.amin(-1) > 200).all())
    close(ours.value, exact, 1e-5)
    close(ours.gradient(), slope, 1e-5)


def test_gradients_are_handed_over_once() -> None:
    hidden, head, teacher_hidden, teacher_head = Draw(1).heads()
    total, _ = chunked_divergence(hidden, head, teacher_hidden, teacher_head, kind="jsd", token=torch.zeros(13, dtype=torch.int64))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="handed over already"):
        total.backward()


def test_unknown_words_are_refused() -> None:
    hidden, head, teacher_hidden, teacher_head = Draw(1).heads()
    for given_, word in (({"kind": "kl"}, "divergence"), ({"kind": "local_support", "tail": "drop"}, "tail")):
        with pytest.raises(ValueError, match=f"unknown {word}"):
            chunked_divergence(hidden, head, teacher_hidden, teacher_head, token=torch.zeros(13, dtype=torch.int64), **given_)  # type: ignore[arg-type]


def test_no_tensor_outgrows_the_chunk() -> None:
    """Of 300 rows x 700 columns nothing larger than two chunks of 20 rows, the head and the rows themselves is ever made."""
    draw, largest = Draw(2), 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else (out,):
                if isinstance(x, torch.Tensor):
                    largest = max(largest, x.numel())
            return out

    hidden, weight = draw.normal(300, 8).requires_grad_(), draw.normal(700, 8).requires_grad_()
    with Watch():
        for kind in KINDS:
            total, _ = chunked_divergence(
                hidden,
                Head(weight),
                draw.normal(300, 8),
                Head(draw.normal(700, 8)),
                kind=kind,
                token=draw.below(700, 300),
                rows_per_chunk=20,
            )
            total.backward()
    assert largest == 20 * 700


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


@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
@given(seed=seeds, step=st.integers(1, 13))
def test_a_teacher_like_the_student_teaches_exactly_nothing(kind: Kind, options: dict[str, Any], seed: int, step: int) -> None:
    draw = Draw(seed)
    hidden, head, *_ = draw.heads(softcap=4.0)
    total, rows = chunked_divergence(
        hidden, head, hidden.detach(), head, kind=kind, token=draw.below(21, 13), rows_per_chunk=step, **options
    )
    gradients = torch.autograd.grad(total, (hidden, head.weight))
    assert bool((rows == 0).all()) or options.get("tail") in ("none", "sampled")
    restless = any(case.items() <= {"kind": kind, **options}.items() for case in RESTLESS)
    assert any(bool(g.any()) for g in gradients) == restless


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_gets_no_gradient(kind: Kind) -> None:
    draw = Draw(1)
    hidden, head, teacher_hidden, teacher_head = draw.heads()
    inputs = hidden, head.weight, teacher_hidden.requires_grad_(), teacher_head.weight.requires_grad_()
    total, rows = chunked_divergence(hidden, head, teacher_hidden, teacher_head, kind=kind, token=draw.below(21, 13))
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    assert [g is not None and bool(g.any()) for g in gradients] == [True, True, False, False]
    assert not rows.requires_grad


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_formulas_are_the_formulas() -> None:
    draw = Draw(6)
    hidden, head, teacher_hidden, teacher_head = draw.heads(24, 21, softcap=5.0)
    token, found = draw.below(21, 13), []
    for compiled in (False, True):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="the loss runs uncompiled")
            total, rows = chunked_divergence(
                hidden, head, teacher_hidden, teacher_head, kind="jsd", token=token, rows_per_chunk=5, compiled=compiled
            )
        found.append((total, rows, *torch.autograd.grad(total, (hidden, head.weight))))
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-6)


def test_where_nothing_compiles_the_formula_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def refuses(*_: Any, **__: Any) -> Any:
        def call(*_: Any) -> Any:
            raise TorchDynamoException("no compiler here")

        return call

    monkeypatch.setattr(torch, "compile", refuses)
    losses._compiled.cache_clear()
    hidden, head, teacher_hidden, teacher_head = Draw(6).heads()
    inputs = hidden, head, teacher_hidden, teacher_head
    with pytest.warns(UserWarning, match="runs uncompiled, slower: no compiler here"):
        total, _ = chunked_divergence(*inputs, kind="jsd", token=torch.zeros(13, dtype=torch.int64), compiled=True)
    losses._compiled.cache_clear()
    plain, _ = chunked_divergence(*inputs, kind="jsd", token=torch.zeros(13, dtype=torch.int64))
    assert torch.equal(total, plain)
