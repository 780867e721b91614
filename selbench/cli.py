"""The command line: each verb calls one function. Heavy modules are imported inside the verbs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selbench import cli_bench, cli_calibration  # noqa: F401  # they add their verbs to `bench`
from selbench.cli_agent import agent
from selbench.cli_answers import Plugins, bench, check_overlap, device_at_hand, eval_, grade, plug, seed_numbers, words
from selbench.cli_export import export
from selbench.cli_plan import plan_
from selbench.cli_publish import publish, replay, verify
from selbench.cli_report import report
from selbench.errors import ConfigError, UserError

if TYPE_CHECKING:
    from selbench.config import Protocol
    from selbench.sweep import Job

app = typer.Typer(help="The referee for token selection in on-policy distillation.", no_args_is_help=True, add_completion=False,
                  pretty_exceptions_enable=False)  # fmt: skip
tiny = typer.Typer(help="The embedded pair.", no_args_is_help=True)
app.add_typer(tiny, name="tiny")
app.add_typer(bench, name="bench")
app.add_typer(agent, name="agent")

Output = Annotated[Path, typer.Option("--output", "-o", help="Where run folders go.")]


def main() -> None:
    """Entry point: a user's mistake is one line a problem and exit code 2, an interruption 130."""
    try:
        app()
    except UserError as error:
        for problem in error.problems:
            print(f"selbench: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("selbench: interrupted; what is finished is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)


