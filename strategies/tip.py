"""TIP: tokens that are uncertain, or confident and wrong.

h = H(p_S) / ln V and δ = KL(p_S‖p_T), both min-max scaled over the batch's valid tokens (dividing by ln V changes nothing).
Source: arXiv:2604.14084, Eq. 2-5; the selector's code is not released. Departures: (1) how the paper isolates its third
quadrant Q3 (low entropy, high divergence) was not found: `tip_q3` ranks by (1-ĥ)·δ̂, `tip_q3@median` ranks δ among
tokens with entropy at or below the median; (2) rounding of the budget is ours.
"""

from selbench import Signals, Tensor, median, min_max, register_strategy


@register_strategy("tip_softor", version=1, needs=("student_entropy", "reverse_kl"), budget=0.5, role="contender",
                   source="arXiv:2604.14084 Eq. 5")  # fmt: skip
def tip_softor(s: Signals) -> Tensor:
    """score = 1 - (1 - ĥ)(1 - δ̂), a soft OR; exact ties at 1."""
    return 1 - (1 - min_max(s.student_entropy)) * (1 - min_max(s.reverse_kl))


@register_strategy("tip_q3", version=1, needs=("student_entropy", "reverse_kl"), budget=0.1, role="contender",
                   source="arXiv:2604.14084, Q3; rule ours")  # fmt: skip
def tip_q3(s: Signals) -> Tensor:
    """score = (1 - ĥ) δ̂: confident and wrong."""
    return (1 - min_max(s.student_entropy)) * min_max(s.reverse_kl)


def confident(s: Signals) -> Tensor:
    """Tokens with entropy at or below the batch median (the mean of the middle two)."""
    return s.student_entropy <= median(s.student_entropy)


@register_strategy("tip_q3@median", version=1, needs=("student_entropy", "reverse_kl"), budget=0.1, candidates=confident,
                   source="arXiv:2604.14084, Q3; rule ours")  # fmt: skip
def tip_q3_median(s: Signals) -> Tensor:
    """score = δ among tokens with H <= median(H): more than half of the tokens are kept only if entropies tie."""
    return s.reverse_kl
