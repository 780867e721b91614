"""`selbench tiny build`: train both models side by side, compare them with the shipped ones."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

from selbench.errors import ConfigError
from selbench.executors import thread_environment
from selbench.records import write_json
from selbench.tiny import build

__all__ = ["rebuild"]

ROLES = ("teacher", "student")


def _train(role: str, folder: Path, seed: int, results: Any) -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    results.put(build.train_model(role, folder / role, seed, lambda *row: results.put(row)))


def rebuild(folder: Path, seed: int) -> None:
    """Write `folder`/{teacher,student}, prompts.jsonl, test.jsonl and build.json. Raises ConfigError when `folder` has them already."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if (folder / "teacher").exists() or (folder / "student").exists():
        raise ConfigError(f"{folder}: holds a pair already; choose an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    build.write_problems(folder / "prompts.jsonl", folder / "test.jsonl", seed)
    os.environ.update(thread_environment(len(ROLES)))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_train, args=(role, folder, seed, results)) for role in ROLES]
    for process in processes:
        process.start()
    facts: list[dict[str, Any]] = []
    with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn()) as progress:
        bars = {role: progress.add_task(role, total=build.RECIPES[role].steps, loss="") for role in ROLES}
        while len(facts) < len(ROLES):
            if any(process.exitcode not in (None, 0) for process in processes):
                raise RuntimeError("a training process of the pair died")
            if results.empty():
                processes[0].join(0.2)
                continue
            item = results.get()
            if isinstance(item, dict):
                facts.append(item)
            else:
                role, step, _, loss = item
                progress.update(bars[role], completed=step, loss=f"loss {loss:.4f} nats")
    for process in processes:
        process.join()
    shipped = Path(build.__file__).parent
    accuracies = {
        f"{role} {name}": accuracy(home / role, folder / "test.jsonl")
        for role in ROLES
        for name, home in (("shipped", shipped), ("rebuilt", folder))
    }
    write_json(folder / "build.json", {"seed": seed, "models": sorted(facts, key=lambda f: f["role"]), "greedy_accuracy": accuracies})
    for fact in sorted(facts, key=lambda f: f["role"]):
        print(f"{fact['role']}: {fact['steps']} steps in {fact['seconds']:.0f} s, loss {fact['loss_nats']:.5f} nats")
    for role in ROLES:
        rebuilt, had = accuracies[f"{role} rebuilt"], accuracies[f"{role} shipped"]
        print(f"{role}: greedy accuracy {rebuilt:.1%}, shipped {had:.1%}, difference {100 * (rebuilt - had):+.1f} points")
    print(
        f"wrote {folder}; use it with: selbench run --teacher {folder}/teacher --student {folder}/student "
        f"--prompts {folder}/prompts.jsonl --tasks arithmetic"
    )


def accuracy(model: Path, test: Path) -> float:
    """Share of test problems that the model in a folder answers correctly, greedily."""
    import json

    from selbench.config import Model
    from selbench.grading import grade
    from selbench.models import PairSpec, load_pair
    from selbench.rollout import Sampling
    from selbench.rollout.hf import HFEngine

    pair = load_pair(PairSpec(model.name, str(model), str(model)), Model().model_dump(), "cpu", teacher=False)
    rows = [json.loads(line) for line in test.read_text(encoding="utf-8").splitlines()]
    engine = HFEngine(pair.student, end_ids=pair.renderer.end_ids, pad_id=pair.renderer.pad_id)
    rollouts = engine.generate([pair.renderer.encode(row["prompt"]) for row in rows], Sampling(56, temperature=0.0), 0)
    answers = [pair.renderer.decode(ids) for ids in rollouts.responses()]
    return sum(grade(a, row["answer"]).verdict == "correct" for a, row in zip(answers, rows, strict=True)) / len(rows)
