"""The plan: bytes and seconds against numbers worked by hand, activations against what autograd saves, what makes a run fit."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selbench.config import load_protocol
from selbench.devices import GPUS, Device, at_hand, gpu
from selbench.errors import ConfigError
from selbench.estimate import (
    USABLE,
    Shape,
    Work,
    activation_bytes,
    adapter_parameters,
    forward_flops,
    head_flops,
    peak,
    phases,
)
from selbench.fitting import CHANGES, nearest_fit
from selbench.forecast import describe, forecast, shapes_of, workers_for
from selbench.models import PAIRS, PairSpec, load_model, pair_settings
from selbench.plan import check, choices, jobs_of, name_problems

ROOT = Path(__file__).parents[1]
QWEN3_06B = Shape(596_049_920, 1024, 28, 151936, 16, 8, 128, 3072, 1)
QWEN3_17B = Shape(1_720_574_976, 2048, 28, 151936, 16, 8, 128, 6144, 1)
QWEN3_4B = Shape(4_022_468_096, 2560, 36, 151936, 32, 8, 128, 9728, 1)
QWEN3_8B = Shape(8_190_735_360, 4096, 36, 151936, 32, 8, 128, 12288, 0)
KEYS = [change.key for change in CHANGES]
WORK = Work(
    prompts=8, samples=2, prompt_tokens=100, response_tokens=1000, micro_batch=1, rollout_batch=16, evaluation_batch=4,
    evaluated=40, evaluated_tokens=2000,
)  # fmt: skip
UNIT = Device(
    "unit", 10**15, bf16=2.5e12, fp32=2.5e12, bandwidth=1e12 / 0.7, source="round numbers: passes at 1e12 FLOP/s, streams at 1e12 B/s"
)


def named(work: Work, student: Shape, teacher: Shape, device: Device = UNIT) -> dict[str, Any]:
    return {phase.name: phase for phase in phases(work, student, teacher, device)}


def test_full_fine_tuning_takes_sixteen_bytes_a_parameter() -> None:
    held = named(WORK, QWEN3_4B, QWEN3_8B)["optimiser"].memory
    assert held["student"] + held["gradients"] + held["Adam"] == 16 * 4_022_468_096
    assert held["teacher"] == 4 * 8_190_735_360
    low = named(replace(WORK, student_dtype="bfloat16", teacher_dtype="bfloat16"), QWEN3_4B, QWEN3_8B)["optimiser"].memory
    assert low["student"] + low["gradients"] + low["Adam"] == 8 * 4_022_468_096
    assert low["teacher"] == 2 * 8_190_735_360


def test_an_adapter_trains_rank_times_inputs_and_outputs() -> None:
    small = Shape(0, 10, 2, 100, 3, 1, 4, 20, 1)  # queries 12, keys 4
    by_hand = 2 * ((10 + 12) + (10 + 4) * 2 + (12 + 10) + 3 * (10 + 20))  # q, k and v, o, gate up down; two layers
    assert adapter_parameters(small, 1) == by_hand
    assert adapter_parameters(small, 8) == 8 * by_hand
    held = named(replace(WORK, lora_rank=16), QWEN3_4B, QWEN3_8B)["optimiser"].memory
    trained = adapter_parameters(QWEN3_4B, 16)
    assert trained == 33_030_144  # 16 x 36 x (2 x 6656 + 2 x 3584 + 3 x 12288)
    assert held["student"] == 4 * (4_022_468_096 + trained)
    assert held["gradients"] + held["Adam"] == 12 * trained
    assert named(replace(WORK, lora_rank=16, shared=True), QWEN3_4B, QWEN3_4B)["optimiser"].memory["teacher"] == 0


def test_cache_of_a_rollout_batch() -> None:
    work = replace(WORK, student_dtype="bfloat16")
    assert 2 * QWEN3_17B.cache_elements == 114_688  # bytes a token in bf16: 28 layers x 8 heads x 128 x keys and values
    assert named(work, QWEN3_17B, QWEN3_4B)["rollout"].memory["KV cache"] == 16 * 1100 * 114_688
    assert named(replace(work, rollout_batch=4), QWEN3_17B, QWEN3_4B)["rollout"].memory["KV cache"] == 4 * 1100 * 114_688
    assert named(work, QWEN3_17B, QWEN3_4B)["evaluate"].memory["KV cache"] == 4 * 2100 * 114_688


@pytest.mark.parametrize(("shape", "body", "head"), [(QWEN3_06B, 0.88, 0.31), (QWEN3_17B, 2.82, 0.62), (QWEN3_4B, 7.27, 0.78)])
def test_forward_flops_per_token(shape: Shape, body: float, head: float) -> None:
    assert forward_flops(shape, 1, 0) / 1e9 == pytest.approx(body, abs=0.005)
    assert head_flops(shape, 1) / 1e9 == pytest.approx(head, abs=0.005)
    attended = forward_flops(shape, 1, 1000) - forward_flops(shape, 1, 0)
    assert attended == 4 * shape.attention * 1000 * shape.num_hidden_layers


def test_seconds_by_hand() -> None:
    small = Shape(1_000_000, 100, 1, 1000, 10, 10, 10, 200, 1)  # body 900,000; one layer decodes in less than the host takes
    work = replace(WORK, needs_student=False, needs_teacher=False, share=0.5)
    tokens, context = 16 * 1100, 550
    one_pass = tokens * (1_800_000 + 4 * 100 * context) / 1e12
    head = 16_000 * 0.5 * 2 * 100_000 / 1e12
    found = named(work, small, small)
    assert found["teacher"].seconds == pytest.approx(one_pass)
    assert found["score"].seconds == 0
    assert found["distil"].seconds == pytest.approx(3 * one_pass + 4 * head)
    assert named(replace(work, lora_rank=1), small, small)["distil"].seconds == pytest.approx(2 * one_pass + 4 * head)
    prefill = 16 * 100 * (1_800_000 + 4 * 100 * 50) / 1e12
    assert found["rollout"].seconds == pytest.approx(prefill + 1000 * 7e-4)  # one wave, by the host's pace
    large = replace(small, parameters=10**9)  # reads 4 GB a token in 4 ms; the matmuls of 16 sequences take 2 x 16 x 1e9 / 1e12 s
    prefill = 16 * 100 * (2 * (10**9 - 10**5) + 4 * 100 * 50) / 1e12
    assert named(work, large, small)["rollout"].seconds == pytest.approx(prefill + 1000 * 0.032)
    one = named(replace(work, prompts=1, samples=1), large, small)["rollout"]  # a single sequence waits for the weights and its cache
    assert one.seconds == pytest.approx(prefill / 16 + 1000 * (4e9 + 600 * 200 * 4) / 1e12)
    assert named(replace(work, needs_student=True), small, small)["score"].seconds == pytest.approx(one_pass + 16_000 * 200_000 / 1e12)


def saved_bytes(model: torch.nn.Module, sequences: int, length: int, *, autocast: bool) -> int:
    """What autograd keeps for the backward pass of a decoder, parameters left out."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []  # a storage that is freed would give its address away
    mask = torch.ones((sequences, length), dtype=torch.int64)
    mask[1:, -5:] = 0
    context = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context:
        model(input_ids=torch.zeros((sequences, length), dtype=torch.int64), attention_mask=mask, use_cache=False)
    return sum(kept.values())


