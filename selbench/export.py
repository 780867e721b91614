"""Records in the forms that others read: lm-eval's results file, and a Hugging Face model card. Numbers are recomputed from the samples."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from selbench import leaderboard, records
from selbench.comparison import BASE_ROLES, OPPONENTS
from selbench.errors import ConfigError
from selbench.outcomes import Reader, Run, measured, read_evaluation, read_plan, union
from selbench.task import TASKS, lm_eval_name

__all__ = ["FORMATS", "Evaluated", "lm_eval_results", "model_card", "read", "write"]

FORMATS = {"lm-eval": "results_{}.json", "model-card": "README.md"}
FILTER = "keep_all"  # of the tasks' YAML: stock lm-eval calls their metric `acc,keep_all`
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Evaluated:
    """One model with finished evaluations: runs by task, pools (name: tasks), its passport, and its rows of the leaderboard, if any."""

    name: str
    runs: dict[str, Run]
    pools: Mapping[str, Sequence[str]]
    passport: dict[str, Any]
    role: str = "student"
    trained: str | None = None  # strategy at version and budget
    plan: Mapping[str, Any] | None = None
    rows: tuple[dict[str, Any], ...] = ()

    @property
    def source(self) -> str:
        """Where its weights are from; of a trained model those that it began with."""
        return str(self.passport.get("models", {}).get(self.role, {}).get("source") or self.name)


def read(folder: Path) -> tuple[list[Evaluated], list[str]]:
    """The finished models in a protocol's folder, a folder within it, or one of `selbench eval`; and what is left out, a sentence each.

    Raises ConfigError where there is nothing finished, RecordError for records that cannot be read.
    """
    root = next((place for place in [folder, *folder.parents[:3]] if (place / "plan.json").is_file()), None)
    if root is None:
        runs = {path.parent.name: read_evaluation(path.parent) for path in sorted(folder.glob("eval/*/meta.json"))}
        if not runs:
            raise ConfigError(f"{folder}: no plan.json and no eval/*/meta.json there; give a protocol's folder or one of `selbench eval`")
        passport = records.read_json(folder / "passport.json")
        return [Evaluated(str(passport.get("models", {}).get("student", {}).get("source") or folder.name), runs, {}, passport)], []
    plan = read_plan(root)
    board = leaderboard.collect(root)
    reader = Reader(root, plan)
    found, left = [], list(board.problems)
    for pair in sorted(plan["pairs"]):
        for label, (role, _, cells) in leaderboard.groups_of(plan, pair).items():
            mine = board.table[(board.table["pair"] == pair) & (board.table["strategy"] == label)].to_dict("records")
            rows = tuple({str(key): value for key, value in row.items()} for row in mine)
            for cell in (cell for cell in cells if (root / cell).is_relative_to(folder)):
                read_ = {task: reader.read(pair, task, cell) for task in plan["tasks"]}
                runs = {task: run for task, run in read_.items() if isinstance(run, Run)}
                if len(runs) < len(read_):
                    left.append(f"{cell}: left out ({', '.join(sorted({word for word in read_.values() if isinstance(word, str)}))})")
                    continue
                base = role in BASE_ROLES
                found.append(Evaluated(
                    f"{plan['protocol']}/{cell}", runs, plan.get("pools", {}), records.read_json(root / cell / "passport.json"),
                    role if base else "student", None if base else label, plan, rows,
                ))  # fmt: skip
    if not found:
        raise ConfigError(f"{folder}: no finished model there ({'; '.join(left) or 'not a cell of the plan'}); run the protocol first")
    return found, left


def _metrics(run: Run) -> dict[str, float | str]:
    """lm-eval's metrics of a run: mean over problems, and the standard error that lm-eval gives a mean (`mean_stderr`)."""
    n = len(run.shares)
    error = float(run.shares.std(ddof=1)) / math.sqrt(n) if n > 1 else "N/A"
    values: dict[str, float | str] = {f"acc,{FILTER}": float(run.shares.mean()), f"acc_stderr,{FILTER}": error}
    values |= {"exact_match,none": values[f"acc,{FILTER}"], "exact_match_stderr,none": error}
    return values | {f"{name},{FILTER}": run.numbers[f"{name}_percent"] / 100 for name in ("truncated", "ungraded")}


