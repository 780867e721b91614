"""The cost ledger: FLOPs by hand and against torch's own count, memory against allocations, shares against numbers worked by hand."""

from __future__ import annotations

import json
import mmap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from selbench import records
from selbench.backbone import Backbone
from selbench.costs import of_training, saved
from selbench.devices import roofline
from selbench.estimate import Shape
from selbench.ledger import ledger_of, summarise, write_ledger
from selbench.models import Pair
from selbench.passes import (
    DENSE_TENSORS,
    Passes,
    baseline_flops,
    chunked_bytes,
    dense_bytes,
    padded_share,
    shape_of,
    step_flops,
    step_record,
    update_flops,
)
from selbench.provenance import Clock, peak_memory, reset_peak_memory
from selbench.step import distil_step
from tests.conftest import MakeCell
from tests.test_invariants import rollouts_of

TOY = Shape(140, 4, 2, 10, 2, 1, 2, 8, 1)  # body 100, 4 query features in each of 2 layers, a head of 40
PASSES = Passes(
    generated=[(2, 2), (1, 3)], teacher=[(2, 3)], scored=[(2, 3)], distilled=[(2, 3)], student_rows=5, teacher_rows=5, kept=2, tokens=5,
    adapter=False, checkpointed=False, one_pass=False,
)  # fmt: skip
RATES = {"device": "cpu", "bf16": 1e3, "fp32": 2e3, "copy_bytes_per_second": 1e4, "rate": "fp32"}
BODY, HEAD = 6 * (2 * 100 + 4 * 4 * 2 * 2), 80  # two sequences of three tokens that see two positions on average; a row of the head
WRITABLE = Path("/proc/self/clear_refs").exists()


def test_flops_by_hand() -> None:
    assert step_flops(PASSES, TOY, TOY) == {
        "rollout": BODY + 5 * HEAD,
        "teacher": BODY,
        "score": BODY + 10 * HEAD,
        "select": 0,
        "distil": 3 * BODY + (3 + 1) * 2 * HEAD,
        "optimiser": 1400,
    }
    assert baseline_flops(PASSES, TOY, TOY) == 4 * BODY + 4 * 5 * HEAD


def test_a_pass_that_scores_and_distils_is_counted_once() -> None:
    found = step_flops(replace(PASSES, one_pass=True), TOY, TOY)
    assert (found["score"], found["distil"]) == (BODY + 10 * HEAD, 2 * BODY + 8 * HEAD)
    assert step_flops(replace(PASSES, one_pass=True, checkpointed=True), TOY, TOY)["distil"] == 3 * BODY + 8 * HEAD


def test_an_adapter_has_no_gradient_of_frozen_weights() -> None:
    found = step_flops(replace(PASSES, adapter=True), TOY, TOY)
    assert found["distil"] == 3 * BODY - 6 * 200 + (2 + 1) * 2 * HEAD
    assert "optimiser" not in found  # how many parameters it has is not known
    assert step_flops(replace(PASSES, adapter=True), TOY, TOY, trained=7)["optimiser"] == 70


def test_the_baseline_is_the_full_token_step() -> None:
    full = replace(PASSES, scored=[], student_rows=0, teacher_rows=0, kept=5)
    assert baseline_flops(full, TOY, TOY) == update_flops(step_flops(full, TOY, TOY))
    early = replace(full, kept=1, distilled=[(2, 1)], teacher=[(2, 1)])  # a pass that ends with the last kept token
    skipped = replace(full, kept=1, distilled=[(1, 1)], teacher=[(1, 1)])  # a micro-batch without kept tokens
    for passes in (early, skipped):
        assert update_flops(step_flops(passes, TOY, TOY)) < baseline_flops(passes, TOY, TOY) == baseline_flops(full, TOY, TOY)


def test_the_baseline_reads_each_sequence_once_and_keeps_the_teachers_own_prompts() -> None:
    again = replace(PASSES, teacher=[(2, 3), (2, 2)])  # recomputed for the kept tokens
    assert baseline_flops(again, TOY, TOY) == baseline_flops(PASSES, TOY, TOY)
    longer = replace(PASSES, teacher=[(2, 9)])
    extra = step_flops(longer, TOY, TOY)["teacher"] - BODY
    assert baseline_flops(longer, TOY, TOY) == baseline_flops(PASSES, TOY, TOY) + extra


def test_padding() -> None:
    passes = replace(PASSES, generated=[(1, 3), (3, 5), (1, 1)], scored=[(2, 7), (1, 1)], distilled=[])
    assert padded_share(passes) == pytest.approx(4 / 15)  # the second sequence needs 3 positions of 7
    assert padded_share(replace(passes, distilled=[(2, 3), (1, 1)])) == pytest.approx(4 / 22)  # both end within three positions
    assert padded_share(replace(passes, distilled=[(1, 7)])) == pytest.approx(4 / 15)
    assert padded_share(replace(passes, scored=[], distilled=[(1, 7)])) is None


