"""Whether the runs of a protocol's folder belong together, and whether each summary says what the records beside it say.

Nothing is trusted that can be computed again: fingerprints from the stored settings, accuracies and ledgers from the records, the
questions from their hash. Each problem is a sentence that names the file, relative to the folder.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from selbench.config import stored_fingerprint
from selbench.errors import RecordError, UserError
from selbench.estimate import Shape
from selbench.ledger import ledger_of
from selbench.publishing.layout import Expected, expected
from selbench.records import SAMPLE_COLUMNS, is_done, read_json, read_metrics, read_table, worth
from selbench.task import MIRROR, TASKS, row_hash

__all__ = ["Audit", "audit", "summary"]

NAMED = ("strategy", "version", "budget", "seed", "role")  # what the plan says of a cell and its config.yaml repeats
CLOSE = 1e-9  # relative: sums of the same numbers in the order of another library's release
Question = tuple[str, str, str]  # id, problem, gold answer


@dataclass
class Audit:
    """What is wrong, a sentence each; runs of code without a commit, runs by commit, answers by grader, the questions of each task."""

    problems: list[str] = field(default_factory=list)
    dirty: list[str] = field(default_factory=list)
    commits: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    prompts: str | None = None  # SHA-256 of the training prompts in prompts.json
    questions: dict[str, list[Question]] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)  # of the tasks, as the passports have them

    def facts(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """What a manifest says of the runs."""
        return {
            **{name: plan[name] for name in ("protocol", "fingerprint", "command")}, "runs": self.runs, "dirty": self.dirty,
            "commits": dict(self.commits), "answers": dict(self.answers),
        }  # fmt: skip


def audit(folder: Path, plan: Mapping[str, Any]) -> Audit:
    """Every planned run of `folder`. Whether all answers are there is left to `leaderboard.collect`, which counts them for the table."""
    found = Audit()
    if empty := [name for name in ("cells", "pairs", "tasks") if not plan[name]]:
        found.problems.append(f"plan.json: no {', '.join(empty)} in it")
    if (folder / "prompts.json").exists():
        found.prompts = read_json(folder / "prompts.json").get("sha256")
    for run in expected(plan):
        try:
            found.problems += [f"{run.folder}{sentence}" for sentence in _run(folder / run.folder, run, plan, found)]
        except UserError as error:
            found.problems += [" ".join(text.replace(f"{folder}/", "").split()) for text in error.problems]
        except (KeyError, TypeError, AttributeError) as error:
            found.problems.append(f"{run.folder}: a record of another shape ({type(error).__name__}: {error}); run it again")
    found.problems += _task_rows(found)
    return found


def _run(path: Path, run: Expected, plan: Mapping[str, Any], found: Audit) -> Iterator[str]:
    """One run's problems, each from where its folder's name ends."""
    if not (path / "DONE").exists():
        failed = f"failed with {read_json(path / 'FAILED.json').get('error')}" if (path / "FAILED.json").exists() else "missing, no DONE"
        yield f": {failed}; run the protocol's command again"
        return
    if not is_done(path, fingerprint=plan["fingerprint"]):
        yield f"/DONE: of protocol {_short(read_json(path / 'DONE').get('fingerprint'))}, the plan is of {_short(plan['fingerprint'])}"
        return
    found.runs += 1
    config, passport = _config(path / "config.yaml"), read_json(path / "passport.json")
    yield from _identity(config, passport, run, plan)
    code = passport["code"]
    if code["dirty"] is not False or not code["commit"]:
        found.dirty.append(run.folder)
    found.commits[code["commit"] or "none"] += 1
    if run.cell is not None:
        yield from _training(path, config)
        if found.prompts and (passport.get("training_prompts") or {}).get("sha256") != found.prompts:
            yield "/passport.json: trained on other prompts than those of prompts.json"
    for task in plan["tasks"]:
        yield from _evaluation(path / "eval" / task, task, config, passport, found)
    if (path / "ledger.json").exists():
        yield from _ledger(path)


def _config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return dict(content, protocol=dict(content["protocol"]))
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise RecordError(f"{path}: not the settings of a run ({' '.join(str(error).split())}); run it again") from error


def _identity(config: Mapping[str, Any], passport: Mapping[str, Any], run: Expected, plan: Mapping[str, Any]) -> Iterator[str]:
    """Settings, passport and plan are of one protocol and one cell, and none of the protocol's seeds and pairs was left out."""
    for name, value in (
        ("config.yaml", stored_fingerprint(config["protocol"])), ("passport.json", passport.get("protocol_fingerprint")),
    ):  # fmt: skip
        if value != plan["fingerprint"]:
            yield f"/{name}: of protocol {_short(value)}, the plan is of {_short(plan['fingerprint'])}: mixed, or edited"
    if absent := sorted(set(plan["tasks"]) - set(passport.get("tasks") or {})):
        yield f"/passport.json: says nothing of task {', '.join(absent)}"
    if run.cell is None:
        return
    for name in NAMED:
        if config.get(name) != run.cell.get(name):
            yield f"/config.yaml: {name} is {config.get(name)!r}, in the plan {run.cell.get(name)!r}"
    if passport.get("seed") != run.cell["seed"]:
        yield f"/passport.json: seed is {passport.get('seed')!r}, in the plan {run.cell['seed']!r}"
    label, planned = Path(run.folder).parent.name, {cell["folder"] for cell in plan["cells"]}
    pairs = [entry["name"] for entry in config["protocol"]["pairs"]]
    due = {f"{pair}/{label}/seed{seed}" for pair in pairs for seed in config["protocol"]["seeds"]}
    if lost := sorted(due - planned):
        yield f"/config.yaml: its command ran {', '.join(lost)} too, which the plan leaves out"


