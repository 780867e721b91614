"""Weights for tokens that an engine drew with other probabilities than the trainer gives them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from selbench.backbone import Backbone
from selbench.config import load_protocol
from selbench.errors import ConfigError
from selbench.models import Pair
from selbench.prompts import load_prompts, prompts_of_step
from selbench.provenance import Clock
from selbench.rollout import Rollouts, Sampling
from selbench.rollout.hf import HFEngine
from selbench.scoring import layout
from selbench.step import Step, distil_step, importance_weights
from tests.conftest import MakeCell


def test_the_ratio_is_cut_at_the_cap() -> None:
    rollouts = Rollouts.of([[1, 2], [3]], [[4, 5], [6]], ["stop", "length"], logprobs=[[-1.0, -2.0], [-0.5]])
    trainer = torch.tensor([-1.0, -2.0 + math.log(3), -0.5 + math.log(0.25)])
    weight, facts = importance_weights(trainer, rollouts, layout(rollouts), cap=2.0)
    assert weight.tolist() == pytest.approx([1.0, 2.0, 0.25])
    assert facts == {"importance_mean": pytest.approx((1 + 3 + 0.25) / 3), "importance_capped": pytest.approx(1 / 3)}


def test_masked_tokens_keep_their_place() -> None:
    rollouts = Rollouts.of([[1]], [[7, 8, 9]], ["stop"], logprobs=[[-1.0, -2.0, -3.0]]).without_first([8])
    weight, _ = importance_weights(torch.tensor([-1.0, -3.0]), rollouts, layout(rollouts), cap=5.0)
    assert weight.tolist() == [1.0, 1.0]


def test_only_sampled_losses_take_it() -> None:
    assert load_protocol("tiny", ["loss.kind=policy_gradient", "loss.importance_cap=2"]).loss.importance_cap == 2
    with pytest.raises(ConfigError, match="reverse_kl is exact whatever was sampled"):
        load_protocol("tiny", ["loss.importance_cap=2"])
    with pytest.raises(ConfigError, match="importance_cap"):
        load_protocol("tiny", ["loss.kind=policy_gradient", "loss.importance_cap=0.5"])


def one_step(pair: Pair, make_cell: MakeCell, rollouts: Rollouts, cap: float | None) -> tuple[Step, torch.Tensor]:
    """A step at learning rate 0: its record and the gradient before clipping could change it."""
    overrides = {"loss.kind": "policy_gradient", "training.clip_norm": 1e9} | ({"loss.importance_cap": cap} if cap else {})
    cell, accelerator = make_cell("full", **overrides), Accelerator(cpu=True)
    backbone = Backbone(pair.student, False)
    done = distil_step(accelerator, cell, pair, backbone, torch.optim.SGD(pair.student.parameters(), lr=0.0), rollouts, Clock(), 1)
    return done, torch.cat([p.grad.flatten() for p in pair.student.parameters() if p.grad is not None])


def test_a_step_on_tokens_of_another_engine(tiny_pair: Pair, make_cell: MakeCell) -> None:
    """Drawn twice as often as the trainer would, every token counts half; and with equal probabilities nothing changes."""
    engine = HFEngine(tiny_pair.student, end_ids=tiny_pair.renderer.end_ids, pad_id=tiny_pair.renderer.pad_id, logprobs=True)
    asked = prompts_of_step(load_prompts("selbench:tiny/prompts.jsonl"), 0, 1, 6)
    rollouts = engine.generate([tiny_pair.renderer.encode(p.problem) for p in asked], Sampling(24), 3)
    assert rollouts.logprobs is not None
    plain, gradient = one_step(tiny_pair, make_cell, rollouts, None)
    same, equal = one_step(tiny_pair, make_cell, rollouts, 2.0)
    assert same.record["importance_mean"] == pytest.approx(1.0, abs=1e-5)
    assert same.record["loss"] == pytest.approx(plain.record["loss"], rel=1e-4, abs=1e-6)
    assert torch.dist(equal, gradient) < 1e-5 * gradient.norm()
    shifted = replace(rollouts, logprobs=tuple(tuple(p + math.log(2) for p in row) for row in rollouts.logprobs))
    half, halved = one_step(tiny_pair, make_cell, shifted, 2.0)
    assert half.record["importance_mean"] == pytest.approx(0.5, abs=1e-5)
    assert torch.dist(halved, gradient / 2) < 1e-5 * gradient.norm()
