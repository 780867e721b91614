"""An engine as lm-eval sees it: one language model that generates, whatever runs below, and goes on where it was killed."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from selbench.config import digest
from selbench.models import Renderer
from selbench.records import write_text
from selbench.rollout import Engine, Progress, Sampling

__all__ = ["BATCHES", "BLOCK", "EngineLM", "Output", "Partial"]

BLOCK = 256  # requests in one call of the engine, at least; a killed evaluation has to answer one block again, at most
BATCHES = 4  # and so many full batches: while the last, longest responses of a call end, an engine runs half empty
Response = tuple[list[int], str]  # token ids, finish


@dataclass(frozen=True)
class Output:
    """One response: its text, "stop" or "length", and its length in tokens."""

    text: str
    finish: str
    tokens: int


class Partial:
    """The responses of an unfinished evaluation, in a file that grows by whole blocks.

    The first line says whose responses these are. Then, for each block, one line a response (request, finish, tokens) and a
    line that closes it (done, requests, seconds in the engine). What no such line closes was torn by a kill: it is missing.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint

    def open(self, about: Mapping[str, Any]) -> tuple[list[Response], float]:
        """Responses to requests 0, 1, … that are there, and the seconds they took; the file is ready for the next block.

        about: what has to be the same for a response to count, besides the fingerprint. If it is not, the file starts anew.
        """
        head = {"schema": 1, "fingerprint": self.fingerprint, **about}
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        before = _parsed(lines[0]) if lines else {}
        if before != head:
            if lines:
                differs = ", ".join(key for key in head if before.get(key) != head[key])
                print(f"{self.path}: responses of another evaluation ({differs}); they are made anew", file=sys.stderr)
            write_text(self.path, json.dumps(head) + "\n")
            return [], 0.0
        responses, seconds, end = _whole_blocks(lines)
        os.truncate(self.path, sum(map(len, lines[:end])))
        if responses:
            print(f"{self.path}: {len(responses)} of {head['requests']} responses are there; going on", file=sys.stderr)
        return responses, seconds

    def append(self, first: int, responses: Sequence[Response], seconds: float, requests: int) -> None:
        """One block, on the disk when this returns. first: number of its first request."""
        rows: list[dict[str, Any]] = [
            {"request": number, "finish": finish, "tokens": ids} for number, (ids, finish) in enumerate(responses, first)
        ]
        rows.append({"done": first + len(responses), "requests": requests, "seconds": seconds})
        with self.path.open("a", encoding="utf-8") as out:
            out.write("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
            out.flush()
            os.fsync(out.fileno())

    def close(self) -> None:
        """The evaluation is done: nothing of it is partial any more."""
        self.path.unlink(missing_ok=True)


def _whole_blocks(lines: Sequence[bytes]) -> tuple[list[Response], float, int]:
    """Responses, seconds and number of lines (the head included) up to the last block that is whole."""
    whole: list[Response] = []
    block: list[Response] = []
    seconds, end = 0.0, 1
    for number, line in enumerate(lines[1:], 2):
        row = _parsed(line)
        expected = len(whole) + len(block)
        if row.get("request") == expected:
            block.append((row["tokens"], row["finish"]))
        elif block and row.get("done") == expected:
            whole, block, seconds, end = whole + block, [], seconds + row["seconds"], number
        else:
            break
    return whole, seconds, end


def _parsed(line: bytes) -> dict[str, Any]:
    """A line of the file; nothing when it is torn."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


class EngineLM(LM):
    """Answers generate_until with the protocol's sampling settings, all requests of a task in one call of lm-eval's.

    The engine gets them in blocks of `block`, which may never hang on the speed of the machine: what shares a batch may change
    the rounding. partial: where responses are kept as they come; with it, those of an earlier process are not drawn again.
    """

    def __init__(
        self, engine: Engine, renderer: Renderer, sampling: Sampling, seed: int, progress: Progress | None = None,
        *, partial: Partial | None = None, block: int = BLOCK,
    ) -> None:  # fmt: skip
        super().__init__()
        self.engine, self.renderer, self.sampling, self.seed, self.progress = engine, renderer, sampling, seed, progress
        self.partial, self.block = partial, block
        self.outputs: dict[int, list[Output]] = {}  # what lm-eval does not store
        self.seconds = 0.0  # of wall clock in the engine, those of earlier processes included
        self.earlier_seconds = 0.0  # those alone

    @property
    def tokenizer_name(self) -> str:
        return self.renderer.sha256()

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt as the pair's renderer writes it."""
        return self.renderer.text(chat_history[-1]["content"])

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Responses in the order of the requests; a response ends before the first stop string of its request.

        Raises RuntimeError when the engine gives more or fewer responses than it was asked for.
        """
        responses = self._responses([self.renderer.encode_text(r.args[0]) for r in requests])
        answers = []
        for request, (ids, finish) in zip(requests, responses, strict=True):
            whole = self.renderer.decode(ids)
            text = cut(whole, request.args[1].get("until") or ())
            self.outputs.setdefault(request.doc_id, []).append(Output(text, finish if text == whole else "stop", len(ids)))
            answers.append(text)
        return answers

    def _responses(self, prompts: Sequence[Sequence[int]]) -> list[Response]:
        """One for each prompt, block after block."""
        total = len(prompts)
        responses: list[Response] = []
        if self.partial:
            about = {"engine": self.engine.name, "seed": self.seed, "block": self.block, "requests": total, "prompts": digest(prompts)}
            responses, self.earlier_seconds = self.partial.open(about)
            self.seconds = self.earlier_seconds
        for first in range(len(responses), total, self.block):
            if self.progress:
                self.progress(first, total)
            began = time.perf_counter()
            made = self._block(prompts[first : first + self.block], first, total)
            seconds = time.perf_counter() - began
            if self.partial:
                self.partial.append(first, made, seconds, total)
            responses += made
            self.seconds += seconds
        return responses

    def _block(self, prompts: Sequence[Sequence[int]], first: int, total: int) -> list[Response]:
        """Responses to prompts first, first + 1, … of `total`."""

        def advance(done: int, _: int) -> None:
            if self.progress:
                self.progress(first + done, total)

        rollouts = self.engine.generate(prompts, self.sampling, self.seed, advance, first)
        if len(rollouts) != len(prompts):
            raise RuntimeError(f"engine {self.engine.name}: {len(rollouts)} responses to {len(prompts)} prompts")
        return list(zip(rollouts.responses(), rollouts.finish, strict=True))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        raise TypeError("selbench evaluates generated answers; this task asks for likelihoods")

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise TypeError("selbench evaluates generated answers; this task asks for likelihoods")


def cut(text: str, stops: Sequence[str] | Any) -> str:
    """`text` up to the first stop string."""
    ends = [place for stop in ([stops] if isinstance(stops, str) else stops) if (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
