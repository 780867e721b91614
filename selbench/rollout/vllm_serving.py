"""What a run needs of a vLLM server: the command that starts such a one, and what is wrong with the one that is there."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selbench.errors import ConfigError, UserError
from selbench.records import beside
from selbench.rollout.vllm_client import FOLDER, GENERATE, GREETING, SERVER, Client, Refused
from selbench.rollout.vllm_package import PLATFORMS

__all__ = ["Wanted", "about", "connect", "server_problems"]

WORKER = "selbench.rollout.vllm_worker.Weights"
SHAPE = (
    "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "tie_word_embeddings",
)  # fmt: skip  # of a configuration: what no server of another model shares; the rest is for the comparison of weights and the probe


@dataclass(frozen=True)
class Wanted:
    """A server for one student. source, revision: its model; config: its configuration as a dictionary; tokens: columns of its head
    that stand for tokens; room: tokens of the longest sequence; batch: sequences together; device: "cpu" or "cuda", for the command."""

    source: str
    config: Mapping[str, Any]
    tokens: int
    dtype: str
    room: int
    batch: int
    device: str
    revision: str | None = None

    @property
    def padded(self) -> bool:
        """Whether the head has columns that stand for no token."""
        return self.tokens < int(self.config["vocab_size"])

    def command(self) -> str:
        """What to type where the server is to run, which needs selbench and vLLM."""
        words: dict[str, Any] = {
            "model": self.source, **({"revision": self.revision} if self.revision else {}), "load_format": "dummy",
            "skip_tokenizer_init": True, "generation_config": "vllm", "dtype": self.dtype, "max_model_len": self.room,
            "max_num_seqs": self.batch, "enable_scale_out": True, "worker_extension_cls": WORKER,
        }  # fmt: skip  # the weights come by the first sync; scaling out has the endpoint for token ids
        environment = {"VLLM_SERVER_DEV_MODE": "1"}
        if self.device == "cpu":
            words |= {**PLATFORMS["cpu"].arguments, "kv_cache_memory_bytes": PLATFORMS["cpu"].cache}
            environment |= PLATFORMS["cpu"].environment
        if self.padded:
            additional = json.dumps({"selbench_tokens": self.tokens}, separators=(",", ":"))
            words |= {"logits_processors": "selbench.rollout.vllm_processor:OnlyTokens", "additional_config": additional}
        options: list[str] = []
        for name, value in words.items():
            option = name.replace("_", "-")
            options += [f"--{option}" if value else f"--no-{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
        before = [f"{name}={value}" for name, value in environment.items()]
        return shlex.join([*before, "python", "-m", "vllm.entrypoints.openai.api_server", *options])

    def problems(self, client: Client, found: Mapping[str, Any]) -> list[str]:
        """What is wrong with the server that says this of itself (`vllm_worker.Weights.selbench_about`)."""
        theirs = found["config"]
        unlike = [f"{key} {theirs.get(key)} there, {self.config.get(key)} here" for key in SHAPE if theirs.get(key) != self.config.get(key)]
        if unlike:
            return [f"the vLLM server at {client.url} serves another model than {self.source}: {', '.join(unlike)}; {self._start()}"]
        odd: list[str] = []
        if found["dtype"] != self.dtype:
            odd.append(f"it computes in {found['dtype']}, the run in {self.dtype}")
        if found["room"] < self.room:
            odd.append(f"it has room for {found['room']} tokens, prompt and response take up to {self.room}")
        if found["tokens"] != (self.tokens if self.padded else None):
            odd.append(f"it draws among {found['tokens'] or 'all'} columns of the head, {self.tokens} of which stand for tokens")
        if found["logprobs"] != "raw_logprobs":
            odd.append(f"it returns {found['logprobs']}, not raw_logprobs")
        if found["workers"] != 1:
            odd.append(f"it has {found['workers']} workers; weights are proven to have arrived in one")
        if found["device"] == "cpu" and found["chunked"]:
            odd.append("it reads prompts in chunks, after which a CPU draws other tokens than it should (vLLM 0.32)")
        lines = [f"the vLLM server at {client.url}: {'; '.join(odd)}; {self._start()}"] if odd else []
        if not found["sees"]:
            lines.append(
                f"the vLLM server at {client.url} does not see the files in {client.folder}, where the weights are handed over; "
                f"set {FOLDER} to a folder that both machines see under one path"
            )
        return lines

    def _start(self) -> str:
        return f"start it with: {self.command()}"


def about(client: Client, wanted: Wanted) -> dict[str, Any]:
    """What the server says of itself. Raises ConfigError, with the command, where it does not run or is not prepared for selbench."""
    word, note = secrets.token_hex(8), client.folder / f"selbench-{secrets.token_hex(4)}.txt"
    quick = Client(client.url, client.folder, min(GREETING, client.timeout))
    try:
        with beside(note) as draft:
            draft.write_text(word, encoding="utf-8")
        answer: dict[str, Any] = quick.call("selbench_about", note=str(note), word=word)
        quick.ask(GENERATE, {"token_ids": [0], "sampling_params": {"max_tokens": 1, "detokenize": False}})
        return answer
    except Refused as error:
        if error.path == GENERATE:
            what = "takes no token ids" if error.status in (403, 404) else "is broken, as a sync that fails may leave it"
            reason = f"the vLLM server at {client.url} {what} ({error.said})"
        elif error.status == 404:
            reason = f"the server at {client.url} takes no weights: it is no vLLM server, or was started without VLLM_SERVER_DEV_MODE=1"
        elif "selbench_about" in error.said:
            reason = f"the vLLM server at {client.url} was started without --worker-extension-cls {WORKER}"
        else:
            raise ConfigError(str(error)) from error
        raise ConfigError(f"{reason}; start it with: {wanted.command()}") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise ConfigError(f"{error}; a server for this run is started with: {wanted.command()}") from error
        raise ConfigError(f"what answers at {client.url} is no vLLM server of one worker; start one with: {wanted.command()}") from error
    finally:
        note.unlink(missing_ok=True)


def connect(wanted: Wanted) -> tuple[Client, dict[str, Any]]:
    """The server that SELBENCH_VLLM_SERVER names, and what it says of itself. Raises ConfigError with all that keeps the run from it."""
    try:
        client = Client.from_environment()
    except ConfigError as error:
        how = f"a server for this run is started with: {wanted.command()}"
        raise ConfigError(*(f"{text}; {how}" if SERVER in text else text for text in error.problems)) from error
    found = about(client, wanted)
    if problems := wanted.problems(client, found):
        raise ConfigError(*problems)
    return client, found


def server_problems(wanted: Wanted) -> list[str]:
    """What `connect` would raise, one sentence each."""
    try:
        connect(wanted)
    except ConfigError as error:
        return list(error.problems)
    return []
