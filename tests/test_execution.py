"""How a step is executed: chosen for a limit, halved when a GPU is full, stored, and never of any effect on the result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from selbench import losses, step
from selbench.backbone import Backbone
from selbench.devices import fitting_threads, gpu
from selbench.errors import ConfigError, UserError
from selbench.estimate import BLOCK_ELEMENTS, CHUNK_BYTES, CHUNK_ROWS, peak, phases
from selbench.execution import Allowance, Execution, compare, halved, is_out_of_memory, ladder, parse_size, report, settle, with_retries
from selbench.forecast import execution_of
from selbench.guest import Guest
from selbench.models import Pair
from selbench.provenance import Clock
from selbench.records import read_metrics
from selbench.step import Step, distil_step
from tests.conftest import MakeCell
from tests.test_invariants import kept_tokens, rollouts_of
from tests.test_plan import QWEN3_4B, QWEN3_17B, WORK

GIB = 2**30
H100 = gpu("h100")
HEAVY = replace(WORK, prompts=64, micro_batch=32, student_dtype="bfloat16", teacher_dtype="bfloat16", autocast=True, response_tokens=4000)


@pytest.mark.parametrize(
    ("text", "size"),
    [("6GiB", 6 * GIB), ("6G", 6 * GIB), ("500MB", 500 * 10**6), ("0.5g", GIB // 2), ("24e9", 24 * 10**9), ("1 TiB", 2**40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "six", "6 XB", "-1G", "0", "G", "1,5G"])
def test_what_is_no_size_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ConfigError, match="not a size; write a number with a unit, as in 6GiB"):
        parse_size(text)


def test_the_plan_and_the_loss_speak_of_the_same_chunk() -> None:
    assert {False: losses.CHUNK_BYTES["cpu"], True: losses.CHUNK_BYTES["cuda"]} == CHUNK_BYTES
    assert (CHUNK_ROWS, BLOCK_ELEMENTS) == (losses.CHUNK_ROWS, losses.BLOCK_ELEMENTS)


@given(share=st.floats(0.5, 1.2))
@settings(max_examples=60, deadline=None)
def test_what_is_chosen_fits_and_is_no_smaller_than_it_must_be(share: float) -> None:
    start = Execution(HEAVY.micro_batch)
    whole = peak(HEAVY, QWEN3_17B, QWEN3_4B, H100, start)
    limit = int(share * whole)
    if share < 0.6:  # below what any execution takes: the next test
        return
    how = execution_of(HEAVY, QWEN3_17B, QWEN3_4B, H100, limit, "pair p")
    assert peak(HEAVY, QWEN3_17B, QWEN3_4B, H100, how) <= limit
    if limit >= whole:
        assert how == start
    for name in ("rows_per_chunk", "micro_batch", "gradient_checkpointing"):
        if getattr(how, name) != getattr(start, name):
            milder = replace(how, **{name: getattr(start, name)})
            assert peak(HEAVY, QWEN3_17B, QWEN3_4B, H100, milder) > limit


def test_a_limit_that_cannot_be_kept_names_the_phase() -> None:
    with pytest.raises(
        ConfigError, match=r"--memory-limit 1\.00 GiB: pair p takes at least .* GiB in phase .*; raise the limit, or change"
    ):
        execution_of(HEAVY, QWEN3_17B, QWEN3_4B, H100, GIB, "pair p")


def test_an_offloaded_teacher_is_there_for_its_passes_alone() -> None:
    at_home, away = (
        {phase.name: phase for phase in phases(HEAVY, QWEN3_17B, QWEN3_4B, H100, Execution(4, teacher=where))}
        for where in ("resident", "offloaded")  # type: ignore[arg-type]
    )
    whole, head = 2 * QWEN3_4B.parameters, 2 * QWEN3_4B.vocab_size * QWEN3_4B.hidden_size
    for name in ("rollout", "distil", "optimiser"):
        assert at_home[name].total - away[name].total == whole - head
    assert at_home["teacher"].total == away["teacher"].total
    assert away["teacher"].seconds > at_home["teacher"].seconds


@given(st.integers(1, 300), st.one_of(st.none(), st.integers(1, 2000)), st.booleans())
def test_halving_ends(micro_batch: int, rows: int | None, checkpointing: bool) -> None:
    now: Execution | None = Execution(micro_batch, rows, checkpointing)
    seen: list[Execution] = []
    while now is not None:
        assert now not in seen
        seen.append(now)
        now = halved(now)
    assert len(seen) < 30
    assert seen[-1].micro_batch == 1
    assert seen[-1].gradient_checkpointing
    assert seen[-1].teacher == "offloaded"


def test_a_full_gpu_is_tried_again_smaller_and_nothing_else_is(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[int] = []

    def needs_less_than(limit: int) -> Any:
        def attempt(how: Execution) -> str:
            asked.append(how.micro_batch)
            if how.micro_batch > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return "done"

        return attempt

    assert with_retries(needs_less_than(3), Execution(16, 64)) == ("done", Execution(2, 8))
    assert asked == [16, 8, 4, 2]
    assert capsys.readouterr().err.count("the step is repeated") == 3
    with pytest.raises(UserError, match="out of memory with the smallest execution"):
        with_retries(needs_less_than(0), Execution(2, 1))

    def broken(how: Execution) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        with_retries(broken, Execution(16))
    assert not is_out_of_memory(MemoryError())
    for text in ("CUDA out of memory. Tried", "CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"):
        assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(ValueError("CUDA out of memory"))


def test_a_dropout_is_neither_split_nor_recomputed() -> None:
    """Its draws depend on the micro-batches, and recomputing cannot repeat them."""
    now: Execution | None = Execution(8, 64)
    seen = list(ladder(Execution(8), 512, gpu=True, shared=False, dropout=True))
    while now is not None:
        seen.append(now)
        now = halved(now, dropout=True)
    assert {(how.micro_batch, how.gradient_checkpointing) for how in seen} == {(8, False)}
    assert len(seen) < 40


def run(pair: Pair, cell: Any, rollouts: Any, how: Execution | None) -> tuple[Step, torch.Tensor]:
    optimiser = torch.optim.SGD(pair.student.parameters(), lr=0.0)
    body = Backbone(pair.student)
    done = distil_step(Accelerator(cpu=True), cell, pair, body, optimiser, rollouts, Clock(), 1, execution=how)
    return done, torch.cat([p.grad.flatten().clone() for p in pair.student.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", ["tip_softor", "entropy", "random"])
@pytest.mark.parametrize(
    "how",
    [
        Execution(4), Execution(12, rows_per_chunk=3), Execution(5, 7, gradient_checkpointing=True),
        Execution(5, teacher_rows="recomputed"), Execution(12, teacher_rows="recomputed"), Execution(3, teacher_rows="host"),
        Execution(4, teacher="offloaded"),
    ],
    ids=str,
)  # fmt: skip
def test_the_result_does_not_depend_on_the_execution(tiny_pair: Pair, make_cell: MakeCell, name: str, how: Execution) -> None:
    rollouts, cell = rollouts_of(tiny_pair), make_cell(name, 0.2)
    whole, gradient = run(tiny_pair, cell, rollouts, None)
    other, same = run(tiny_pair, cell, rollouts, how)
    assert kept_tokens(other) == kept_tokens(whole)
    assert other.record["loss"] == pytest.approx(whole.record["loss"], rel=1e-5)
    torch.testing.assert_close(same, gradient, rtol=1e-3, atol=1e-6)
    assert other.execution == how


def test_a_step_that_ran_out_of_memory_is_the_step_of_the_smaller_execution(
    tiny_pair: Pair, make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second micro-batch's loss does not fit: gradients of the first are thrown away, and nothing of them is left."""
    rollouts, cell, calls = rollouts_of(tiny_pair), make_cell("tip_softor", 0.3), 0
    expected, gradient = run(tiny_pair, cell, rollouts, Execution(3, 50))
    real = losses.chunked_divergence

    def full_at_first(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments, **options)

    monkeypatch.setattr(step, "chunked_divergence", full_at_first)
    found, same = run(tiny_pair, cell, rollouts, Execution(6, 100))
    assert found.execution == Execution(3, 50)
    assert found.record == expected.record
    assert torch.equal(same, gradient)


