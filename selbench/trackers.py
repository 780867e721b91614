"""Where the numbers of a step go beside metrics.jsonl: to TensorBoard where it is installed, and to the trackers that were asked for.

A tracker is a spectator. Asking for one changes neither a record nor a fingerprint, and one that fails costs the run a line of its log.
A cell that goes on after a kill goes on in the tracker's run too; steps that are trained again, to the same numbers, are not told twice.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.errors import ConfigError, nearest
from selbench.records import read_json, write_json

if TYPE_CHECKING:
    from selbench.config import Cell

__all__ = ["ASKED", "TRACKERS", "Trackers", "asked", "choose", "trackers_of"]

ASKED = "SELBENCH_TRACKERS"  # environment variable, so that worker processes use what the command line named
ALWAYS = "tensorboard"
TRACKERS = ("mlflow", "tensorboard", "trackio", "wandb")  # by the name of accelerate, of their module and of their package
IDENTITY: dict[str, Callable[[Any], str]] = {  # of an opened run, where its client goes on by that and not by its name
    "mlflow": lambda tracker: str(tracker.active_run.info.run_id),
    "wandb": lambda tracker: str(tracker.run.id),
}


def choose(names: Sequence[str] | None) -> None:
    """Use these trackers, here and in worker processes; None: those that the environment names.

    Raises ConfigError with each that is unknown or not installed.
    """
    names = _named() if names is None else names
    problems = [f"--tracker {name!r}: {nearest(name, TRACKERS)}" for name in names if name not in TRACKERS]
    known = [name for name in dict.fromkeys(names) if name in TRACKERS]
    problems += [f"--tracker {name}: not installed; `pip install {name}`, or leave it out" for name in known if not _installed(name)]
    if problems:
        raise ConfigError(*problems)
    os.environ[ASKED] = ",".join(known)


def asked() -> list[str]:
    """The trackers in use: TensorBoard where it is installed, then those that were asked for."""
    return list(dict.fromkeys([*([ALWAYS] if _installed(ALWAYS) else []), *_named()]))


def _named() -> list[str]:
    return [name.strip() for name in os.environ.get(ASKED, "").split(",") if name.strip()]


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def trackers_of(cell: Cell, folder: Path) -> Trackers:
    """The trackers of a cell: project is the protocol, run is the cell, settings are all of its content."""
    from selbench.card import flatten
    from selbench.config import DOCUMENTATION

    content = flatten(cell.protocol.model_dump(mode="json", exclude=set(DOCUMENTATION)))
    content |= flatten(cell.model_dump(mode="json", exclude={"protocol"}))  # its budget is the one that the protocol came to
    settings = {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in content.items()}
    return Trackers(asked(), folder, project=cell.protocol.name, run=cell.folder, settings=settings)


class Trackers:
    """The trackers of one cell. They are opened with the first step, after accelerate knows the device, and never raise.

    trackers.json says of each how many steps it took, the last of them, how many it failed on, and which run it opened; the first failure
    is a line on standard error. It is written after every step, for a cell that is killed and goes on.
    """

    def __init__(self, names: Sequence[str], folder: Path, *, project: str, run: str, settings: Mapping[str, Any]) -> None:
        self.names, self.folder, self.project, self.run = names, folder, project, run
        self.settings = settings
        place = folder / "trackers.json"
        before = read_json(place)["trackers"] if place.exists() else {}
        self.counts: dict[str, dict[str, Any]] = {name: {"steps": 0, "failures": 0, "last": 0, **before.get(name, {})} for name in names}
        self._open: dict[str, Any] | None = None

    def log(self, record: Mapping[str, Any]) -> None:
        """One step's record: its numbers under dotted names."""
        if self._open is None:
            self._open = {}
            for name in self.names:
                self._attempt(name, lambda name=name: self._start(name))  # type: ignore[misc]
        step = int(record["step"])
        values = _numbers({key: value for key, value in record.items() if key != "step"})
        for name, tracker in self._open.items():
            counts = self.counts[name]
            if step > counts["last"] and self._attempt(name, lambda tracker=tracker: tracker.log(values, step=step)):  # type: ignore[misc]
                counts |= {"steps": counts["steps"] + 1, "last": step}
        self._write()

    def close(self) -> None:
        """Finish what was opened."""
        for name, tracker in (self._open or {}).items():
            self._attempt(name, tracker.finish)
        self._write()

    def _write(self) -> None:
        if self.names:
            write_json(self.folder / "trackers.json", {"schema": 1, "trackers": self.counts})

    def _start(self, name: str) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        own: dict[str, dict[str, Any]] = {
            "mlflow": {"experiment_name": self.project, "run_name": self.run},
            "tensorboard": {"run_name": "tensorboard", "logging_dir": self.folder},
            "trackio": {"run_name": self.project, "name": self.run},
            "wandb": {"run_name": self.project, "name": self.run, "dir": str(self.folder)},
        }
        counts = self.counts[name]
        again: dict[str, dict[str, Any]] = {
            "mlflow": {"run_id": counts.get("run")},
            "trackio": {"resume": "allow"},  # by its name
            "wandb": {"id": counts.get("run"), "resume": "allow"},
        }
        seen = counts["last"] > 0
        tracker = LOGGER_TYPE_TO_CLASS[name](**own[name], **(again.get(name, {}) if seen else {}))
        tracker.start()
        if name in IDENTITY:
            counts["run"] = IDENTITY[name](tracker)
        if name != ALWAYS and not seen:  # TensorBoard's table of settings is a second run beside the first
            tracker.store_init_configuration(dict(self.settings))
        assert self._open is not None
        self._open[name] = tracker

    def _attempt(self, name: str, action: Callable[[], object]) -> bool:
        try:
            action()
        except Exception as error:  # whatever its client or the network raises
            if not self.counts[name]["failures"]:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self.counts[name]["first_failure"] = reason
                print(f"selbench: tracker {name} failed ({reason}); the run goes on, metrics.jsonl has every step", file=sys.stderr)
            self.counts[name]["failures"] += 1
            return False
        return True


def _numbers(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a record, nested ones under dotted names; what is not a number is for metrics.jsonl alone."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            found[f"{prefix}{key}"] = float(value)
    return found
