"""A uniform draw: at equal budget it separates "fewer tokens" from "better tokens".

Source: TA-OPD code (wyy-code/TA-OPD @ ccdf21d2), method `random`. Departures: (1) the draw is a hash of (run seed, step,
response, position); theirs shuffles with a seed that stays the same at every rollout unless the token bank is exported.
"""

from selbench import Signals, Tensor, register_strategy


@register_strategy("random", version=1, budget=0.5, role="control", source="TA-OPD code @ ccdf21d2, method random")
def random(s: Signals) -> Tensor:
    """score ~ U(0, 1), drawn anew at every step."""
    return s.uniform()
