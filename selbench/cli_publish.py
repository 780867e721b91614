"""The verbs about results for others: publish, verify, replay."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selbench.cli_answers import Plugins, device_at_hand, plug
from selbench.errors import ConfigError

if TYPE_CHECKING:
    from selbench.publishing.replay import Replay
    from selbench.sweep import Job

__all__ = ["publish", "replay", "verify"]


def publish(
    runs: Annotated[Path, typer.Argument(help="A protocol's folder, as in runs/tiny.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where published folders stand; the protocol's name is added.")] = Path(
        "results"
    ),
    allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="Also runs of code that no commit holds; the table says so.")] = False,
    plugin: Plugins = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Check the runs, judge their answers again, and write records, tables and a manifest of hashes to results/PROTOCOL."""
    from selbench.publishing.publish import publish as write

    plug(plugin)
    done = write(runs, output, allow_dirty=allow_dirty, quiet=quiet)
    found = done.audit
    commits = ", ".join(f"{commit[:12]} ({count} runs)" for commit, count in sorted(found.commits.items()))
    answers = f"{found.answers.total():,} answers judged again, {done.moved} verdicts moved"
    print(f"{done.folder}: {found.runs} runs, {answers}, {done.files} files")
    print(f"code {commits}" + (f"; no commit holds that of {len(found.dirty)} runs: the table says so" if found.dirty else ""))
    print(f"next: `selbench verify {done.folder}`; `selbench replay {done.folder}/…/passport.json` runs a cell again")


def verify(
    folders: Annotated[list[Path] | None, typer.Argument(help="results/, or folders in it.")] = None,
    grade: Annotated[bool, typer.Option("--grade/--no-grade", help="Judge every stored answer again.")] = True,
    plugin: Plugins = None,
) -> None:
    """Published folders against their manifests, their records and the grader; tables made again, byte for byte. Exit code 1: not so."""
    from selbench.publishing.verify import NOT_VERIFIABLE
    from selbench.publishing.verify import verify as look

    plug(plugin)
    reports = look(folders or [Path("results")], grade=grade)
    for report in reports:
        count = f"{len(report.problems)} problem{'s' if len(report.problems) > 1 else ''}"
        print(f"{report.folder}: {count if report.problems else 'verified' if report.verifiable else NOT_VERIFIABLE}")
        for line in report.lines:
            print(f"  {line}")
    whole = sum(report.verifiable and not report.problems for report in reports)
    print(f"{whole} of {sum(report.verifiable for report in reports)} published folders verified")
    for report in reports:
        for problem in report.problems:
            print(f"selbench: {report.folder}: {problem}", file=sys.stderr)
    if any(report.problems for report in reports):
        sys.exit(1)


def replay(
    passport: Annotated[Path, typer.Argument(help="The passport.json of a finished cell, or its folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Keep the second execution in this folder (default: a temporary one).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda where there is one).")] = None,
    plugin: Plugins = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The comparison as JSON.")] = False,
) -> None:
    """Run a cell again from its own settings: bit-equal, statistically equal, or different, and where first. Exit code 1: different."""
    import json
    import tempfile

    from selbench.publishing.replay import DIFFERENT, find_cell
    from selbench.publishing.replay import replay as repeat

    plug(plugin)
    folder = find_cell(passport)
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output}: is a file; choose another folder")
    chosen = device or device_at_hand()

    def run(job: Job, root: Path, threads: int | None) -> None:
        from selbench.executors import run_jobs
        from selbench.progress import SweepProgress

        with SweepProgress([job], root, 1, quiet=quiet or as_json) as progress:
            run_jobs([job], root, chosen, 1, progress.tick, threads=threads)

    with tempfile.TemporaryDirectory() as place:
        found = repeat(folder, output or Path(place), run)
    if output is not None and output.is_dir():
        from selbench.records import write_json

        write_json(output / "replay.json", found.content())
    print(json.dumps(found.content(), indent=1) if as_json else _told(found, folder))
    if found.word == DIFFERENT:
        sys.exit(1)


def _told(found: Replay, folder: Path) -> str:
    from selbench.publishing.replay import BIT_EQUAL, GIVEN

    words = {True: "same", False: "differs", None: "not compared"}
    wide = max(len(level.name) for level in found.levels)
    lines = [f"  {level.name:{wide}}  {words[level.same]:12}  {level.detail}".rstrip() for level in found.levels]
    for test in found.tests:
        points = f"{test.points:+z.1f} [{test.low:z.1f}, {test.high:z.1f}] points"
        lines.append(f"  {test.task}: {points} over {test.problems} problems, sign-flip p {test.p:.3f}")
    named = "though there are differences in" if found.word == BIT_EQUAL else "first difference:"
    first = f"; {named} {found.first.name}, {found.first.detail}" if found.first else ""
    others = [level.name for level in found.levels if level.same is False and level.name in GIVEN]
    reason = f" (another experiment: other {', '.join(others)})" if others else ""
    return "\n".join([*lines, f"{folder}: {found.word}{reason}{first}"])
