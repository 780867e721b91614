"""What the published pairs share: TIP's sampling settings as protocol defaults, and a shape in the words of its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selbench.models import PairSpec, register_pair

__all__ = ["SETTINGS", "SOURCES", "add_pair", "shape"]

SETTINGS: dict[str, Any] = {
    "model.student_dtype": "float32",
    "model.teacher_dtype": "bfloat16",
    "training.temperature": 1.0,
    "training.top_p": 1.0,
    "training.top_k": 0,
    "evaluation.temperature": 0.7,
    "evaluation.top_p": 0.8,
    "evaluation.top_k": 20,
}
_ROLLOUT = "TIP (arXiv:2604.14084), math script: rollouts at T 1.0, top-p 1.0, no top-k"
_ANSWERS = "TIP (arXiv:2604.14084), math script: validation at T 0.7, top-p 0.8, top-k 20"
SOURCES: dict[str, str] = {
    "model.student_dtype": "our choice: at a learning rate of 1e-6 most AdamW updates would vanish in bfloat16 weights",
    "model.teacher_dtype": "our choice: the dtype of the published weights, which are not trained",
    "training.temperature": _ROLLOUT,
    "training.top_p": _ROLLOUT,
    "training.top_k": _ROLLOUT,
    "evaluation.temperature": _ANSWERS,
    "evaluation.top_p": _ANSWERS,
    "evaluation.top_k": _ANSWERS,
}


def shape(
    parameters: int, *, hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int, intermediate: int, vocab: int, tied: bool
) -> dict[str, int]:
    """A dense decoder's numbers under the names of `PairSpec.shapes`; `parameters` counts a tied embedding once."""
    return {
        "parameters": parameters, "hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": vocab, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": intermediate, "tied": int(tied),
    }  # fmt: skip


def add_pair(
    name: str, teacher: tuple[str, Mapping[str, int]], student: tuple[str, Mapping[str, int]], summary: str, file: str, *,
    thinking: tuple[bool | None, str], **more: Any,
) -> None:  # fmt: skip
    """Register a pair of published models, each (hub id, shape), at the common settings; `thinking`: the flag and its source."""
    own = {"model.teacher_dtype": SETTINGS["model.student_dtype"]} if teacher[0] == student[0] else {}
    reason = dict.fromkeys(own, "our choice: the student's, so that its own weights differ from it by their context alone")
    register_pair(PairSpec(
        name, teacher[0], student[0], summary, file=file, settings={"model.thinking": thinking[0], **SETTINGS, **own},
        sources={"model.thinking": thinking[1], **SOURCES, **reason}, shapes={"teacher": teacher[1], "student": student[1]}, **more,
    ))  # fmt: skip
