"""Rollouts by vLLM in this very process: token ids in and out, weights pushed in place after each update and proven to have arrived.

Start-up is paid once a process: an engine that fits the next cell's student is used again. The two packages of the one module (CUDA
and CPU) differ in `vllm_package.PLATFORMS` and nowhere else. Facts about vLLM 0.32 that this rests on: `logprobs` are of the raw logits
whatever the temperature; `reload_weights` takes the names of a checkpoint; on a CPU it leaves the packed copy of a tied head as it was.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from selbench.config import digest
from selbench.rollout import EngineError, Progress, Rollouts, Sampling
from selbench.rollout.vllm_common import Answer, arrived, asked, ready, rollouts_of, take, tokens_of, weight_facts
from selbench.rollout.vllm_package import PLATFORMS, SHARED, Bar, in_one_line, installed, undisturbed
from selbench.rollout.weights import Arrival, bits, named_weights, unaccounted

if TYPE_CHECKING:
    from torch import nn

__all__ = ["VLLMEngine", "close_all", "installed"]

BLOCK = 16  # tokens of the cache that are held together, at least


@dataclass
class _Running:
    """One started engine and what it cost."""

    llm: Any
    seconds: float
    threads: int
    owner: VLLMEngine | None = None
    awake: bool = True


_STARTED: dict[str, _Running] = {}


def close_all() -> None:
    """End every engine of this process and free what they hold."""
    while _STARTED:
        _, running = _STARTED.popitem()
        with contextlib.suppress(Exception):  # the process may be ending: nothing is lost by an engine that ends badly
            running.llm.llm_engine.engine_core.shutdown()
        running.owner = running.llm = None
    gc.collect()


atexit.register(close_all)


class VLLMEngine:
    """The engine contract on a colocated `vllm.LLM`. Nothing is sampled before the first `sync`, nor from weights that changed since.

    student: the module that is trained, or a PeftModel; its configuration is vLLM's model. dtype: "float32", "bfloat16" or "float16".
    room: tokens of the longest sequence; batch: sequences computed together. arrival, sync_seconds, startup_seconds (0 where the
    process had such an engine): what was found and took how long.
    """

    name = "vllm"

    def __init__(self, student: Any, *, end_ids: Sequence[int], dtype: str, room: int, batch: int = 256) -> None:
        self.student, self.end_ids, self.dtype, self.batch = student, tuple(end_ids), dtype, batch
        config = student.config.get_text_config()
        self.context = int(getattr(config, "max_position_embeddings", room))
        self.room = min(room, self.context)
        self.platform = PLATFORMS["cuda" if student.device.type == "cuda" else "cpu"]
        self.tokens = tokens_of(student)
        self.arrival: Arrival | None = None
        self.sync_seconds: list[float] = []
        self._at: tuple[int, ...] | None = None
        key = digest([student.config.to_dict(), dtype, self.room, batch, self.tokens, str(student.device)])
        self.startup_seconds = 0.0
        if key not in _STARTED:
            close_all()  # two engines would divide one machine's memory
            _STARTED[key] = self._start()
            self.startup_seconds = _STARTED[key].seconds
        self._running = _STARTED[key]
        self._running.owner = self

    def _start(self) -> _Running:
        import torch

        os.environ.update(SHARED | self.platform.environment)
        Finalize(None, close_all, exitpriority=1)  # a worker process ends without atexit
        began = time.perf_counter()
        with undisturbed(), in_one_line("vLLM does not start"), tempfile.TemporaryDirectory() as folder:
            from vllm import LLM

            self.student.config.save_pretrained(folder)  # the weights come by `sync`, from whatever source they were loaded
            padded: dict[str, Any] = {}
            if self.tokens < self.student.config.get_text_config().vocab_size:
                from selbench.rollout.vllm_processor import OnlyTokens

                padded = {"logits_processors": [OnlyTokens], "additional_config": {"selbench_tokens": self.tokens}}
            llm = LLM(
                model=folder, load_format="dummy", skip_tokenizer_init=True, generation_config="vllm", dtype=self.dtype,
                max_model_len=self.room, max_num_seqs=self.batch, kv_cache_memory_bytes=self._cache_bytes(), seed=0,
                enable_prefix_caching=True, disable_log_stats=True, **self.platform.arguments, **padded,
            )  # fmt: skip
        return _Running(llm, time.perf_counter() - began, torch.get_num_threads())

    def _cache_bytes(self) -> int:
        """Keys and values of a whole batch at full length, within the platform's bound; never less than one sequence."""
        from selbench.passes import shape_of

        shape = shape_of(self.student)
        heads = shape.num_key_value_heads * shape.head_dim
        token = 2 * shape.num_hidden_layers * heads * (4 if self.dtype == "float32" else 2)
        page = 8 * BLOCK  # tokens of a block on a CPU; the cache has whole blocks, and one of them is not for sequences
        sequence = token * page * -(-self.room // page)
        return max(sequence, min(self.batch * sequence, self.platform.cache)) + token * page

    def sync(self, student: nn.Module) -> None:
        """Push the student's weights; after the first time, prove layer by layer that all of them arrived. Raises EngineError."""
        if student is not self.student:
            raise ValueError("the vllm engine was built for another module than the one being trained")
        began = time.perf_counter()
        llm = self._mine().llm
        with undisturbed(self._running.threads), in_one_line("vLLM did not take the weights"):
            if not self._running.awake:
                llm.wake_up()
                self._running.awake = True
            llm.collective_rpc(partial(_push, student=student, after=self.platform.after_reload))
            llm.reset_prefix_cache()
            if self.arrival is None:
                (self.arrival,) = llm.collective_rpc(partial(_compare, student=student, dtype=self.dtype))
        self._at = bits(student)
        self.sync_seconds.append(time.perf_counter() - began)
        arrived(self.arrival)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int, progress: Progress | None = None,
        first: int | Sequence[int] = 0,
    ) -> Rollouts:  # fmt: skip
        """See `Engine.generate`. Raises EngineError on weights that changed since the last sync, and on log-probabilities not theirs."""
        from vllm import SamplingParams

        ready(self.student, self._at, prompts, sampling, self.room, self.context)
        llm = self._mine().llm
        wanted = [SamplingParams(**each) for each in asked(sampling, seed, first, len(prompts), self.end_ids)]
        with undisturbed(self._running.threads), in_one_line("vLLM failed while it generated"):
            llm.reset_prefix_cache()  # what an earlier call left must not decide how this one is computed
            bar = partial(Bar, progress) if progress else False
            outputs = llm.generate([{"prompt_token_ids": list(p)} for p in prompts], wanted, use_tqdm=bar)
        answers = [_answer(out.outputs[0]) for out in outputs if out.finished and len(out.outputs) == 1]
        return rollouts_of(self.student, prompts, answers, first, seed, self.dtype)

    def rest(self) -> None:
        """Give the device's memory back until the next sync. Nothing on a CPU."""
        if self.platform.sleeps and self._running.awake:
            with in_one_line("vLLM did not go to sleep"):
                self._mine().llm.sleep(level=2)  # the weights come back by the next sync
            self._running.awake, self._at = False, None

    def close(self) -> None:
        """Leave the engine to the next cell of this process; `close_all` ends it."""
        if self._running.owner is self:
            self._running.owner = None
        self._at = None

    def facts(self) -> dict[str, Any]:
        """For the passport: versions, start-up, and how the weights arrived."""
        from importlib.metadata import version

        return {
            "name": self.name, "package": self.platform.package, "version": version(self.platform.package), "dtype": self.dtype,
            "startup_seconds": self.startup_seconds, "first_sync_seconds": self.sync_seconds[0] if self.sync_seconds else None,
            **weight_facts(self.arrival),
        }  # fmt: skip

    def _mine(self) -> _Running:
        if self._running.owner is not self:
            raise EngineError("this engine was closed, or another cell of the process took it over")
        return self._running


def _answer(drawn: Any) -> Answer:
    logprobs = [step[token].logprob for token, step in zip(drawn.token_ids, drawn.logprobs, strict=True)]
    return Answer(list(drawn.token_ids), logprobs, str(drawn.finish_reason))


def _push(worker: Any, *, student: Any, after: Callable[[Any], None] | None) -> None:
    """In vLLM's worker, which is this process."""
    take(worker, named_weights(student), after)


def _compare(worker: Any, *, student: Any, dtype: str) -> Arrival:
    import torch

    with torch.no_grad():
        return unaccounted(worker.model_runner.get_model(), dict(named_weights(student)), dtype)
