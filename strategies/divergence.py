"""Tokens where student and teacher differ most.

score = KL(p_S‖p_T), full vocabulary, nats. The published δ̂ is its min-max over the batch: the same order.
Source: TIP (arXiv:2604.14084) Eq. 3. Departures: none. (TA-OPD's `divergence` is another rule: forward KL on the union of
top-K lists.)
"""

from selbench import Signals, Tensor, register_strategy


@register_strategy("divergence", version=1, needs=("reverse_kl",), budget=0.5, role="contender", source="arXiv:2604.14084 Eq. 3")
def divergence(s: Signals) -> Tensor:
    """score = KL(p_S‖p_T)."""
    return s.reverse_kl
