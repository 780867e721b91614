"""Where DeepPlanning's files are: below `$SELBENCH_DATA/deepplanning`, else the hub (databases) and the source repository (queries).

Queries are pinned by content; a database is a folder a case, read and never written. What the scorer alone may read
(`validation_cases.json`, `meta_info`) is never opened here.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from selbench import ConfigError
from selbench.task import MIRROR, hub_revision

__all__ = [
    "COMMIT", "DISPUTED", "HUB", "PARTS", "VERSION", "Part", "database", "digest", "part", "present", "queries", "query", "read_json",
    "schema", "write_text",
]  # fmt: skip

HUB = "Qwen/DeepPlanning"
SOURCE = "QwenLM/Qwen-Agent"
COMMIT = "31a4d36d123688581a9e9744427272b33ce940e0"  # of SOURCE: the queries and tool schemas are there only
VERSION = "1.1"  # of the data, as its authors count; to be stated beside every number
FOLDER = "deepplanning"


@dataclass(frozen=True)
class Part:
    """One list of tasks: a level of shopping or a language of travel. Paths are relative to the folder `deepplanning`."""

    domain: str
    name: str
    first: int
    tasks: int
    queries: str
    schema: str
    folder: str
    case: str
    archive: str
    sha256: str

    @property
    def label(self) -> str:
        return f"deepplanning {self.domain}, {'level' if self.domain == 'shopping' else 'language'} {self.name}"

    @property
    def ids(self) -> list[str]:
        """All ids of the query file: the denominator of every score."""
        return [str(n) for n in range(self.first, self.first + self.tasks)]


def _level(level: int, tasks: int, sha256: str) -> Part:
    place = "shoppingplanning"
    return Part(
        "shopping", str(level), 1, tasks, f"{place}/data/level_{level}_query_meta.json", f"{place}/tools/shopping_tool_schema.json",
        f"{place}/database_level{level}", "case_{}", f"database_level{level}.tar.gz", sha256,
    )  # fmt: skip


def _language(language: str, sha256: str) -> Part:
    place = "travelplanning"
    return Part(
        "travel", language, 0, 120, f"{place}/data/travelplanning_query_{language}.json", f"{place}/tools/tool_schema_{language}.json",
        f"{place}/database/database_{language}", "id_{}", f"database_{language}.zip", sha256,
    )  # fmt: skip


PARTS = [
    _level(1, 50, "5f745707274934afcca4272e4d6bbdc74b7a424dc1c11808e3e7e2c4d3b1330d"),
    _level(2, 50, "5689485f1e7b9046dc2df238bcf92141b0b2a6122c6c1d8df78e24ac6c5dcd05"),
    _level(3, 20, "53768aab0e8ddeada691d184fd5b0bf6a1001d3b71234187282fc9e3038abd8c"),
    _language("en", "ca2b9d95aaa683140ce5446028ed0d221cd9a59f535d15ba3b11f4c95bc9c830"),
    _language("zh", "d64a338f90d197d61d2934cd9bdc3c57e9f138cb925c2fa9d3c8cad90f88b275"),
]

DISPUTED = {  # tasks that stay in every set though a full score is out of reach or another answer is as good; to be listed beside scores
    ("shopping", "3"): {
        "10": "a larger discount than the expected one is possible", "12": "an expected coupon is not the user's: no perfect score",
        "13": "a larger discount than the expected one is possible",
    },
    ("travel", "en"): {
        "10": "the restaurant asked for is not in the table under that name: no perfect score",
        "79": "its budget stands beside the hard constraints and is not evaluated",
    },
    ("travel", "zh"): {"10": "the restaurant asked for is not in the table under that name: no perfect score"},
}  # fmt: skip


def part(domain: str, name: str | int) -> Part:
    """The part by domain and level or language. Raises ConfigError when there is none."""
    for found in PARTS:
        if (found.domain, found.name) == (domain, str(name)):
            return found
    known = ", ".join(f"{found.domain} {found.name}" for found in PARTS)
    raise ConfigError(f"deepplanning: unknown part {domain!r} {str(name)!r}; known: {known}")


def queries(domain: str, name: str | int) -> list[dict[str, Any]]:
    """The rows of a query file, in its order, checked against the pinned release.

    Shopping: id, query. Travel: also meta_info and query_with_constraints, which may never reach the model.
    Raises ConfigError when the file cannot be had or is another release.
    """
    wanted = part(domain, name)
    path = _file(wanted, wanted.queries)
    rows = read_json(path, f"copy benchmark/{FOLDER}/{wanted.queries} of {SOURCE} at {COMMIT[:7]} there")
    found = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    if found != wanted.sha256:
        raise ConfigError(
            f"{path}: not the {wanted.tasks} queries of data version {VERSION} (content hash {found[:12]}, expected {wanted.sha256[:12]}); "
            f"fetch benchmark/{FOLDER}/{wanted.queries} of {SOURCE} at {COMMIT[:7]} again"
        )
    return rows  # type: ignore[no-any-return]


def query(domain: str, name: str | int, case: str | int) -> dict[str, Any]:
    """The row of one task. Raises ConfigError when the id is unknown."""
    wanted = _known(part(domain, name), case)
    return next(row for row in queries(domain, name) if row["id"] == wanted)


def schema(domain: str, name: str | int) -> list[dict[str, Any]]:
    """The published tool descriptions, as a chat completion takes them. Raises ConfigError when they cannot be had."""
    wanted = part(domain, name)
    remedy = f"copy benchmark/{FOLDER}/{wanted.schema} of {SOURCE} at {COMMIT[:7]} there"
    return read_json(_file(wanted, wanted.schema), remedy)  # type: ignore[no-any-return]


def present(domain: str, name: str | int) -> list[str]:
    """Ids whose database is there: all of them from the hub, perhaps a few in a mirror. Raises ConfigError when there is no folder."""
    wanted = part(domain, name)
    place = _databases(wanted)
    return [case for case in wanted.ids if (place / wanted.case.format(case)).is_dir()]


def database(domain: str, name: str | int, case: str | int) -> Path:
    """The folder of one case's database, for reading only. Raises ConfigError for an unknown case and for a missing folder."""
    wanted = part(domain, name)
    number = _known(wanted, case)
    folder = _databases(wanted) / wanted.case.format(number)
    if not folder.is_dir():
        there = present(domain, name)
        raise ConfigError(
            f"{wanted.label}: no database for case {number} ({folder} is missing; {len(there)} of {wanted.tasks} are there"
            f"{': ' + ', '.join(there) if 0 < len(there) <= 20 else ''}); unpack {wanted.archive} of {HUB} into {folder.parent}"
        )
    return folder


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files below a folder: equal if and only if nothing there has changed."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        whole.update(f"{path.relative_to(folder).as_posix()}\x00{len(content)}\x00".encode() + content)
    return whole.hexdigest()


