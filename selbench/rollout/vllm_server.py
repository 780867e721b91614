"""Rollouts by a vLLM server in another process or on another machine: token ids in and out, weights handed over as a file after each
update and proven to have arrived.

What makes sure that what is drawn is drawn from the weights being trained:
    the file bears a mark, a new one each time, and the server takes no other;
    after the first time every layer of the server is compared with the file (`weights.unaccounted`);
    the server labels its weights with the mark and every response with the labels of the weights that wrote it: a second run that
    gives the same server its own weights is found out by both;
    the probe compares log-probabilities with the trainer's after each rollout.
An adapter is added to the weights that it adapts before they are handed over: whole weights travel, whatever was trained.

Facts about vLLM 0.32 that this rests on: `/inference/v1/generate` takes and gives token ids, without any text, and takes vLLM's own
SamplingParams, of which it fills in no other value than `max_tokens`; `/collective_rpc` passes on what JSON can carry.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from selbench.records import beside
from selbench.rollout import EngineError, Progress, Rollouts, Sampling
from selbench.rollout.vllm_client import GENERATE
from selbench.rollout.vllm_common import Answer, arrived, asked, ready, rollouts_of, weight_facts
from selbench.rollout.vllm_serving import Wanted, connect
from selbench.rollout.weights import Arrival, bits, named_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__all__ = ["VLLMServerEngine"]

CHANGING = "selbench: being replaced"
TRIES = 20  # half seconds apart


class VLLMServerEngine:
    """The engine contract on a server. Nothing is sampled before the first `sync`, nor from weights that changed since.

    student: the module that is trained, or a PeftModel. arrival, sync_seconds, file_bytes: what was found, took how long and is how
    large. Raises ConfigError where the server is not one for this student (`vllm_serving`).
    """

    name = "vllm-server"

    def __init__(self, student: Any, wanted: Wanted, *, end_ids: Sequence[int]) -> None:
        self.student, self.wanted, self.end_ids = student, wanted, tuple(end_ids)
        self.client, self.about = connect(wanted)
        self.context = int(getattr(student.config.get_text_config(), "max_position_embeddings", self.about["room"]))
        self.room = min(int(self.about["room"]), self.context)
        self.arrival: Arrival | None = None
        self.sync_seconds: list[float] = []
        self.file_bytes = 0
        self._at: tuple[int, ...] | None = None
        self._mark = ""

    @property
    def _path(self) -> Path:
        """One file a server, which serves one run at a time; it is there during a sync alone, or left by a run that was killed in one."""
        place = "".join(c if c.isalnum() else "-" for c in self.client.url.split("//")[1])
        return self.client.folder / f"selbench-weights-{place}.safetensors"

    def sync(self, student: nn.Module) -> None:
        """Hand the student's weights over; the first time, prove layer by layer that all of them arrived. Raises EngineError."""
        if student is not self.student:
            raise ValueError("the vllm-server engine was built for another module than the one being trained")
        began = time.perf_counter()
        self._at, mark = None, secrets.token_hex(16)
        self._write(mark)
        try:
            with self.client.understood():
                self.client.ask("/update_weight_version", {"new_version": CHANGING})
                found = self.client.call("selbench_take", path=str(self._path), mark=mark, prove=self.arrival is None)
                self._forget()
                self.client.ask("/update_weight_version", {"new_version": mark})
                if found:
                    self.arrival = Arrival(**{**found, "problems": tuple(found["problems"])})
        finally:
            self._path.unlink(missing_ok=True)
        self._at, self._mark = bits(student), mark
        self.sync_seconds.append(time.perf_counter() - began)
        if self.arrival:
            arrived(self.arrival)

    def _write(self, mark: str) -> None:
        """The weights in the type that the server computes in; beside and renamed, so the server never reads half a file."""
        import torch
        from safetensors.torch import save_file

        kind = getattr(torch, self.wanted.dtype)
        tensors = {name: weight.to("cpu", kind).contiguous() for name, weight in named_weights(self.student)}
        try:
            with beside(self._path) as draft:
                save_file(tensors, draft, metadata={"mark": mark})
            self.file_bytes = self._path.stat().st_size
        except Exception as error:  # safetensors has an error of its own for a full disk
            raise EngineError(f"the weights cannot be written to {self._path}: {error}; make room, or name another folder") from error

    def _forget(self) -> None:
        """Empty the server's prefix cache: what was computed with other weights, or in an earlier call, is not used again."""
        for _ in range(TRIES):
            if self.client.ask("/reset_prefix_cache", {})["success"]:
                return
            time.sleep(0.5)  # it gives up what a killed run had asked for, but not at once
        raise EngineError(f"the vLLM server at {self.client.url} is at work for somebody else; give each run a server of its own")

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int, progress: Progress | None = None,
        first: int | Sequence[int] = 0,
    ) -> Rollouts:  # fmt: skip
        """See `Engine.generate`. Raises EngineError on weights that changed since the last sync, here or there, on log-probabilities not
        theirs, and when the server fails."""
        ready(self.student, self._at, prompts, sampling, self.room, self.context)
        self._forget()
        wanted = [
            {"token_ids": list(prompt), "sampling_params": each}
            for prompt, each in zip(prompts, asked(sampling, seed, first, len(prompts), self.end_ids), strict=True)
        ]
        answers: list[Answer | None] = [None] * len(wanted)
        pool = ThreadPoolExecutor(max(1, min(len(wanted), int(self.about["batch"]))), self.name)
        try:
            tasks = {pool.submit(self._one, body): number for number, body in enumerate(wanted)}
            for done, task in enumerate(as_completed(tasks), 1):
                answers[tasks[task]] = task.result()
                if progress:
                    progress(done, len(wanted))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return rollouts_of(self.student, prompts, [each for each in answers if each], first, seed, self.wanted.dtype)

    def _one(self, body: dict[str, Any]) -> Answer | None:
        """One prompt's response; None where the server gives none. Raises EngineError where other weights had a part in it."""
        with self.client.understood():
            choices = self.client.ask(GENERATE, body)["choices"]
            if len(choices) != 1 or not choices[0]["token_ids"]:
                return None
            (choice,) = choices
            if {span["version"] for span in choice["weight_versions"]} != {self._mark}:
                raise EngineError(
                    f"the weights of the vLLM server at {self.client.url} are not those of this run: another one gave it its own, or it "
                    f"was started anew; give each run a server of its own"
                )
            tokens, logprobs = choice["token_ids"], [entry["logprob"] for entry in choice["logprobs"]["content"]]
            return Answer(tokens, logprobs, str(choice["finish_reason"])) if len(logprobs) == len(tokens) else None

    def rest(self) -> None:
        """Nothing: the server's memory is not the trainer's."""

    def close(self) -> None:
        """Leave the server to the next cell."""
        self._at = None

    def facts(self) -> dict[str, Any]:
        """For the passport: versions, as the server tells them, and how the weights arrived. The start is not ours to measure."""
        return {
            "name": self.name, "package": self.about["package"], "version": self.about["version"], "dtype": self.about["dtype"],
            "first_sync_seconds": self.sync_seconds[0] if self.sync_seconds else None, "file_bytes": self.file_bytes,
            "server": {key: self.about[key] for key in ("device", "room", "batch", "selbench")}, **weight_facts(self.arrival),
        }  # fmt: skip
