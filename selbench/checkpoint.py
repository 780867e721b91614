"""Resumable states and final weights: complete or absent, never half."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.adapter import has_adapter, save_student
from selbench.models import identity
from selbench.records import read_json, read_metrics, read_table, write_json, write_table, write_text

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from selbench.models import Pair

__all__ = ["drop_states", "finish_training", "is_trained", "name_state", "restore", "save_state"]

ADAPTER = "adapter.safetensors"
SELECTION = ("step", "tokens", "kept", "kept_share", "candidates", "filled", "ties", "nonfinite_signals")


def _states(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoint").glob("step*"))


def _adapter_alone(accelerator: Accelerator, backbone: nn.Module) -> None:
    """States hold what is trained: of a student with frozen weights its adapter, in a file of its own. Nothing else changes."""
    from safetensors.torch import load_file, save_file

    trained = {name: parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    if len(trained) == len(list(backbone.parameters())):
        return

    def save(models: list[Any], weights: list[Any], folder: str) -> None:
        weights.clear()
        if accelerator.is_main_process:
            save_file({name: parameter.detach() for name, parameter in trained.items()}, Path(folder) / ADAPTER)

    def load(models: list[Any], folder: str) -> None:
        models.clear()
        stored = load_file(Path(folder) / ADAPTER)
        if stored.keys() != trained.keys():
            raise ValueError(f"{folder}: holds another adapter than the one being trained; delete the run's folder")
        for name, parameter in trained.items():
            parameter.data.copy_(stored[name])

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def save_state(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Weights and optimiser of all ranks, under a draft name."""
    accelerator.save_state(str(folder / "checkpoint" / f".step{step:06d}"))


def name_state(folder: Path, step: int) -> None:
    """Give the draft its name and drop older states."""
    older = _states(folder)
    draft = folder / "checkpoint" / f".step{step:06d}"
    if draft.exists():
        os.replace(draft, folder / "checkpoint" / f"step{step:06d}")
    for state in older:
        shutil.rmtree(state)


def restore(accelerator: Accelerator, backbone: nn.Module, folder: Path) -> int:
    """Load the latest state and cut the records back to it; returns its step, 0 for a fresh start."""
    _adapter_alone(accelerator, backbone)
    for draft in (folder / "checkpoint").glob(".step*"):
        shutil.rmtree(draft)
    states = _states(folder)
    step = int(states[-1].name.removeprefix("step")) if states else 0
    if states:
        accelerator.load_state(str(states[-1]))
    rows = read_metrics(folder / "metrics.jsonl", upto=step)
    if len(rows) != step:
        raise ValueError(f"{folder}: the checkpoint is of step {step} but {len(rows)} step records stand before it; delete the folder")
    if accelerator.is_main_process:
        write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return step


def finish_training(accelerator: Accelerator, pair: Pair, folder: Path, fingerprint: str) -> None:
    """Final weights (of an adapted student the adapter) as a Hugging Face folder, the step tables, and last the marker `trained.json`."""
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    draft, final = folder / "checkpoint" / ".final", folder / "checkpoint" / "final"
    for stale in (draft, final):
        shutil.rmtree(stale, ignore_errors=True)
    save_student(pair.student, draft, identity(pair.spec.student, pair.student) if has_adapter(pair.student) else {})
    pair.renderer.tokenizer.save_pretrained(draft)
    os.replace(draft, final)
    rows = read_metrics(folder / "metrics.jsonl")
    write_table(folder / "selection.parquet", [{name: row[name] for name in SELECTION} for row in rows], SELECTION)
    parts = sorted((folder / "tokens").glob("step*.parquet"))
    tokens = [{str(k): v for k, v in row.items()} for part in parts for row in read_table(part).to_dict("records")]
    write_table(folder / "tokens.parquet", tokens)
    shutil.rmtree(folder / "tokens")
    write_json(folder / "trained.json", {"fingerprint": fingerprint, "steps": len(rows)})


def drop_states(folder: Path) -> None:
    """Remove resumable states: the training is finished."""
    for state in _states(folder):
        shutil.rmtree(state)


def is_trained(folder: Path, fingerprint: str) -> bool:
    """Whether the final weights in `folder` are those of this very training."""
    marker = folder / "trained.json"
    return marker.exists() and read_json(marker).get("fingerprint") == fingerprint