@app.command()
def run(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[PROTOCOL] [KEY=VALUE]...", help="Protocol name or YAML (default tiny), overrides.")
    ] = None,
    strategies: Annotated[str | None, typer.Option(help="Comma-separated: all, NAME, NAME@BUDGET, NAME@VARIANT.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated training seeds, or a range: 0,1,2 or 0-4.")] = None,
    budget: Annotated[float | None, typer.Option(help="Share of tokens kept, for all but the full-token reference.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Comma-separated evaluation tasks.")] = None,
    pair: Annotated[str | None, typer.Option(help="A registered pair.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Hub id or folder; with --student.")] = None,
    student: Annotated[str | None, typer.Option(help="Hub id or folder; with --teacher.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Training prompts: .jsonl file or hub dataset id.")] = None,
    plugin: Plugins = None,
    output: Output = Path("runs"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Cells at a time (default: by cores and memory).")] = None,
    executor: Annotated[str, typer.Option(help="local (processes), inline (this process) or ray.")] = "local",
    address: Annotated[str, typer.Option(help="Ray cluster.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda where there is one).")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, hf, vllm or vllm-server: what draws (default: the protocol's).")] = None,
    tracker: Annotated[str | None, typer.Option(help="Comma-separated: wandb, trackio, mlflow, beside metrics.jsonl.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan, its memory and its time, and stop.")] = False,
    gpu: Annotated[str | None, typer.Option(help="With --dry-run: plan for this GPU, as in h100 or rtx4090.")] = None,
    memory_limit: Annotated[str | None, typer.Option(help="Of each cell, as in 6GiB: fits how it is executed, not what comes out.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the leaderboard.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The leaderboard as JSON on standard output.")] = False,
) -> None:
    """Train every strategy on every pair and seed, evaluate, print the leaderboard. Finished cells are never run again."""
    from selbench import devices, execution, forecast, plan, trackers
    from selbench.config import load_protocol
    from selbench.models import pair_settings
    from selbench.rollout.choose import engine_for, side_by_side

    plug(plugin)
    trackers.choose(words(tracker))
    if executor not in ("local", "inline", "ray"):
        raise ConfigError(f"--executor {executor!r}: local, inline or ray")
    if gpu and not dry_run:
        raise ConfigError(f"--gpu {gpu} plans for a device that need not be here: add --dry-run (--device chooses the one to run on)")
    planned = devices.gpu(gpu) if gpu else None
    if (teacher is None) != (student is None):
        raise ConfigError("--teacher and --student go together")
    name, overrides = _protocol_words(settings, "custom" if teacher else "tiny")
    overrides += [f"engine={engine}"] if engine else []
    entry = {"name": plan.adhoc_name(teacher, student), "teacher": teacher, "student": student} if teacher and student else pair
    protocol = load_protocol(
        name, overrides, also=plan.name_problems, beneath=pair_settings, strategies=words(strategies), seeds=seed_numbers(seeds),
        budget=budget, tasks=words(tasks), prompts=prompts, pairs=[entry] if entry else None,
    )  # fmt: skip
    root = output / protocol.name
    cells, everything = plan.jobs_of(protocol)
    at_a_time, chosen = side_by_side(protocol.engine, jobs, executor), device or device_at_hand()
    checked = plan.check(protocol, everything, root, chosen)
    if problems := [*checked.problems, *([] if dry_run else [*checked.unreached, *checked.server])]:
        raise ConfigError(*problems)
    missing = plan.missing(everything, root)
    target = planned or devices.at_hand(chosen)
    limit = execution.parse_size(memory_limit) if memory_limit else None
    outlook = forecast.forecast(protocol, cells, missing, target, checked.longest, checked.rows, limit)
    workers = at_a_time or jobs or forecast.workers_for(max(one.peak.total for one in outlook), target)
    if dry_run:
        print(forecast.describe(protocol, cells, everything, missing, root, outlook, workers, target, checked))
        return
    allowances = {one.pair: execution.Allowance(one.execution, one.memory, limit) for one in outlook}
    shared = any(engine_for(protocol.engine, chosen, one.student.parameters) == "vllm" for one in outlook)
    _execute(protocol, cells, missing, root, chosen, workers, executor, address, quiet or as_json, as_json, allowances, shared)


def _protocol_words(settings: list[str] | None, default: str) -> tuple[str, list[str]]:
    words = settings or []
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise ConfigError(f"one protocol at a time, not {', '.join(names)}; overrides are key=value")
    return (names[0] if names else default), [word for word in words if "=" in word]


def _execute(
    protocol: Protocol, cells: list[Any], missing: list[Job], root: Path, device: str, workers: int, executor: str, address: str,
    quiet: bool, as_json: bool, allowances: dict[str, Any], shared: bool,
) -> None:  # fmt: skip
    """shared: processes serve several cells each, as a vLLM engine's start is paid by process."""
    from selbench import executors, leaderboard, sweep
    from selbench.progress import SweepProgress

    root.mkdir(parents=True, exist_ok=True)
    sweep.write_plan(protocol, cells, root, _command_line())
    failed: list[Job] = []
    if missing:
        with SweepProgress(missing, root, workers, quiet=quiet) as progress:
            if executor == "ray":
                failed = executors.run_ray(missing, root, device, address, progress.tick, allowances)
            elif executor == "inline":
                failed = executors.run_inline(missing, root, device, progress.tick, allowances)
            else:
                failed = executors.run_jobs(missing, root, device, workers, progress.tick, allowances, shared=shared)
    board = leaderboard.collect(root)
    written = _write_reports(root, board)
    print(leaderboard.render(board, "json" if as_json else "markdown"))
    if not quiet:
        print(f"\nwrote {len(written)} files to {root}: {', '.join(sorted(p.name for p in written))}")
        print(
            f"next: look at {root / 'figures'}; `selbench show NAME` explains a row; --seeds 0-9 on the same command narrows the intervals"
        )
    _report_problems(board.problems)
    if failed:
        for job in failed:
            print(f"selbench: {root / job.folder} failed; see log.txt there; the same command tries it again", file=sys.stderr)
        sys.exit(1)


def _command_line() -> str:
    import shlex

    return shlex.join(["selbench", *sys.argv[1:]])


def _write_reports(root: Path, board: Any) -> list[Path]:
    from selbench import leaderboard
    from selbench.report import figures

    return [*leaderboard.write(board, root), *figures.draw_all(root)]


def _report_problems(problems: list[str]) -> None:
    for problem in problems:
        print(f"selbench: {problem}", file=sys.stderr)


@app.command()
def table(
    folder: Annotated[Path, typer.Argument(help="A protocol's folder, as in runs/tiny.")] = Path("runs/tiny"),
    form: Annotated[str, typer.Option("--format", help="markdown, csv, latex or json.")] = "markdown",
    figures: Annotated[bool, typer.Option(help="Draw the pictures too.")] = True,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Only these two strategies: verdict, problems won and lost, samples.")
    ] = None,
) -> None:
    """Build the leaderboard again from the records alone, and write it beside them."""
    from selbench import leaderboard
    from selbench.story import story

    if form not in ("markdown", "csv", "latex", "json"):
        raise ConfigError(f"--format {form!r}: markdown, csv, latex or json")
    if not (folder / "plan.json").is_file():
        raise ConfigError(f"{folder}: no plan.json there; give the folder of a protocol, as in runs/tiny")
    if compare:
        print(story(folder, *compare), end="")
        return
    board = leaderboard.collect(folder)
    if figures:
        _write_reports(folder, board)
    else:
        leaderboard.write(board, folder)
    print(leaderboard.render(board, form))  # type: ignore[arg-type]
    _report_problems(board.problems)
    if board.problems:
        sys.exit(2)


app.command("eval")(eval_)
app.command("report")(report)
app.command("export")(export)
app.command("grade")(grade)
app.command("check-overlap")(check_overlap)
app.command("plan")(plan_)
app.command("publish")(publish)
app.command("verify")(verify)
app.command("replay")(replay)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="strategies, tasks, pairs, protocols or signals.")] = "strategies",
    plugin: Plugins = None,
) -> None:
    """List what is registered."""
    from selbench import catalogue

    plug(plugin)
    catalogue.print_list(what)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A strategy, task, pair, protocol or signal.")],
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="A protocol's settings, sources and published numbers as JSON.")] = False,
) -> None:
    """Show one registered thing: formula, source, version, signals, departures."""
    from selbench import catalogue

    plug(plugin)
    catalogue.print_one(name, as_json=as_json)


