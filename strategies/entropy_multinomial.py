"""A draw without replacement, the more likely the less certain the student is.

weight = max(ĥ, 1e-8)^α · max(j, 1e-8)^γ with ĥ = H / max H and j = JSD / ln 2; the k tokens with the largest ln(u) / weight,
u uniform, are distributed as k successive draws in proportion to the weights (Efraimidis and Spirakis 2006).
Source: HJSang/OPSD_OnPolicyDistillation @ 65ad87b, multinomial sampler (in its base code, not wired into its worker).
Departures: (1) drawn over the global batch, theirs over the tokens of one call; (2) k by ceil, theirs by floor; (3) entropy
is scaled by its maximum instead of ln V: a common factor, it leaves the distribution alone.
"""

from dataclasses import dataclass

from selbench import Signals, Tensor, register_strategy


@dataclass(frozen=True)
class Exponents:
    """α on entropy; γ on the Jensen-Shannon divergence (0 switches it off, as in the base code)."""

    alpha: float = 1.0
    gamma: float = 0.0


@register_strategy(
    "entropy_multinomial", version=1, needs=("student_entropy", "jsd"), budget=0.5, parameters=Exponents(),
    source="HJSang/OPSD_OnPolicyDistillation @ 65ad87b",
)  # fmt: skip
def entropy_multinomial(s: Signals, p: Exponents) -> Tensor:
    """score = ln(u) / (ĥ^α j^γ), u ~ U(0, 1)."""
    weight = (s.student_entropy / s.student_entropy.max().clamp_min(1e-12)).clamp_min(1e-8).double().pow_(p.alpha)
    if p.gamma:
        weight *= (s.jsd / 0.6931471805599453).clamp_min(1e-8).double().pow_(p.gamma)
    return s.uniform().log_().div_(weight)
