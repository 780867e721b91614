"""One model on the tasks, without training: what `selbench eval` does. Records as in a run folder, one table over all of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import rich
import yaml
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from selbench.config import Agent, Evaluation, Model, digest, sentence
from selbench.errors import ConfigError, UserError
from selbench.records import read_json, write_json, write_text
from selbench.scores import score_folder, score_pool
from selbench.task import MIRROR, TASKS, Task, pools_of

__all__ = ["evaluate_model", "settings_of", "summary"]

OPENING = 16_384  # tokens of an episode's first messages and its tools' descriptions, and of what its last turn draws beyond the limit


def settings_of(
    model: Mapping[str, Any], evaluation: Mapping[str, Any], tasks: Sequence[str], agent: Mapping[str, Any] | None = None
) -> tuple[Model, Evaluation, list[Task], Agent]:
    """Checked settings from the command line's words. Raises ConfigError with every problem at once."""
    problems: list[str] = []
    parts: list[Any] = []
    for kind, given in ((Model, model), (Evaluation, evaluation), (Agent, agent or {})):
        try:
            parts.append(kind.model_validate({key: value for key, value in given.items() if value is not None}))
        except ValidationError as error:
            problems += [f"eval: {_sentence(item)}" for item in error.errors()]
    found: list[Task] = []
    for name in dict.fromkeys(tasks):
        try:
            found.append(TASKS.get(name))
        except UserError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return parts[0], parts[1], found, parts[2]


def _sentence(item: Any) -> str:
    """One of pydantic's complaints in the command line's words."""
    if not item["loc"]:  # about several settings at once: it names them itself
        return str(item["msg"]).removeprefix("Value error, ")
    option = {"student_dtype": "dtype", "teacher_dtype": "dtype", "template": "prompt"}.get(str(item["loc"][-1]))
    return sentence({**item, "loc": [option]} if option else item)


def evaluate_model(
    source: str, tasks: Sequence[Task], model: Model, evaluation: Evaluation, folder: Path, device: str, *, seed: int = 0,
    name: str | None = None, engine: str = "auto", quiet: bool = False, agent: Agent | None = None,
) -> list[Path]:  # fmt: skip
    """Evaluate a model on tasks; one folder `eval/<task>` each. A task whose records are there under these settings is not run again.

    source: hub id, folder, .gguf file, or the folder of a finished cell; engine: of `choose.ENGINES`; agent: limits of tasks acted on.

    Raises ConfigError when the engine cannot run, the model or rows cannot be had, or `folder` holds records under other settings.
    """
    from selbench.evaluate import evaluate_task, is_evaluated
    from selbench.rollout.choose import REMOTE, engine_problems

    problems = [*engine_problems(engine), *_row_problems(tasks)]
    trained = Path(source).expanduser() / "checkpoint" / "final"
    source = str(trained) if trained.is_dir() else source
    settings = {"model": model.model_dump(mode="json"), "evaluation": evaluation.model_dump(mode="json")}
    shared = {"source": name or source, **settings, "seed": seed, **({} if engine == "auto" else {"engine": engine})}
    limits = agent or Agent()
    acted = {task.name: {"agent": limits.model_dump(mode="json")} if task.arena else {} for task in tasks}
    wanted = {task.name: digest({**shared, "task": task.name, "version": task.version, **acted[task.name]}) for task in tasks}
    places = {task.name: folder / "eval" / task.name for task in tasks}
    missing = [task for task in tasks if not is_evaluated(places[task.name], wanted[task.name])]
    for task in missing:
        if (places[task.name] / "meta.json").exists():
            problems.append(f"{places[task.name]}: holds records of other settings; choose another --output or delete that folder")
    problems = problems or _identity_problems(source, folder)
    if problems := problems or (_server_problems(source, missing, model, evaluation, device) if missing and engine == REMOTE else []):
        raise ConfigError(*problems)
    if missing:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, disable=quiet or not rich.get_console().is_terminal, transient=True) as bars, _quiet_transformers():
            loading = bars.add_task(f"loading {name or source}", total=None)
            running, renderer = _engine(source, missing, model, evaluation, device, folder, shared, name)
            bars.remove_task(loading)
            with contextlib.closing(running):
                for task in missing:
                    bar = bars.add_task(task.name, total=None)

                    def advance(done: int, total: int, bar: Any = bar) -> None:
                        bars.update(bar, completed=done, total=total)

                    evaluate_task(task, running, renderer, evaluation, seed, places[task.name], wanted[task.name], advance, limits)
    return list(places.values())