def test_bytes() -> None:
    assert dense_bytes(256, 32768) == DENSE_TENSORS * 256 * 32768 * 4
    assert chunked_bytes(256, 32768, "cuda") == 9 * 256 * 32768 * 4
    assert chunked_bytes(256, 32768, "cpu") == (2 * 256 + 7 * 32) * 32768 * 4
    assert chunked_bytes(10, 10) < chunked_bytes(20, 10)
    made = step_record(PASSES, TOY, TOY, rows_per_chunk=1024, device="cuda")
    assert made["dense_bytes"] == dense_bytes(5, 10)
    assert made["chunk_bytes"] == chunked_bytes(2, 10, "cuda")
    micro = replace(PASSES, generated=[(9, 2), (1, 3)], scored=[(1, 10), (1, 3)], distilled=[(1, 10), (1, 3)])
    assert step_record(micro, TOY, TOY, rows_per_chunk=1, device="cpu")["dense_bytes"] == dense_bytes(3, 10)


def counted(flops: FlopCounterMode) -> float:
    return float(flops.get_total_flops())


@pytest.mark.parametrize(("name", "micro_batch"), [("full", 4), ("entropy", 4), ("tip_softor", 64), ("random", 4)])
def test_flops_are_those_that_torch_counts(name: str, micro_batch: int, tiny_pair: Pair, make_cell: MakeCell) -> None:
    """A real step of the loop. Plain attention computes the whole square of positions, of which the ledger counts what is seen."""
    assert tiny_pair.teacher is not None
    rollouts = rollouts_of(tiny_pair)
    for model in (tiny_pair.student, tiny_pair.teacher):
        model.set_attn_implementation("eager")
    optimiser = torch.optim.SGD(tiny_pair.student.parameters(), lr=0.0)
    cell = make_cell(name, **{"training.micro_batch": micro_batch})
    with FlopCounterMode(display=False) as flops:
        done = distil_step(Accelerator(cpu=True), cell, tiny_pair, Backbone(tiny_pair.student), optimiser, rollouts, Clock(), 1)
    student, teacher = shape_of(tiny_pair.student), shape_of(tiny_pair.teacher)
    passes = done.passes
    assert passes.one_pass == (micro_batch == 64)
    assert passes.generated == [(s, len(t) - s) for s, t in zip(rollouts.start, rollouts.tokens, strict=True)]
    unseen = sum(
        times * n * length * 4 * shape.attention * shape.num_hidden_layers * (length - (length + 1) / 2)
        for shape, run, times in (
            (teacher, passes.teacher, 1), (student, passes.scored, 1), (student, passes.distilled, 2 if passes.one_pass else 3)
        )
        for n, length in run
    )  # fmt: skip
    assert counted(flops) == pytest.approx(update_flops(step_flops(passes, student, teacher)) + unseen, rel=0.01)
    if name == "full":
        assert baseline_flops(passes, student, teacher) == update_flops(step_flops(passes, student, teacher))


def test_forward_and_head_against_torch(tiny_pair: Pair) -> None:
    student = shape_of(tiny_pair.student)
    tiny_pair.student.set_attn_implementation("eager")
    ids = torch.ones((3, 20), dtype=torch.int64)
    with FlopCounterMode(display=False) as body, torch.no_grad():
        hidden = tiny_pair.student.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    with FlopCounterMode(display=False) as head, torch.no_grad():
        tiny_pair.student.get_output_embeddings()(hidden)
    ours = step_flops(replace(PASSES, distilled=[], kept=0, scored=[(3, 20)], student_rows=60, teacher_rows=0), student, student)["score"]
    unseen = 60 * 4 * student.attention * student.num_hidden_layers * (20 - 10.5)
    assert counted(body) + counted(head) == pytest.approx(ours + unseen, rel=0.01)


def made_up(folder: Path, steps: int = 2, **changes: Any) -> None:
    """A run with everything in round numbers."""
    folder.mkdir(parents=True)
    for step in range(1, steps + 1):
        line = {
            "step": step, "seconds": {"rollout": 4.0, "teacher": 1.0, "score": 1.0, "distil": 2.0, "optimiser": 0.5},
            "flops": {"rollout": 100.0, "teacher": 200.0, "score": 100.0, "select": 0.0, "distil": 500.0, "optimiser": 10.0},
            "peak_bytes": {"rollout": 50, "teacher": 60, "score": 70, "distil": 100 - step, "optimiser": 40}, "peak_memory_bytes": 100,
            "baseline_flops": 1000.0, "dense_bytes": 210, "chunk_bytes": 10, "padded_share": 0.25,
        } | changes  # fmt: skip
        records.append_line(folder / "metrics.jsonl", line)
    empty: dict[str, Any] = dict.fromkeys(records.SAMPLE_COLUMNS, "")
    rows = [empty | {"problem": "p", "tokens": t} for t in (2, 3)]
    records.write_table(folder / "eval/sums/samples.parquet", rows, records.SAMPLE_COLUMNS)
    records.write_json(folder / "eval/sums/meta.json", {"seconds": 3.0, "peak_memory_bytes": 90})


