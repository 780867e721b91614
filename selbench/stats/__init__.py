"""Estimators, intervals and tests over per-problem correctness: numpy and scipy, no files.

Legend: M strategies, S training seeds, P problems, k samples. Entries are shares in [0, 1] (means over the k samples of one
problem); what goes in as shares comes out as shares.
"""

from selbench.stats.bootstrap import accuracy_interval, hierarchical_bootstrap, paired_interval, seed_spread
from selbench.stats.crossed import LIKE, SCOPES, THESE, Effects, differences, join, levels, only
from selbench.stats.estimators import Interval, average_at_k, bayes_at_n, majority_at_k, pass_at_k, run_interval
from selbench.stats.planning import Components, detectable_effect, required_samples, required_seeds, variance_components
from selbench.stats.ranks import beats, rank_intervals, tie_groups
from selbench.stats.testing import benjamini_hochberg, holm, mcnemar, seed_t, sign_flip

__all__ = [
    "LIKE", "SCOPES", "THESE", "Components", "Effects", "Interval", "accuracy_interval", "average_at_k", "bayes_at_n", "beats",
    "benjamini_hochberg", "detectable_effect", "differences", "hierarchical_bootstrap", "holm", "join", "levels", "majority_at_k",
    "mcnemar", "only", "paired_interval", "pass_at_k", "rank_intervals", "required_samples", "required_seeds", "run_interval",
    "seed_spread", "seed_t", "sign_flip", "tie_groups", "variance_components",
]  # fmt: skip
