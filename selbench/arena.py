"""Episodes of a task, played by an engine and judged: one record per (case, sample), and the episodes themselves beside them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from selbench.config import digest
from selbench.environment import Arena, Outcome
from selbench.errors import RecordError, UserError
from selbench.models import Renderer
from selbench.provenance import peak_memory
from selbench.records import EPISODES, SAMPLE_COLUMNS, read_json, read_table, worth, write_json, write_table
from selbench.rollout import Engine, Progress, Sampling
from selbench.rollout.agent import Episode, play
from selbench.rollout.dialogue import Dialogue
from selbench.rollout.episodes import EpisodeFile, read_episodes
from selbench.seeding import derive
from selbench.settings import Agent, Evaluation
from selbench.task import TASKS, Task

__all__ = ["evaluate_arena", "judge", "played_below", "record_of", "rescore"]

CUT = ("length", "turns")  # endings of which a case that is not solved is called truncated


def evaluate_arena(
    task: Task, engine: Engine, renderer: Renderer, settings: Evaluation, limits: Agent, seed: int, folder: Path, fingerprint: str,
    progress: Progress | None = None,
) -> float:  # fmt: skip
    """Play and judge a task's cases: episodes.jsonl, samples.parquet, then meta.json in `folder`. Returns the mean score.

    episodes.jsonl grows by whole episodes: where a process was killed, the next one plays those that are missing, and leaves the
    records that the first one would have left, up to the rounding of other batches.
    """
    assert task.arena is not None
    began = time.perf_counter()
    samples, dialogue = settings.samples_of(task.samples), Dialogue(renderer)
    asked = [(row, sample) for row in task.load()[: settings.problems] for sample in range(samples)]
    sampling = Sampling(settings.max_tokens, settings.temperature, settings.top_p, settings.top_k)
    about = {"task": task.name, "fingerprint": fingerprint, "engine": engine.name, "seed": seed, "prompt_sha256": renderer.sha256()}
    file = EpisodeFile(folder / EPISODES, about)
    held = file.open()
    worlds = {n: partial(task.arena.open, row["id"]) for n, (row, _) in enumerate(asked) if n not in held}

    def ended(episode: Episode) -> None:
        row, sample = asked[episode.number]
        file.append(episode, task=task.name, case=row["id"], sample=sample)

    def advance(done: int, total: int) -> None:
        if progress:
            progress(len(held) + done, len(asked))

    played = play(engine, dialogue, worlds, sampling, limits, derive(seed, 0, f"evaluate/{task.name}"), ended=ended, progress=advance)
    seconds = time.perf_counter() - began
    episodes = held | {episode.number: episode for episode in played}
    records = [record_of(task, row, sample, episodes[n]) for n, (row, sample) in enumerate(asked)]
    metrics, world = write_records(folder, records), task.arena.open(asked[0][0]["id"])
    tokens, written = sum(record["tokens"] for record in records), sum(sum(episode.mask) for episode in played)
    write_json(folder / "meta.json", {
        "schema": 1, "task": task.name, "fingerprint": fingerprint, "grader": task.arena.grader, "engine": engine.name,
        "problems": len({row["id"] for row, _ in asked}), "samples": samples, **task.facts(), "template": None,
        "thinking": renderer.thinking, "prompt_sha256": renderer.sha256(),
        "opening_sha256": digest(dialogue.opening(world.opening(), world.tools)),
        "seed": seed, "settings": settings.model_dump(mode="json"), "agent": limits.model_dump(mode="json"), "metrics": metrics,
        "accuracy": metrics["score"], "endings": dict(Counter(episode.finish for episode in episodes.values())),
        **{f"{name}_per_episode": sum(getattr(e, name) for e in episodes.values()) / len(episodes)
           for name in ("turns", "calls", "broken", "shortened")},
        "tokens": tokens, "generation_seconds": seconds - sum(episode.seconds for episode in played),
        "tokens_per_second": written / seconds if played else None, "seconds": time.perf_counter() - began,
        "peak_memory_bytes": peak_memory(),
    })  # fmt: skip
    return float(metrics["score"])


def judge(arena: Arena, case: str, left: Mapping[str, Any], finish: str) -> Outcome:
    """An outcome whatever happens: what the judge raises is an error of this episode, with its reason, never a plain 0."""
    try:
        return arena.judge(case, left, finish)
    except UserError as error:
        return Outcome(0.0, False, problem="error", reason=" ".join(error.problems))


def record_of(task: Task, row: Mapping[str, str], sample: int, episode: Episode) -> dict[str, Any]:
    """One record: the verdict is "correct" for a case without anything missing; `score` is what tables compare."""
    assert task.arena is not None
    found = judge(task.arena, row["id"], episode.left, episode.finish)
    missed = found.problem or ("truncated" if episode.finish in CUT else "incorrect")
    verdict = "correct" if found.solved else "timeout" if episode.finish == "timeout" else missed
    said = next((m["content"] for m in reversed(episode.messages) if m["role"] == "assistant"), "")
    return {
        "task": task.name, "problem": row["id"], "sample": sample, "prompt": row["problem"], "response": said, "extracted": found.answer,
        "gold": "", "verdict": verdict, "method": found.method, "finish": episode.finish, "tokens": sum(episode.mask),
        "grader": task.arena.grader, "score": found.score, "reason": found.reason, **found.metrics,
    }  # fmt: skip


def write_records(folder: Path, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """samples.parquet; returns the mean of every metric over all records, absent ones counting 0."""
    names = [*dict.fromkeys(name for record in records for name in record if name not in SAMPLE_COLUMNS)]
    write_table(folder / "samples.parquet", records, [*SAMPLE_COLUMNS, *names])
    return {name: sum(record.get(name, 0.0) for record in records) / len(records) for name in names if name != "reason"}


def played_below(paths: Sequence[Path]) -> list[Path]:
    """Folders of evaluations with stored episodes, in and below `paths`."""
    return sorted({file.parent for path in paths if path.is_dir() for file in path.rglob(EPISODES)})


def rescore(folder: Path, *, rewrite: bool = False) -> dict[str, Any]:
    """Judge the stored episodes of an evaluation anew, no model runs: task, episodes, mean score before and after, moved verdicts.

    rewrite: put the new records into its samples.parquet and meta.json. Raises RecordError for what cannot be read, ConfigError for an
    unknown task or case.
    """
    records: list[dict[str, Any]] = []
    task: Task | None = None
    rows: dict[str, dict[str, str]] = {}
    for row, episode in read_episodes(folder / EPISODES):
        if task is None:
            task = TASKS.get(row["task"])
            rows = {case["id"]: case for case in task.load()}
        if row["case"] not in rows:
            raise RecordError(f"{folder / EPISODES}: case {row['case']!r} is not among those of {task.name} here; get its database")
        records.append(record_of(task, rows[row["case"]], row["sample"], episode))
    if task is None:
        raise RecordError(f"{folder / EPISODES}: no episode in it; evaluate again")
    records.sort(key=lambda record: (list(rows).index(record["problem"]), record["sample"]))
    before = read_table(folder / "samples.parquet") if (folder / "samples.parquet").exists() else None
    held = {} if before is None else {(p, s): v for p, s, v in zip(before["problem"], before["sample"], before["verdict"], strict=True)}
    moved = sum(held.get((record["problem"], record["sample"]), record["verdict"]) != record["verdict"] for record in records)
    if rewrite and before is not None:
        metrics = write_records(folder, records)
        write_json(folder / "meta.json", {**read_json(folder / "meta.json"), "metrics": metrics, "accuracy": metrics["score"]})
    return {
        "folder": str(folder), "task": task.name, "grader": task.arena.grader if task.arena else "", "episodes": len(records),
        "score_before": None if before is None else float(worth(before).mean()),
        "score": sum(record["score"] for record in records) / len(records),
        "solved": sum(record["verdict"] == "correct" for record in records), "moved": moved,
    }  # fmt: skip