@pytest.mark.parametrize(("dtype", "autocast"), [("float32", False), ("float32", True), ("bfloat16", False)])
@pytest.mark.parametrize("sequences", [1, 3])
def test_activations_are_what_autograd_saves(dtype: str, autocast: bool, sequences: int) -> None:
    from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

    shape = Shape(0, 64, 3, 32, 8, 2, 16, 192, 1)
    words = {
        "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 32,
    }  # fmt: skip

    def layers(family: Any, config: Any, length: int) -> float:  # of three layers, so that embedding, final norm and weight copies fall out
        at = [saved_bytes(family(config(num_hidden_layers=n, **words)).to(getattr(torch, dtype)), sequences, length, autocast=autocast)
              for n in (1, 4)]  # fmt: skip
        copies = 3 * 2 * (64 * (2 * 128 + 2 * 32) + 3 * 64 * 192) if autocast and dtype == "float32" else 0
        return at[1] - at[0] - copies

    expected = activation_bytes(shape, sequences, 96, dtype, autocast=autocast)
    assert layers(Qwen3Model, Qwen3Config, 96) == pytest.approx(expected, rel=0.02)
    assert 0.7 * expected < layers(LlamaModel, LlamaConfig, 96) < expected


def test_checkpointing_keeps_layer_inputs_and_one_layer() -> None:
    whole = activation_bytes(QWEN3_4B, 1, 1000, "float32", autocast=True)
    assert activation_bytes(QWEN3_4B, 1, 1000, "float32", autocast=True, checkpointed=True) == whole // 36 + 36 * 1000 * 2560 * 4


