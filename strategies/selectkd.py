"""SelecTKD: the student proposes, the teacher verifies; tokens that fail still count a little.

weight = 1 where the student's most likely token is among the teacher's top 5, else β = 0.01.
Source: arXiv:2510.24021, greedy variant, as relayed by a third-party audit. Departures: the paper sums over all tokens and does
not rescale; here the protocol's normaliser divides by all tokens, since all weights are positive.
"""

from dataclasses import dataclass

from selbench import Signals, Tensor, register_strategy


@dataclass(frozen=True)
class Rejected:
    """beta: the weight of a token that the teacher does not verify."""

    beta: float = 0.01


@register_strategy(
    "selectkd", version=1, needs=("verified_5",), budget=1.0, kind="weights", parameters=Rejected(), source="arXiv:2510.24021"
)
def selectkd(s: Signals, p: Rejected) -> Tensor:
    """weight = 1 where argmax p_S is in the teacher's top 5, else β."""
    return p.beta + (1 - p.beta) * s.verified_5
