"""The rollout engines that are measured side by side: one class or function each, all given the same `Task`.

`hf` and `vllm` are selbench's engines. `generate` is `model.generate` on a left-padded batch, and with it TRL: without vLLM its trainers
call exactly that, within contexts that do nothing on one device, so that a system of its own would measure the same function again.
`continuous` is `generate_batch` of transformers as TRL's GRPO calls it, with a cache sized to the batch: sized by itself it takes nine
tenths of the memory, also on a CPU. Sampling is at temperature 1 from the whole vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from selbench.rollout import Engine

__all__ = ["SYSTEMS", "Task", "flaw"]

PAGE = 16  # tokens of a page of the continuous engine's cache on a CPU; on a GPU it keeps its own 256

Answers = tuple[list[list[int]], list[list[float]] | None]  # response ids, and their log-probabilities where asked for


@dataclass
class Task:
    """What every system is given. prompts: token ids; end_ids: empty where responses run to the limit; tokens: the longest response."""

    model: Any
    prompts: list[list[int]]
    end_ids: tuple[int, ...]
    pad_id: int
    tokens: int
    dtype: str
    scored: bool = False

    @property
    def room(self) -> int:
        return max(map(len, self.prompts)) + self.tokens

    @property
    def columns(self) -> int:
        return int(self.model.config.get_text_config().vocab_size)


class Ours:
    """One of selbench's engines. checking: seconds spent on holding its samples to the trainer's log-probabilities."""

    def __init__(self, task: Task, engine: Engine) -> None:
        self.task, self.engine, self.checking = task, engine, 0.0
        probed: Callable[..., Any] | None = getattr(engine, "_probed", None)
        if probed is not None:
            vars(engine)["_probed"] = self._timed(probed)

    def _timed(self, probed: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any) -> Any:
            began = time.perf_counter()
            try:
                return probed(*given)
            finally:
                self.checking += time.perf_counter() - began

        return wrapped

    def sync(self) -> None:
        self.engine.sync(self.task.model)

    def ask(self, tokens: int, seed: int, *, greedy: bool = False) -> Answers:
        from selbench.rollout import Sampling

        found = self.engine.generate(self.task.prompts, Sampling(tokens, temperature=0.0 if greedy else 1.0), seed)
        return found.responses(), None if found.logprobs is None else [list(row) for row in found.logprobs]


def _hf(task: Task) -> Ours:
    from selbench.rollout.hf import HFEngine

    return Ours(task, HFEngine(task.model, end_ids=task.end_ids, pad_id=task.pad_id, batch=len(task.prompts), logprobs=task.scored))


def _vllm(task: Task) -> Ours:
    from selbench.rollout.vllm import VLLMEngine

    return Ours(task, VLLMEngine(task.model, end_ids=task.end_ids, dtype=task.dtype, room=task.room, batch=len(task.prompts)))


class Generate:
    """`model.generate` on the whole batch, padded on the left."""

    checking = 0.0

    def __init__(self, task: Task) -> None:
        self.task = task

    def sync(self) -> None:
        """It generates from the module itself."""

    def settings(self, greedy: bool) -> Any:
        """Sampling and end tokens. They become the model's own: what a call leaves open is taken from there."""
        from transformers import GenerationConfig

        suppressed = getattr(self.task.model.generation_config, "suppress_tokens", None)
        drawn = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
        config = GenerationConfig(
            eos_token_id=list(self.task.end_ids) or None, pad_token_id=self.task.pad_id, suppress_tokens=suppressed, **drawn
        )
        self.task.model.generation_config = config
        return config

    def ask(self, tokens: int, seed: int, *, greedy: bool = False) -> Answers:
        import torch

        self.settings(greedy)
        torch.manual_seed(seed)
        task, width = self.task, max(map(len, self.task.prompts))
        ids = torch.tensor([[task.pad_id] * (width - len(row)) + row for row in task.prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in task.prompts])
        device = task.model.device
        out = task.model.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=tokens, output_logits=task.scored,
            return_dict_in_generate=True,
        )  # fmt: skip
        responses = [self._ended(row) for row in out.sequences[:, width:].tolist()]
        return responses, _scores(out.logits, responses) if task.scored else None

    def _ended(self, row: list[int]) -> list[int]:
        return row[: next((n for n, token in enumerate(row, 1) if token in self.task.end_ids), len(row))]


def _scores(logits: Sequence[Tensor], responses: list[list[int]]) -> list[list[float]]:
    """Log-probabilities of the drawn tokens. logits: of each step (batch, vocabulary), raw."""
    logp = [step.double().log_softmax(-1) for step in logits]
    return [[float(logp[t][i, token]) for t, token in enumerate(row)] for i, row in enumerate(responses)]


class Continuous(Generate):
    """`model.generate_batch`. Each call sets up a cache and a thread and ends them, with two collections of garbage; that is in its time.

    It is so in TRL as well: a manager that stays would answer from keys and values of weights that have changed since.
    """

    def ask(self, tokens: int, seed: int, *, greedy: bool = False) -> Answers:
        from transformers import ContinuousBatchingConfig

        task, cuda = self.task, self.task.model.device.type == "cuda"
        page = 256 if cuda else PAGE
        sized: dict[str, Any] = {"page_size": page, "num_blocks": len(task.prompts) * (1 + -(-task.room // page)) + 1}
        if not cuda:  # its mask is dense: tokens of a pass times tokens of the cache
            sized["max_batch_tokens"] = max(len(task.prompts), min(2048, sum(map(len, task.prompts))))
        config = ContinuousBatchingConfig(
            max_requests_per_batch=len(task.prompts), seed=seed % 2**31, return_logprobs=task.scored, **sized
        )  # fmt: skip
        found = task.model.generate_batch(
            task.prompts, generation_config=self.settings(greedy), continuous_batching_config=config, max_new_tokens=tokens
        ).values()
        if failed := next((each.error for each in found if each.error), None):
            raise RuntimeError(f"generate_batch: {failed}")
        return [list(each.generated_tokens) for each in found], [list(each.logprobs) for each in found] if task.scored else None


SYSTEMS: dict[str, Callable[[Task], Any]] = {"hf": _hf, "generate": Generate, "continuous": Continuous, "vllm": _vllm}


def flaw(responses: list[list[int]], task: Task, tokens: int) -> str | None:
    """What keeps the responses from being answers to the prompts; None for nothing."""
    if len(responses) != len(task.prompts):
        return f"{len(responses)} responses to {len(task.prompts)} prompts"
    for i, row in enumerate(responses):
        ended = bool(row) and row[-1] in task.end_ids
        if len(row) > tokens or not (ended or len(row) == tokens):
            return f"response {i} has {len(row)} tokens, none of them an end token, and the limit is {tokens}"
        if any(token in task.end_ids for token in row[:-1]):
            return f"response {i} goes on after its end token"
        if not all(0 <= token < task.columns for token in row):
            return f"response {i} has ids that the model's head does not have"
    return None