def lm_eval_results(model: Evaluated) -> dict[str, Any]:
    """What lm-eval 0.4 writes as results_*.json, as far as the records say it; no key that its `EvalResults` does not have.

    `acc,keep_all` is what stock lm-eval calls the tasks' metric. `exact_match,none` is the same number under the name that tables of
    mathematics tasks look for. A pool is a group. `task_hashes` are hashes of the rows (`rows_sha256`).
    """
    names = {task: lm_eval_name(task) for task in model.runs}
    metas = {task: run.meta for task, run in model.runs.items()}
    first = next(iter(metas.values()))
    results = {names[task]: {"name": names[task], "alias": names[task], "sample_len": len(run.shares)} | _metrics(run)
               for task, run in model.runs.items()}  # fmt: skip
    groups = {}
    for pool, members in model.pools.items():
        run = union({task: model.runs[task] for task in members}, {})
        groups[pool] = {"name": pool, "alias": pool, "sample_len": len(run.shares)} | _metrics(run)
    better = {"acc": True, "exact_match": True, "truncated": False, "ungraded": False}
    packages = model.passport.get("packages", {})
    content: dict[str, Any] = {
        "results": results | groups,
        "group_subtasks": {names[task]: [] for task in model.runs} | {p: [names[t] for t in ts] for p, ts in model.pools.items()},
        "configs": {names[task]: _config(names[task], meta) for task, meta in metas.items()},
        "versions": {names[task]: meta.get("version") for task, meta in metas.items()},
        "n-shot": dict.fromkeys(names.values(), 0),
        "higher_is_better": dict.fromkeys([*names.values(), *groups], better),
        "n-samples": {names[task]: {"original": _all(task, meta), "effective": int(meta["problems"])} for task, meta in metas.items()},
        "config": {
            "model": first.get("engine"), "model_args": {"pretrained": model.source}, "batch_size": first.get("settings", {}).get("batch"),
            "device": model.passport.get("device"), "limit": first.get("settings", {}).get("problems"), "random_seed": first.get("seed"),
            **({"model_num_parameters": n} if (n := model.passport.get("parameters")) else {}),
        },
        "git_hash": model.passport.get("code", {}).get("commit"),
        "pretty_env_info": f"{model.passport.get('platform')}; Python {model.passport.get('python')}; torch {packages.get('torch')}",
        "transformers_version": packages.get("transformers"), "lm_eval_version": packages.get("lm-eval"),
        "task_hashes": {names[task]: meta.get("rows_sha256") for task, meta in metas.items()},
        "model_source": first.get("engine"), "model_name": model.name, "model_name_sanitized": sanitized(model.name),
        "total_evaluation_time_seconds": str(sum(float(meta["seconds"]) for meta in metas.values())),
    }  # fmt: skip
    return content | ({"groups": groups} if groups else {})


def _config(name: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The task as lm-eval's `configs` describe one."""
    settings = meta.get("settings", {})
    sampling = {"do_sample": settings["temperature"] > 0} if "temperature" in settings else {}
    sampling |= {key: settings[key] for key in ("temperature", "top_p", "top_k") if key in settings}
    return {
        "task": name, "dataset_path": (meta.get("origin") or {}).get("hub_id"), "output_type": "generate_until",
        "doc_to_text": meta.get("template"), "repeats": int(meta["samples"]), "num_fewshot": 0,
        "generation_kwargs": sampling | {"until": settings.get("stop", []), "max_gen_toks": settings.get("max_tokens")},
        "metadata": {"version": meta.get("version"), "grader": meta.get("grader"), "revision": (meta.get("origin") or {}).get("revision")},
    }  # fmt: skip


def _all(task: str, meta: Mapping[str, Any]) -> int | None:
    """Problems of the whole task; None where only the first were evaluated and the task is not known here."""
    if meta.get("settings", {}).get("problems") is None:
        return int(meta["problems"])
    return TASKS.get(task).data.rows if task in TASKS and TASKS.get(task).data else None  # type: ignore[union-attr]


def sanitized(name: str) -> str:
    """A model's name as lm-eval names its folder."""
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name)