def _training(path: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """metrics.jsonl has the protocol's steps; selection.parquet and tokens.parquet repeat what it says."""
    import pandas as pd

    steps, due = read_metrics(path / "metrics.jsonl"), config["protocol"]["training"]["steps"]
    if [step["step"] for step in steps] != list(range(1, due + 1)):
        yield f"/metrics.jsonl: {len(steps)} step records where the protocol has steps 1 to {due}"
        return
    selection = read_table(path / "selection.parquet")
    if len(selection) != due:
        yield f"/selection.parquet: {len(selection)} rows for {due} steps"
        return
    for name in selection.columns:
        pairs = zip(selection[name], (step.get(name) for step in steps), strict=True)
        wrong = [number for number, (ours, theirs) in enumerate(pairs, 1) if not (ours == theirs or (pd.isna(ours) and pd.isna(theirs)))]
        if wrong:
            yield f"/selection.parquet: {name} of step {wrong[0]} is not that of metrics.jsonl"
    if (path / "tokens.parquet").exists():
        tokens = read_table(path / "tokens.parquet")
        for step in sorted(set(tokens["step"])):
            rows, said = tokens[tokens["step"] == step], steps[int(step) - 1]
            for name, count in (("tokens", len(rows)), ("kept", int(rows["kept"].sum()))):
                if count != said[name]:
                    yield f"/tokens.parquet: {name} of step {step} are {count}, in metrics.jsonl {said[name]}"


def _evaluation(place: Path, task: str, config: Mapping[str, Any], passport: Mapping[str, Any], found: Audit) -> Iterator[str]:
    """meta.json says what samples.parquet holds, and both belong to this run, this task and its published questions."""
    where = f"/eval/{task}/"
    meta, rows = read_json(place / "meta.json"), read_table(place / "samples.parquet")
    if lost := [name for name in SAMPLE_COLUMNS if name not in rows]:
        yield f"{where}samples.parquet: no column {', '.join(lost)}; evaluate again"
        return
    if twice := int(rows.duplicated(["problem", "sample"]).sum()):
        yield f"{where}samples.parquet: {twice} answers stand there twice; evaluate again"
    graders = Counter(str(name) for name in rows["grader"])
    found.answers.update(graders)
    facts = passport.get("tasks", {}).get(task) or {}
    said = {
        "accuracy": float(worth(rows).sum()) / max(len(rows), 1), "tokens": int(rows["tokens"].sum()),
        "grader": "/".join(sorted(graders)), "task": "/".join(sorted(set(rows["task"]))),
        "seed": passport.get("seed") or 0, "rows_sha256": facts.get("rows_sha256"), "version": facts.get("version"),
    }  # fmt: skip
    evaluation = config["protocol"]["evaluation"]
    if evaluation.get("template") is None:
        said["prompt_sha256"] = passport.get("prompt_sha256")
    for name, value in said.items():
        if any(_unequal(meta.get(name), value, name)):
            yield f"{where}meta.json: {name} is {_brief(meta.get(name))}, from the records {_brief(value)}"
    if meta.get("settings") != evaluation:
        yield f"{where}meta.json: settings are not those of config.yaml"
    asked = list(dict.fromkeys(zip(rows["problem"], rows["prompt"], rows["gold"], strict=True)))
    if len({question[0] for question in asked}) != len(asked):
        yield f"{where}samples.parquet: a problem has two texts or two gold answers"
    if found.questions.setdefault(task, asked) != asked:
        yield f"{where}samples.parquet: other questions than in the first run of this task"
    acted = "score" in rows  # judged by what was done: its records hold no gold answer to hold against the task's
    whole = evaluation.get("problems") is None and not acted
    if whole and facts and row_hash([dict(zip(("id", "problem", "answer"), q, strict=True)) for q in asked]) != facts.get("rows_sha256"):
        yield f"{where}samples.parquet: not the questions whose hash is in passport.json"
    found.versions.setdefault(task, None if acted else facts.get("version"))


def _task_rows(found: Audit) -> Iterator[str]:
    """The questions against those of the task itself, where its rows are at hand in that version; no network."""
    for name, asked in found.questions.items():
        if name not in TASKS or TASKS.get(name).version != found.versions[name]:
            continue
        if TASKS.get(name).data is not None and not os.environ.get(MIRROR):
            continue
        rows = [(row["id"], row["problem"], row["answer"]) for row in TASKS.get(name).rows()[: len(asked)]]
        if wrong := [ours[0] for ours, theirs in zip(asked, rows, strict=False) if ours != theirs]:
            yield f"task {name}: question {wrong[0]} is not that of the task, in its text or its gold answer"


def _ledger(path: Path) -> Iterator[str]:
    stored = read_json(path / "ledger.json")
    again = ledger_of(path, stored.get("roofline"), Shape(**stored["model"]))
    if wrong := next(_unequal(stored, again, ""), None):
        yield f"/ledger.json: {wrong}, from the records another value"


def _unequal(stored: Any, again: Any, name: str) -> Iterator[str]:
    """Names of the stored values that are not as computed again; what only a newer selbench computes is no difference."""
    if isinstance(stored, Mapping) and isinstance(again, Mapping):
        for key, value in stored.items():
            yield from _unequal(value, again.get(key), f"{name}.{key}" if name else key)
    elif isinstance(stored, int | float) and isinstance(again, int | float):
        if not math.isclose(stored, again, rel_tol=CLOSE):
            yield name
    elif stored != again:
        yield name


def _short(value: object) -> str:
    return str(value)[:12] if value else "none"


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"


def summary(names: Iterable[str]) -> str:
    """How many, and the first."""
    listed = list(names)
    return f"{len(listed)} runs, the first {listed[0]}" if len(listed) > 1 else listed[0]