works = st.builds(
    Work, prompts=st.integers(1, 256), samples=st.integers(1, 16), prompt_tokens=st.integers(1, 2048),
    response_tokens=st.integers(1, 16384), micro_batch=st.integers(1, 64), rollout_batch=st.integers(1, 256),
    evaluation_batch=st.integers(1, 256), evaluated=st.integers(1, 10000),
    evaluated_tokens=st.integers(1, 16384), student_dtype=st.sampled_from(["float32", "bfloat16"]),
    teacher_dtype=st.sampled_from(["float32", "bfloat16"]), autocast=st.booleans(), filtered=st.booleans(),
    lora_rank=st.sampled_from([0, 16]), needs_student=st.booleans(), needs_teacher=st.booleans(), share=st.floats(0.01, 1),
)  # fmt: skip


@given(work=works, name=st.sampled_from(sorted(GPUS)))
@settings(max_examples=150, deadline=None)
def test_what_is_proposed_fits_and_nothing_fits_needs_no_proposal(work: Work, name: str) -> None:
    device = GPUS[name]
    changes = nearest_fit(work, QWEN3_17B, QWEN3_4B, device, KEYS)
    fits = peak(work, QWEN3_17B, QWEN3_4B, device) <= USABLE * device.memory
    assert (changes == []) == fits
    if changes:
        changed = replace(work, **{change.field: value for change, value in changes})
        assert peak(changed, QWEN3_17B, QWEN3_4B, device) <= USABLE * device.memory
        for change, _ in changes:  # none of them is idle
            without = replace(changed, **{change.field: getattr(work, change.field)})
            assert peak(without, QWEN3_17B, QWEN3_4B, device) > USABLE * device.memory


@given(work=works)
@settings(max_examples=60, deadline=None)
def test_micro_batch_and_budget_only_cost_where_they_should(work: Work) -> None:
    more = replace(work, micro_batch=work.micro_batch + 1)
    assert peak(more, QWEN3_06B, QWEN3_17B, UNIT) >= peak(work, QWEN3_06B, QWEN3_17B, UNIT) or more.one_pass != work.one_pass
    full, less = (named(replace(work, share=share), QWEN3_06B, QWEN3_17B) for share in (1.0, 0.1))
    assert less["distil"].seconds <= full["distil"].seconds
    assert {name: phase.total for name, phase in less.items()} == {name: phase.total for name, phase in full.items()}


def test_harmless_changes_come_first() -> None:
    """Smaller batches are enough here, so nothing that moves the result is proposed."""
    work = replace(WORK, prompts=64, micro_batch=32, evaluation_batch=256, evaluated=5000, student_dtype="bfloat16", autocast=True)
    changes = nearest_fit(work, QWEN3_17B, QWEN3_4B, gpu("a100-80g"), KEYS)
    assert changes
    assert all(change.harmless for change, _ in changes)
    assert nearest_fit(work, QWEN3_17B, QWEN3_4B, gpu("a100-80g"), []) is None
    assert nearest_fit(replace(work, micro_batch=1), QWEN3_8B, QWEN3_8B, gpu("rtx3090"), ["training.micro_batch"]) is None


def test_a_limit_of_tokens_bounds_a_pass() -> None:
    heavy = replace(WORK, micro_batch=16)
    bounded = replace(heavy, micro_batch_tokens=4 * heavy.sequence)
    four = activation_bytes(QWEN3_06B, 4, 1100, "float32", autocast=False)
    assert named(bounded, QWEN3_06B, QWEN3_17B)["distil"].memory["activations"] == four
    assert (heavy.one_pass, bounded.one_pass) == (True, False)
    assert replace(heavy, micro_batch_tokens=1).together == 1


def test_gpu_names() -> None:
    assert gpu("H100").memory == 80 * 2**30
    assert list(GPUS) == ["h200", "h100", "a100-80g", "a100-40g", "l40s", "rtx4090", "rtx3090"]
    with pytest.raises(ConfigError, match="did you mean h100"):
        gpu("h10")
    assert at_hand("cpu").memory > 0
    assert workers_for(2**62, at_hand("cpu")) == 1
    assert workers_for(1, gpu("h100")) == 1


