"""Run a task through lm-eval and leave one record per (problem, sample); every number shown later comes from these."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from selbench.config import Agent, Evaluation
from selbench.grading import GRADER, Grade, grade_many
from selbench.models import Renderer
from selbench.provenance import peak_memory
from selbench.records import SAMPLE_COLUMNS, read_json, write_json, write_table
from selbench.rollout import Engine, Progress, Sampling
from selbench.seeding import derive
from selbench.task import Task
from selbench.templates import template_text

__all__ = ["evaluate_task", "is_evaluated"]


def is_evaluated(folder: Path, fingerprint: str) -> bool:
    """Whether the records in `folder` are those of this very evaluation."""
    meta = folder / "meta.json"
    return meta.exists() and read_json(meta).get("fingerprint") == fingerprint


def evaluate_task(
    task: Task, engine: Engine, renderer: Renderer, settings: Evaluation, seed: int, folder: Path, fingerprint: str,
    progress: Progress | None = None, limits: Agent | None = None,
) -> float:  # fmt: skip
    """Evaluate one task: samples.parquet, then meta.json in `folder`. Returns the accuracy over all n·k records.

    A task that is acted on is played within `limits` (none: the defaults), see `selbench.arena`.

    partial.jsonl holds the responses until then: where a process was killed, the next one goes on with the first block of
    requests that is missing, and leaves the records that the first one would have left. Seconds are those of all of them.

    Raises RuntimeError when the engine or lm-eval lost a response: a denominator never shrinks.
    """
    if task.arena is not None:
        from selbench.arena import evaluate_arena

        return evaluate_arena(task, engine, renderer, settings, limits or Agent(), seed, folder, fingerprint, progress)
    from selbench.lm import BATCHES, BLOCK, EngineLM, Partial

    began = time.perf_counter()
    samples = settings.samples_of(task.samples)
    if settings.template is not None:
        renderer = replace(renderer, template=template_text(settings.template))
    sampling = Sampling(settings.max_tokens, settings.temperature, settings.top_p, settings.top_k)
    partial = Partial(folder / "partial.jsonl", fingerprint)
    own_seed = derive(seed, 0, f"evaluate/{task.name}")
    lm = EngineLM(engine, renderer, sampling, own_seed, progress, partial=partial, block=max(BLOCK, BATCHES * settings.batch))
    rows = task.load()
    asked = rows[: settings.problems]
    reported = _lm_eval(task, lm, samples, settings)
    answered = [(row, index, output) for doc, row in enumerate(asked) for index, output in enumerate(lm.outputs.get(doc, []))]
    if len(answered) != len(asked) * samples:
        raise RuntimeError(f"task {task.name}: {len(answered)} responses for {len(asked)} problems x {samples} samples")
    grades = grade_many(
        [(output.text, row["answer"], output.finish == "length") for row, _, output in answered], timeout=settings.grader_timeout_seconds
    )
    records = _records(task.name, answered, grades)
    write_table(folder / "samples.parquet", records, SAMPLE_COLUMNS)
    accuracy = sum(record["verdict"] == "correct" for record in records) / len(records)
    tokens = sum(record["tokens"] for record in records)
    write_json(folder / "meta.json", {
        "schema": 1, "task": task.name, "fingerprint": fingerprint, "grader": GRADER, "engine": engine.name,
        "problems": len(asked), "samples": samples, **task.facts(),
        "template": renderer.template, "thinking": renderer.thinking, "prompt_sha256": renderer.sha256(), "seed": seed,
        "settings": settings.model_dump(mode="json"), "accuracy": accuracy, "lm_eval_acc": reported, "tokens": tokens,
        "generation_seconds": lm.seconds, "tokens_per_second": tokens / lm.seconds if lm.seconds else None,
        "seconds": time.perf_counter() - began + lm.earlier_seconds, "peak_memory_bytes": peak_memory(),
    })  # fmt: skip
    partial.close()
    return accuracy


def _lm_eval(task: Task, lm: Any, samples: int, settings: Evaluation) -> float:
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    with _quiet_lm_eval():
        manager = TaskManager(include_path=str(task.yaml.parent), include_defaults=False)
        loaded = manager.load_task_or_group([task.lm_eval_name])[task.lm_eval_name]
        loaded.set_config(key="repeats", value=samples)
        loaded.set_config(key="doc_to_text", value="{{problem}}")  # the renderer writes the instruction, the same as in training
        if settings.stop:
            loaded.set_config(key="generation_kwargs", value={"until": list(settings.stop)}, update=True)
        results = evaluate(
            lm, {task.lm_eval_name: loaded}, limit=settings.problems, bootstrap_iters=0, log_samples=True, apply_chat_template=True
        )
    assert results is not None
    return float(results["results"][task.lm_eval_name]["acc,keep_all"])


@contextlib.contextmanager
def _quiet_lm_eval() -> Iterator[None]:
    """lm-eval without its bar over the prompts and its hints for authors of tasks; what it calls an error is still shown."""
    from lm_eval.api import task as module

    logger, bar = logging.getLogger("lm_eval"), module.tqdm
    level = logger.level
    logger.setLevel(logging.ERROR)
    module.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar
        logger.setLevel(level)


def _records(task: str, answered: Sequence[tuple[dict[str, str], int, Any]], grades: Sequence[Grade]) -> list[dict[str, Any]]:
    return [
        {
            "task": task, "problem": row["id"], "sample": index, "prompt": row["problem"], "response": output.text,
            "extracted": judged.extracted, "gold": row["answer"], "verdict": judged.verdict, "method": judged.method,
            "finish": output.finish, "tokens": output.tokens, "grader": GRADER,
        }
        for (row, index, output), judged in zip(answered, grades, strict=True)
    ]  # fmt: skip