def test_no_room_for_the_moments_is_one_line(tiny_pair: Pair, make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.SGD, "step", full)
    with pytest.raises(UserError, match=r"step 1: the GPU has no room for the optimiser's moments; set training\.optimiser=adamw8bit"):
        run(tiny_pair, make_cell("full"), rollouts_of(tiny_pair, 4), None)


def test_a_guest_comes_for_its_visits(tiny_pair: Pair) -> None:
    """On a CPU "the device" is another copy in the same memory: what is checked is who holds which weights when."""
    model = tiny_pair.teacher
    assert model is not None
    ids = torch.arange(6).unsqueeze(0)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    head, inner = model.get_output_embeddings().weight, next(p for name, p in model.named_parameters() if "layers.0" in name)
    stays = head.data_ptr()
    guest = Guest(model, torch.device("cpu"))
    home = inner.data_ptr()
    with guest.visit(), guest.visit():
        there = inner.data_ptr()
        assert there != home
        with torch.no_grad():
            assert torch.equal(model(input_ids=ids).logits, expected)
    assert inner.data_ptr() == home
    assert head.data_ptr() == stays
    tiny_pair.offload()
    assert tiny_pair.guest is None  # a CPU has nowhere else


def test_a_guest_leaves_its_whole_head_and_nothing_else(tiny_pair: Pair) -> None:
    from transformers import PhiConfig, PhiForCausalLM

    model = PhiForCausalLM(
        PhiConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    )  # its head has a bias
    head = model.get_output_embeddings()
    before = [weight.data_ptr() for weight in head.parameters()]
    guest = Guest(model, torch.device("cpu"))
    assert [weight.data_ptr() for weight in head.parameters()] == before
    assert len(before) == 2

    class Full(torch.Tensor):
        def to(self, *_: Any, **__: Any) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    last, home = guest.home[-1]
    guest.home[-1] = (last, home.as_subclass(Full))
    with pytest.raises(torch.OutOfMemoryError), guest.visit():
        pass
    guest.home[-1] = (last, home)
    assert guest.open == 0
    assert all(weight.data_ptr() == host.data_ptr() for weight, host in guest.home[:-1])


