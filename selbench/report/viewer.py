"""The rollouts of a run token by token, for the HTML report: what every strategy kept of the same tokens, and how much that overlaps.

At the first step the weights are the same whatever the strategy, so at the same seed all strategies met the same rollouts: the
rollout bank. Which of its tokens a strategy kept stands in the records of its run; nothing is selected again here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selbench.report.sections import Group, frame, rounded

__all__ = ["KEY", "PLACE", "Bank", "bank_of", "chosen", "overlap", "view"]

PLACE = "report/tokens.parquet"  # in the protocol's folder: what a model had to say of the tokens of the bank
KEY = ["pair", "seed", "step", "strategy", "sample", "position"]  # strategy: "" where the rollout is that of every strategy
SIGNALS = {  # of a token: words, unit; the first two are stored by every run, the others by `selbench.report.tokens`
    "student_entropy": ("student entropy", "nats"),
    "reverse_kl": ("reverse KL", "nats"),
    "compatibility_mass_16": ("compatibility (top 16)", ""),
    "teacher_entropy": ("teacher entropy", "nats"),
    "student_logprob": ("student log-probability", "nats"),
    "teacher_logprob": ("teacher log-probability", "nats"),
}
STORED = ("student_entropy", "reverse_kl")
FACTS = ("problem", "gold", "verdict", "extracted", "finish")


@dataclass(frozen=True)
class Bank:
    """Tokens of one pair, a row each: KEY, token, STORED, planted where known, and `kept <label>` of those who met it.

    first: per seed, the rollouts that all strategies share. last: the last step of each strategy at its first seed.
    apart: "label, seed k" of runs that met other rollouts at the first step and are therefore left out of `first`.
    """

    pair: str
    labels: list[str]
    first: list[pd.DataFrame]
    last: list[pd.DataFrame]
    apart: list[str]


def bank_of(folder: Path, groups: Sequence[Group], pair: str) -> Bank:
    """What the finished runs of a pair stored of their tokens."""
    first: dict[int, pd.DataFrame] = {}
    last, apart, labels = [], [], []
    for group in (group for group in groups if group.pair == pair):
        for number, cell in enumerate(group.done(folder)):
            tokens, seed = frame(folder / cell["folder"] / "tokens.parquet"), int(cell["seed"])
            if not len(tokens):
                continue
            labels += [] if group.label in labels else [group.label]
            begin, end = (_rows(tokens, group, seed, step) for step in (tokens["step"].min(), tokens["step"].max()))
            kept = begin.pop(f"kept {group.label}")
            known = first.setdefault(seed, begin.assign(strategy=""))
            places = ["sample", "position", "token"]
            if known[places].equals(begin[places]):
                first[seed] = known.assign(**{f"kept {group.label}": kept.to_numpy()})
            else:
                apart.append(f"{group.label}, seed {seed}")
            if number == 0 and tokens["step"].nunique() > 1:
                last.append(end)
    return Bank(pair, labels, [first[seed] for seed in sorted(first)], last, apart)


def _rows(tokens: pd.DataFrame, group: Group, seed: int, step: int) -> pd.DataFrame:
    rows = tokens[tokens["step"] == step].reset_index(drop=True)
    rows = rows.assign(pair=group.pair, seed=seed, strategy=group.label, kept=rows["kept"].astype(bool))
    return rows.rename(columns={"kept": f"kept {group.label}"})


def overlap(bank: Bank) -> dict[str, Any]:
    """Jaccard index |A∩B| / |A∪B| of the tokens that two strategies kept of the bank, means over the seeds that have both.

    chance: that of two independent draws with the shares that the two kept. A pair of strategies without common seed is null.
    """
    size = len(bank.labels)
    found: list[list[list[float]]] = [[[] for _ in range(size)] for _ in range(size)]
    chance: list[list[list[float]]] = [[[] for _ in range(size)] for _ in range(size)]
    for rows in bank.first:
        kept = {i: rows[name].to_numpy(dtype=bool) for i, label in enumerate(bank.labels) if (name := f"kept {label}") in rows}
        for i, mine in kept.items():
            for j, theirs in kept.items():
                p, q = float(mine.mean()), float(theirs.mean())
                union = int((mine | theirs).sum())
                found[i][j].append(int((mine & theirs).sum()) / union if union else 1.0)
                chance[i][j].append(p * q / (p + q - p * q) if p + q else 1.0)
    matrices = ([rounded(np.mean(cell) if cell else None for cell in row) for row in table] for table in (found, chance))
    jaccard, expected = matrices
    tokens = sum(len(rows) for rows in bank.first)
    return {
        "pair": bank.pair, "labels": bank.labels, "jaccard": jaccard, "chance": expected, "tokens": tokens, "seeds": len(bank.first),
        "apart": bank.apart,
    }  # fmt: skip


def chosen(bank: Bank, rollouts: int, tokens: int) -> list[pd.DataFrame]:
    """At most so many rollouts and tokens, a frame each: of the bank, equally many of each seed, then of each strategy's last step."""
    found: list[pd.DataFrame] = []
    room = tokens
    for batches in (bank.first, bank.last):
        for rows in _in_turn([[rows for _, rows in batch.groupby("sample", sort=True)] for batch in batches]):
            if len(found) == rollouts or (found and len(rows) > room):
                break
            found.append(rows)
            room -= len(rows)
    order = {(step, seed, strategy): n for n, (step, seed, strategy) in enumerate(dict.fromkeys(map(_batch, [*bank.first, *bank.last])))}
    return sorted(found, key=lambda rows: order[_batch(rows)])


