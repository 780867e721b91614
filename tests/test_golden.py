"""The worked examples of the method reference (section 9), each number to 1e-5. `tests.golden.fixture` holds fixture F."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from selbench import min_max, quantile
from selbench.diagnose.alignment import alignment, descent, success_gradient, teacher_advantage
from selbench.losses import Kind, loss_weights
from selbench.signals import Signals, Tensor
from selbench.strategy import STRATEGIES, select
from tests.golden import fixture
from tests.golden.fixture import POSITION, SAMPLE, P, T, kept, signals, tensor, values
from tests.reference import cost_of, dense


def near(found: Tensor, *expected: object, within: float = 1e-5) -> None:
    torch.testing.assert_close(found.float(), tensor(*expected).reshape(found.shape), atol=within, rtol=0)


def score(name: str, seen: Signals) -> Tensor:
    return STRATEGIES.get(name).score(seen)


# 9.1: full-vocabulary features and TIP


@pytest.mark.parametrize("name", fixture.SIGNAL_TABLE)
def test_signals(name: str) -> None:
    near(values(top_k=2)[name], fixture.SIGNAL_TABLE[name])


def test_entropy_on_the_scale_of_the_vocabulary() -> None:
    near(values()["student_entropy"] / tensor(4.0).log(), 0.923220, 0.120970, 0.308772, 1, 0.697731, 0.308772)


def test_min_max_columns() -> None:
    near(min_max(values()["student_entropy"]), 0.912653, 0, 0.213646, 1, 0.656133, 0.213646)
    near(min_max(values()["reverse_kl"]), 0.001396, 0.837181, 1, 0.127274, 0.231811, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tip_softor", (0.912775, 0.837181, 1, 1, 0.735845, 0.213646)),
        ("tip_q3", (0.000122, 0.837181, 0.786354, 0, 0.079712, 0)),
    ],
)
def test_tip_scores(name: str, expected: tuple[float, ...]) -> None:
    near(score(name, signals()), expected)


@pytest.mark.parametrize(
    ("name", "half", "fifth"),
    [
        ("entropy", {0, 3, 4}, {0, 3}),
        ("divergence", {1, 2, 4}, {1, 2}),
        ("tip_softor", {0, 2, 3}, {2, 3}),
        ("tip_q3", {1, 2, 4}, {1, 2}),
    ],
)
def test_tip_kept_sets(name: str, half: set[int], fifth: set[int]) -> None:
    assert kept(STRATEGIES.get(name), signals(), 0.5) == half
    assert kept(STRATEGIES.get(name), signals(), 0.2) == fifth


@pytest.mark.parametrize(
    ("name", "budget", "normaliser", "expected"),
    [
        ("full", 1.0, "kept_tokens", 1.232291),
        ("tip_softor", 0.5, "kept_tokens", 1.265687),
        ("tip_softor", 0.5, "all_valid", 0.632843),
    ],
)
def test_tip_losses(name: str, budget: float, normaliser: str, expected: float) -> None:
    chosen = select(STRATEGIES.get(name), signals(), budget, seed=0)
    near(reduced_loss(chosen.index, chosen.weight, normaliser), expected)


def reduced_loss(index: Tensor, weight: Tensor, normaliser: str) -> Tensor:
    rows, _ = cost_of("reverse_kl", P[index].log(), T[index].log(), torch.zeros_like(index))
    return (loss_weights(weight, SAMPLE[index], normaliser, valid=6, samples=2) * rows).sum()


def test_multinomial_sampler_draws_as_published() -> None:
    """20 seeds, 1000 copies of F each (the draw is a hash of seed, sample and position): 2·10^4 draws of k = 3."""
    strategy, seen, copies = STRATEGIES.get("entropy_multinomial"), values(), 1000
    needed = {name: seen[name].repeat(copies) for name in strategy.needs}
    sample = SAMPLE.repeat(copies) + 2 * torch.arange(copies).repeat_interleave(6)
    runs = [Signals(needed, position=POSITION.repeat(copies), sample=sample, seed=seed) for seed in range(20)]
    order = torch.cat([strategy.score(run).reshape(copies, 6) for run in runs]).argsort(-1, descending=True)
    drawn = torch.nn.functional.one_hot(order, 6).double()
    near(seen["student_entropy"] / seen["student_entropy"].sum(), 0.274812, 0.036009, 0.091911, 0.297667, 0.207691, 0.091911)
    near(drawn[:, 0].mean(0), 0.274812, 0.036009, 0.091911, 0.297667, 0.207691, 0.091911, within=0.012)
    near(drawn[:, :3].sum(1).mean(0), 0.746929, 0.144267, 0.344519, 0.772530, 0.647236, 0.344519, within=0.012)


# 9.2: TA-OPD


def columns(variant: str) -> dict[str, Tensor]:
    """The scores of F: of registered strategies by their name, of the rest from their formula."""
    seen = signals(variant=fixture.VARIANTS[variant])
    hn, dn, cn = (quantile(z) for z in (seen.student_entropy, seen.forward_kl, seen.compatibility_mass_16))
    dcn = quantile(seen.forward_kl * seen.compatibility_mass_16)
    formulas = {"Hn": hn, "Dn": dn, "Cn": cn, "DCn": dcn, "tip": 1 - (1 - hn) * (1 - dn), "split_ca": (1 - hn) * dcn}
    return formulas | {name: score(name, seen) for name in fixture.SCORE_TABLE[variant] if name not in formulas}


@pytest.mark.parametrize("variant", fixture.SCORE_TABLE)
def test_ta_opd_scores(variant: str) -> None:
    for name, found in columns(variant).items():
        near(found, fixture.SCORE_TABLE[variant][name])


def test_teachability_at_server_asks_for_the_server_features() -> None:
    near(score("teachability@server", signals()), fixture.SCORE_TABLE["server"]["teachability"])


@pytest.mark.parametrize(("variant", "name", "expected"), [(*key, tokens) for key, tokens in fixture.KEPT_AT_30_PERCENT.items()])
def test_ta_opd_kept_sets(variant: str, name: str, expected: set[int]) -> None:
    assert kept(columns(variant)[name], signals(), 0.3) == expected
    if name in STRATEGIES:
        assert kept(STRATEGIES.get(name), signals(variant=fixture.VARIANTS[variant]), 0.3) == expected


@pytest.mark.parametrize(("name", "low", "high"), [(name, *bounds) for name, bounds in fixture.QUANTILES.items()])
def test_quantiles_are_interpolated_linearly(name: str, low: float, high: float) -> None:
    """The two quantiles show in the scaled column: it is 0 at the lower, 1 at the upper and linear in between."""
    z = values()[name]
    near(quantile(z), ((z - low) / (high - low)).clamp(0, 1).tolist())


def test_quantile_normaliser_alone() -> None:
    near(quantile(tensor(0, 1, 2, 3, 4)), 0, 2 / 9, 1 / 2, 7 / 9, 1)


def test_minimum_per_sample_goes_on_top_of_the_budget() -> None:
    assert kept(STRATEGIES.get("teachability"), signals(variant=fixture.SERVER), 0.1) == {1}
    chosen = select(STRATEGIES.get("teachability@server"), signals(), 0.1, seed=0)
    assert chosen.index.tolist() == [1, 3]
    assert chosen.filled == 1


def test_of_equal_scores_the_earlier_position_wins() -> None:
    chosen = select(STRATEGIES.get("ca_softor"), signals(variant=fixture.SERVER), 0.1, seed=0)
    assert chosen.index.tolist() == [3]  # tokens 1 and 3 both score 1.0; token 3 is the first of its response
    assert chosen.ties == 1


@pytest.mark.parametrize(("variant", "entropy", "divergence"), [("server", 0.548519, 0.022737), ("full", 0.412520, 0.137422)])
def test_third_quadrant_by_medians(variant: str, entropy: float, divergence: float) -> None:
    hn, dn, learnable = (columns(variant)[name] for name in ("Hn", "Dn", "teachability"))
    near(hn.quantile(0.5), entropy)
    near(dn.quantile(0.5), divergence)
    quadrant = (hn < hn.quantile(0.5)) & (dn >= dn.quantile(0.5))
    assert quadrant.nonzero().flatten().tolist() == [1, 2]
    assert int(learnable.where(quadrant, -torch.inf).argmax()) == 1
    assert int(learnable.where(quadrant, torch.inf).argmin()) == 2


@pytest.mark.parametrize(("normaliser", "expected"), [("kept_tokens", 1.341340), ("per_sample_kept", 1.709354), ("all_valid", 0.670670)])
def test_loss_normalisers(normaliser: str, expected: float) -> None:
    near(reduced_loss(torch.tensor([1, 3, 4]), torch.ones(3), normaliser), expected)


# 9.3 and 9.4: divergences at one node

A = (0.6, 0.3, 0.05, 0.05), (0.1, 0.8, 0.05, 0.05)
B = (0.45, 0.05, 0.40, 0.10), (0.55, 0.05, 0.05, 0.35)
Node = tuple[tuple[float, ...], tuple[float, ...]]
ONCE, DRAWN = torch.zeros(1, dtype=torch.int64), torch.arange(4)


@pytest.mark.parametrize(
    ("kind", "node", "options", "value", "gradient"),
    [
        ("local_support", A, {"top_k": 2}, 0.867563, (0.616131, -0.616131, 0, 0)),
        ("local_support", B, {"top_k": 2}, 0.100516, (0.156510, 0, 0, -0.156510)),
        ("local_support", A, {"top_k": 4}, 0.780807, (0.606572, -0.528491, -0.039040, -0.039040)),
        ("reverse_kl", A, {}, 0.780807, (0.606572, -0.528491, -0.039040, -0.039040)),
        ("forward_kl", A, {}, 0.605487, (0.5, -0.5, 0, 0)),
        ("jsd", A, {}, 0.158018, (0.119232, -0.112154, -0.003539, -0.003539)),
    ],
)
def test_divergence_and_gradient(kind: Kind, node: Node, options: Mapping[str, int], value: float, gradient: object) -> None:
    p, q = (tensor([row]) for row in node)
    near(dense(kind, p.log(), q.log(), ONCE, **options), value)
    near(cost_of(kind, p.log(), q.log(), ONCE, **options)[0], value)
    near(-descent(kind, p, q, **options), gradient)


def test_local_support_is_blind_outside_the_support() -> None:
    p, q = (tensor([row]) for row in B)
    near(dense("reverse_kl", p.log(), q.log(), ONCE), 0.616199)
    student, teacher = (x[0, [0, 3]] / x[0, [0, 3]].sum() for x in (p, q))
    near(student, 0.818182, 0.181818)
    near(teacher, 0.611111, 0.388889)


@pytest.mark.parametrize(
    ("kind", "per_word", "mean", "gradient"),
    [
        ("policy_gradient", (1.791759, -0.980829, 0, 0), 0.780807, (0.606572, -0.528491, -0.039040, -0.039040)),
        ("k2", (1.605201, 0.481013, 0, 0), 1.107425, (0.606572, -0.528491, -0.039040, -0.039040)),
        ("k3", (0.958426, 0.685837, 0, 0), 0.780807, (0.5, -0.5, 0, 0)),
    ],
)
def test_estimators_in_expectation(kind: Kind, per_word: object, mean: float, gradient: object) -> None:
    """One row per word that may be drawn; means and gradients weighted by the student's probabilities, held fixed."""
    p, q = (tensor([row]) for row in A)
    logits = p.log().requires_grad_()
    rows = dense(kind, logits.expand(4, 4), q.log().expand(4, 4), DRAWN)
    near(rows, per_word)
    near((p[0] * rows).sum(), mean)
    near(torch.autograd.grad((p[0] * rows).sum(), logits)[0], gradient)
    values, slopes = cost_of(kind, logits.detach().expand(4, 4), q.log().expand(4, 4), DRAWN)
    near(values, per_word)
    near((p[0].unsqueeze(-1) * slopes).sum(0), gradient)


