"""A run of seconds with real records, and what tests edit in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selbench.config import load_protocol
from selbench.executors import run_inline
from selbench.plan import jobs_of
from selbench.records import read_json, read_table, write_json
from selbench.sweep import write_plan

SMALL = ["training.steps=2", "training.prompts_per_step=4", "evaluation.problems=6", "evaluation.samples=2"]
CLEAN = {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False, "sources": "0" * 64}


def small_run(place: Path, strategies: Sequence[str], seeds: Sequence[int], *, only: str | None = None) -> Path:
    """The protocol's folder below `place`, by a clean commit whatever the checkout is. only: the folder of the one job to run."""
    protocol = load_protocol("tiny", SMALL, strategies=strategies, seeds=seeds)
    root = place / protocol.name
    cells, jobs = jobs_of(protocol)
    root.mkdir(parents=True)
    write_plan(protocol, cells, root, "selbench run tiny --output /somewhere/else -q")
    assert run_inline([job for job in jobs if job.folder == (only or job.folder)], root, "cpu", lambda running: None) == []
    for path in root.rglob("passport.json"):
        edit(path, code=CLEAN)
    return root


def edit(path: Path, **fields: Any) -> None:
    write_json(path, read_json(path) | fields)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in read_table(path).to_dict("records")]
