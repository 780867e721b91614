"""The cost ledger of a run: seconds, FLOPs and memory by phase, beside full-token steps and what the machine can do.

`ledger.json` holds nothing that `ledger_of` does not recompute from `metrics.jsonl`, `eval/*/meta.json`, `eval/*/samples.parquet`,
`engine.json`, and the two facts in it that are not in these: the roofline measured on the machine, and the shape of the evaluated model.
What a record does not say is null, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selbench import records
from selbench.estimate import Shape, forward_flops, head_flops

__all__ = ["ledger_of", "summarise", "write_ledger"]


def summarise(steps: Sequence[Mapping[str, Any]], roofline: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Totals of the training steps of a run from their records (rows of metrics.jsonl).

    phases: seconds, FLOPs, peak bytes, FLOP/s and their share of the machine's matmul rate. update: the same of teacher, score,
    select and distil together, and the full-token baseline's FLOPs on the same batches. saved: shares in 0-1, negative where selection
    costs more. memory_vs_dense compares the measured peak of distil, weights and all, with that peak less the chunks plus a dense loss.
    """
    known = {phase for step in steps for name in ("seconds", "flops", "peak_bytes") for phase in step.get(name) or {}}
    phases = {phase: _entry(steps, (phase,), roofline) for phase in records.PHASES if phase in known}
    update = _entry(steps, records.UPDATE, roofline)
    baseline = _sum(step.get("baseline_flops") for step in steps)
    dense = [_dense_peak(step) for step in steps]
    peak = phases.get("distil", {}).get("peak_bytes")
    predicted = max((each for each in dense if each is not None), default=None) if None not in dense else None
    padded = [step["padded_share"] for step in steps if step.get("padded_share") is not None]
    return {
        "steps": len(steps), "phases": phases, "update": update | {"baseline_flops": baseline},
        "padded_share": sum(padded) / len(padded) if len(padded) == len(steps) > 0 else None,
        "dense_peak_bytes": predicted,
        "saved": {"flops_vs_full": _saved(update["flops"], baseline), "memory_vs_dense": _saved(peak, predicted)},
    }  # fmt: skip


def _entry(steps: Sequence[Mapping[str, Any]], phases: Sequence[str], roofline: Mapping[str, Any] | None) -> dict[str, Any]:
    seconds, flops, peaks = ([step.get(name) for step in steps] for name in ("seconds", "flops", "peak_bytes"))
    took = _sum(_part(each, phases) for each in seconds) if _named(seconds, phases) else None
    done = _sum(_part(each, phases) for each in flops) if _named(flops, phases) else None
    held = [each[phase] for each in peaks if each for phase in phases if phase in each] if all(peaks) else []
    rate = done / took if done and took else None
    return {
        "seconds": took, "flops": done, "peak_bytes": max(held, default=None), "flops_per_second": rate,
        "share_of_matmul_rate": rate / roofline[roofline["rate"]] if rate and roofline else None,
    }  # fmt: skip


def _named(fields: Sequence[Mapping[str, float] | None], phases: Sequence[str]) -> bool:
    """Whether some step has one of these phases: a phase that no step entered is missing, one that some did not cost these nothing."""
    return any(phase in each for each in fields if each for phase in phases)


def _part(values: Mapping[str, float] | None, phases: Sequence[str]) -> float | None:
    return None if values is None else sum(values.get(phase, 0.0) for phase in phases)


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return float(sum(value for value in found if value is not None)) if found and None not in found else None


def _dense_peak(step: Mapping[str, Any]) -> int | None:
    peak, chunk, dense = (step.get("peak_bytes") or {}).get("distil"), step.get("chunk_bytes"), step.get("dense_bytes")
    return None if peak is None or chunk is None or dense is None else int(peak - chunk + dense)


def _saved(ours: float | None, baseline: float | None) -> float | None:
    return None if ours is None or not baseline else 1 - ours / baseline


def ledger_of(folder: Path, roofline: Mapping[str, Any] | None, model: Shape) -> dict[str, Any]:
    """The ledger of the run in `folder`. model: what was evaluated there. Raises RecordError when a record cannot be read."""
    evaluations = {path.parent.name: _evaluation(path.parent, model) for path in sorted(folder.glob("eval/*/meta.json"))}
    steps = summarise(records.read_metrics(folder / "metrics.jsonl"), roofline)
    facts = {"roofline": dict(roofline) if roofline else None, "model": asdict(model)}
    return {"schema": records.SCHEMA, **facts, **steps, "evaluation": evaluations, "engine": _engine(folder / "engine.json")}


def _engine(path: Path) -> dict[str, Any]:
    """Seconds to start the engine by part of the run: 0 where the process had one already or none is started, null where unrecorded."""
    said = records.read_json(path) if path.exists() else {}
    return {f"{part}_start_seconds": (said.get(part) or {}).get("startup_seconds", 0.0 if part in said else None)
            for part in ("training", "evaluation")}  # fmt: skip


def _evaluation(folder: Path, model: Shape) -> dict[str, Any]:
    """flops: of the response tokens, each after those before it; prompts are not in the records in tokens, so their pass is left out."""
    meta, tokens = records.read_json(folder / "meta.json"), records.read_table(folder / "samples.parquet")["tokens"]
    flops = sum(forward_flops(model, max(t - 1, 0), t / 2) + head_flops(model, t) for t in map(int, tokens))
    return {
        "seconds": meta.get("seconds"), "generation_seconds": meta.get("generation_seconds"), "tokens": int(tokens.sum()),
        "flops_without_prompts": flops, "peak_bytes": meta.get("peak_memory_bytes"),
    }  # fmt: skip


def write_ledger(folder: Path, roofline: Mapping[str, Any] | None, model: Shape) -> Path:
    """ledger.json in the run folder; returns its path. roofline: `selbench.devices.roofline` on the machine that trained, if known."""
    records.write_json(folder / "ledger.json", ledger_of(folder, roofline, model))
    return folder / "ledger.json"