def test_k1_differentiated_directly_teaches_nothing() -> None:
    p, q = (tensor(row) for row in A)
    logits = p.log().requires_grad_()
    k1 = logits.log_softmax(-1) - q.log()
    near(torch.autograd.grad((p * k1).sum(), logits)[0], 0, 0, 0, 0)
    values, slopes = cost_of("k1", logits.detach().expand(4, 4), q.log().expand(4, 4), DRAWN)
    near(values, k1.detach())
    near((p.unsqueeze(-1) * slopes).sum(0), 0, 0, 0, 0)


def test_share_of_student_mass_with_negative_reward() -> None:
    p, q = (tensor([row]) for row in A)
    k1 = dense("policy_gradient", p.log().expand(4, 4), q.log().expand(4, 4), DRAWN)
    near(p[0][k1 > 1e-6].sum(), 0.6)


# 9.5: gradient alignment

NODE, SUCCESS = tensor([[0.50, 0.30, 0.15, 0.05]]), tensor([[0.20, 0.80, 0.50, 0.10]])
GOOD, BAD = tensor([[0.20, 0.65, 0.10, 0.05]]), tensor([[0.70, 0.10, 0.15, 0.05]])


def test_success_gradient_and_teacher_advantage() -> None:
    near((NODE * SUCCESS).sum(), 0.42)
    near(success_gradient(NODE, SUCCESS), -0.110, 0.114, 0.012, -0.016)
    near(teacher_advantage(NODE, GOOD, SUCCESS), 0.195)
    near(teacher_advantage(NODE, BAD, SUCCESS), -0.120)


