"""What keeps a run from a vLLM server, found before anything loads and said in one line; no vLLM is needed here."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selbench.config import load_protocol
from selbench.errors import ConfigError
from selbench.models import PAIRS
from selbench.records import read_json
from selbench.rollout.choose import engine_problems, side_by_side, wanted_of
from selbench.rollout.vllm_client import FOLDER, SERVER, TIMEOUT
from selbench.rollout.vllm_serving import Wanted, server_problems
from tests.fake_server import STUDENT, FakeServer, at_hand


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with at_hand(monkeypatch, tmp_path) as started:
        yield started


def wanted() -> Wanted:
    return wanted_of(load_protocol("tiny"), PAIRS.get("tiny"), "cpu")


@pytest.mark.parametrize(("variable", "value", "expected"), [
    (SERVER, "", "SELBENCH_VLLM_SERVER is not set; set it to the server's address"),
    (SERVER, "localhost:8000", "SELBENCH_VLLM_SERVER=localhost:8000: not an address; write http://host:port"),
    (SERVER, "http://localhost:eight", "not an address"),
    (SERVER, "http://localhost:8000/v1", "not an address"),
    (TIMEOUT, "soon", "SELBENCH_VLLM_TIMEOUT=soon: not a number of seconds"),
    (TIMEOUT, "-1", "SELBENCH_VLLM_TIMEOUT=-1: not a number of seconds"),
    (FOLDER, "/nowhere", "SELBENCH_VLLM_FOLDER=/nowhere: no folder that can be written to"),
])  # fmt: skip
def test_an_address_that_is_none(server: FakeServer, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str) -> None:
    monkeypatch.setenv(variable, value)
    (line,) = server_problems(wanted())
    assert expected in line
    assert "\n" not in line
    if variable == SERVER:
        assert "is started with: VLLM_SERVER_DEV_MODE=1" in line
    assert server.log == []


@pytest.mark.parametrize(("about", "expected"), [
    ({"dtype": "bfloat16"}, "it computes in bfloat16, the run in float32"),
    ({"room": 40}, "it has room for 40 tokens, prompt and response take up to 88"),
    ({"tokens": 99}, "it draws among 99 columns of the head, 101 of which stand for tokens"),
    ({"logprobs": "processed_logprobs"}, "it returns processed_logprobs, not raw_logprobs"),
    ({"workers": 2}, "it has 2 workers"),
    ({"chunked": True}, "it reads prompts in chunks"),
    ({"sees": False}, "does not see the files in"),
    ({"config": {"vocab_size": 151936, "hidden_size": 64}}, "serves another model than"),
])  # fmt: skip
def test_a_server_that_does_not_fit(server: FakeServer, about: dict[str, Any], expected: str) -> None:
    server.faults.about = about
    (line,) = server_problems(wanted())
    assert expected in line
    assert "\n" not in line
    assert ("start it with: VLLM_SERVER_DEV_MODE=1" in line) == ("sees" not in about)


def test_what_differs_in_another_model_is_named(server: FakeServer) -> None:
    server.faults.about = {"config": {**server.about["config"], "vocab_size": 151936}, "dtype": "bfloat16"}
    (line,) = server_problems(wanted())
    assert "vocab_size 151936 there, 101 here; start it with" in line
    server.faults.about = {"dtype": "bfloat16", "room": 40}
    (line,) = server_problems(wanted())
    assert "it computes in bfloat16, the run in float32; it has room for 40 tokens" in line


@pytest.mark.parametrize(("errors", "expected"), [
    ({"/collective_rpc": (404, "Not Found")}, "takes no weights: it is no vLLM server, or was started without VLLM_SERVER_DEV_MODE=1"),
    ({"/collective_rpc": (500, "'Worker' object has no attribute 'selbench_about'")}, "was started without --worker-extension-cls"),
    ({"/collective_rpc": (500, "out of memory")}, "refused /collective_rpc (500): out of memory"),
    ({"/collective_rpc": (200, "what?")}, "is no vLLM server of one worker"),
    ({"/inference/v1/generate": (403, "Scale-out endpoints are disabled.")}, "takes no token ids (Scale-out endpoints are disabled.)"),
    ({"/inference/v1/generate": (500, "EngineCore encountered an issue.")}, "is broken, as a sync that fails may leave it (EngineCore"),
])  # fmt: skip
def test_a_server_that_is_not_prepared(server: FakeServer, errors: dict[str, tuple[int, str]], expected: str, tmp_path: Path) -> None:
    server.faults.errors = errors
    (line,) = server_problems(wanted())
    assert expected in line
    assert list(tmp_path.iterdir()) == []  # the note that it should have seen


def test_no_server_there(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv(SERVER, f"http://127.0.0.1:{taken.getsockname()[1]}")
        (line,) = server_problems(wanted())
    assert "no vLLM server answers at http://127.0.0.1:" in line
    assert "is started with: VLLM_SERVER_DEV_MODE=1" in line
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(SERVER, f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv(TIMEOUT, "0.2")
        (line,) = server_problems(wanted())
    assert "did not answer /collective_rpc within 0.2 s" in line


def test_the_command_serves_what_the_run_needs() -> None:
    line = wanted().command()
    assert line.startswith("VLLM_SERVER_DEV_MODE=1 VLLM_CPU_OMP_THREADS_BIND=nobind python -m vllm.entrypoints.openai.api_server --model ")
    for part in ("--max-model-len 88", "--dtype float32", "--max-num-seqs 800", "--no-enable-chunked-prefill", "--enable-scale-out"):
        assert part in line
    gpu = Wanted("org/student", {"vocab_size": 203}, 190, "bfloat16", 64, 8, "cuda", "main").command()
    assert gpu.startswith("VLLM_SERVER_DEV_MODE=1 python -m")
    assert "--enforce-eager" not in gpu
    for part in ("--revision main", "--logits-processors selbench.rollout.vllm_processor:OnlyTokens", """'{"selbench_tokens":190}'"""):
        assert part in gpu


def test_one_cell_at_a_time_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert side_by_side("vllm-server", None, "local") == 1
    assert side_by_side("hf", 4, "local") is None
    for jobs, executor in ((2, "local"), (None, "ray")):
        with pytest.raises(ConfigError, match="holds the weights of one cell at a time"):
            side_by_side("vllm-server", jobs, executor)
    monkeypatch.setenv("WORLD_SIZE", "2")
    (line,) = engine_problems("vllm-server")
    assert "not in several ranks" in line


def test_the_command_line_says_what_to_start(tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from selbench.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SERVER)
    shown = CliRunner().invoke(app, ["run", "tiny", "--engine", "vllm-server", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "server       engine = 'vllm-server': SELBENCH_VLLM_SERVER is not set" in shown.output
    words = ["eval", STUDENT, "--tasks", "arithmetic", "--prompt", "plain", "--problems", "2", "--engine"]
    for engine, expected in (("vllm-server", "SELBENCH_VLLM_SERVER is not set"), ("vlm", "--engine 'vlm': auto, hf, vllm or vllm-server")):
        refused = CliRunner().invoke(app, [*words, engine])
        assert isinstance(refused.exception, ConfigError)
        assert expected in str(refused.exception)
    monkeypatch.setenv(SERVER, server.url)
    server.about["room"] = 4096 + 64
    answered = CliRunner().invoke(
        app, [*words, "vllm-server", "--max-tokens", "60", "--greedy", "--json", "--output", str(tmp_path / "out")]
    )
    assert answered.exit_code == 0, answered.output
    assert json.loads(answered.stdout)["rows"][0]["problems"] == 2
    assert read_json(tmp_path / "out" / "passport.json")["engine"] == "vllm-server"
