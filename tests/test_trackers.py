"""Trackers are spectators: what is not installed is refused at once, what fails is counted, and a run's record is theirs unchanged."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator

from selbench import records, trackers
from selbench.errors import ConfigError
from selbench.trackers import ASKED, Trackers
from tests.conftest import MakeCell

RECORD = {"step": 1, "loss": 0.5, "kept": 3, "seconds": {"rollout": 1.5}, "execution": {"offload": "none", "micro_batch": 2}}


class Client(ModuleType):
    """Stands in for a tracker's package, for accelerate to call: keeps what it is given, fails where it is told to."""

    def __init__(self, name: str, fails: tuple[Any, ...] = ()) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.seen: list[tuple[Any, ...]] = []
        self.fails = fails
        self.config = SimpleNamespace(update=lambda values, **_: self.seen.append(("config", values)))

    def init(self, **given: Any) -> Client:
        self.seen.append(("init", given))
        self.attempt("init")
        return self

    def attempt(self, what: Any) -> None:
        if what in self.fails:
            raise ConnectionError(f"no answer\nat {what}")

    def log(self, values: dict[str, float], step: int) -> None:
        self.attempt(step)
        self.seen.append((step, values))

    def finish(self) -> None:
        self.seen.append(("finish",))


@pytest.fixture(autouse=True)
def training() -> None:
    """A step is logged only where accelerate has been told of the device."""
    Accelerator(cpu=True)


def steps(names: list[str], folder: Path, count: int = 4) -> Trackers:
    found = Trackers(names, folder, project="mini", run="toy/whole-v1@1/seed0", settings={"seed": 0})
    for step in range(1, count + 1):
        found.log(RECORD | {"step": step})
    found.close()
    return found


def test_a_tracker_sees_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("wandb")
    monkeypatch.setitem(sys.modules, "wandb", client)
    steps(["wandb"], tmp_path, 2)
    numbers = {"loss": 0.5, "kept": 3.0, "seconds.rollout": 1.5, "execution.micro_batch": 2.0}
    assert client.seen == [
        ("init", {"project": "mini", "name": "toy/whole-v1@1/seed0", "dir": str(tmp_path)}), ("config", {"seed": 0}),
        (1, numbers), (2, numbers), ("finish",),
    ]  # fmt: skip
    assert records.read_json(tmp_path / "trackers.json")["trackers"] == {"wandb": {"steps": 2, "failures": 0}}


def test_failures_are_one_line_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Client("wandb", fails=(2, 3)))
    monkeypatch.setitem(sys.modules, "trackio", Client("trackio", fails=("init",)))
    steps(["wandb", "trackio"], tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        "selbench: tracker trackio failed (ConnectionError: no answer at init); the run goes on, metrics.jsonl has every step",
        "selbench: tracker wandb failed (ConnectionError: no answer at 2); the run goes on, metrics.jsonl has every step",
    ]
    assert records.read_json(tmp_path / "trackers.json")["trackers"] == {
        "trackio": {"steps": 0, "failures": 1, "first_failure": "ConnectionError: no answer at init"},
        "wandb": {"steps": 2, "failures": 2, "first_failure": "ConnectionError: no answer at 2"},
    }


def test_without_a_tracker_nothing_is_written(tmp_path: Path) -> None:
    steps([], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_unknown_or_not_installed_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASKED, "")
    monkeypatch.setattr(trackers, "_installed", lambda name: name == "trackio")
    with pytest.raises(ConfigError) as refused:
        trackers.choose(["wandb", "wanbd", "trackio"])
    assert [problem.split(";")[0] for problem in refused.value.problems] == [
        "--tracker 'wanbd': did you mean wandb?", "--tracker wandb: not installed",
    ]  # fmt: skip
    trackers.choose(["trackio", "trackio"])
    assert trackers.asked() == ["trackio"]
    monkeypatch.setenv(ASKED, "mlflow")
    with pytest.raises(ConfigError, match="mlflow: not installed"):
        trackers.choose(None)


def test_settings_are_those_of_the_cell(tmp_path: Path, make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASKED, "")
    cell = make_cell("entropy", 0.2)
    found = trackers.trackers_of(cell, tmp_path)
    assert (found.project, found.run) == (cell.protocol.name, cell.folder)
    assert (found.settings["strategy"], found.settings["budget"]) == ("entropy", 0.2)
    assert found.settings["training.steps"] == cell.protocol.training.steps
    assert all(value is None or isinstance(value, str | int | float) for value in found.settings.values())


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert trackers.asked() == ["tensorboard"]
    steps(["tensorboard"], tmp_path, 3)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert events.Scalars("seconds.rollout")[0].value == 1.5