def test_shapes_of_the_embedded_pair_are_those_of_its_weights() -> None:
    spec = PAIRS.get("tiny")
    student, teacher = shapes_of(spec)
    for shape, source in ((student, spec.student), (teacher, spec.teacher)):
        model = load_model(source, "float32", "cpu")
        assert shape.parameters == sum(p.numel() for p in model.parameters())
        assert shape.attention == model.get_decoder().layers[0].self_attn.q_proj.out_features
        assert shape.key_value == model.get_decoder().layers[0].self_attn.k_proj.out_features
    with pytest.raises(ConfigError, match="the shapes of its teacher are unknown"):
        shapes_of(PairSpec("x", "nobody/nothing", spec.student))


def test_registered_pairs_declare_consistent_shapes() -> None:
    """Queries solved from the parameter count equal the declared ones: norms and biases are lost in rounding."""
    declared = [(spec.name, Shape(**shape)) for spec in PAIRS for shape in spec.shapes.values()]
    assert declared
    for name, shape in declared:
        layer = shape.body / shape.num_hidden_layers / shape.hidden_size
        solved = (layer - 2 * shape.key_value - 3 * shape.intermediate_size) / 2
        assert round(solved / shape.head_dim) == shape.num_attention_heads, name


def test_the_same_strategy_at_several_budgets() -> None:
    found = choices(["full", "teachability@0.05", "teachability@0.1", "teachability@server@0.1"], None)
    assert [(s.name, kept) for s, kept in found] == [
        ("full", 1.0), ("teachability", 0.05), ("teachability", 0.1), ("teachability@server", 0.1),
    ]  # fmt: skip


def test_the_plan_of_the_tiny_protocol(tmp_path: Path) -> None:
    protocol = load_protocol("tiny", also=name_problems, beneath=pair_settings)
    cells, jobs = jobs_of(protocol)
    checked = check(protocol, jobs, tmp_path)
    assert (checked.problems, checked.unreached, checked.rows) == ([], [], {"arithmetic": 200})
    assert checked.longest == 12
    outlook = forecast(protocol, cells, jobs, gpu("rtx3090"), checked.longest, checked.rows)
    text = describe(protocol, cells, jobs, jobs, tmp_path, outlook, 1, gpu("rtx3090"), checked)
    assert "24 (8 strategies x 3 seeds x 1 pairs)" in text
    assert "of rtx3090 are usable: fits" in text
    assert "an estimate from shapes, nothing measured" in text
    done = forecast(protocol, cells, jobs[:1], gpu("rtx3090"), checked.longest, checked.rows)
    assert 0 < done[0].training < outlook[0].training / 20


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    hidden = ("SELBENCH_DATA", "SELBENCH_MODELS", "HF_HOME")
    full = {**{k: v for k, v in os.environ.items() if k not in hidden}, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run([sys.executable, "-m", "selbench", "run", *arguments], env=full, capture_output=True, text=True, check=False)


def test_a_paper_protocol_is_planned_without_the_hub(tmp_path: Path) -> None:
    cache = {"HF_HOME": str(tmp_path / "cache")}
    done = run("tip-qwen3-8b-4b", "--dry-run", "--gpu", "h100", "--output", str(tmp_path / "runs"), **cache)
    assert done.returncode == 0, done.stderr
    for expected in ("does not fit", "nearest change that fits", "not checked  (offline)", "GPU-hours", "h100: 80 GiB", "8960 evaluated"):
        assert expected in done.stdout, expected
    assert not (tmp_path / "runs").exists()
    refused = run("tip-qwen3-8b-4b", "--output", str(tmp_path / "runs"), **cache)
    assert refused.returncode == 2
    assert "the hub cannot be reached" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--gpu", "h100"], "add --dry-run"), (["--dry-run", "--gpu", "h10O"], "--gpu 'h10O': did you mean h100")],
)
def test_bad_words_are_refused(arguments: list[str], expected: str, tmp_path: Path) -> None:
    done = run(*arguments, "--output", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr


@pytest.mark.slow
def test_a_benchmark_mirror_is_checked_in_a_dry_run(tmp_path: Path, benchmark_data: Path) -> None:
    done = run("qwen2.5-coder-gsm8k", "--dry-run", "--gpu", "rtx4090", "--output", str(tmp_path / "runs"),
               SELBENCH_DATA=str(benchmark_data), HF_HOME=str(tmp_path / "cache"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "of rtx4090 are usable: fits" in done.stdout
    assert "kept from openai/gsm8k" in done.stdout
    unchecked = [line for line in done.stdout.splitlines() if line.startswith("not checked")]
    assert len(unchecked) == 2  # the two models
