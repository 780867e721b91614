"""What a running sweep shows: a live table on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from selbench.records import read_json
from selbench.sweep import Base, Job

__all__ = ["SweepProgress"]


class SweepProgress:
    """Follows the jobs of a sweep by the files they write. Use as a context; call `tick` with the running folders."""

    def __init__(self, jobs: Sequence[Job], root: Path, workers: int, *, quiet: bool) -> None:
        from rich.console import Console

        self.jobs, self.root, self.workers, self.quiet = {job.folder: job for job in jobs}, root, workers, quiet
        self.console = Console(stderr=True)
        self.began = time.monotonic()
        self.started: dict[str, float] = {}
        self.ended: dict[str, str] = {}
        self.live: Any = None

    def __enter__(self) -> SweepProgress:
        if not self.quiet and self.console.is_terminal:
            from rich.live import Live

            self.live = Live(console=self.console, refresh_per_second=4, transient=True)
            self.live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live is not None:
            self.live.__exit__(kind, error, trace)

    def tick(self, running: set[str]) -> None:
        """Take note of what started and ended, and draw."""
        now = time.monotonic()
        for folder in self.started.keys() - running - self.ended.keys():
            self._end(folder, now)
        for folder in running - self.started.keys():
            self.started[folder] = now
        if self.live is not None:
            self.live.update(self._table(sorted(running), now))

    def _end(self, folder: str, now: float) -> None:
        place = self.root / folder
        seconds = now - self.started[folder]
        if (place / "DONE").exists():
            scores = ", ".join(f"{meta.parent.name} {_accuracy(meta)}" for meta in sorted(place.glob("eval/*/meta.json")))
            self.ended[folder] = f"{folder}: {scores} in {seconds:.0f} s"
        else:
            reason = read_json(place / "FAILED.json")["error"] if (place / "FAILED.json").exists() else "no record"
            self.ended[folder] = f"{folder}: FAILED, {reason} (see {place / 'log.txt'})"
        if not self.quiet:
            line = f"[{len(self.ended)}/{len(self.jobs)}] {self.ended[folder]}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
            sys.stderr.flush()

    def _table(self, running: list[str], now: float) -> Any:
        from rich.table import Table

        left = self._seconds_left(now)
        title = (
            f"{len(self.ended)} of {len(self.jobs)} done, {now - self.began:.0f} s, about {left:.0f} s left"
            if left
            else f"{len(self.jobs)} jobs"
        )
        table = Table(title=title, title_justify="left", expand=False)
        for name, justify in (
            ("cell", "left"),
            ("step", "right"),
            ("loss", "right"),
            ("KL", "right"),
            ("kept", "right"),
            ("tokens/s", "right"),
            ("left", "right"),
        ):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        for folder in running:
            table.add_row(folder, *self._row(folder))
        return table

    def _row(self, folder: str) -> list[str]:
        job, last = self.jobs[folder], _last_line(self.root / folder / "metrics.jsonl")
        if isinstance(job, Base) or (self.root / folder / "trained.json").exists():
            parts = sorted((self.root / folder).glob("eval/*/partial.jsonl"))
            at = (_last_line(parts[-1]) or {}) if parts else {}
            return ["evaluating", f"{at['done']}/{at['requests']}" if "done" in at else "", "", "", "", ""]
        if last is None:
            return ["loading", "", "", "", "", ""]
        steps, seconds = job.protocol.training.steps, sum(last["seconds"].values())
        known = last.get(
            "reverse_kl", last["divergence_kept"] if job.protocol.loss.kind == "reverse_kl" and last["kept_share"] == 1 else None
        )
        divergence = "–" if known is None else f"{known:.4f}"  # over all tokens, where it was computed
        speed = f"{last['tokens'] / seconds:.0f}" if seconds else "–"
        return [
            f"{last['step']}/{steps}",
            f"{last['loss']:.4f}",
            divergence,
            f"{last['kept_share']:.0%}",
            speed,
            f"{(steps - last['step']) * seconds:.0f} s",
        ]

    def _seconds_left(self, now: float) -> float | None:
        if not self.ended:
            return None
        each = (now - self.began) / len(self.ended)
        return each * (len(self.jobs) - len(self.ended))


def _accuracy(meta: Path) -> str:
    content = read_json(meta)
    return f"{content['accuracy']:.1%}"


def _last_line(path: Path) -> dict[str, Any] | None:
    """The last whole record of a growing file."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - 4096))
            lines = handle.read().decode(errors="replace").splitlines()
        row: dict[str, Any] = json.loads(lines[-1])
    except (OSError, ValueError, IndexError):
        return None
    return row
