"""What stored answers say of one model on one task: every number from samples.parquet, none from memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selbench import stats
from selbench.errors import RecordError
from selbench.records import SAMPLE_COLUMNS, VERDICTS, read_json, read_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["answer_matrices", "score_folder", "score_pool", "score_table"]

COST = ("tokens", "generation_seconds", "tokens_per_second")
SETTING = ("engine", "template", "thinking", "settings", "seed")  # what evaluations have in common where their problems are pooled
UNREADABLE = ("unparsed_answer", "unparsed_gold", "timeout", "error")


def answer_matrices(samples: pd.DataFrame) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """correct (P, k) of 0 and 1, and votes (P, k): equal integers for equal answers of a problem, -1 where there is none.

    All right answers are one vote, however they are written; wrong ones are equal where their texts are, spaces aside.
    Raises RecordError when there are no records, or when a problem lacks samples that another one has.
    """
    if samples.empty:
        raise RecordError("no records at all; evaluate again")
    counts = samples.groupby("problem", sort=False).size()
    if counts.nunique() != 1:
        raise RecordError(f"between {counts.min()} and {counts.max()} samples per problem: records are missing; evaluate again")
    if samples.duplicated(["problem", "sample"]).any():
        raise RecordError("a sample of a problem stands there twice: records are missing; evaluate again")
    ordered = samples.sort_values(["problem", "sample"], kind="stable")
    right = (ordered["verdict"] == "correct").to_numpy(dtype=np.int64)
    texts = ordered["extracted"].fillna("").str.replace(r"\s+", "", regex=True)
    names = texts.where(right == 0, "\0correct")
    votes = names.groupby([ordered["problem"], names], sort=False).ngroup().to_numpy()
    votes = np.where((texts == "") & (right == 0), -1, votes)
    shape = (len(counts), int(counts.iloc[0]))
    return right.reshape(shape), votes.reshape(shape)


def score_table(samples: pd.DataFrame) -> dict[str, Any]:
    """avg@k with interval, pass@k for the powers of two up to k, maj@k, and the share of each way not to answer. Shares in [0, 1]."""
    correct, votes = answer_matrices(samples)
    k = correct.shape[1]
    interval, method = stats.accuracy_interval(correct)
    share = samples["verdict"].value_counts(normalize=True)
    beside = [name for name in samples if name not in SAMPLE_COLUMNS and samples[name].dtype.kind in "if"]
    return {
        "problems": correct.shape[0], "samples": k, "accuracy": stats.average_at_k(correct), "low": interval.low, "high": interval.high,
        "interval": method, "pass_at_k": {str(n): stats.pass_at_k(correct, n) for n in (1, 2, 4, 8, 16, 32, 64) if n <= k},
        "majority_at_k": stats.majority_at_k(votes, correct), "verdicts": {v: int((samples["verdict"] == v).sum()) for v in VERDICTS},
        "truncated": float((samples["finish"] == "length").mean()), "unreadable": float(sum(share.get(v, 0.0) for v in UNREADABLE)),
        "tokens_per_response": float(samples["tokens"].mean()), "grader": "/".join(sorted(set(samples["grader"]))),
        **({"metrics": {name: float(samples[name].fillna(0.0).mean()) for name in beside}} if beside else {}),
    }  # fmt: skip


def score_folder(folder: Path) -> dict[str, Any]:
    """`score_table` of an evaluation's folder, with what its meta.json says of speed and setting. Raises RecordError, file named."""
    meta, samples = read_json(folder / "meta.json"), read_table(folder / "samples.parquet")
    try:
        return {**score_table(samples), **{name: meta.get(name) for name in ("task", "version", *COST, *SETTING)}}
    except RecordError as error:
        raise RecordError(f"{folder / 'samples.parquet'}: {error}") from error


def score_pool(pool: str, folders: Sequence[Path]) -> dict[str, Any] | None:
    """`score_folder` of the union of several tasks' problems, each problem counting once. None where setting or samples differ.

    Raises RecordError where records are missing, as `score_table` does.
    """
    import pandas as pd

    metas = [read_json(folder / "meta.json") for folder in folders]
    alike = (*SETTING, "samples")
    if any([meta.get(name) for name in alike] != [metas[0].get(name) for name in alike] for meta in metas):
        return None
    tables = [read_table(folder / "samples.parquet") for folder in folders]
    named = [table.assign(problem=meta["task"] + "/" + table["problem"]) for meta, table in zip(metas, tables, strict=True)]
    scores = score_table(pd.concat(named, ignore_index=True)[list(SAMPLE_COLUMNS)])
    tokens, seconds = (sum(meta[name] for meta in metas) for name in ("tokens", "generation_seconds"))
    cost = dict(zip(COST, (tokens, seconds, tokens / seconds if seconds else None), strict=True))
    return {**scores, "task": pool, "pool": [meta["task"] for meta in metas], **cost, **{name: metas[0].get(name) for name in SETTING}}
