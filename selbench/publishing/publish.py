"""`selbench publish`: the records of a protocol's folder, judged again and tabulated, as `results/<protocol>`. Whole or not at all."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selbench import leaderboard
from selbench.errors import ConfigError
from selbench.outcomes import read_plan
from selbench.publishing.audit import Audit, audit, summary
from selbench.publishing.judged import Judged, contradictions, episodes_again, grading_seconds, judge_again, rewrite
from selbench.publishing.layout import MANIFEST, folder_beside, manifest_text, published_files
from selbench.publishing.shown import Shown
from selbench.publishing.verify import verify_folder
from selbench.records import read_json, write_json, write_text
from selbench.report import figures

__all__ = ["Published", "publish"]


@dataclass(frozen=True)
class Published:
    """folder: where it is now; moved: verdicts that an older grader had given otherwise."""

    folder: Path
    audit: Audit
    moved: int
    files: int


def publish(runs: Path, results: Path, *, allow_dirty: bool = False, quiet: bool = False) -> Published:
    """Publish the protocol in `runs` as a folder of its name in `results`.

    What stands there under that name is replaced only when the new folder is complete and verified; `runs` is left as it is.
    Raises ConfigError with every problem: runs that are missing, of other protocols, inconsistent or (unless allowed) dirty.
    """
    if not (runs / "plan.json").is_file():
        raise ConfigError(f"{runs}: no plan.json there; give the folder of a protocol, as in runs/tiny")
    plan = read_plan(runs)
    target = results / str(plan["protocol"])
    if target.exists() and not (target / "plan.json").is_file():
        raise ConfigError(f"{target}: is there and holds no published protocol; move it away or choose another --output")
    with Shown(quiet) as shown:
        shown.say("records")
        found = audit(runs, plan)
        problems = [*found.problems, *_unread(runs, found), *([] if allow_dirty else _dirty(runs, found))]
        moved = [] if problems else judge_again(runs, plan, grading_seconds(runs, plan), shown.counter("answers"))
        acted = [] if problems else episodes_again(runs, plan)[0]
        if problems := [*problems, *contradictions(moved), *acted]:
            raise ConfigError(*(f"{runs}: {problem}" for problem in problems))
        with folder_beside(target) as draft:
            changed = _fill(draft, runs, _as_published(plan, found), moved, shown)
            if failing := verify_folder(draft, grade=False).problems:
                raise ConfigError(*(f"{target}, not written: {problem}" for problem in failing))
            files = len(read_json(draft / MANIFEST)["files"])
    return Published(target, found, changed, files)


def _unread(runs: Path, found: Audit) -> list[str]:
    """What the leaderboard cannot read, beside what is found already: one sentence a file is enough."""
    return [] if found.problems else leaderboard.collect(runs).problems


def _dirty(runs: Path, found: Audit) -> list[str]:
    if not found.dirty:
        return []
    code = read_json(runs / found.dirty[0] / "passport.json")["code"]
    what = f"code with uncommitted changes on {code['commit'][:12]}" if code["commit"] else "code outside a git checkout"
    return [f"{summary(found.dirty)}: {what}; commit and run again, or --allow-dirty marks the table"]


def _as_published(plan: Mapping[str, Any], found: Audit) -> dict[str, Any]:
    """The plan without this machine's folder, and with the runs whose code no commit holds."""
    kept = {name: value for name, value in plan.items() if name != "dirty"}
    return kept | {"command": _without_output(plan["command"])} | ({"dirty": found.dirty} if found.dirty else {})


def _without_output(command: str) -> str:
    """The command without `--output FOLDER`: the folder is of the machine it ran on, and decides nothing."""
    kept: list[str] = []
    words = iter(shlex.split(command))
    for word in words:
        if word in ("--output", "-o"):
            next(words, None)
        elif not word.startswith("--output="):
            kept.append(word)
    return shlex.join(kept)


def _fill(draft: Path, runs: Path, plan: dict[str, Any], moved: list[Judged], shown: Shown) -> int:
    """Copy, put the new verdicts in, make tables and pictures, and last the manifest. Returns how many verdicts changed."""
    for name in published_files(runs, plan):
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(runs / name, draft / name)
    write_json(draft / "plan.json", plan)
    changed = rewrite(draft, moved)
    shown.say("tables and pictures")
    board = leaderboard.collect(draft)
    leaderboard.write(board, draft)
    figures.draw_all(draft)
    shown.say("hashes")
    write_text(draft / MANIFEST, manifest_text(draft, audit(draft, plan).facts(plan)))
    return changed
