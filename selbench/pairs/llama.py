"""Llama 3 (arXiv:2407.21783): one tokenizer of 128,256 tokens. Shapes: config.json of the models. The weights need Meta's licence."""

from selbench.pairs.common import add_pair, shape

_BOTH = {"kv_heads": 8, "head_dim": 128, "vocab": 128256}

add_pair(
    "llama-3.3-70b-3.1-8b",
    (
        "meta-llama/Llama-3.3-70B-Instruct",
        shape(70_553_706_496, hidden=8192, layers=80, heads=64, intermediate=28672, tied=False, **_BOTH),
    ),
    (
        "meta-llama/Llama-3.1-8B-Instruct",
        shape(8_030_261_248, hidden=4096, layers=32, heads=32, intermediate=14336, tied=False, **_BOTH),
    ),
    "TIP's third math pair",
    __file__,
    thinking=(None, "its chat template has no thinking switch"),
)
