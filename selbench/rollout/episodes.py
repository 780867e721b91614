"""Episodes on the disk: one JSON line each as it ends, so that a killed process loses those under way and nothing else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from selbench.errors import RecordError
from selbench.records import EPISODES, write_text
from selbench.rollout.agent import Episode

__all__ = ["EpisodeFile", "read_episodes"]

SCHEMA = 1


class EpisodeFile:
    """A file of episodes. The first line says whose they are; a last line torn by a kill is dropped."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, {"schema": SCHEMA, **about}

    def open(self) -> dict[int, Episode]:
        """The episodes that are there, by number; the file is ready for the next. One of other content starts anew."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        head = _parsed(lines[0]) if lines else None
        if head != json.loads(json.dumps(self.about)):
            if lines:
                differs = ", ".join(key for key in self.about if not head or head.get(key) != self.about[key])
                print(f"{self.path}: episodes of another evaluation ({differs}); they are played anew", file=sys.stderr)
            write_text(self.path, json.dumps(self.about) + "\n")
            return {}
        found: dict[int, Episode] = {}
        size = len(lines[0])
        for line in lines[1:]:
            row = _parsed(line)
            if row is None:
                break
            size += len(line)
            found[row["number"]] = _episode(row)
        os.truncate(self.path, size)
        if found:
            print(f"{self.path}: {len(found)} episodes are there; going on", file=sys.stderr)
        return found

    def append(self, episode: Episode, **beside: Any) -> None:
        """One episode, on the disk when this returns. beside: fields that go before its own."""
        spans = _spans(episode.mask)
        row = {**beside, **{key: value for key, value in vars(episode).items() if key not in ("mask", "tokens", "logprobs")}}
        row |= {"spans": spans, "tokens": episode.tokens}
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row, separators=(",", ":")) + "\n")
            out.flush()
            os.fsync(out.fileno())


def read_episodes(path: Path) -> Iterator[tuple[dict[str, Any], Episode]]:
    """Every stored row with its episode. Raises RecordError, file and line named, for what is no such file."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise RecordError(f"{path}: not readable ({error.strerror}); give the {EPISODES} of an evaluation") from error
    head = _parsed(lines[0]) if lines else None
    if not head or head.get("schema") != SCHEMA:
        raise RecordError(f"{path}: does not begin with the head of an {EPISODES} of schema {SCHEMA}; evaluate again")
    for number, line in enumerate(lines[1:], 2):
        row = _parsed(line)
        try:
            yield row, _episode(row)  # type: ignore[arg-type, misc]
        except (KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{path}: line {number} is no episode; delete it and evaluate again") from error


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line of the file; None when it is torn."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _episode(row: Mapping[str, Any]) -> Episode:
    mask = [0] * len(row["tokens"])
    for begin, end in row["spans"]:
        mask[begin:end] = [1] * (end - begin)
    own = {key: row[key] for key in Episode.__dataclass_fields__ if key not in ("mask", "tokens", "logprobs")}
    return Episode(**own, tokens=row["tokens"], mask=mask)


def _spans(mask: list[int]) -> list[list[int]]:
    """[begin, end) of every run of ones: what the model wrote."""
    runs, at = [], 0
    for value, run in groupby(mask):
        begin, at = at, at + len(list(run))
        if value:
            runs.append([begin, at])
    return runs
