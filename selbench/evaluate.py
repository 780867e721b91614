"""Run a task through lm-eval and leave one record per (problem, sample); every number shown later comes from these."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from selbench.config import Evaluation
from selbench.grading import GRADER, grade
from selbench.models import Renderer
from selbench.provenance import peak_memory
from selbench.records import SAMPLE_COLUMNS, read_json, write_json, write_table
from selbench.rollout import Engine, Progress, Sampling
from selbench.seeding import derive
from selbench.task import Task, row_hash

__all__ = ["evaluate_task", "is_evaluated"]


def is_evaluated(folder: Path, fingerprint: str) -> bool:
    """Whether the records in `folder` are those of this very evaluation."""
    meta = folder / "meta.json"
    return meta.exists() and read_json(meta).get("fingerprint") == fingerprint


def evaluate_task(
    task: Task, engine: Engine, renderer: Renderer, settings: Evaluation, seed: int, folder: Path, fingerprint: str,
    progress: Progress | None = None,
) -> float:  # fmt: skip
    """Evaluate one task: samples.parquet, then meta.json in `folder`. Returns the accuracy over all n·k records.

    Raises RuntimeError when lm-eval lost a response: a denominator never shrinks.
    """
    from selbench.lm import EngineLM

    began = time.perf_counter()
    samples = settings.samples or task.samples
    sampling = Sampling(settings.max_tokens, settings.temperature, settings.top_p, settings.top_k)
    lm = EngineLM(engine, renderer, sampling, derive(seed, 0, f"evaluate/{task.name}"), progress)
    rows = task.rows()
    reported = _lm_eval(task, lm, samples, settings.problems)
    asked = rows[: settings.problems]
    records = [
        _record(task.name, row, index, output, settings.grader_timeout_seconds)
        for doc, row in enumerate(asked)
        for index, output in enumerate(lm.outputs.get(doc, []))
    ]
    if len(records) != len(asked) * samples:
        raise RuntimeError(f"task {task.name}: {len(records)} responses for {len(asked)} problems x {samples} samples")
    write_table(folder / "samples.parquet", records, SAMPLE_COLUMNS)
    accuracy = sum(record["verdict"] == "correct" for record in records) / len(records)
    write_json(folder / "meta.json", {
        "schema": 1, "task": task.name, "version": task.version, "fingerprint": fingerprint, "grader": GRADER, "engine": engine.name,
        "problems": len(asked), "samples": samples, "rows_sha256": row_hash(rows), "prompt_sha256": renderer.sha256(),
        "accuracy": accuracy, "seconds": time.perf_counter() - began, "peak_memory_bytes": peak_memory(), "lm_eval_acc": reported,
    })  # fmt: skip
    return accuracy


def _lm_eval(task: Task, lm: Any, samples: int, limit: int | None) -> float:
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(task.yaml.parent), include_defaults=False)
    loaded = manager.load_task_or_group([task.lm_eval_name])[task.lm_eval_name]
    loaded.set_config(key="repeats", value=samples)
    results = evaluate(
        lm, {task.lm_eval_name: loaded}, limit=limit, bootstrap_iters=0, log_samples=True, apply_chat_template=True, verbosity="ERROR"
    )
    assert results is not None
    return float(results["results"][task.lm_eval_name]["acc,keep_all"])


def _record(task: str, row: dict[str, str], index: int, output: Any, timeout: float) -> dict[str, Any]:
    judged = grade(output.text, row["answer"], truncated=output.finish == "length", timeout=timeout)
    return {
        "task": task, "problem": row["id"], "sample": index, "prompt": row["problem"], "response": output.text,
        "extracted": judged.extracted, "gold": row["answer"], "verdict": judged.verdict, "method": judged.method,
        "finish": output.finish, "tokens": output.tokens, "grader": GRADER,
    }  # fmt: skip