@app.command()
def check(
    target: Annotated[str | None, typer.Argument(help="A strategy's name, a contributor's file, or a pair's name.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Hub id or folder; with --student.")] = None,
    student: Annotated[str | None, typer.Option(help="Hub id or folder; with --teacher.")] = None,
    weights: Annotated[bool, typer.Option(help="Load the pair's weights, if they are on this machine, and measure special tokens.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, for a pair's weights.")] = None,
) -> None:
    """Check a strategy against the contract, or whether teacher and student of a pair fit together, in words."""
    from selbench import catalogue

    if (teacher is None) != (student is None):
        raise ConfigError("--teacher and --student go together")
    if (target is None) == (teacher is None):
        raise ConfigError("give a strategy, a file or a pair, or both --teacher and --student")
    if not catalogue.check(target or "", models=(teacher, student) if teacher and student else None, weights=weights, device=device):
        sys.exit(1)


@app.command()
def doctor() -> None:
    """Versions, devices, memory; what is missing and how to get it."""
    from selbench import doctor as examine

    if not examine.report():
        sys.exit(1)


@tiny.command()
def build(
    folder: Annotated[Path, typer.Argument(help="Where the two models go; nothing inside the package is changed.")],
    seed: Annotated[int, typer.Option(min=0, help="The shipped pair is seed 0.")] = 0,
) -> None:
    """Train the embedded pair from nothing and say how it differs from the shipped one. About 15 minutes on two cores."""
    from selbench.tiny import rebuild

    rebuild.rebuild(folder, seed)


@tiny.command("build-agent")
def build_agent(
    folder: Annotated[Path, typer.Argument(help="Where the two models go; nothing inside the package is changed.")],
    task: Annotated[str, typer.Option(help="A task that is acted on and can be demonstrated.")],
    seed: Annotated[int, typer.Option(min=0, help="The shipped pair is seed 0.")] = 0,
) -> None:
    """Train the embedded pair that calls tools from nothing. A few minutes on two cores."""
    from selbench.tiny import agent_build

    agent_build.rebuild(folder, task, seed)


if __name__ == "__main__":
    main()
