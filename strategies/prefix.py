"""The beginning of each response.

Source: BruceSheng1202/IER-OPD @ d5e129f, baseline `prefix`. Departures: none. (Early-stopped rollouts, arXiv:2605.27028, also
save the sampling of the rest; this rule does not.)
"""

from selbench import Signals, Tensor, register_strategy


@register_strategy("prefix", version=1, needs=("position_fraction",), budget=0.1, source="BruceSheng1202/IER-OPD @ d5e129f")
def prefix(s: Signals) -> Tensor:
    """score = 1 - position / (length - 1)."""
    return 1 - s.position_fraction