def _in_turn(batches: Sequence[list[pd.DataFrame]]) -> Iterator[pd.DataFrame]:
    for place in range(max(map(len, batches), default=0)):
        yield from (batch[place] for batch in batches if place < len(batch))


def _batch(rows: pd.DataFrame) -> tuple[int, int, str]:
    return int(rows["step"].iloc[0]), int(rows["seed"].iloc[0]), str(rows["strategy"].iloc[0])


def view(bank: Bank, rollouts: Sequence[pd.DataFrame], scored: pd.DataFrame) -> dict[str, Any]:
    """What the page's viewer shows of one pair. scored: rows of PLACE; empty where there are none, then tokens are shown by their ids."""
    texts: dict[str, int] = {}
    shown, gaps, batches = [], [0.0], dict[str, int]()
    mine = scored[scored["pair"] == bank.pair] if len(scored) else scored
    by_rollout = dict(iter(mine.groupby(KEY[1:-1], sort=False))) if len(mine) else {}
    for rows in rollouts:
        step, seed, strategy = _batch(rows)
        name = f"step {step}, seed {seed}" + (f", {strategy}" if strategy else ", every strategy")
        told = by_rollout.get((seed, step, strategy, int(rows["sample"].iloc[0])))
        told = told.sort_values("position") if told is not None else pd.DataFrame()
        matched = len(told) == len(rows) and (told[["position", "token"]].to_numpy() == rows[["position", "token"]].to_numpy()).all()
        told = told if matched else pd.DataFrame()
        gaps += [float((told[name] - rows[name].to_numpy()).abs().max()) for name in STORED if name in told and told[name].notna().all()]
        shown.append({"batch": batches.setdefault(name, len(batches)), **_rollout(bank, rows, told, texts)})
    return {
        "pair": bank.pair, "labels": bank.labels, "batches": list(batches), "rollouts": shown, "texts": list(texts),
        "signals": [{"name": name, "label": label, "unit": unit} for name, (label, unit) in SIGNALS.items()],
        "scored": sum("problem" in rollout for rollout in shown), "gap": rounded([max(gaps)], 2)[0],
    }  # fmt: skip


def _rollout(bank: Bank, rows: pd.DataFrame, told: pd.DataFrame, texts: dict[str, int]) -> dict[str, Any]:
    def number(text: Any) -> int:
        return texts.setdefault(str(text), len(texts))

    words = told["text"] if len(told) else [f"#{token}" for token in rows["token"]]
    signals = {name: rounded(rows[name] if name in STORED else told[name], 3) for name in SIGNALS if name in STORED or name in told}
    kept = {place: rows[f"kept {label}"] for place, label in enumerate(bank.labels) if f"kept {label}" in rows}
    found: dict[str, Any] = {
        "sample": int(rows["sample"].iloc[0]), "position": rows["position"].tolist(), "token": rows["token"].tolist(),
        "text": [number(word) for word in words],
        "kept": {i: np.flatnonzero(each.to_numpy(dtype=bool)).tolist() for i, each in kept.items()},
        "signals": {name: values for name, values in signals.items() if any(value is not None for value in values)},
    }  # fmt: skip
    if "planted" in rows:
        found["planted"] = "".join(map(str, rows["planted"].astype(int)))
    if not len(told):
        return found
    for side in ("student", "teacher"):
        pairs = list(zip(told[f"{side}_texts"], told[f"{side}_shares"], strict=True))
        if all(shares is not None and len(shares) for _, shares in pairs):
            found[side] = [[x for text, p in zip(*pair, strict=True) for x in (number(text), round(1000 * float(p)))] for pair in pairs]
    return found | {name: None if pd.isna(told[name].iloc[0]) else str(told[name].iloc[0]) for name in FACTS}
