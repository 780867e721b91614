"""Invariants of the design, on the real loop and the embedded pair."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from selbench.config import Cell
from selbench.loop import Backbone, NonFiniteStep, Step, distil_step
from selbench.models import Pair
from selbench.prompts import load_prompts, prompts_of_step
from selbench.provenance import Clock
from selbench.rollout import Rollouts, Sampling
from selbench.rollout.hf import HFEngine
from selbench.strategy import STRATEGIES, Strategy
from tests.conftest import LOSSES, MakeCell

SCORED = [s.name for s in STRATEGIES if s.kind == "scores"]


def rollouts_of(pair: Pair, count: int = 12, seed: int = 3) -> Rollouts:
    """Real rollouts of the student on training prompts of mixed length."""
    engine = HFEngine(pair.student, end_ids=pair.renderer.end_ids, pad_id=pair.renderer.pad_id)
    prompts = prompts_of_step(load_prompts("selbench:tiny/prompts.jsonl"), 0, 1, count)
    return engine.generate([pair.renderer.encode(p.problem) for p in prompts], Sampling(56), seed)


def reordered(rollouts: Rollouts, order: Sequence[int]) -> Rollouts:
    moved: dict[str, Any] = {
        name: tuple(getattr(rollouts, name)[i] for i in order) for name in ("tokens", "mask", "start", "finish", "sample")
    }
    return Rollouts(**moved)


def one_step(pair: Pair, cell: Cell, rollouts: Rollouts) -> tuple[Step, torch.Tensor]:
    """One step that changes no weight (learning rate 0): its record and the clipped gradient, flat."""
    optimiser = torch.optim.SGD(pair.student.parameters(), lr=0.0)
    done = distil_step(Accelerator(cpu=True), cell, pair, Backbone(pair.student), optimiser, rollouts, Clock(), 1)
    return done, torch.cat([p.grad.flatten().clone() for p in pair.student.parameters() if p.grad is not None])


def kept_tokens(step: Step) -> set[tuple[int, int]]:
    return set(zip(step.rows.sample[step.kept].tolist(), step.rows.position[step.kept].tolist(), strict=True))


@pytest.mark.parametrize("name", ["tip_softor", "teachability@server", "random", "full"])
@pytest.mark.parametrize("normaliser", ["kept_tokens", "per_sample_kept", "all_valid"])
def test_micro_batches_padding_and_order_do_not_matter(tiny_pair: Pair, make_cell: MakeCell, name: str, normaliser: str) -> None:
    rollouts = rollouts_of(tiny_pair)
    whole, gradient = one_step(tiny_pair, make_cell(name, 0.2, **{"loss.normaliser": normaliser}), rollouts)
    for size, order in ((1, range(12)), (5, reversed(range(12))), (12, [5, 2, 9, 0, 11, 1, 7, 3, 10, 4, 8, 6])):
        cell = make_cell(name, 0.2, **{"loss.normaliser": normaliser, "training.micro_batch": size})
        other, same = one_step(tiny_pair, cell, reordered(rollouts, list(order)))
        assert kept_tokens(other) == kept_tokens(whole)
        assert other.record["loss"] == pytest.approx(whole.record["loss"], rel=1e-5)
        torch.testing.assert_close(same, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", SCORED)
def test_budget_one_is_full(tiny_pair: Pair, make_cell: MakeCell, name: str) -> None:
    if STRATEGIES.get(name).candidates is not None:
        pytest.skip("restricts its candidates: by declaration it never keeps all tokens")
    rollouts = rollouts_of(tiny_pair, 6)
    full, gradient = one_step(tiny_pair, make_cell("full"), rollouts)
    other, same = one_step(tiny_pair, make_cell(name, 1.0), rollouts)
    assert other.record["loss"] == full.record["loss"]
    assert torch.equal(same, gradient)


def test_masked_tokens_enter_nothing(tiny_pair: Pair, make_cell: MakeCell) -> None:
    """Masking response tokens equals a batch in which they are prompt; their signals and gradients do not exist."""
    rollouts = rollouts_of(tiny_pair, 6)
    masked = replace(rollouts, mask=tuple(tuple(m if i % 3 else 0 for i, m in enumerate(row)) for row in rollouts.mask))
    step, _ = one_step(tiny_pair, make_cell("tip_softor", 0.5), masked)
    assert all(masked.mask[s][c] == 1 for s, c in zip(step.rows.sequence.tolist(), step.rows.column.tolist(), strict=True))
    assert step.record["tokens"] == sum(map(sum, masked.mask))
    nothing = replace(rollouts, mask=tuple((0,) * len(row) for row in rollouts.mask[:-1]) + (rollouts.mask[-1],))
    alone, gradient = one_step(tiny_pair, make_cell("full"), nothing)
    single, same = one_step(tiny_pair, make_cell("full"), reordered(rollouts, [5]))
    assert alone.record["loss"] == pytest.approx(single.record["loss"], rel=1e-6)
    torch.testing.assert_close(gradient, same, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_teacher_equal_to_the_student_teaches_nothing(tiny_pair: Pair, make_cell: MakeCell, kind: str) -> None:
    pair = replace(tiny_pair, teacher=copy.deepcopy(tiny_pair.student).requires_grad_(False))
    step, gradient = one_step(pair, make_cell("full", **{"loss.kind": kind}), rollouts_of(pair, 4))
    assert abs(step.record["loss"]) < 1e-6
    assert float(gradient.abs().max()) < 1e-6


def test_weights_reach_the_loss(tiny_pair: Pair, make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight strategy owns its budget: ones are `full`, halves are half of it, zeros are not kept."""
    rollouts = rollouts_of(tiny_pair, 6)
    full, _ = one_step(tiny_pair, make_cell("full"), rollouts)
    weights = {
        "ones": lambda s: s.position * 0.0 + 1,
        "halves": lambda s: s.position * 0.0 + 0.5,
        "late": lambda s: (s.position > 3).float(),
    }
    found = {}
    for name, function in weights.items():
        rule = Strategy(name, 1, function, (), 1.0, "test", kind="weights")
        monkeypatch.setitem(STRATEGIES._entries, name, rule)
        found[name], _ = one_step(tiny_pair, make_cell(name, 1.0), rollouts)
    assert found["ones"].record["loss"] == full.record["loss"]
    assert found["halves"].record["loss"] == pytest.approx(0.5 * full.record["loss"], rel=1e-6)
    assert found["late"].record["kept"] == int((full.rows.position > 3).sum())


