"""Fixture F: six tokens over four words, small enough to check on paper. Sample 0 is tokens 0-2, sample 1 is tokens 3-5."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from selbench.scoring import signals_from_logits
from selbench.signals import SIGNALS, Signals, Tensor
from selbench.strategy import Strategy, select

STUDENT = [
    [0.40, 0.30, 0.20, 0.10],
    [0.97, 0.01, 0.01, 0.01],
    [0.90, 0.05, 0.03, 0.02],
    [0.25, 0.25, 0.25, 0.25],
    [0.60, 0.30, 0.05, 0.05],
    [0.90, 0.05, 0.03, 0.02],
]
TEACHER = [
    [0.35, 0.35, 0.20, 0.10],
    [0.05, 0.90, 0.03, 0.02],  # confident and wrong; the teacher's word is the student's second: learnable
    [0.02, 0.03, 0.05, 0.90],  # confident and wrong; the teacher's mass is off the student's top 2: incompatible
    [0.70, 0.10, 0.10, 0.10],  # uncertain
    [0.10, 0.80, 0.05, 0.05],
    [0.88, 0.06, 0.04, 0.02],  # confident and agreeing
]


def tensor(*values: object) -> Tensor:
    """Numbers as float64 once rounded to float32, which is what the code under test computes in."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64).float()


P, T = tensor(STUDENT), tensor(TEACHER)
SAMPLE = torch.tensor([0, 0, 0, 1, 1, 1])
POSITION = torch.tensor([0, 1, 2, 0, 1, 2])
TOKEN = torch.tensor([0, 0, 0, 0, 1, 0])  # a sampled word per node, for signals that need one
FULL = {"student_entropy": "student_entropy", "forward_kl": "forward_kl"}
SERVER = {"student_entropy": "topk_entropy_16", "forward_kl": "server_forward_kl_16"}  # TA-OPD's features in the places of ours
VARIANTS = {"full": FULL, "server": SERVER}


def values(top_k: int = 2) -> dict[str, Tensor]:
    """Every signal of F. Lists are `top_k` long but go by the name `..._16`, the length that strategies ask for."""
    names = {name.replace("_K", "_16"): name.replace("_K", f"_{top_k}") for name in SIGNALS if name != "position_fraction"}
    found = dict(signals_from_logits(names.values(), P.log(), T.log(), TOKEN))
    return {name: found[measured] for name, measured in names.items()} | {"position_fraction": POSITION / 2}


def signals(top_k: int = 2, variant: Mapping[str, str] = FULL) -> Signals:
    """F as a strategy sees it; `variant` says which feature stands in the place of which signal."""
    measured = values(top_k)
    return Signals(measured | {name: measured[source] for name, source in variant.items()}, position=POSITION, sample=SAMPLE)


def kept(rule: Strategy | Tensor, seen: Signals, budget: float) -> set[int]:
    """The tokens that a strategy, or a bare column of scores, keeps."""
    strategy = rule if isinstance(rule, Strategy) else Strategy("scores", 1, lambda _: rule, (), budget, "test")
    return set(select(strategy, seen, budget, seed=0).index.tolist())


# What the method reference (9.1, 9.2) says of F, token by token.

# fmt: off
SIGNAL_TABLE: dict[str, tuple[float, ...]] = {
    "student_entropy": (1.279854, 0.167701, 0.428048, 1.386294, 0.967260, 0.428048),
    "teacher_entropy": (1.287022, 0.428048, 0.428048, 0.940448, 0.708347, 0.488294),
    "reverse_kl": (0.007167, 2.813399, 3.360080, 0.429813, 0.780807, 0.002479),
    "forward_kl": (0.007217, 3.948386, 3.360080, 0.445846, 0.605487, 0.002670),
    "jsd": (0.001796, 0.545061, 0.543868, 0.105297, 0.158018, 0.000642),
    "topk_entropy_16": (0.985228, 0.082143, 0.297472, 1, 0.918296, 0.297472),
    "server_forward_kl_16": (0.010310, 4.138001, 27.424829, 0.316377, 0.672764, 0.001181),
    "gathered_forward_kl_16": (0.010310, 4.138001, 3.360080, 0.316377, 0.672764, 0.001181),
    "compatibility_topk_16": (0.70, 0.95, 0, 0.80, 0.90, 0.94),
    "compatibility_mass_16": (0.70, 0.95, 0.05, 0.80, 0.90, 0.94),
    "bhattacharyya_16": (0.997433, 0.326563, 0.000002, 0.911438, 0.816497, 0.999714),
    "overlap_16": (1, 1, 0, 1, 1, 1),
}
QUANTILES = {
    "compatibility_mass_16": (0.2125, 0.9475),
    "topk_entropy_16": (0.135975, 0.996307),
    "server_forward_kl_16": (0.003463, 21.603122),
    "student_entropy": (0.232787, 1.359684),
    "forward_kl": (0.003807, 3.801310),
}
SCORE_TABLE: dict[str, dict[str, tuple[float, ...]]] = {
    "server": {  # H, D, C normalised, then what is made of them; `tip` is TA-OPD's rule of that name, not TIP's soft-OR
        "Hn": (0.987123, 0, 0.187715, 1, 0.909324, 0.187715),
        "Dn": (0.000317, 0.191417, 1, 0.014487, 0.030987, 0),
        "Cn": (0.663265, 1, 0, 0.799320, 0.935374, 0.989796),
        "DCn": (0.001393, 1, 0.416179, 0.076164, 0.183321, 0),
        "tip": (0.987127, 0.191417, 1, 1, 0.912134, 0.187715),
        "split_ca": (0.000018, 1, 0.338056, 0, 0.016623, 0),
        "teachability": (0.000210, 0.191417, 0, 0.011580, 0.028984, 0),
        "incompatible": (0.000107, 0, 1, 0.002907, 0.002003, 0),
        "ca_softor": (0.987140, 1, 0.525771, 1, 0.925947, 0.187715),
        "ca_softor_prod": (0.987125, 0.191417, 0.187715, 1, 0.911952, 0.187715),
    },
    "full": {
        "Hn": (0.929159, 0, 0.173273, 1, 0.651766, 0.173273),
        "Dn": (0.000898, 1, 0.883810, 0.116403, 0.158441, 0),
        "Cn": (0.663265, 1, 0, 0.799320, 0.935374, 0.989796),
        "DCn": (0.000647, 1, 0.055954, 0.119991, 0.183888, 0),
        "tip": (0.929223, 1, 0.903943, 1, 0.706941, 0.173273),
        "split_ca": (0.000046, 1, 0.046259, 0, 0.064036, 0),
        "teachability": (0.000596, 1, 0, 0.093043, 0.148202, 0),
        "incompatible": (0.000302, 0, 0.883810, 0.023360, 0.010239, 0),
        "ca_softor": (0.929205, 1, 0.219532, 1, 0.715802, 0.173273),
        "ca_softor_prod": (0.929202, 1, 0.173273, 1, 0.703375, 0.173273),
    },
}
KEPT_AT_30_PERCENT = {  # (variant, score): two of six tokens
    ("server", "teachability"): {1, 4}, ("full", "teachability"): {1, 4},
    ("server", "incompatible"): {2, 3}, ("full", "incompatible"): {2, 3},
    ("server", "ca_softor"): {1, 3}, ("full", "ca_softor"): {1, 3},
    ("server", "ca_softor_prod"): {0, 3}, ("full", "ca_softor_prod"): {1, 3},
    ("server", "tip"): {2, 3}, ("full", "tip"): {1, 3},
    ("server", "Dn"): {1, 2}, ("server", "Cn"): {1, 5},
}
# fmt: on
