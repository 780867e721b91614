"""Jobs in processes of their own and in shared ones: same records, and a process that dies costs the job at hand alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from tests.test_cli import ROOT
from tests.test_sweep import settled

pytestmark = [pytest.mark.slow, pytest.mark.deep]

SMALL = ["training.steps=2", "training.prompts_per_step=4", "training.micro_batch=4", "evaluation.problems=2", "evaluation.samples=2"]
DRIVER = """
import json, sys
from pathlib import Path
from selbench import executors, leaderboard, plan, registry, sweep
from selbench.config import load_protocol

root, how, names, seeds, *overrides = sys.argv[1:]
registry.load_plugin("plugin.py")
protocol = load_protocol("tiny", overrides, strategies=names.split(","), seeds=[int(seed) for seed in seeds.split(",")], budget=0.5)
cells, jobs = plan.jobs_of(protocol)
if how.endswith("cells"):
    jobs = cells
sweep.write_plan(protocol, cells, Path(root), "test")
running = []
failed = executors.run_jobs(jobs, Path(root), "cpu", 1, running.append, shared=how.startswith("shared"))
leaderboard.write(leaderboard.collect(Path(root)), Path(root))
print(json.dumps({"failed": [job.folder for job in failed], "running": [sorted(folders) for folders in running]}))
"""
PLUGIN = """
import os, signal, time
from pathlib import Path
from selbench import register_strategy
from selbench.errors import UserError

def tell(name):
    with Path(__file__).with_name("pids").open("a") as out:
        out.write(f"{name} {os.getpid()}\\n")

def first(s):
    tell("first")
    print("said by first")
    return s.uniform()

def second(s):
    tell("second")
    os.system("echo said below Python by second")
    return s.uniform()

def refuses(s):
    tell("refuses")
    raise UserError("the user can mend this")

def raises(s):
    tell("raises")
    raise RuntimeError("nobody knows what this left behind")

def exits(s):
    tell("exits")
    os._exit(9)

def killed(s):
    tell("killed")
    os.kill(os.getpid(), signal.SIGKILL)

def waits(s):
    tell("waits")
    time.sleep(600)

for rule in (first, second, refuses, raises, exits, killed, waits):
    rule.__doc__ = "score = none."
    register_strategy(rule.__name__, version=1, source="none")(rule)
"""


def start(folder: Path, how: str, names: str, seeds: str = "0") -> subprocess.Popen[str]:
    """A sweep of the embedded pair in one worker at a time, as a process of its own in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "plugin.py").write_text(PLUGIN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DRIVER, "runs", how, names, seeds, *SMALL]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def sweep(folder: Path, how: str, names: str, seeds: str = "0") -> dict[str, Any]:
    """What the sweep said: folders of the jobs that failed, and of those that ran at each tick."""
    with start(folder, how, names, seeds) as process:
        try:
            out, error = process.communicate(timeout=900)
        finally:
            process.kill()
    assert process.returncode == 0, error
    said: dict[str, Any] = json.loads(out)
    return said


def pids(folder: Path) -> list[tuple[str, int]]:
    """Strategy and process of each choice of tokens, without repeats in a row."""
    found = [(name, int(pid)) for name, pid in (line.split() for line in (folder / "pids").read_text().splitlines())]
    return [entry for entry, before in zip(found, [None, *found], strict=False) if entry != before]


def test_shared_processes_leave_the_same_records(tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert sweep(alone, "alone", "first,second,full")["failed"] == []
    assert sweep(shared, "shared", "first,second,full")["failed"] == []
    assert len({pid for _, pid in pids(alone)}) == 2
    assert len({pid for _, pid in pids(shared)}) == 1
    assert [name for name, _ in pids(alone)] == [name for name, _ in pids(shared)] == ["first", "second"]
    one, other = settled(alone / "runs"), settled(shared / "runs")
    assert len(one) > 12  # answers, records and selections of two models and three cells
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
    tables = [pd.read_csv(folder / "runs" / "leaderboard.csv") for folder in (alone, shared)]
    same = [c for c in tables[0].columns if not c.endswith("_mb") and not any(word in c for word in ("seconds", "memory", "mfu"))]
    pd.testing.assert_frame_equal(tables[0][same], tables[1][same])
    assert tables[0]["accuracy_percent"].notna().all()
    for folder in (alone, shared):
        logs = {name: (folder / f"runs/tiny/{name}-v1@0.5/seed0/log.txt").read_text() for name in ("first", "second")}
        assert logs["first"].count("said by first") == logs["second"].count("said below Python by second") == 2
        assert "by second" not in logs["first"]
        assert "by first" not in logs["second"]


def test_a_process_that_dies_costs_its_job_alone(tmp_path: Path) -> None:
    order = ["refuses", "first", "raises", "second", "exits", "killed"]
    said = sweep(tmp_path, "shared cells", ",".join(order), "0,1")
    folders = {name: [f"tiny/{name}-v1@0.5/seed{seed}" for seed in (0, 1)] for name in order}
    bad = [name for name in order if name not in ("first", "second")]
    assert sorted(said["failed"]) == sorted(folder for name in bad for folder in folders[name])
    ran = dict.fromkeys(folder for tick in said["running"] for folder in tick)
    assert list(ran) == [folders[name][seed] for seed in (0, 1) for name in order], "each was shown while it ran"
    assert said["running"][-1] == []
    found = pids(tmp_path)
    assert [name for name, _ in found] == order * 2
    workers = [pid for _, pid in found]
    changes = [name for (name, pid), after in zip(found, workers[1:], strict=False) if pid != after]
    assert changes == ["raises", "exits", "killed", "raises", "exits"], "a new process after each of these, and after no other"
    assert len(set(workers)) == 6
    errors = {name: {read(tmp_path / "runs" / folder) for folder in folders[name]} for name in bad}
    assert errors == {
        "refuses": {"UserError: the user can mend this"}, "raises": {"RuntimeError: nobody knows what this left behind"},
        "exits": {"the process ended with exit code 9"}, "killed": {"the process ended with exit code -9"},
    }  # fmt: skip
    log = (tmp_path / "runs" / folders["refuses"][1] / "log.txt").read_text()
    assert log.splitlines()[-1] == "the user can mend this"
    assert "Traceback" not in log
    assert "Traceback" in (tmp_path / "runs" / folders["raises"][1] / "log.txt").read_text()
    assert all((tmp_path / "runs" / folder / "DONE").exists() for name in ("first", "second") for folder in folders[name])


def read(folder: Path) -> str:
    return str(json.loads((folder / "FAILED.json").read_text())["error"])


def test_a_killed_sweep_leaves_no_process(tmp_path: Path) -> None:
    process = start(tmp_path, "shared cells", "waits")
    deadline = time.monotonic() + 200
    while not (tmp_path / "pids").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    ((_, worker),) = pids(tmp_path)
    assert alive(worker)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 20
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(worker)


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not fetched yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
