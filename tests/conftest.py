"""Shared fixtures. One thread and passive barriers: on shared cores spinning ones are many times slower."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from selbench.config import Cell, Loss, load_protocol
from selbench.models import PAIRS, Pair, load_pair
from selbench.strategy import STRATEGIES

torch.set_num_threads(1)

DATA = Path(__file__).parents[2] / "shared" / "data"
MakeCell = Callable[..., Cell]
LONGEST = (
    "test_sweep",
    "test_cli",
    "test_grading",
    "test_prompts",
    "test_bench_rollout",
    "test_self_distillation",
    "test_bench_select",
    "test_plan",
    "test_bench_step",
)  # of the files; they begin, so that no process ends long after the others
LOSSES: list[str] = list(get_args(Loss.model_fields["kind"].annotation))  # those that a protocol may train with


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of LONGEST first, all else in its order."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture
def tiny_pair() -> Pair:
    """The embedded pair, freshly loaded: tests may train it."""
    return load_pair(PAIRS.get("tiny"), load_protocol("tiny").model.model_dump(), "cpu")


@pytest.fixture(scope="session")
def make_cell() -> MakeCell:
    """A cell of the tiny protocol: `make_cell("entropy", 0.1, seed=0, **{"training.steps": 3})`."""

    def make(name: str, budget: float = 0.1, seed: int = 0, **overrides: Any) -> Cell:
        protocol = load_protocol("tiny", [f"{key}={value}" for key, value in overrides.items()])
        strategy = STRATEGIES.get(name)
        return Cell(
            protocol=protocol, pair=protocol.pairs[0], strategy=name, version=strategy.version,
            budget=1.0 if strategy.role == "reference" else budget, seed=seed, role=strategy.role, source=strategy.source,
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """The local mirror of the benchmarks; skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no benchmark data at {DATA}")
    return DATA
