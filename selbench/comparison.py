"""The strategies of one pair and task beside each other: intervals of their scores, verdicts against the baselines, ranks.

Arrays in, columns of the leaderboard out; no files. Incomplete strategies take no part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selbench.stats import LIKE, THESE, Effects, beats, differences, join, levels, only, rank_intervals, tie_groups
from selbench.verdicts import Verdict, judge

__all__ = [
    "BASE_ROLES", "COLUMNS", "MARGIN_POINTS", "ONE_PROBLEM", "OPPONENTS", "Entry", "Table", "compare", "opponent",
    "stack",
]  # fmt: skip

BASE_ROLES = {"student": "student (untrained)", "teacher": "teacher"}  # evaluated once, in base-<role>/
OPPONENTS = {"reference": "full-token training", "control": "random selection"}
MARGIN_POINTS = 1.0  # where the protocol names none
PARTS = ("points", "low_points", "high_points", "verdict", "p", "equivalent_p", "not_worse_p", "detectable_points")
SCORES = {LIKE: "accuracy", THESE: "accuracy_these_problems"}  # scope: stem of its columns
COLUMNS = (
    *(f"{stem}_{end}_percent" for stem in SCORES.values() for end in ("low", "high")), "rank_low", "rank_high", "tie_group",
    *OPPONENTS, *(f"vs_{role}_{part}" for role in OPPONENTS for part in PARTS),
)  # fmt: skip
ONE_PROBLEM = "one problem: nothing says how much a difference varies between problems"
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Entry:
    """A strategy, or an untrained model (a role of BASE_ROLES).

    shares: (P,) by seed, the same problems in the same order; empty where the strategy is incomplete.
    """

    strategy: str
    role: str
    status: str
    shares: Mapping[str, Array]

    @property
    def budget(self) -> str:
        return self.strategy.rpartition("@")[2]


@dataclass
class Table:
    """Columns by strategy, and what a reader has to know, a sentence each."""

    columns: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def compare(entries: Sequence[Entry], *, margin: float = MARGIN_POINTS, family: str = "both") -> Table:
    """All that is said of the strategies of one pair and task. margin: points; family: what Holm corrects together, "both" or "baseline".

    Noise between seeds is learnt from all complete strategies together, over the seeds that all of them have.
    """
    table = Table({entry.strategy: {} for entry in entries})
    _scores(table, [entry for entry in entries if entry.shares])
    trained = sorted((entry for entry in entries if entry.role not in BASE_ROLES), key=lambda entry: entry.strategy)
    rivals = {role: {entry.strategy: opponent(entry, trained, role) for entry in trained} for role in OPPONENTS}
    for role, found in rivals.items():
        _note_missing(table, role, found, trained)
        for name, rival in found.items():
            if rival is not None:
                table.columns[name][role] = rival.strategy
    together, seeds = _shared(table, [entry for entry in trained if entry.shares])
    if not together:
        return table
    _ranks(table, together, stack(together, seeds))
    _verdicts(table, together, seeds, rivals, margin / 100, family)
    apart = [entry for entry in trained if entry.shares and entry not in together]
    for entry in apart:
        reason = f"its seeds ({_few(sorted(entry.shares))}) are not those of the other strategies ({_few(seeds)}): run the same seeds"
        for role in OPPONENTS:
            if rivals[role][entry.strategy] is not None:
                table.columns[entry.strategy] |= {f"vs_{role}_verdict": "undecided", f"vs_{role}_reason": reason}
    return table


def opponent(entry: Entry, entries: Iterable[Entry], role: str) -> Entry | None:
    """The baseline of that role that `entry` is measured against: of the same budget if there is one, else the only one."""
    if entry.role == role:
        return None
    rivals = [rival for rival in entries if rival.role == role]
    rivals = [rival for rival in rivals if rival.budget == entry.budget] or rivals
    return rivals[0] if len(rivals) == 1 else None


def stack(entries: Sequence[Entry], seeds: Sequence[str]) -> Array:
    """(M, S, P) shares of right answers."""
    return np.stack([[entry.shares[seed] for seed in seeds] for entry in entries])


def _scores(table: Table, complete: Sequence[Entry]) -> None:
    """Intervals of the scores. Strategies of the same seeds learn their noise together; an untrained model stands alone."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in sorted(complete, key=lambda entry: entry.strategy):
        groups.setdefault(tuple(sorted(entry.shares)), []).append(entry)
    for seeds, members in groups.items():
        values = stack(members, seeds)
        if values.shape[-1] < 2:
            continue
        effects = levels(values)
        for scope, stem in SCORES.items():
            low, high = (np.clip(100 * end, 0, 100) for end in effects.interval(scope=scope))
            for entry, lower, upper in zip(members, low, high, strict=True):
                if np.isfinite([lower, upper]).all():
                    ends = {f"{stem}_low_percent": float(lower), f"{stem}_high_percent": float(upper)}
                    table.columns[entry.strategy] |= ends


