"""Qwen3 (arXiv:2505.09388): one tokenizer of 151,669 tokens and one head width of 151,936 at every size. Shapes: config.json of the models.

TIP's teacher is a Qwen3-8B trained further by GRPO that was not published; here it is the released model, so report its accuracy.
"""

from selbench.pairs.common import add_pair, shape

_VOCAB = {"vocab": 151936, "head_dim": 128, "kv_heads": 8}
_SIZES = {
    "0.6B": shape(596_049_920, hidden=1024, layers=28, heads=16, intermediate=3072, tied=True, **_VOCAB),
    "1.7B": shape(1_720_574_976, hidden=2048, layers=28, heads=16, intermediate=6144, tied=True, **_VOCAB),
    "4B": shape(4_022_468_096, hidden=2560, layers=36, heads=32, intermediate=9728, tied=True, **_VOCAB),
    "8B": shape(8_190_735_360, hidden=4096, layers=36, heads=32, intermediate=12288, tied=False, **_VOCAB),
    "32B": shape(32_762_123_264, hidden=5120, layers=64, heads=64, intermediate=25600, tied=False, **_VOCAB),
    "14B": shape(14_768_307_200, hidden=5120, layers=40, heads=40, intermediate=17408, tied=False, **_VOCAB),
}
_OFF = (False, "TIP (arXiv:2604.14084), math script: thinking off for Qwen3")

for _teacher, _student, _summary in (
    ("8B", "4B", "TIP's first math pair"),
    ("8B", "1.7B", ""),
    ("4B", "1.7B", "TA-OPD's main pair"),
    ("14B", "1.7B", "TIP's DeepPlanning pair, there with thinking on"),
    ("32B", "1.7B", "TIP's second DeepPlanning pair, there with thinking on"),
    ("1.7B", "0.6B", "the smallest Qwen3 pair"),
):
    add_pair(
        f"qwen3-{_teacher}-{_student}".lower(),
        (f"Qwen/Qwen3-{_teacher}", _SIZES[_teacher]),
        (f"Qwen/Qwen3-{_student}", _SIZES[_student]),
        _summary,
        __file__,
        thinking=_OFF,
    )
