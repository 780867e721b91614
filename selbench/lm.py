"""An engine as lm-eval sees it: one language model that generates, whatever runs below."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from selbench.models import Renderer
from selbench.rollout import Engine, Progress, Sampling

__all__ = ["EngineLM", "Output"]


@dataclass(frozen=True)
class Output:
    """One response: its text, "stop" or "length", and its length in tokens."""

    text: str
    finish: str
    tokens: int


class EngineLM(LM):
    """Answers generate_until with the protocol's sampling settings, all requests in one call; keeps what lm-eval does not store."""

    def __init__(self, engine: Engine, renderer: Renderer, sampling: Sampling, seed: int, progress: Progress | None = None) -> None:
        super().__init__()
        self.engine, self.renderer, self.sampling, self.seed, self.progress = engine, renderer, sampling, seed, progress
        self.outputs: dict[int, list[Output]] = {}
        self.seconds = 0.0  # of wall clock in the engine

    @property
    def tokenizer_name(self) -> str:
        return self.renderer.sha256()

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt as the pair's renderer writes it."""
        return self.renderer.text(chat_history[-1]["content"])

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Responses in the order of the requests; a response ends before the first stop string of its request."""
        began = time.perf_counter()
        rollouts = self.engine.generate([self.renderer.encode_text(r.args[0]) for r in requests], self.sampling, self.seed, self.progress)
        self.seconds += time.perf_counter() - began
        answers = []
        for request, ids, finish in zip(requests, rollouts.responses(), rollouts.finish, strict=True):
            whole = self.renderer.decode(ids)
            text = cut(whole, request.args[1].get("until") or ())
            self.outputs.setdefault(request.doc_id, []).append(Output(text, finish if text == whole else "stop", len(ids)))
            answers.append(text)
        return answers

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        raise TypeError("selbench evaluates generated answers; this task asks for likelihoods")

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise TypeError("selbench evaluates generated answers; this task asks for likelihoods")


def cut(text: str, stops: Sequence[str] | Any) -> str:
    """`text` up to the first stop string."""
    ends = [place for stop in ([stops] if isinstance(stops, str) else stops) if (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
