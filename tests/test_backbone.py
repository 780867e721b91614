"""Recomputed activations change nothing but memory."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from selbench.config import load_protocol
from selbench.errors import ConfigError
from selbench.loop import Backbone, distil_step
from selbench.models import PAIRS, load_pair
from selbench.provenance import Clock
from selbench.rollout import Rollouts
from tests.conftest import MakeCell


def gradients(make_cell: MakeCell, checkpointing: bool, **overrides: object) -> tuple[float, dict[str, torch.Tensor]]:
    pair = load_pair(PAIRS.get("tiny"), load_protocol("tiny").model.model_dump(), "cpu")
    cell = make_cell("tip_softor", 0.3, **overrides)
    prompts = [pair.renderer.encode(text) for text in ("12+34", "407+95", "5+6", "99+1")]
    rollouts = Rollouts.of(prompts, [[9, 8, 7, 6, 5, 4], [11, 12, 13], [14, 15, 16, 17], [20, 21]], ["stop"] * 4)
    backbone = Backbone(pair.student, checkpointing)
    optimiser = torch.optim.SGD(pair.student.parameters(), lr=0.0)
    step = distil_step(Accelerator(cpu=True), cell, pair, backbone, optimiser, rollouts, Clock(), 1)
    return step.record["loss"], {name: p.grad.clone() for name, p in pair.student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("micro_batch", [2, 4])
def test_recomputed_activations_give_the_same_loss_and_gradients(make_cell: MakeCell, micro_batch: int) -> None:
    plain, expected = gradients(make_cell, False, **{"training.micro_batch": micro_batch})
    recomputed, found = gradients(make_cell, True, **{"training.micro_batch": micro_batch})
    assert recomputed == plain
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_layers_are_recomputed_and_hold_less(make_cell: MakeCell) -> None:
    pair = load_pair(PAIRS.get("tiny"), load_protocol("tiny").model.model_dump(), "cpu")
    ids = torch.randint(0, 90, (4, 40))
    held: dict[bool, int] = {}
    for checkpointing in (False, True):
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            Backbone(pair.student, checkpointing)(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()
        held[checkpointing] = sum(kept.values())
    assert held[True] < held[False] / 2
    assert not any(module.training for module in pair.student.modules())


def test_a_dropout_is_not_recomputed() -> None:
    with pytest.raises(ConfigError, match="cannot repeat a dropout"):
        load_protocol("tiny", ["training.gradient_checkpointing=true", "lora.rank=4", "lora.dropout=0.1"])
