"""The transformers engine: its tokens are those of `generate`, its draws those of the softmax, and neither depends on the batch."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, Lfm2Config, LlamaConfig, Qwen2Config, Qwen3Config
from transformers.cache_utils import DynamicCache
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from selbench.errors import UserError
from selbench.models import Pair
from selbench.rollout import EngineError, Rollouts, Sampling, choose, hf
from selbench.rollout.cache import Room, Rooms, Shelf, cache_like
from selbench.rollout.draw import draw, keep_top_k, keep_top_p, uniforms
from selbench.rollout.hf import HFEngine

WORDS = 67
SIZES: dict[str, Any] = {"vocab_size": WORDS, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
         "intermediate_size": 48, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "initializer_range": 0.4}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "qwen3": lambda: Qwen3Config(**SIZES),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "llama": lambda: LlamaConfig(**SIZES),
    "gemma3": lambda: Gemma3TextConfig(
        **SIZES, sliding_window=5, layer_types=["sliding_attention", "full_attention"], tie_word_embeddings=False
    ),
    "lfm2": lambda: Lfm2Config(**SIZES, layer_types=["conv", "full_attention"], tie_word_embeddings=False),
    "gpt2": lambda: GPT2Config(vocab_size=WORDS, n_embd=32, n_head=4, n_layer=2, n_positions=64, eos_token_id=2, initializer_range=0.4),
}
PLAIN = ("qwen3", "qwen2", "llama", "gpt2")
DRAWN = [Sampling(12), Sampling(12, temperature=0.7, top_k=9), Sampling(12, top_p=0.8), Sampling(12, temperature=1.3, top_p=0.9, top_k=20)]


def model_of(kind: str, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(CONFIGS[kind](), dtype=torch.float32).eval()


def prompts_of(count: int, longest: int = 9) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    drawn = [torch.randint(3, WORDS, (length,), generator=generator).tolist() for length in lengths]
    return [*drawn, drawn[0], drawn[-1]]  # two are asked twice


def engine_of(model: Any, batch: int = 256, ends: tuple[int, ...] = (2, 5, 11), **more: Any) -> HFEngine:
    return HFEngine(model, end_ids=ends, pad_id=0, batch=batch, **more)


def generated(model: Any, prompts: list[list[int]], limit: int, ends: tuple[int, ...]) -> list[list[int]]:
    """Greedy responses by transformers, cut after the first end token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, eos_token_id=list(ends), pad_token_id=0)
    rows = out[:, width:].tolist()
    return [row[: 1 + next((n for n, token in enumerate(row) if token in ends), limit)] for row in rows]


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_tokens_are_those_of_generate(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = model_of(kind), prompts_of(14)
    free = generated(model, prompts, 20, ())
    ends = (free[0][3], free[1][9], free[2][15])
    expected = generated(model, prompts, 20, ends)
    assert len({len(tokens) for tokens in expected}) > 3
    for batch, steps in ((1, 4), (4, 1), (4, 5), (32, 1)):
        monkeypatch.setattr(hf, "STEPS", steps)
        got = engine_of(model, batch, ends).generate(prompts, Sampling(20, temperature=0), 0)
        assert got.responses() == expected
        assert got.finish == tuple("stop" if tokens[-1] in ends else "length" for tokens in expected)
        assert {"stop", "length"} == set(got.finish)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_cache_with_room_serves_ordinary_attention_alone(kind: str) -> None:
    model = model_of(kind)
    past = model(input_ids=torch.tensor([[3, 4]]), use_cache=True).past_key_values
    assert isinstance(cache_like(past), Rooms if kind in PLAIN else Shelf)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "lfm2"])
