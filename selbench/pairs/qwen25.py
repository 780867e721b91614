"""Qwen2.5 (arXiv:2412.15115): one tokenizer of 151,665 tokens, heads of 151,936 columns up to 3B and 152,064 from 7B on.

Instruct, Math-Instruct (arXiv:2409.12122; released at 1.5B, 7B and 72B only, so there is no 14B and no 0.5B) and Coder-Instruct
(arXiv:2409.12186). Shapes: config.json of the models, the same for the three lines at equal size.
"""

from selbench.pairs.common import add_pair, shape

_SIZES = {
    "0.5B": shape(494_032_768, hidden=896, layers=24, heads=14, kv_heads=2, head_dim=64, intermediate=4864, vocab=151936, tied=True),
    "1.5B": shape(1_543_714_304, hidden=1536, layers=28, heads=12, kv_heads=2, head_dim=128, intermediate=8960, vocab=151936, tied=True),
    "7B": shape(7_615_616_512, hidden=3584, layers=28, heads=28, kv_heads=4, head_dim=128, intermediate=18944, vocab=152064, tied=False),
    "14B": shape(14_770_033_664, hidden=5120, layers=48, heads=40, kv_heads=8, head_dim=128, intermediate=13824, vocab=152064, tied=False),
}
_NONE = (None, "its chat template has no thinking switch")

for _line, _teacher, _student, _summary in (
    ("", "14B", "1.5B", "TIP's second math pair; heads of different width"),
    ("", "7B", "1.5B", "heads of different width"),
    ("", "7B", "0.5B", "heads of different width"),
    ("-Math", "7B", "1.5B", "tuned on mathematics; heads of different width"),
    ("-Coder", "1.5B", "0.5B", "small enough for a CPU"),
):
    add_pair(
        f"qwen2.5{_line}-{_teacher}-{_student}".lower(),
        (f"Qwen/Qwen2.5{_line}-{_teacher}-Instruct", _SIZES[_teacher]),
        (f"Qwen/Qwen2.5{_line}-{_student}-Instruct", _SIZES[_student]),
        _summary,
        __file__,
        thinking=_NONE,
    )
