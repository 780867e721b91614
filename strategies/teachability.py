"""TA-OPD: disagreement that the student can learn from, because the teacher's mass lies on the student's own candidates.

Dn, Cn = divergence and compatibility, scaled between their 5 % and 95 % quantiles; learnable Dn·Cn, incompatible Dn·(1-Cn).
Source: arXiv:2605.26844; wyy-code/TA-OPD @ ccdf21d2. Departures: (1) quantiles over valid tokens (their code: all rows,
masked ones included); (2) `teachability` and `incompatible` have no per-response minimum, so that every strategy keeps the
same number of tokens; `teachability@server` has theirs: at least one token a response, chosen by `ca_softor`; (3) its
compatibility is the exact Cmass (their option) and not the top-K lower bound.
"""

from selbench import Signals, Tensor, quantile, register_strategy

FULL = ("forward_kl", "compatibility_mass_16")
SERVER = ("server_forward_kl_16", "compatibility_mass_16", "topk_entropy_16")


@register_strategy("teachability", version=1, needs=FULL, budget=0.1, role="contender", source="arXiv:2605.26844")
def teachability(s: Signals) -> Tensor:
    """score = Dn·Cn, D = KL(p_T‖p_S) over the full vocabulary, C = teacher mass on the student's top 16."""
    return quantile(s.forward_kl) * quantile(s.compatibility_mass_16)


@register_strategy("incompatible", version=1, needs=FULL, budget=0.1, role="contender", source="arXiv:2605.26844, negative control")
def incompatible(s: Signals) -> Tensor:
    """score = Dn·(1 - Cn): must do worse than teachability at equal budget, or the claim is not reproduced."""
    return quantile(s.forward_kl) * (1 - quantile(s.compatibility_mass_16))


def server_softor(s: Signals) -> Tensor:
    """Their `ca_softor`, from the server features: the fill score of their per-response minimum for every method."""
    entropy, product = quantile(s.topk_entropy_16), quantile(s.server_forward_kl_16 * s.compatibility_mass_16)
    return 1 - (1 - entropy) * (1 - product)


@register_strategy("teachability@server", version=1, needs=SERVER, budget=0.1, min_per_sample=1, fill=server_softor,
                   source="wyy-code/TA-OPD @ ccdf21d2, training code")  # fmt: skip
def teachability_server(s: Signals) -> Tensor:
    """score = Dn·Cn, D over the union of both top-16 lists with missing entries at 1e-12, as two servers report them."""
    return quantile(s.server_forward_kl_16) * quantile(s.compatibility_mass_16)
