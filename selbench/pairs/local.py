"""Pairs that train on a laptop. SmolLM2 (arXiv:2502.02737), Apache-2.0; shapes: config.json of the model."""

from selbench.pairs.common import add_pair, shape

_SMOLLM2_135M = (
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    shape(134_515_008, hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocab=49152, tied=True),
)

add_pair(
    "smollm2-self",
    _SMOLLM2_135M,
    _SMOLLM2_135M,
    "one small model as its own teacher, which reads the reference solution",
    __file__,
    thinking=(None, "its chat template has no thinking switch"),
    privileged=(
        "{problem}\n\nA reference solution of this problem, for you alone:\n{solution}\n\nNow solve the problem in your own words. "
        "Let's think step by step and output the final answer within \\boxed{}."  # the answer format that the student is asked for
    ),
)