def _asking(renderer: Any, evaluation: Evaluation) -> Any:
    """The renderer with the answer-format instruction of the evaluation."""
    from selbench.templates import template_text

    return renderer if evaluation.template is None else replace(renderer, template=template_text(evaluation.template))


def _room(renderer: Any, tasks: Sequence[Task], evaluation: Evaluation) -> int:
    """Tokens of the longest prompt with its response."""
    asked = [row["problem"] for task in tasks if not task.arena for row in task.load()]
    return evaluation.max_tokens + max([len(renderer.encode(problem)) for problem in asked] + [OPENING] * any(task.arena for task in tasks))


def _server_problems(source: str, tasks: Sequence[Task], model: Model, evaluation: Evaluation, device: str) -> list[str]:
    """What keeps the model from the server, before its weights are loaded."""
    from selbench.models import load_renderer
    from selbench.rollout.choose import wanted_model
    from selbench.rollout.vllm_serving import server_problems

    renderer = load_renderer(source, teacher=source, **model.model_dump(include={"template", "system", "thinking", "chat_template"}))
    room = _room(_asking(renderer, evaluation), tasks, evaluation)
    return server_problems(wanted_model(source, model.student_dtype, room, evaluation.batch, device))


def _row_problems(tasks: Sequence[Task]) -> list[str]:
    """What is wrong with the tasks' files and rows."""
    from selbench.sources import hub_reachable

    if any(task.data for task in tasks) and not os.environ.get(MIRROR):
        hub_reachable()  # tells the hub's clients where it is not, before they try for half a minute
    problems: list[str] = []
    for task in tasks:
        try:
            task.load()
        except UserError as error:
            problems += error.problems
    return problems


