"""The command line: each verb calls one function. Heavy modules are imported inside the verbs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selbench.errors import ConfigError, UserError

if TYPE_CHECKING:
    from selbench.config import Protocol
    from selbench.sweep import Job

app = typer.Typer(help="The referee for token selection in on-policy distillation.", no_args_is_help=True, add_completion=False,
                  pretty_exceptions_enable=False)  # fmt: skip
tiny = typer.Typer(help="The embedded pair.", no_args_is_help=True)
app.add_typer(tiny, name="tiny")
bench = typer.Typer(help="Side-by-side benchmarks against other libraries.", no_args_is_help=True)
app.add_typer(bench, name="bench")

Plugins = Annotated[list[Path] | None, typer.Option("--plugin", help="A contributor's file to load; may be repeated.")]
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


def _plug(plugins: list[Path] | None) -> None:
    from selbench.registry import load_plugin

    for path in plugins or []:
        load_plugin(path)


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    seeds: list[int] = []
    for word in _words(text) or []:
        low, dash, high = word.partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise ConfigError(f"--seeds {text!r}: {word!r} is not a number or a range such as 0-4")
        seeds += range(int(low), int(high if dash else low) + 1)
    return seeds


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan, its memory and its time, and stop.")] = False,
    gpu: Annotated[str | None, typer.Option(help="With --dry-run: plan for this GPU, as in h100 or rtx4090.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the leaderboard.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The leaderboard as JSON on standard output.")] = False,
) -> None:
    """Train every strategy on every pair and seed, evaluate, print the leaderboard. Finished cells are never run again."""
    from selbench import devices, forecast, plan
    from selbench.config import load_protocol
    from selbench.models import pair_settings

    _plug(plugin)
    if executor not in ("local", "inline", "ray"):
        raise ConfigError(f"--executor {executor!r}: local, inline or ray")
    if gpu and not dry_run:
        raise ConfigError(f"--gpu {gpu} plans for a device that need not be here: add --dry-run (--device chooses the one to run on)")
    planned = devices.gpu(gpu) if gpu else None
    if (teacher is None) != (student is None):
        raise ConfigError("--teacher and --student go together")
    name, overrides = _protocol_words(settings, "custom" if teacher else "tiny")
    entry = {"name": plan.adhoc_name(teacher, student), "teacher": teacher, "student": student} if teacher and student else pair
    protocol = load_protocol(
        name, overrides, also=plan.name_problems, beneath=pair_settings, strategies=_words(strategies), seeds=_seeds(seeds),
        budget=budget, tasks=_words(tasks), prompts=prompts, pairs=[entry] if entry else None,
    )  # fmt: skip
    root = output / protocol.name
    cells, everything = plan.jobs_of(protocol)
    checked = plan.check(protocol, everything, root)
    if problems := [*checked.problems, *([] if dry_run else checked.unreached)]:
        raise ConfigError(*problems)
    missing = plan.missing(everything, root)
    chosen = device or _device()
    target = planned or devices.at_hand(chosen)
    outlook = forecast.forecast(protocol, cells, missing, target, checked.longest, checked.rows)
    workers = jobs or forecast.workers_for(max(one.peak.total for one in outlook), target)
    if dry_run:
        print(forecast.describe(protocol, cells, everything, missing, root, outlook, workers, target, checked))
        return
    _execute(protocol, cells, missing, root, chosen, workers, executor, address, quiet or as_json, as_json)


def _protocol_words(settings: list[str] | None, default: str) -> tuple[str, list[str]]:
    words = settings or []
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise ConfigError(f"one protocol at a time, not {', '.join(names)}; overrides are key=value")
    return (names[0] if names else default), [word for word in words if "=" in word]


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _execute(
    protocol: Protocol, cells: list[Any], missing: list[Job], root: Path, device: str, workers: int, executor: str, address: str,
    quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    from selbench import executors, leaderboard, sweep
    from selbench.progress import SweepProgress

    root.mkdir(parents=True, exist_ok=True)
    sweep.write_plan(protocol, cells, root, _command_line())
    failed: list[Job] = []
    if missing:
        with SweepProgress(missing, root, workers, quiet=quiet) as progress:
            if executor == "ray":
                failed = executors.run_ray(missing, root, device, address, progress.tick)
            elif executor == "inline":
                failed = executors.run_inline(missing, root, device, progress.tick)
            else:
                failed = executors.run_jobs(missing, root, device, workers, progress.tick)
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

    return [*leaderboard.write(board, root), *figures.learning_curves(root), *figures.quadrants(root)]


def _report_problems(problems: list[str]) -> None:
    for problem in problems:
        print(f"selbench: {problem}", file=sys.stderr)


@app.command("eval")
def eval_(
    model: Annotated[str, typer.Argument(help="Hub id, folder, .gguf file or a finished cell's folder (with --table: of evaluations).")],
    tasks: Annotated[str | None, typer.Option(help="Comma-separated tasks.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", "-k", help="Answers per problem (default: the task's).")] = None,
    problems: Annotated[int | None, typer.Option("--problems", "-n", help="Only the first so many problems.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Temperature 0, one answer.")] = False,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Nucleus.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="0: off.")] = 20,
    max_tokens: Annotated[int, typer.Option(help="Longest response, tokens.")] = 4096,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends a response; may be repeated.")] = None,
    prompt: Annotated[str, typer.Option(help="Answer-format instruction, by name or as a text with {problem}.")] = "boxed-qwen",
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    thinking: Annotated[bool | None, typer.Option("--thinking/--no-thinking", help="The chat template's thinking mode.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 (default: bfloat16 on a GPU, else float32).")] = None,
    batch: Annotated[int, typer.Option(help="Sequences generated together.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampling.")] = 0,
    name: Annotated[str | None, typer.Option(help="What the records call the model (default: its source).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    plugin: Plugins = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the records (default: runs/eval/MODEL).")] = None,
    table_only: Annotated[bool, typer.Option("--table", help="Only the table of the evaluations below MODEL, a folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The table as JSON.")] = False,
) -> None:
    """Evaluate one model on the tasks, without training: accuracy with interval, pass@k, maj@k, truncation, speed."""
    from selbench import eval_model

    _plug(plugin)
    if table_only:
        eval_model.show(Path(model), as_json=as_json)
        return
    if not _words(tasks):
        raise ConfigError("eval: name the tasks with --tasks, comma-separated (selbench list tasks)")
    chosen = device or _device()
    kind = dtype or ("float32" if chosen == "cpu" else "bfloat16")
    settings, evaluation, found = eval_model.settings_of(
        {"system": system, "thinking": thinking, "student_dtype": kind, "teacher_dtype": kind},
        {"samples": samples, "problems": problems, "temperature": 0.0 if greedy else temperature, "top_p": top_p, "top_k": top_k,
         "max_tokens": max_tokens, "stop": stop, "template": prompt, "batch": batch},
        _words(tasks) or [],
    )  # fmt: skip
    folder = output or Path("runs") / "eval" / (name or model.rstrip("/").split("/")[-1]).lower()
    written = eval_model.evaluate_model(model, found, settings, evaluation, folder, chosen, seed=seed, name=name, quiet=quiet or as_json)
    eval_model.show(folder, as_json=as_json)
    if not (quiet or as_json):
        print(f"records: {', '.join(str(place) for place in written)}")
        print(f"next: `selbench grade {folder}` judges them with other graders; `selbench eval --table {folder.parent}` compares models")


@app.command()
def table(
    folder: Annotated[Path, typer.Argument(help="A protocol's folder, as in runs/tiny.")] = Path("runs/tiny"),
    form: Annotated[str, typer.Option("--format", help="markdown, csv, latex or json.")] = "markdown",
    figures: Annotated[bool, typer.Option(help="Draw the pictures too.")] = True,
) -> None:
    """Build the leaderboard again from the records alone, and write it beside them."""
    from selbench import leaderboard

    if form not in ("markdown", "csv", "latex", "json"):
        raise ConfigError(f"--format {form!r}: markdown, csv, latex or json")
    if not (folder / "plan.json").is_file():
        raise ConfigError(f"{folder}: no plan.json there; give the folder of a protocol, as in runs/tiny")
    board = leaderboard.collect(folder)
    if figures:
        _write_reports(folder, board)
    else:
        leaderboard.write(board, folder)
    print(leaderboard.render(board, form))  # type: ignore[arg-type]
    _report_problems(board.problems)
    if board.problems:
        sys.exit(2)


@app.command()
def grade(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Run folders, samples.parquet, .jsonl, .csv, lm-eval's samples.")],
    graders: Annotated[str | None, typer.Option(help="Comma-separated: sympy, math_verify, hendrycks, exact (default: all).")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the report (default: beside the first FILE).")] = None,
    update: Annotated[bool, typer.Option("--update", help="Put the sympy grader's verdicts into the samples.parquet read.")] = False,
    by: Annotated[str, typer.Option(help="What a system is in run folders: cell, or strategy (its seeds together).")] = "cell",
    workers: Annotated[int | None, typer.Option(min=1, help="Grading processes (default: usable cores).")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one comparison.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on standard output.")] = False,
) -> None:
    """Grade stored outputs again, with several graders side by side: scores, disagreements, ranks that flip. No model runs."""
    import json

    from selbench import regrade

    report = regrade.regrade(
        files, graders=_words(graders), output=output, rewrite=update, by=by, workers=workers, timeout=timeout, quiet=as_json
    )
    if as_json:
        print(json.dumps(report.content, indent=1, sort_keys=True))
        return
    regrade.show(report.content, report.disagreements)
    print(f"wrote {', '.join(str(path) for path in report.written)}")


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="strategies, tasks, pairs, protocols or signals.")] = "strategies",
    plugin: Plugins = None,
) -> None:
    """List what is registered."""
    from selbench import catalogue

    _plug(plugin)
    catalogue.print_list(what)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A strategy, task, pair, protocol or signal.")],
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="A protocol's settings, sources and published numbers as JSON.")] = False,
) -> None:
    """Show one registered thing: formula, source, version, signals, departures."""
    from selbench import catalogue

    _plug(plugin)
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


@app.command("check-overlap")
def check_overlap(
    prompts: Annotated[list[str], typer.Argument(help="Training prompts: .jsonl files or hub dataset ids.")],
    tasks: Annotated[str | None, typer.Option(help="Comma-separated tasks (default: all whose problems can be had).")] = None,
    n: Annotated[int, typer.Option("--n", min=2, help="Words in a row that make a prompt near a problem.")] = 13,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Jaccard index of the 6-grams, from which on they are near.")] = 0.2,
    containment: Annotated[float, typer.Option(min=0, max=1, help="Share of the problem's 6-grams in the prompt, likewise.")] = 0.6,
    examples: Annotated[int, typer.Option(min=0, help="Matches shown of each task and kind.")] = 3,
    fail: Annotated[bool, typer.Option("--fail", help="Exit code 1 if anything overlaps.")] = False,
    plugin: Plugins = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for every match.")] = None,
) -> None:
    """Find evaluation problems among training prompts: equal ones and near ones, per task, with examples side by side."""
    from selbench import overlap

    _plug(plugin)
    found = overlap.survey(prompts, _words(tasks), overlap.Rule(n, threshold, containment))
    print(overlap.render(found, examples))
    if output:
        overlap.save(found, output)
    if fail and found["matches"]:
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


@bench.command("grading")
def bench_grading(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for every number.")] = None,
    responses: Annotated[int, typer.Option(min=1, help="Long responses that are graded.")] = 10_000,
) -> None:
    """The graders side by side: accuracy on labelled pairs by kind, speed, long responses, the price of a hang. Minutes."""
    import json

    from selbench.bench import grading

    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"--output {output}: no folder {output.parent}; create it first")
    found = grading.measure(responses)
    grading.render(found)
    if output is not None:
        output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
