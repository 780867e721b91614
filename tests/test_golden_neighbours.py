"""Worked numbers of the neighbouring rules (methods 9.1-9.3): support tails, gates, verified tokens, prefix smoothing."""

from __future__ import annotations

import pytest
import torch

from selbench import prefix_ema
from selbench.diagnose.alignment import descent
from selbench.scoring import signals_from_logits
from selbench.strategy import STRATEGIES
from tests.golden.fixture import TOKEN, P, T, signals, tensor, values
from tests.reference import cost_of, dense
from tests.test_golden import DRAWN, ONCE, A, B, near

WORDS = torch.tensor([B[0]]).log(), torch.tensor([B[1]]).log()


def tail_of(kind: str, token: int) -> torch.Tensor:
    return cost_of("local_support", *WORDS, torch.tensor([token]), top_k=2, tail=kind)[0]


def test_support_without_renormalisation() -> None:
    p, q = (tensor([row]) for row in A)
    near(cost_of("local_support", p.log(), q.log(), ONCE, top_k=2, tail="none")[0], 0.780807)
    near(-descent("local_support", p, q, top_k=2, tail="none"), (0.666572, -0.498491, -0.084040, -0.084040))
    near(tail_of("none", 0), -0.215578)


def test_appended_token_is_renormalised_with_the_support() -> None:
    near(tail_of("append", 2), 0.648630)
    near(tail_of("append", 0), 0.100516)
    student = WORDS[0].exp()[0, [0, 3, 2]] / WORDS[0].exp()[0, [0, 3, 2]].sum()
    teacher = WORDS[1].exp()[0, [0, 3, 2]] / WORDS[1].exp()[0, [0, 3, 2]].sum()
    near(student, 0.473684, 0.105263, 0.421053)
    near(teacher, 0.578947, 0.368421, 0.052632)
    parts = student * (student / teacher).log()
    near(parts[:2].sum(), -0.226924)
    near(parts[2], 0.875554)


def test_sampled_tail_is_unbiased_for_the_reverse_kl() -> None:
    near(tail_of("sampled", 2) - tail_of("none", 2), 2.079442)
    near(tail_of("sampled", 1) - tail_of("none", 1), 0)
    expected = sum(B[0][token] * float(tail_of("sampled", token)) for token in range(4))
    assert expected == pytest.approx(0.616199, abs=1e-5)
    assert sum(B[0][y] * float(tail_of("sampled", y) - tail_of("none", y)) for y in range(4)) == pytest.approx(0.831777, abs=1e-5)
    # only the value is: the expected gradient is that of the reverse KL plus the gradient of the mass inside the support
    logits = WORDS[0].repeat(4, 1).requires_grad_()
    cost = dense("local_support", logits, WORDS[1].repeat(4, 1), DRAWN, top_k=2, tail="sampled")
    (gradient,) = torch.autograd.grad((cost * torch.tensor(B[0])).sum(), logits)
    p = torch.tensor([B[0]])
    inside = p * (torch.tensor([[1.0, 0, 0, 1.0]]) - p[0, [0, 3]].sum())
    near(gradient.sum(0, keepdim=True), (inside - descent("reverse_kl", p, torch.tensor([B[1]])))[0].tolist())
    _, slopes = cost_of("local_support", logits.detach(), WORDS[1].repeat(4, 1), DRAWN, top_k=2, tail="sampled")
    near((slopes * torch.tensor(B[0]).unsqueeze(-1)).sum(0), gradient.sum(0))


def test_eopd_gate() -> None:
    assert (values()["teacher_entropy"] >= 0.8).tolist() == [True, False, False, True, False, False]


def test_selectkd_weights() -> None:
    (verified,) = (v for _, v in signals_from_logits(["verified_2"], P.log(), T.log(), TOKEN))
    seen = signals()
    seen._values["verified_5"] = verified
    weights = STRATEGIES.get("selectkd").score(seen)
    near(weights[[1, 2, 4, 5]], 1, 0.01, 1, 1)


def test_prefix_smoothing() -> None:
    near(prefix_ema(values()["compatibility_mass_16"], signals())[:3], 0.70, 0.725, 0.6575)
