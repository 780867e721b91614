"""One model on the tasks, without training: what `selbench eval` does. Records as in a run folder, one table over all of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import rich
import yaml
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from selbench.config import Evaluation, Model, digest, sentence
from selbench.errors import ConfigError, UserError, nearest
from selbench.records import read_json, write_json, write_text
from selbench.scores import score_folder
from selbench.task import TASKS, Task
from selbench.templates import TEMPLATES

__all__ = ["evaluate_model", "settings_of", "summary"]


def settings_of(model: Mapping[str, Any], evaluation: Mapping[str, Any], tasks: Sequence[str]) -> tuple[Model, Evaluation, list[Task]]:
    """Checked settings from the command line's words. Raises ConfigError with every problem at once."""
    problems: list[str] = []
    parts: list[Any] = []
    for kind, given in ((Model, model), (Evaluation, evaluation)):
        try:
            parts.append(kind.model_validate({key: value for key, value in given.items() if value is not None}))
        except ValidationError as error:
            problems += [f"eval: {sentence(item)}" for item in error.errors()]
    template = evaluation.get("template")
    if template is not None and "{problem}" not in template and template not in TEMPLATES:
        problems.append(f"unknown prompt {template!r}: {nearest(template, list(TEMPLATES))} (or a text with {{problem}} in it)")
    found: list[Task] = []
    for name in tasks:
        try:
            found.append(TASKS.get(name))
        except UserError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return parts[0], parts[1], found


def evaluate_model(
    source: str, tasks: Sequence[Task], model: Model, evaluation: Evaluation, folder: Path, device: str, *, seed: int = 0,
    name: str | None = None, quiet: bool = False,
) -> list[Path]:  # fmt: skip
    """Evaluate a model on tasks; one folder `eval/<task>` each. A task whose records are there under these settings is not run again.

    source: hub id, folder, .gguf file, or the folder of a finished cell. Raises ConfigError when the model or rows cannot be
    had, or when `folder` holds records of the task under other settings.
    """
    from selbench.evaluate import check_task, evaluate_task, is_evaluated

    problems: list[str] = []
    for task in tasks:
        try:
            check_task(task)
        except UserError as error:
            problems += error.problems
    trained = Path(source).expanduser() / "checkpoint" / "final"
    source = str(trained) if trained.is_dir() else source
    settings = {"model": model.model_dump(mode="json"), "evaluation": evaluation.model_dump(mode="json")}
    shared = {"source": name or source, **settings, "seed": seed}
    wanted = {task.name: digest({**shared, "task": task.name, "version": task.version}) for task in tasks}
    places = {task.name: folder / "eval" / task.name for task in tasks}
    missing = [task for task in tasks if not is_evaluated(places[task.name], wanted[task.name])]
    for task in missing:
        if (places[task.name] / "meta.json").exists():
            problems.append(f"{places[task.name]}: holds records of other settings; choose another --output or delete that folder")
    if problems:
        raise ConfigError(*problems)
    if missing:
        engine, renderer = _engine(source, model, evaluation, device, folder, shared, name)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, disable=quiet, transient=True) as bars:
            for task in missing:
                bar = bars.add_task(task.name, total=None)

                def advance(done: int, total: int, bar: Any = bar) -> None:
                    bars.update(bar, completed=done, total=total)

                evaluate_task(task, engine, renderer, evaluation, seed, places[task.name], wanted[task.name], advance)
    return list(places.values())


def _engine(
    source: str, model: Model, evaluation: Evaluation, device: str, folder: Path, shared: dict[str, Any], name: str | None
) -> tuple[Any, Any]:
    from selbench.models import PairSpec, identity, load_pair
    from selbench.provenance import passport
    from selbench.rollout.hf import HFEngine

    pair = load_pair(PairSpec(name or "model", source, source), model.model_dump(), device, teacher=False)
    renderer = pair.renderer
    if evaluation.template is not None:
        from selbench.templates import template_text

        renderer = replace(renderer, template=template_text(evaluation.template))
    engine = HFEngine(pair.student, end_ids=renderer.end_ids, pad_id=renderer.pad_id, batch=evaluation.batch)
    shown = {**identity(source, pair.student), **({"source": name} if name else {})}
    write_text(folder / "config.yaml", yaml.safe_dump({**shared, "source": shown["source"]}, sort_keys=False))
    write_json(folder / "passport.json", passport(
        models={"student": shown}, engine=engine.name, device=device, seed=shared["seed"], prompt_sha256=renderer.sha256(),
        rendered_example=renderer.text("1+1"), parameters=sum(p.numel() for p in pair.student.parameters()),
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    ))  # fmt: skip
    return engine, renderer


def summary(root: Path) -> tuple[Table, str, list[dict[str, Any]]]:
    """All evaluations below `root` as a table for the screen, as Markdown, and as numbers; recomputed from the records."""
    rows: list[dict[str, Any]] = []
    for meta in sorted(root.rglob("eval/*/meta.json")):
        home = meta.parents[2]
        label = home.relative_to(root).as_posix() if home != root else root.name
        passport = home / "passport.json"
        where = read_json(passport) if passport.exists() else {}
        rows.append({"model": label, "hardware": _hardware(where), **score_folder(meta.parent)})
    if not rows:
        raise ConfigError(f"{root}: no evaluation below it; `selbench eval MODEL --output FOLDER` makes one")
    head = ("model", "task", "n x k", "accuracy", "pass@k", "maj@k", "truncated", "unreadable", "tokens", "tokens/s", "on")
    table = Table(*head, title=f"evaluations below {root}")
    lines = ["| " + " | ".join(head) + " |", "| --- | --- |" + " ---: |" * (len(head) - 3) + " --- |"]
    for row in rows:
        most = max(row["pass_at_k"], key=int)
        cells = [
            row["model"], row["task"], f"{row['problems']} x {row['samples']}",
            f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]",
            f"{100 * row['pass_at_k'][most]:.1f} (k={most})", f"{100 * row['majority_at_k']:.1f}", f"{100 * row['truncated']:.1f} %",
            f"{100 * row['unreadable']:.1f} %", f"{row['tokens_per_response']:.0f}",
            f"{row['tokens_per_second']:.0f}" if row["tokens_per_second"] else "", row["hardware"],
        ]  # fmt: skip
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Accuracy in per cent: avg@k with a 95 % interval for problems like these (Wilson where k = 1, else BCa bootstrap over problems). "
        "Truncated responses (cut at the token limit) and unreadable answers (unparsed, timeout, error) stay in the denominator.",
    ]
    return table, "\n".join(lines) + "\n", rows


def _hardware(passport: Mapping[str, Any]) -> str:
    found = passport.get("hardware", {})
    return ", ".join(found.get("gpus") or []) if passport.get("device") == "cuda" else f"{passport.get('usable_cores', '?')} CPU cores"


def show(root: Path, *, as_json: bool = False) -> None:
    """Print the summary of `root` and leave it there as eval.md and eval.json."""
    import json

    table, markdown, rows = summary(root)
    write_text(root / "eval.md", markdown)
    write_json(root / "eval.json", {"schema": 1, "rows": rows})
    if as_json:
        print(json.dumps({"schema": 1, "rows": rows}, indent=1, sort_keys=True))
    else:
        rich.print(table)