def test_the_ledger_of_round_numbers(tmp_path: Path) -> None:
    made_up(tmp_path / "run")
    stored = json.loads(write_ledger(tmp_path / "run", RATES, TOY).read_text())
    assert stored == ledger_of(tmp_path / "run", stored["roofline"], Shape(**stored["model"]))
    assert stored["phases"]["distil"] == {
        "seconds": 4.0, "flops": 1000.0, "peak_bytes": 99, "flops_per_second": 250.0, "share_of_matmul_rate": 0.125,
    }  # fmt: skip
    assert list(stored["phases"]) == sorted({"rollout", "teacher", "score", "select", "distil", "optimiser"})  # as JSON sorts them
    assert stored["phases"]["select"]["seconds"] is None
    update = stored["update"]
    assert (update["seconds"], update["flops"], update["baseline_flops"], update["peak_bytes"]) == (8.0, 1600.0, 2000.0, 99)
    assert update["share_of_matmul_rate"] == pytest.approx(0.1)
    assert stored["saved"]["flops_vs_full"] == pytest.approx(0.2)
    assert stored["dense_peak_bytes"] == 99 - 10 + 210
    assert stored["saved"]["memory_vs_dense"] == pytest.approx(1 - 99 / 299)
    assert stored["padded_share"] == 0.25
    evaluation = stored["evaluation"]["sums"]
    assert evaluation["tokens"] == 5
    assert evaluation["flops_without_prompts"] == 1 * (200 + 32 * 1) + 2 * (200 + 32 * 1.5) + 5 * HEAD
    assert evaluation["generation_seconds"] is None


def test_what_records_do_not_say_is_missing(tmp_path: Path) -> None:
    steps = [{"seconds": {"teacher": 1.0, "distil": 2.0}, "peak_memory_bytes": 7}]
    found = summarise(steps)
    assert found["update"]["seconds"] == 3.0
    assert found["update"]["flops"] is found["update"]["baseline_flops"] is found["update"]["share_of_matmul_rate"] is None
    assert found["saved"] == {"flops_vs_full": None, "memory_vs_dense": None}
    assert "sync" not in found["phases"]
    partly = summarise([*steps, {"seconds": {"distil": 1.0}, "flops": {"distil": 1.0}, "peak_bytes": {"distil": 5}}])
    assert partly["phases"]["distil"]["flops"] is partly["phases"]["distil"]["peak_bytes"] is None
    assert summarise([])["update"]["seconds"] is None
    numbers = of_training(steps, tmp_path)
    assert all(numbers[name] != numbers[name] for name in ("sync_seconds", "update_tflop", "distil_peak_mb", "saved_flops_percent"))


def test_saved_against_the_reference() -> None:
    ours = [{"update_seconds": 3.0, "distil_peak_mb": 90.0}, {"update_seconds": 5.0, "distil_peak_mb": 99.0}]
    full = [{"update_seconds": 6.0, "distil_peak_mb": 100.0}, {"update_seconds": 4.0, "distil_peak_mb": 80.0}]
    found = saved(ours, full)
    assert found == {"saved_seconds_percent": pytest.approx(20), "saved_memory_full_percent": pytest.approx(1)}
    unknown = saved([ours[0], {"update_seconds": float("nan"), "distil_peak_mb": float("nan")}], full)
    assert all(value != value for value in unknown.values())


@pytest.mark.skipif(not WRITABLE, reason="no memory mark to reset")
def test_peaks_belong_to_their_phases() -> None:
    reset_peak_memory()
    clock, megabytes = Clock(), 10**6
    with clock("before"):
        pass
    with clock("outer"), clock("large"):
        block = mmap.mmap(-1, 200 * megabytes)  # the allocator could have as much left over from earlier tests
        block[:: mmap.PAGESIZE] = b"1" * len(range(0, len(block), mmap.PAGESIZE))
        block.close()
    with clock("after"):
        pass
    peaks = clock.peaks
    assert peaks["large"] - peaks["before"] > 180 * megabytes
    assert peaks["large"] - peaks["after"] > 180 * megabytes
    assert peaks["outer"] == peaks["large"] == clock.peak
    assert peak_memory() >= peaks["large"]  # the clock's marks are its own
    with clock("large"):
        pass
    assert clock.peaks["large"] == peaks["outer"]
    assert set(clock.seconds) == set(peaks)


def test_a_phase_that_fails_took_its_time() -> None:
    clock = Clock(peaks=False)
    with pytest.raises(ZeroDivisionError), clock("bad"):
        print(1 / 0)
    assert clock.seconds["bad"] > 0
    assert clock.peaks == {}
    assert clock.peak is None


def test_the_roofline_is_measured_once() -> None:
    first = roofline("cpu", "fp32")
    assert first["fp32"] > 0
    assert first["copy_bytes_per_second"] > 0
    assert roofline("cpu", "fp32") == first
