"""Compatibility-aware soft-OR ("TA-OPD+Entropy"): uncertain, or learnably different.

Hn, Dn, Cn = student entropy, forward KL and compatibility (teacher mass on the student's top 16) between their 5 % and 95 %
quantiles. Training code and analysis scripts differ in what is normalised, and rank differently: two ids.
Source: arXiv:2605.26844; wyy-code/TA-OPD @ ccdf21d2. Departures: full-vocabulary entropy and divergence instead of top-K
lists; quantiles over valid tokens.
"""

from selbench import Signals, Tensor, quantile, register_strategy

NEEDS = ("student_entropy", "forward_kl", "compatibility_mass_16")


@register_strategy("ca_softor", version=1, needs=NEEDS, budget=0.1, source="wyy-code/TA-OPD @ ccdf21d2, training code")
def ca_softor(s: Signals) -> Tensor:
    """score = 1 - (1 - Hn)(1 - DCn), DCn = the normalised raw product D·C."""
    return 1 - (1 - quantile(s.student_entropy)) * (1 - quantile(s.forward_kl * s.compatibility_mass_16))


@register_strategy("ca_softor_prod", version=1, needs=NEEDS, budget=0.1, source="wyy-code/TA-OPD @ ccdf21d2, analysis scripts")
def ca_softor_prod(s: Signals) -> Tensor:
    """score = 1 - (1 - Hn)(1 - Dn·Cn), the product of the normalised factors."""
    return 1 - (1 - quantile(s.student_entropy)) * (1 - quantile(s.forward_kl) * quantile(s.compatibility_mass_16))
