"""The optimiser's forms: what a protocol names is what steps, and a missing package or device is said in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from selbench.config import load_protocol
from selbench.errors import ConfigError
from selbench.optimisers import MOMENT_BYTES, build_optimiser
from selbench.settings import Training
from tests.conftest import MakeCell


def weights() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.randn(64, 128, generator=torch.Generator().manual_seed(1)))]


def stepped(optimiser: Any, parameters: list[torch.nn.Parameter], steps: int = 3) -> torch.Tensor:
    for step in range(steps):
        parameters[0].grad = torch.randn(64, 128, generator=torch.Generator().manual_seed(step))
        optimiser.step()
    return parameters[0].detach().clone()


def test_the_default_is_adamw() -> None:
    ours, theirs = weights(), weights()
    settings = Training(learning_rate=1e-2, betas=(0.8, 0.9), weight_decay=0.1)
    plain = torch.optim.AdamW(theirs, lr=1e-2, betas=(0.8, 0.9), weight_decay=0.1, fused=True)
    assert torch.equal(stepped(build_optimiser(ours, settings, torch.device("cpu")), ours), stepped(plain, theirs))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ConfigError, match=r"needs the package torchao; install selbench\[optim\]"):
        build_optimiser(weights(), Training(optimiser="adamw8bit"), torch.device("cpu"))


def test_nothing_is_offloaded_from_a_cpu() -> None:
    pytest.importorskip("torchao", reason="the extra selbench[optim] is not installed")
    with pytest.raises(ConfigError, match="this run has no GPU"):
        build_optimiser(weights(), Training(optimiser="adamw_offload"), torch.device("cpu"))


def test_the_protocol_knows_them() -> None:
    assert load_protocol("tiny", ["training.optimiser=adamw8bit"]).training.optimiser == "adamw8bit"
    with pytest.raises(ConfigError, match=r"training\.optimiser"):
        load_protocol("tiny", ["training.optimiser=sgd"])
    assert set(MOMENT_BYTES) == {"adamw", "adamw8bit", "adamw_offload"}


@pytest.mark.slow
def test_eight_bit_moments_take_a_quarter_and_step_alike() -> None:
    pytest.importorskip("torchao", reason="the extra selbench[optim] is not installed")
    ours, theirs, settings = weights(), weights(), Training(learning_rate=1e-2, optimiser="adamw8bit")
    small = build_optimiser(ours, settings, torch.device("cpu"))
    moved = stepped(small, ours)
    plain = stepped(torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.0), theirs)
    assert float((moved - plain).norm()) < 0.1 * float((plain - weights()[0].detach()).norm())
    state = next(iter(small.state.values()))
    held = sum(part.numel() * part.element_size() for name in ("exp_avg", "exp_avg_sq") for part in (state[name].codes, state[name].scale))
    assert held == pytest.approx(MOMENT_BYTES["adamw8bit"] * ours[0].numel(), rel=0.01)  # type: ignore[operator]


@pytest.mark.slow
def test_a_run_with_eight_bit_moments_resumes_in_the_same_bits(tmp_path: Path, make_cell: MakeCell) -> None:
    """The loop sets the rate of every step: torchao takes it in place alone."""
    pytest.importorskip("torchao", reason="the extra selbench[optim] is not installed")
    from safetensors.torch import load_file

    from selbench import loop
    from selbench.models import PAIRS, load_pair
    from selbench.prompts import load_prompts
    from selbench.rollout.hf import HFEngine

    cell = make_cell("tip_softor", 0.2, **{
        "training.steps": 4, "training.prompts_per_step": 4, "training.max_response_tokens": 12, "training.warmup_steps": 3,
        "training.checkpoint_every": 2, "training.optimiser": "adamw8bit", "training.learning_rate": 1e-3,
    })  # fmt: skip

    def weights_after(folder: Path, dies_at: int) -> dict[str, torch.Tensor]:
        seen = 0

        def observe(*_: Any) -> tuple[dict[str, float], None]:
            nonlocal seen
            seen += 1
            if seen == dies_at:
                raise KeyboardInterrupt
            return {}, None

        pair = load_pair(PAIRS.get("tiny"), cell.protocol.model.model_dump(), "cpu")
        engine = HFEngine(pair.student, end_ids=pair.renderer.end_ids, pad_id=pair.renderer.pad_id)
        folder.mkdir(exist_ok=True)
        loop.train(cell, pair, engine, load_prompts("selbench:tiny/prompts.jsonl"), folder, observe)
        return load_file(folder / "checkpoint" / "final" / "model.safetensors")

    whole = weights_after(tmp_path / "whole", 0)
    with pytest.raises(KeyboardInterrupt):
        weights_after(tmp_path / "cut", 3)
    resumed = weights_after(tmp_path / "cut", 0)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
