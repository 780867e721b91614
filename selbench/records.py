"""What a run leaves behind: the schema of its files, written beside and renamed, read back with the file named on failure.

Run folder: `<runs>/<protocol>/<pair>/<strategy>-v<version>@<budget>/seed<k>/`; the untrained models are evaluated once,
in `base-student/` and `base-teacher/` beside the strategies. Everything a table shows is recomputed from these files.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selbench.errors import RecordError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1  # rises when a field changes its meaning; readers refuse newer records
SAMPLE_COLUMNS = (
    "task", "problem", "sample", "prompt", "response", "extracted", "gold", "verdict", "method", "finish", "tokens", "grader",
)  # fmt: skip
VERDICTS = ("correct", "incorrect", "truncated", "unparsed_answer", "unparsed_gold", "timeout", "error")
PHASES = ("rollout", "teacher", "score", "select", "distil", "optimiser", "sync", "observe", "checkpoint")
UPDATE = ("teacher", "score", "select", "distil")  # the phases that a choice of tokens makes cheaper or dearer
EPISODES = "episodes.jsonl"  # beside the samples of a task that is acted on
BASE = ("base-student", "base-teacher")


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; renamed onto it when the block ends well, so a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with beside(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str] | None = None) -> None:
    """Rows as Parquet; the same rows always give the same bytes."""
    import pandas as pd

    with beside(path) as draft:
        pd.DataFrame(list(rows), columns=list(columns) if columns else None).to_parquet(draft, index=False, compression="zstd")


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """One JSON line at the end of `path`, flushed: what is watched while a cell trains."""
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(content) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Raises RecordError (file named) when `path` is missing, torn or of a newer schema."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not readable as JSON ({error}); delete its folder and run again") from error
    if content.get("schema", SCHEMA) > SCHEMA:
        raise RecordError(f"{path}: written by a newer selbench (schema {content['schema']}, this one reads {SCHEMA}); update selbench")
    return dict(content)


def read_table(path: Path) -> pd.DataFrame:
    """Raises RecordError (file named) when `path` is missing or not a whole Parquet file."""
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow raises its own types, OSError and ValueError alike
        raise RecordError(f"{path}: not readable as Parquet ({error}); delete its folder and run again") from error


def worth(rows: pd.DataFrame) -> pd.Series:
    """What each answer counts, in [0, 1]: its score where the task gives one, else 1 where it is correct."""
    return rows["score"].astype(float) if "score" in rows else (rows["verdict"] == "correct").astype(float)


def read_metrics(path: Path, *, upto: int | None = None) -> list[dict[str, Any]]:
    """The step records of a run in order, at most to step `upto`; a torn last line (a killed run) is left out."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise RecordError(f"{path}: line {number} is not JSON; delete its folder and run again") from error
        if upto is None or row["step"] <= upto:
            rows.append(row)
    return rows


def is_done(folder: Path, **expected: str) -> bool:
    """Whether the run in `folder` finished with these facts: `fingerprint` (of the protocol), `job` (of all that decides it)."""
    marker = folder / "DONE"
    return marker.exists() and expected.items() <= read_json(marker).items()