def _note_missing(table: Table, role: str, found: Mapping[str, Entry | None], trained: Sequence[Entry]) -> None:
    """Why comparisons with the baseline of that role stay empty."""
    rivals = [entry for entry in trained if entry.role == role]
    if not rivals:
        table.notes.append(f"no {role} ({OPPONENTS[role]}) was run: the columns against it are empty; add it to --strategies")
    for rival in rivals:
        if not rival.shares:
            table.notes.append(f"the {role} `{rival.strategy}` is not complete ({rival.status}): nothing is compared with it")
    open_ = [name for name, rival in found.items() if rival is None and len(rivals) > 1 and not _is_baseline(name, trained)]
    if open_:
        table.notes.append(f"{_few(open_)}: no {role} of that budget, and several others; run one at the same budget")


def _is_baseline(name: str, entries: Sequence[Entry]) -> bool:
    return any(entry.strategy == name and entry.role in OPPONENTS for entry in entries)


def _shared(table: Table, complete: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """The strategies that are judged together, and their seeds: those that all of them have.

    Where all have no two in common, the baselines and then those with the most seeds stay; the others are left out.
    """
    if not complete:
        return [], []
    roles = [*OPPONENTS]
    order = sorted(complete, key=lambda e: (roles.index(e.role) if e.role in roles else len(roles), -len(e.shares), e.strategy))
    seeds, together = set(order[0].shares), [order[0]]
    fewest = min(2, len(seeds))
    for entry in order[1:]:
        if len(common := seeds & set(entry.shares)) >= fewest:
            seeds, together = common, [*together, entry]
    wider = sorted(entry.strategy for entry in together if len(entry.shares) > len(seeds))
    if wider:
        table.notes.append(
            f"{_few(wider)}: more seeds than all have in common; scores use all of them, differences and ranks only {_few(sorted(seeds))}"
        )
    return sorted(together, key=lambda entry: entry.strategy), sorted(seeds)


def _ranks(table: Table, entries: Sequence[Entry], values: Array) -> None:
    if values.shape[-1] < 2:
        return
    better = beats(values)
    groups = tie_groups(values.mean(axis=(1, 2)), better)
    for place, (entry, (low, high)) in enumerate(zip(entries, rank_intervals(better), strict=True)):
        letters = " ".join(_letter(number) for number, group in enumerate(groups) if place in group)
        table.columns[entry.strategy] |= {"rank_low": int(low), "rank_high": int(high), "tie_group": letters}


def _letter(number: int) -> str:
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def _verdicts(
    table: Table, entries: Sequence[Entry], seeds: Sequence[str], rivals: Mapping[str, Mapping[str, Entry | None]], margin: float,
    family: str,
) -> None:  # fmt: skip
    """Contenders against their baselines in the declared families; the control against the reference is a family of its own."""
    places = {entry.strategy: place for place, entry in enumerate(entries)}
    pairs: dict[str, list[tuple[str, int, int]]] = {"both": [], "reference": [], "control": [], "baselines": []}
    for role in OPPONENTS:
        for entry in entries:
            rival = rivals[role][entry.strategy]
            if rival is None or rival.strategy not in places:
                continue
            pair = role, places[entry.strategy], places[rival.strategy]
            if entry.role not in OPPONENTS:
                pairs["both" if family == "both" else role].append(pair)
            elif role == "reference":
                pairs["baselines"].append(pair)
    values = stack(entries, seeds)
    for kind, members in pairs.items():
        if not members:
            continue
        if values.shape[-1] < 2:
            for role, ours, _ in members:
                table.columns[entries[ours].strategy] |= {f"vs_{role}_verdict": "undecided", f"vs_{role}_reason": ONE_PROBLEM}
            continue
        effects, ordered = _effects(values, members)
        for (role, ours, _), verdict in zip(ordered, judge(effects, margin=margin), strict=True):
            table.columns[entries[ours].strategy] |= _columns(role, verdict)
        if kind == "baselines":  # the reference against its control is the same comparison, from the other side
            for (_, control, reference), verdict in zip(ordered, judge(replace(effects, mean=-effects.mean), margin=margin), strict=True):
                if rivals["control"][entries[reference].strategy] is entries[control]:
                    table.columns[entries[reference].strategy] |= _columns("control", verdict)


def _effects(values: Array, members: Sequence[tuple[str, int, int]]) -> tuple[Effects, list[tuple[str, int, int]]]:
    """The differences of (role, ours, baseline), and these in the order of the differences: baseline by baseline."""
    parts, order = [], list[tuple[str, int, int]]()
    for baseline in sorted({pair[2] for pair in members}):
        mine = [pair for pair in members if pair[2] == baseline]
        parts.append(only(differences(values, baseline), [ours - (ours > baseline) for _, ours, _ in mine]))
        order += mine
    return join(*parts), order


def _columns(role: str, found: Verdict) -> dict[str, Any]:
    ends = 100 * found.interval.mean, 100 * found.interval.low, 100 * found.interval.high
    values = *ends, found.word, found.p, found.p_equivalent, found.p_not_worse, 100 * found.detectable
    return {f"vs_{role}_{part}": value for part, value in zip((*PARTS, "reason"), (*values, found.reason), strict=True)}


def _few(names: Iterable[str], most: int = 6) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
