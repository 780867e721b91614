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
        self.fails, self.id = fails, "run-7"
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


def steps(names: list[str], folder: Path, count: int = 4, start: int = 1) -> Trackers:
    found = Trackers(names, folder, project="mini", run="toy/whole-v1@1/seed0", settings={"seed": 0})
    for step in range(start, count + 1):
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
    assert records.read_json(tmp_path / "trackers.json")["trackers"] == {"wandb": {"steps": 2, "failures": 0, "last": 2, "run": "run-7"}}


def test_failures_are_one_line_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Client("wandb", fails=(2, 3)))
    monkeypatch.setitem(sys.modules, "trackio", Client("trackio", fails=("init",)))
    steps(["wandb", "trackio"], tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        "selbench: tracker trackio failed (ConnectionError: no answer at init); the run goes on, metrics.jsonl has every step",
        "selbench: tracker wandb failed (ConnectionError: no answer at 2); the run goes on, metrics.jsonl has every step",
    ]
    assert records.read_json(tmp_path / "trackers.json")["trackers"] == {
        "trackio": {"steps": 0, "failures": 1, "last": 0, "first_failure": "ConnectionError: no answer at init"},
        "wandb": {"steps": 2, "failures": 2, "last": 4, "run": "run-7", "first_failure": "ConnectionError: no answer at 2"},
    }


def test_a_cell_that_goes_on_goes_on_in_its_run_and_tells_no_step_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("wandb")
    monkeypatch.setitem(sys.modules, "wandb", client)
    steps(["wandb"], tmp_path, 3)
    client.seen.clear()
    steps(["wandb"], tmp_path, 5, start=2)  # from the checkpoint behind step 1
    where = {"project": "mini", "name": "toy/whole-v1@1/seed0", "dir": str(tmp_path), "id": "run-7", "resume": "allow"}
    assert [seen[0] if seen[0] != "init" else seen[1] for seen in client.seen] == [where, 4, 5, "finish"]
    assert records.read_json(tmp_path / "trackers.json")["trackers"]["wandb"]["steps"] == 5


def test_real_clients_keep_one_run_of_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of them is installed, without a network."""
    places = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}", "TRACKIO_DIR": str(tmp_path / "trackio")}
    for name, value in (places | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}).items():
        monkeypatch.setenv(name, value)
    names = [name for name in ("mlflow", "trackio", "wandb") if trackers._installed(name)]
    if not names:
        pytest.skip("none of mlflow, trackio and wandb is installed")
    monkeypatch.chdir(tmp_path)
    steps(names, tmp_path, 3)
    first = records.read_json(tmp_path / "trackers.json")["trackers"]
    steps(names, tmp_path, 5, start=2)
    found = records.read_json(tmp_path / "trackers.json")["trackers"]
    for name in names:
        assert (found[name]["steps"], found[name]["failures"], found[name]["last"]) == (5, 0, 5), found[name]
        assert found[name].get("run") == first[name].get("run")
    if "mlflow" in names:
        import mlflow

        (run,) = mlflow.search_runs(experiment_names=["mini"], output_format="list")
        told = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
        assert [each.step for each in told] == [1, 2, 3, 4, 5]


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