def model_card(model: Evaluated) -> str:
    """A card in Markdown whose YAML head holds the results as `model-index`, as huggingface_hub writes and reads it."""
    from huggingface_hub import EvalResult, ModelCardData

    found = []
    for task, run in model.runs.items():
        settings, origin = run.meta.get("settings", {}), run.meta.get("origin") or {}
        arguments = {"samples": run.samples, "problems": len(run.shares), "grader": run.meta.get("grader")}
        arguments |= {key: settings[key] for key in ("temperature", "top_p", "top_k", "max_tokens") if key in settings}
        found.append(EvalResult(
            task_type="text-generation", dataset_type=origin.get("hub_id") or lm_eval_name(task), dataset_name=task,
            dataset_revision=origin.get("revision"), metric_type="accuracy", metric_name=f"accuracy, %, mean of {run.samples} samples",
            metric_value=float(f"{run.numbers['accuracy_percent']:.6g}"), metric_args=arguments,
        ))  # fmt: skip
    began = model.source if model.trained and HUB_ID.fullmatch(model.source) else None
    tags = ["selbench", *(["on-policy-distillation"] if model.trained else [])]
    data = ModelCardData(model_name=sanitized(model.name), base_model=began, library_name="transformers", tags=tags, eval_results=found)
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(_section(model)) + "\n"


def _section(model: Evaluated) -> list[str]:
    """The paragraphs of the card."""
    parts = [f"# {model.name}"]
    if model.trained and model.plan:
        teacher = model.passport.get("models", {}).get("teacher", {}).get("source")
        parts.append(
            f"`{model.source}`, distilled on-policy from `{teacher}` on the tokens that `{model.trained}` keeps; selbench protocol "
            f"`{model.plan['protocol']}`, fingerprint `{model.plan['fingerprint'][:12]}`, training seed {model.passport.get('seed')}."
        )
    lines = ["| task | problems x samples | accuracy % | truncated % | unreadable % |", "| --- | ---: | ---: | ---: | ---: |"]
    for task, run in model.runs.items():
        error = _metrics(run)[f"acc_stderr,{FILTER}"]
        shown = f"{run.numbers['accuracy_percent']:.1f}" + (f" ± {100 * error:.1f}" if isinstance(error, float) else "")
        rest = " | ".join(f"{run.numbers[name]:.1f}" for name in ("truncated_percent", "ungraded_percent"))
        lines.append(f"| {task} | {len(run.shares)} x {run.samples} | {shown} | {rest} |")
    parts += ["## Evaluation", "\n".join(lines), "± is the standard error over problems, of this model alone. Truncated and unreadable "
              "answers stay in the denominator."]  # fmt: skip
    said = [line for row in model.rows if model.plan and row["task"] in measured(model.plan) for line in _verdicts(row)]
    return parts + (["## Against the baselines", "\n".join(said)] if said else [])


def _verdicts(row: Mapping[str, Any]) -> list[str]:
    """What the leaderboard says of the strategy, all seeds together."""
    if row["status"] != "complete":
        return [f"- {row['task']}: nothing is said, {row['status']}"]
    lines = []
    for role in OPPONENTS:
        mean, low, high = (row[f"vs_{role}_{part}points"] for part in ("", "low_", "high_"))
        if not pd.isna(row[f"vs_{role}_verdict"]):
            points = "" if pd.isna(mean) else f"{mean:+.1f} [{low:.1f}, {high:.1f}] points, "
            lines.append(f"- {row['task']}, all {row['seeds_done']} seeds, against `{row[role]}`: {points}{row[f'vs_{role}_verdict']}")
    return lines


def write(folder: Path, form: str, output: Path | None = None) -> tuple[list[Path], list[str]]:
    """One file a model below `output` (default: FOLDER/export/FORM); its paths, and what is left out, a sentence each.

    The same records give the same bytes. Raises ConfigError for an unknown form and where nothing is finished.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format {form!r}: {' or '.join(FORMATS)}")
    models, left = read(folder)
    written = []
    for model in models:
        mark = str(next(iter(model.runs.values())).meta.get("fingerprint", ""))[:12]
        path = (output or folder / "export" / form) / sanitized(model.name) / FORMATS[form].format(mark)
        content = json.dumps(lm_eval_results(model), indent=2, ensure_ascii=False) + "\n" if form == "lm-eval" else model_card(model)
        records.write_text(path, content)
        written.append(path)
    return written, left
