"""A published folder: which files of a run are in it, and `manifest.json`, which names each with its SHA-256.

The manifest's own `digest` is that of the rest of it, and its text is the one way to write its content: no byte of a published
folder can change unseen. What the fields mean stands in results/README.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selbench.errors import RecordError
from selbench.leaderboard import FORMATS
from selbench.records import BASE, EPISODES, SCHEMA, read_json

__all__ = [
    "MANIFEST", "TABLES", "Expected", "expected", "folder_beside", "hash_file", "manifest_text", "published_files", "read_manifest",
    "render_manifest", "sorted_files",
]  # fmt: skip

MANIFEST = "manifest.json"
ROOT_FILES = ("plan.json", "prompts.json")
RUN_FILES = (  # never the checkpoints, nor trained.json, which says that they are there, nor logs and locks
    "config.yaml", "passport.json", "metrics.jsonl", "selection.parquet", "tokens.parquet", "ledger.json", "execution.json", "memory.json",
    "engine.json", "DONE",
)  # fmt: skip
TASK_FILES = ("samples.parquet", "meta.json", EPISODES)
TABLES = tuple(f"leaderboard.{suffix}" for suffix in FORMATS.values())


@dataclass(frozen=True)
class Expected:
    """A run that the plan asks for. folder: below the protocol's; cell: its entry in the plan, None for an untrained model."""

    folder: str
    pair: str
    cell: Mapping[str, Any] | None


def expected(plan: Mapping[str, Any]) -> list[Expected]:
    """Every run of the plan: its cells, then both untrained models of each pair."""
    cells = [Expected(cell["folder"], cell["pair"], cell) for cell in plan["cells"]]
    return cells + [Expected(f"{pair}/{role}", pair, None) for pair in sorted(plan["pairs"]) for role in BASE]


def published_files(folder: Path, plan: Mapping[str, Any]) -> list[str]:
    """What is copied from a protocol's folder, relative to it: the files of the planned runs that are there."""
    wanted = list(ROOT_FILES)
    for run in expected(plan):
        wanted += [f"{run.folder}/{name}" for name in RUN_FILES]
        wanted += [f"{run.folder}/eval/{task}/{name}" for task in plan["tasks"] for name in TASK_FILES]
    return [name for name in wanted if (folder / name).is_file()]


def sorted_files(folder: Path) -> list[str]:
    """Every file below `folder` but its manifest, relative, in one order on all systems. A link counts as a file: it has no content."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name for name in (path.relative_to(folder).as_posix() for path in found) if name != MANIFEST)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def manifest_text(folder: Path, facts: Mapping[str, Any]) -> str:
    """The manifest of what `folder` holds now. facts: what `selbench.publishing.audit.Audit.facts` says of its runs."""
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": hash_file(folder / name)} for name in sorted_files(folder)}
    return render_manifest({"schema": SCHEMA, **facts, "files": files})


def render_manifest(content: Mapping[str, Any]) -> str:
    """The content as text, with the digest of all but the digest."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return json.dumps({**rest, "digest": digest}, indent=1, sort_keys=True) + "\n"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises RecordError when it is missing, torn, of a newer schema or edited."""
    path = folder / MANIFEST
    content = read_json(path)
    if not isinstance(content.get("files"), dict) or path.read_text(encoding="utf-8") != render_manifest(content):
        raise RecordError(f"{path}: not as `selbench publish` wrote it (its digest is another); restore it or publish again")
    return content


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`; it takes its place when the block ends well, and only then does what stood there go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft, old = (path.with_name(f".{path.name}.{os.getpid()}{suffix}") for suffix in ("", ".old"))
    draft.mkdir()
    try:
        yield draft
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(draft, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