@pytest.mark.parametrize("sampling", DRAWN)
def test_draws_do_not_depend_on_the_batch(kind: str, sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = model_of(kind), prompts_of(13)
    whole = engine_of(model).generate(prompts, sampling, 7)
    for batch, steps in ((1, 5), (3, 1), (32, 4)):  # several steps without a look are what other devices take
        monkeypatch.setattr(hf, "STEPS", steps)
        assert engine_of(model, batch).generate(prompts, sampling, 7) == whole
    first, rest = (engine_of(model).generate(part, sampling, 7, None, at) for part, at in ((prompts[:5], 0), (prompts[5:], 5)))
    assert first.tokens + rest.tokens == whole.tokens
    assert first.sample + rest.sample == whole.sample
    assert engine_of(model).generate(prompts, sampling, 8).tokens != whole.tokens
    assert whole.responses()[0] != whole.responses()[-2]  # the same prompt, another number


def warped(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (n, V) after the processors of transformers, in its order."""
    scores, ids = logits / sampling.temperature, torch.zeros(len(logits), 1, dtype=torch.long)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(ids, scores)
    return torch.as_tensor(scores).softmax(-1)


@pytest.mark.parametrize("sampling", [replace(s, max_tokens=1) for s in DRAWN])
def test_the_sampled_distribution_is_the_softmax(sampling: Sampling) -> None:
    model, prompt = model_of("qwen3"), [5, 9, 33]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1:] / 2  # flat enough to be told from a near miss
        model.get_output_embeddings().weight /= 2
    expected = warped(logits, sampling)[0].double()
    drawn = [tokens[-1] for tokens in engine_of(model).generate([prompt] * 6000, sampling, 1).tokens]
    counts = torch.bincount(torch.tensor(drawn), minlength=WORDS)
    assert counts[expected == 0].sum() == 0
    common = expected * len(drawn) >= 5
    seen, due = ([*values[common].tolist(), float(values[~common].sum())] for values in (counts.double(), expected / expected.sum() * 6000))
    kept = [n for n, amount in enumerate(due) if amount > 1e-6]
    assert stats.chisquare([seen[n] for n in kept], [due[n] for n in kept], sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("width", [300, 1024, 5001])
@pytest.mark.parametrize("sampling", [Sampling(1), Sampling(1, top_k=40), Sampling(1, top_p=0.7)])
def test_each_uniform_picks_its_column(width: int, sampling: Sampling) -> None:
    """Evenly spread uniforms give every column its share to within one draw; blocks change nothing."""
    logits = torch.randn(1, width, generator=torch.Generator().manual_seed(width)) * 3
    draws = 4000
    u = (torch.arange(draws).double() + 0.5) / draws
    token, fine = draw(logits.expand(draws, -1), sampling, u)
    share = torch.bincount(token, minlength=width) / draws
    assert fine.all()
    torch.testing.assert_close(share, warped(logits, sampling)[0], atol=1.01 / draws, rtol=1e-5)


def spread_out(kept: Tensor, column: Tensor | None, empty: float, like: Tensor) -> Tensor:
    return kept if column is None else torch.full_like(like, empty).scatter(1, column, kept)


@pytest.mark.parametrize("width", [5, 200, 700, 9001])
@pytest.mark.parametrize("spread", [0.3, 2.0, 8.0])
def test_what_is_kept_is_what_transformers_keeps(width: int, spread: float) -> None:
    logits = torch.randn(8, width, generator=torch.Generator().manual_seed(width)) * spread
    ids: Any = torch.zeros(8, 1, dtype=torch.long)
    tied: Any = (logits * 4).round() / 4
    for top_k in (k for k in (1, 2, 3, 17, 190, 1500) if k < width):
        for scores in (logits, tied):  # what ties with the last one stays
            mine = spread_out(*keep_top_k(scores, top_k), -torch.inf, scores)
            assert torch.equal(mine, TopKLogitsWarper(top_k)(ids, scores))
    ascending, order = logits.double().softmax(-1).sort(-1)
    rest = torch.empty_like(ascending).scatter(1, order, ascending.cumsum(-1))  # mass of each column and of all less probable ones
    for top_p in (0.01, 0.3, 0.77, 0.95, 0.9999):
        warper: Any = TopPLogitsWarper(top_p)
        kept = spread_out(*keep_top_p(logits.softmax(-1), top_p), 0.0, logits) > 0
        apart = kept != warper(ids, logits).isfinite()  # theirs is summed in float32
        assert (rest[apart] - (1 - top_p)).abs().lt(1e-6).all()
        assert apart.sum() <= 1
        several = keep_top_p(tied.softmax(-1), top_p)[0]  # which of several equal ones is no part of the definition, how many is
        assert ((several > 0).sum(-1) - warper(ids, tied).isfinite().sum(-1)).abs().sum() <= 1


def test_no_column_of_probability_zero_is_drawn() -> None:
    logits = torch.full((6, 2000), -torch.inf)
    logits[:, [0, 700, 1400]] = 0.0
    edges = torch.tensor([0.0, 1 / 3, 2 / 3, 1.0, 1e-300, 1 - 2**-53], dtype=torch.float64)
    for width in (2000, 1401, 200):
        token, fine = draw(logits[:, :width], Sampling(1), edges)
        assert fine.all()
        assert (logits[0, token] == 0).all()
    assert not draw(logits.log(), Sampling(1), edges)[1].any()


def test_uniforms_are_uniform_and_do_not_depend_on_the_steps_taken_together() -> None:
    keys = torch.arange(400) * 0x5851F42D4C957F2D
    whole = uniforms(keys, torch.zeros_like(keys), 50)
    assert torch.equal(whole[20:30], uniforms(keys, torch.full_like(keys, 20), 10))
    assert stats.kstest(whole.flatten().numpy(), "uniform").pvalue > 1e-3
    assert abs(float(torch.corrcoef(whole[:2])[0, 1])) < 0.2


def test_a_cache_with_room_holds_what_a_dynamic_cache_holds() -> None:
    generator = torch.Generator().manual_seed(0)

    def states(rows: int, columns: int) -> tuple[Tensor, Tensor]:
        return torch.randn(rows, 2, columns, 4, generator=generator), torch.randn(rows, 2, columns, 6, generator=generator)

    room: Any = Room()
    plain: Any = DynamicCache()
    for columns in (3, 1, 1, 4, 1, 1, 1):
        own = states(5, columns)
        for mine, theirs in zip(room.update(*own), plain.update(*own, 0), strict=True):
            assert torch.equal(mine, theirs)
        assert room.get_seq_length() == plain.get_seq_length()
        assert room.get_mask_sizes(1) == plain.get_mask_sizes(1, 0)
    kept = [0, 4, 2]
    room.keep(kept)
    plain.batch_select_indices(torch.tensor(kept))
    room.trim(2)
    assert torch.equal(room.keys, plain.layers[0].keys[:, :, 2:])
    more = states(2, 4)
    room.admit(*more, torch.tensor([1, 1]))
    assert room.keys.shape == (5, 2, 10, 4)
    assert torch.equal(room.values[3:, :, -4:], more[1][[1, 1]])
    assert not room.values[3:, :, :-4].any()
    assert torch.equal(room.keys[:3], plain.layers[0].keys[:, :, 2:])
    addresses = set()
    for _ in range(200):
        room.update(*states(5, 1))
        addresses.add(room.keys.data_ptr())
    assert len(addresses) < 8  # doubled now and then, not moved every time


def test_logprobs_are_those_of_a_full_forward() -> None:
    model, prompts, sampling = model_of("llama"), prompts_of(9), Sampling(10, temperature=0.6, top_k=12)
    model.generation_config.suppress_tokens = [3, 4, 40]
    plain = engine_of(model, 3).generate(prompts, sampling, 3)
    asked = engine_of(model, 3, logprobs=True).generate(prompts, sampling, 3)
    assert plain == replace(asked, logprobs=None)
    assert asked.logprobs is not None
    assert not {3, 4, 40} & {token for tokens in asked.responses() for token in tokens}
    for tokens, start, got in zip(asked.tokens, asked.start, asked.logprobs, strict=True):
        with torch.no_grad():
            full = model(input_ids=torch.tensor([tokens])).logits[0, start - 1 : -1].log_softmax(-1)
        torch.testing.assert_close(torch.tensor(got), full.gather(1, torch.tensor(tokens[start:])[:, None])[:, 0], atol=1e-5, rtol=1e-5)


def test_what_the_context_cannot_hold_is_refused_in_one_line() -> None:
    engine = engine_of(model_of("qwen3"))
    engine.generate([[3] * 60], Sampling(4), 0)
    with pytest.raises(UserError, match=r"^a prompt of 60 tokens and a response of up to 5 exceed .* 64 tokens; .* to 4 or less$"):
        engine.generate([[3], [3] * 60], Sampling(5), 0)
    with pytest.raises(UserError, match=r"^prompt 1 has 64 tokens and the model's context holds 64; "):
        engine.generate([[3], [3] * 64], Sampling(5), 0)
    with pytest.raises(UserError, match=r"^prompt 1 has no tokens"):
        engine.generate([[3], []], Sampling(5), 0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_weights_are_an_error_and_no_tokens(temperature: float) -> None:
    model = model_of("qwen3")
    with torch.no_grad():
        model.get_output_embeddings().weight[40, 0] = torch.nan
    with pytest.raises(EngineError, match="logits for response token 0 are not numbers"):
        engine_of(model).generate([[3, 4]], Sampling(5, temperature), 0)


def test_no_prompts_give_no_rollouts_and_progress_counts_sequences() -> None:
    model, prompts = model_of("qwen3"), prompts_of(9)
    assert engine_of(model).generate([], Sampling(5), 0) == Rollouts.of([], [], [])
    seen: list[tuple[int, int]] = []
    engine_of(model, 4).generate(prompts, Sampling(12), 0, lambda *counts: seen.append(counts))
    assert seen[-1] == (11, 11)
    assert len(seen) > 3
    assert all(a[0] < b[0] for a, b in pairwise(seen))


def test_nothing_outside_is_moved() -> None:
    """The global generator, the mode of each module, and the gradient of what comes later under the same autocast."""
    model = model_of("llama").train()
    frozen = model.model.layers[0].eval()
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        engine_of(model).generate(prompts_of(4), Sampling(6), 0)
        model(input_ids=torch.tensor([[3, 4, 5]])).logits.float().logsumexp(-1).sum().backward()
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert model.model.layers[1].training
    assert not any(module.training for module in frozen.modules())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_an_adapter_is_on(tiny_pair: Pair) -> None:
    pytest.importorskip("peft")
    from selbench.adapter import attach

    prompts = [tiny_pair.renderer.encode("12+5")] * 3
    before = engine_of(tiny_pair.student, ends=(1,)).generate(prompts, Sampling(9), 0)
    adapted = attach(tiny_pair.student, None, "tiny", 0)
    assert engine_of(adapted, ends=(1,)).generate(prompts, Sampling(9), 0) == before  # it changes nothing yet
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter += 0.3
    asked = engine_of(adapted, ends=(1,), logprobs=True).generate(prompts, Sampling(9), 0)
    assert asked.tokens != before.tokens
    with torch.no_grad():
        full = adapted(input_ids=torch.tensor([asked.tokens[0]])).logits[0].log_softmax(-1)
    assert asked.logprobs is not None
    assert asked.logprobs[0][0] == pytest.approx(float(full[asked.start[0] - 1, asked.tokens[0][asked.start[0]]]), abs=1e-5)


@pytest.mark.parametrize(("there", "ranks", "device", "parameters", "expected"), [
    (True, 1, "cuda:0", 100_000, "vllm"), (True, 1, "cpu", choose.LARGE, "vllm"), (True, 1, "cpu", choose.LARGE - 1, "hf"),
    (False, 1, "cuda:0", 10**9, "hf"), (True, 2, "cuda:0", 10**9, "hf"),
])  # fmt: skip
def test_auto_is_the_faster_engine_of_those_that_can_work_here(
    monkeypatch: pytest.MonkeyPatch, there: bool, ranks: int, device: str, parameters: int, expected: str
) -> None:
    monkeypatch.setattr(choose, "installed", lambda: there)
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    assert choose.engine_for("auto", device, parameters) == expected
    assert choose.engine_for("hf", device, parameters) == "hf"