def test_prompts_depend_on_the_seed_alone(make_cell: MakeCell) -> None:
    prompts = load_prompts("selbench:tiny/prompts.jsonl")
    first = [prompts_of_step(prompts, 0, step, 32) for step in (1, 2, 3)]
    assert first == [prompts_of_step(prompts, 0, step, 32) for step in (1, 2, 3)]
    assert first != [prompts_of_step(prompts, 1, step, 32) for step in (1, 2, 3)]
    epoch = [p for step in range(1, 1 + len(prompts) // 32) for p in prompts_of_step(prompts, 5, step, 32)]
    assert sorted(p.problem for p in epoch) == sorted(p.problem for p in prompts)


def test_a_non_finite_step_stops_the_cell_before_the_update(tiny_pair: Pair, make_cell: MakeCell, tmp_path: Path) -> None:
    rollouts = rollouts_of(tiny_pair, 4)
    before = [p.detach().clone() for p in tiny_pair.student.parameters()]
    assert tiny_pair.teacher is not None
    with torch.no_grad():
        next(iter(tiny_pair.teacher.parameters())).fill_(float("nan"))
    optimiser = torch.optim.SGD(tiny_pair.student.parameters(), lr=1.0)
    accelerator, body = Accelerator(cpu=True), Backbone(tiny_pair.student)
    with pytest.raises(NonFiniteStep, match="not finite"):
        distil_step(accelerator, make_cell("full"), tiny_pair, body, optimiser, rollouts, Clock(), 1, dump=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, tiny_pair.student.parameters(), strict=True))
    assert json.loads((tmp_path / "nonfinite.json").read_text())["step"] == 1


@pytest.mark.slow
def test_ranks_do_not_matter(tmp_path: Path) -> None:
    """Two processes with half of the batch each keep the same tokens, and have the loss and gradient of one process."""
    found: dict[int, Any] = {}
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.json"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            str(ranks),
            "--master_port",
            "29731",
            "-m",
            "tests.ranks",
            str(out),
        ]
        subprocess.run(
            command, check=True, cwd=Path(__file__).parents[1], env={**os.environ, "ACCELERATE_USE_CPU": "true"}, capture_output=True
        )
        found[ranks] = json.loads(out.read_text())
    assert found[1]["ranks"] == 1
    assert found[2]["ranks"] == 2
    assert found[1]["kept"] == found[2]["kept"]
    assert found[2]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)
    assert found[2]["gradient"] == pytest.approx(found[1]["gradient"], rel=1e-4)