@pytest.mark.parametrize(
    ("kind", "teacher", "step", "cosine"),
    [
        ("reverse_kl", GOOD, (-0.314641, 0.318059, -0.017769, 0.014350), 0.984567),
        ("forward_kl", GOOD, (-0.30, 0.35, -0.05, 0), 0.976524),
        ("jsd", GOOD, (-0.072212, 0.079104, -0.008587, 0.001696), 0.980864),
        ("reverse_kl", BAD, (0.248910, -0.281179, 0.024202, 0.008067), -0.986246),
        ("forward_kl", BAD, (0.2, -0.2, 0, 0), -0.991966),
    ],
)
def test_alignment(kind: Kind, teacher: Tensor, step: object, cosine: float) -> None:
    near(descent(kind, NODE, teacher), step)
    near(alignment(kind, NODE, teacher, SUCCESS), cosine)


def test_alignment_on_a_candidate_set() -> None:
    """Renormalised over the candidates, every direction is the restricted one divided by the student mass they cover."""
    for candidates, cosine in {(0, 1): 1.0, (0, 1, 2): 0.993434}.items():
        p, teacher, success = (x[:, list(candidates)] for x in (NODE, GOOD, SUCCESS))
        covered = p.sum()
        p, teacher = p / covered, teacher / teacher.sum()
        near(alignment("reverse_kl", p, teacher, success), cosine)
    near(covered * success_gradient(p, success), -0.118421, 0.108947, 0.009474)
    near(covered * descent("reverse_kl", p, teacher), -0.307088, 0.322591, -0.015503)
