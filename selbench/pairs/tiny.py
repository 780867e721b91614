"""The embedded pair: two small Qwen3 models that add, with planted errors in the student (selbench/tiny/text.py)."""

from importlib.resources import files

from selbench.models import PairSpec, register_pair
from selbench.tiny.text import planted_labels

_HOME = files("selbench") / "tiny"

register_pair(
    PairSpec(
        name="tiny",
        teacher=str(_HOME / "teacher"),
        student=str(_HOME / "student"),
        summary="Qwen3 architecture, 0.6 M to 0.1 M parameters, characters, column addition; errors planted in the student",
        planted=planted_labels,
        file=__file__,
    )
)
register_pair(
    PairSpec(
        name="tiny-agent",
        teacher=str(_HOME / "agent" / "teacher"),
        student=str(_HOME / "agent" / "student"),
        summary="Qwen3 architecture, 0.3 M to 0.1 M parameters, words; calls tools, wrong colours planted in the student",
        file=__file__,
    )
)
