"""Tokens where the student is least certain.

score = H(p_S), full vocabulary, nats. The published ĥ = min-max(H / ln V) is the same order.
Source: TIP (arXiv:2604.14084), columns "Ent"; TA-OPD code, method `entropy`. Departures: none.
"""

from selbench import Signals, Tensor, register_strategy


@register_strategy("entropy", version=1, needs=("student_entropy",), budget=0.5, role="contender", source="arXiv:2604.14084 Eq. 2")
def entropy(s: Signals) -> Tensor:
    """score = H(p_S)."""
    return s.student_entropy