def _identity_problems(source: str, folder: Path) -> list[str]:
    """Whether `folder` holds records of other weights: another model of this name, or one that changed since."""
    from selbench.models import identity

    held = [*folder.glob("eval/*/meta.json"), *folder.glob("eval/*/partial.jsonl")]
    if not (folder / "passport.json").exists() or not held:
        return []
    before = read_json(folder / "passport.json").get("models", {}).get("student", {})
    now = identity(source)
    if all(before.get(key) in (None, now[key]) or now[key] is None for key in ("sha256", "commit")):
        return []
    return [f"{folder}: holds records of other weights than those of {source}; choose another --output or delete that folder"]


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """transformers without its bar over the weights."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _engine(
    source: str, tasks: Sequence[Task], model: Model, evaluation: Evaluation, device: str, folder: Path, shared: dict[str, Any],
    name: str | None,
) -> tuple[Any, Any]:  # fmt: skip
    from selbench.models import PairSpec, identity, load_pair
    from selbench.passes import shape_of
    from selbench.provenance import passport, usable_cores
    from selbench.rollout.choose import engine_for, start_engine

    pair = load_pair(PairSpec(name or "model", source, source), model.model_dump(), device, teacher=False)
    renderer = _asking(pair.renderer, evaluation)
    parameters = shape_of(pair.student).parameters
    kind = engine_for(shared.get("engine", "auto"), device, parameters)
    room = 0 if kind == "hf" else _room(renderer, tasks, evaluation)  # vllm wants to know before it starts
    engine = start_engine(kind, pair, renderer.end_ids, batch=evaluation.batch, room=room, dtype=model.student_dtype)
    engine.sync(pair.student)
    shown = {**identity(source, pair.student), **({"source": name} if name else {})}
    write_text(folder / "config.yaml", yaml.safe_dump({**shared, "source": shown["source"]}, sort_keys=False))
    write_json(folder / "passport.json", passport(
        models={"student": shown}, engine=engine.name, device=device, seed=shared["seed"], prompt_sha256=renderer.sha256(),
        rendered_example=renderer.text("1+1"), parameters=parameters, usable_cores=usable_cores(),
    ))  # fmt: skip
    return engine, renderer


def summary(root: Path) -> tuple[list[Table], str, list[dict[str, Any]]]:
    """All evaluations below `root`: one table a model for the screen, one in Markdown, and numbers; recomputed from the records."""
    rows: list[dict[str, Any]] = []
    for home in sorted({meta.parents[2] for meta in root.rglob("eval/*/meta.json")}):
        passport = home / "passport.json"
        where = read_json(passport) if passport.exists() else {}
        label = home.relative_to(root).as_posix() if home != root else where.get("models", {}).get("student", {}).get("source") or root.name
        folders = {meta.parent.name: meta.parent for meta in sorted(home.glob("eval/*/meta.json"))}
        pools = pools_of(name for name in folders if name in TASKS)
        pooled = [score_pool(pool, [folders[task] for task in members]) for pool, members in pools.items()]
        scores = [*map(score_folder, folders.values()), *(score for score in pooled if score)]
        rows += [{"model": label, "hardware": _hardware(where), **score} for score in scores]
    if not rows:
        raise ConfigError(f"{root}: no evaluation below it; `selbench eval MODEL --output FOLDER` makes one")
    models = dict.fromkeys((row["model"], row["hardware"]) for row in rows)
    tables = [_screen([row for row in rows if (row["model"], row["hardware"]) == model]) for model in models]
    return tables, _markdown(rows), rows


def _screen(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The evaluations of one model, readable at 80 columns; pass@k and maj@k only where there are several samples."""
    several = any(row["samples"] > 1 for row in rows)
    table = Table(
        title=Text(f"{rows[0]['model']}, on {rows[0]['hardware']}"), title_justify="left",
        caption="; ".join(["in per cent, with 95 % intervals", *_pooled(rows)]), caption_justify="left",
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("task", overflow="fold")
    for head in ("n x k", "accuracy", *(("pass@k", "maj@k") if several else ()), "trun-\ncated", "unread-\nable", "tok/s"):
        table.add_column(head, justify="right", overflow="fold")
    for row in rows:
        cells = _cells(row)
        table.add_row(*(Text(cells[head]) for head in ("task", "n x k", "accuracy")),
                      *([cells["pass@k"], cells["maj@k"]] if several else []),
                      *(cells[head].removesuffix(" %") for head in ("truncated", "unreadable", "tokens/s")))  # fmt: skip
    return table


def _pooled(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each pool among the rows is, in words."""
    return list(dict.fromkeys(f"{row['task']} is {' and '.join(row['pool'])} together" for row in rows if "pool" in row))


def _metrics(row: Mapping[str, Any]) -> Table:
    """What a task that is acted on measures beside the verdict: means over all episodes."""
    table = Table(title=Text(f"{row['model']}: {row['task']}, means over episodes"), title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    table.add_column("metric", overflow="fold")
    table.add_column("mean", justify="right")
    for name, value in row["metrics"].items():
        table.add_row(name, f"{value:.3f}")
    return table


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """All evaluations with all columns as one Markdown table."""
    shown = [_cells(row) for row in rows]
    head = list(shown[0])
    lines = ["| " + " | ".join(head) + " |", "| --- | --- |" + " ---: |" * (len(head) - 3) + " --- |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells.values()) + " |" for cells in shown]
    lines += [
        "",
        "Accuracy in per cent: avg@k with a 95 % interval for problems like these (Wilson where k = 1, else BCa bootstrap over problems). "
        "pass@k and maj@k use all k samples unless they say otherwise. "
        "Truncated responses (cut at the token limit) and unreadable answers (unparsed, timeout, error) stay in the denominator."
        + "".join(f" {words}." for words in _pooled(rows)),
    ]
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """One evaluation's numbers as they are shown, by column."""
    most = max(row["pass_at_k"], key=int)
    return {
        "model": str(row["model"]), "task": str(row["task"]), "n x k": f"{row['problems']} x {row['samples']}",
        "accuracy": f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]",
        "pass@k": f"{100 * row['pass_at_k'][most]:.1f}" + ("" if int(most) == row["samples"] else f" (k={most})"),
        "maj@k": f"{100 * row['majority_at_k']:.1f}", "truncated": f"{100 * row['truncated']:.1f} %",
        "unreadable": f"{100 * row['unreadable']:.1f} %", "tokens": f"{row['tokens_per_response']:.0f}",
        "tokens/s": f"{row['tokens_per_second']:.0f}" if row["tokens_per_second"] else "", "on": str(row["hardware"]),
    }  # fmt: skip


def _hardware(passport: Mapping[str, Any]) -> str:
    found = passport.get("hardware", {})
    gpus = ", ".join(found.get("gpus") or [])
    if gpus and passport.get("device", "cuda") == "cuda":
        return gpus
    return f"{passport.get('usable_cores') or found.get('cores') or '?'} CPU cores"


def show(root: Path, *, as_json: bool = False) -> None:
    """Print the summary of `root` and leave it there as eval.md and eval.json."""
    import json

    tables, markdown, rows = summary(root)
    write_text(root / "eval.md", markdown)
    write_json(root / "eval.json", {"schema": 1, "rows": rows})
    if as_json:
        print(json.dumps({"schema": 1, "rows": rows}, indent=1, sort_keys=True))
    else:
        for table in [*tables, *(_metrics(row) for row in rows if "metrics" in row)]:
            rich.print(table, "")