def test_a_tiny_model_gets_one_thread_and_the_others_theirs_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for sizes, threads in (((64, 192, 32), 1), ((896, 4864, 4), 2)):
            with fitting_threads(*sizes):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_execution_is_kept_for_the_resumed_run(tmp_path: Path) -> None:
    first = Execution(4, 33, True, "offloaded", "host")
    assert settle(tmp_path, first) == first
    assert settle(tmp_path, Execution(8)) == first
    assert settle(tmp_path, Execution(2), GIB) == Execution(2)  # whoever gives a limit wants less than the last try took
    assert settle(tmp_path, Execution(8), GIB) == Execution(2)
    assert settle(tmp_path, Execution(8)) == Execution(2)


def test_prediction_beside_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predicted, measured = {"distil": 4 * GIB, "score": 2 * GIB}, {"distil": 6 * GIB, "score": 2 * GIB, "observe": 9 * GIB}
    lines = compare(predicted, measured, 5 * GIB)
    assert lines[0] == "memory: 6.00 GiB in distil, 4.00 GiB predicted"
    assert lines[1] == "warning: phase distil takes 6.00 GiB, 1.5 times what was predicted"
    assert "more than the limit of 5.00 GiB" in lines[2]
    assert len(compare(predicted, {"distil": 4 * GIB}, 5 * GIB)) == 1
    report(tmp_path, Allowance(None, predicted, 5 * GIB), measured, Execution(2))
    stored = json.loads((tmp_path / "memory.json").read_text())
    assert stored["phases"]["observe"] == {"measured_bytes": 9 * GIB, "predicted_bytes": None}
    assert stored["execution"]["micro_batch"] == 2
    assert capsys.readouterr().err.splitlines() == lines


def test_a_run_tells_what_it_took_and_how(tmp_path: Path, tiny_pair: Pair, make_cell: MakeCell) -> None:
    from selbench.loop import train
    from selbench.prompts import load_prompts
    from selbench.rollout.hf import HFEngine

    cell = make_cell("tip_softor", 0.2, **{"training.steps": 2, "training.prompts_per_step": 4, "training.max_response_tokens": 12})
    engine = HFEngine(tiny_pair.student, end_ids=tiny_pair.renderer.end_ids, pad_id=tiny_pair.renderer.pad_id)
    how = Execution(2, 16)

    def observe(*_: Any) -> tuple[dict[str, float], None]:
        return {}, None

    shown: list[Any] = []
    prompts, allowance = load_prompts("selbench:tiny/prompts.jsonl"), Allowance(how, {"distil": 10**9})
    train(cell, tiny_pair, engine, prompts, tmp_path, observe, allowance, shown.append)
    assert json.loads((tmp_path / "execution.json").read_text())["micro_batch"] == 2
    assert json.loads((tmp_path / "memory.json").read_text())["phases"]["distil"]["measured_bytes"] > 10**7
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert shown == rows
    for row in rows:
        phases_of_a_step = {"rollout", "teacher", "score", "select", "distil", "optimiser", "sync", "observe", "checkpoint"}
        assert row["seconds"].keys() == row["peak_bytes"].keys() == phases_of_a_step
        assert row["baseline_flops"] > 0
        assert sum(row["flops"].values()) > 0
        assert "execution" not in row