def read_json(path: Path, remedy: str = "fetch it again") -> Any:
    """A JSON file's content. Raises ConfigError, one line that ends with the remedy, when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; {remedy}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as JSON ({error}); {remedy}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file beside and rename it: whole or not at all. Its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _known(wanted: Part, case: str | int) -> str:
    if str(case) not in wanted.ids:
        raise ConfigError(f"{wanted.label}: unknown case {str(case)!r}; cases are {wanted.ids[0]} to {wanted.ids[-1]}")
    return str(case)


def _mirror() -> Path | None:
    """The mirror's folder `deepplanning`, or None where the hub is used. Raises ConfigError when the mirror lacks it."""
    named = os.environ.get(MIRROR)
    if not named:
        return None
    folder = Path(named).expanduser() / FOLDER
    if not folder.is_dir():
        raise ConfigError(f"{MIRROR}={named}: no folder {FOLDER} there; point it at a folder with that layout or unset it to use {HUB}")
    return folder


def _databases(wanted: Part) -> Path:
    """The folder that holds a part's cases."""
    mirror = _mirror()
    if mirror is None:
        unpacked = _fetched(f"hf://datasets/{HUB}@{hub_revision(HUB) or 'main'}/{wanted.archive}", wanted.folder)
        inner = unpacked / Path(wanted.folder).name  # the archives hold one folder of that name
        return inner if inner.is_dir() else unpacked
    folder = mirror / wanted.folder
    if not folder.is_dir():
        raise ConfigError(f"{wanted.label}: missing database folder {folder}; unpack {wanted.archive} of {HUB} into {folder.parent}")
    return folder


def _file(wanted: Part, relative: str) -> Path:
    mirror = _mirror()
    if mirror is not None:
        return mirror / relative
    return _fetched(f"https://raw.githubusercontent.com/{SOURCE}/{COMMIT}/benchmark/{FOLDER}/{relative}", relative)


@cache
def _fetched(address: str, relative: str) -> Path:
    """A file or an unpacked archive in the cache of `datasets`. Raises ConfigError when it cannot be fetched."""
    from datasets import DownloadManager

    try:
        return Path(DownloadManager().download_and_extract(address))
    except Exception as error:  # datasets, hub and network raise dozens of types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{address}: not reachable ({reason}); set {MIRROR} to a folder holding {FOLDER}/{relative}") from error
