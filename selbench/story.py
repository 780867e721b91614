"""Two strategies of one protocol, problem by problem: what `selbench table --compare A B` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selbench.comparison import BASE_ROLES, MARGIN_POINTS, ONE_PROBLEM, Entry, stack
from selbench.errors import ConfigError, nearest
from selbench.leaderboard import groups_of, read_group
from selbench.outcomes import Reader, Run, measured, read_plan
from selbench.stats import differences, only, sign_flip
from selbench.verdicts import Verdict, judge

__all__ = ["story"]

MOST = 10  # problems listed on each side


def story(folder: Path, first: str, second: str) -> str:
    """The comparison of two strategies in Markdown, on every pair and task of the folder: verdict, problems won and lost, samples.

    first, second: as the leaderboard names them, or any beginning that means one only. The verdict is on this comparison alone,
    its noise learnt from all complete strategies of the same seeds. Raises ConfigError for an unknown, ambiguous or repeated
    name, RecordError without a readable plan.
    """
    plan = read_plan(folder)
    known = sorted({name for pair in plan["pairs"] for name in groups_of(plan, pair) if name not in BASE_ROLES.values()})
    names = [_named(word, known) for word in (first, second)]
    if names[0] == names[1]:
        raise ConfigError(f"--compare {first} {second}: both are {names[0]}; name two strategies")
    reader = Reader(folder, plan)
    parts = [f"`{names[0]}` against `{names[1]}`; protocol `{plan['protocol']}`, fingerprint `{plan['fingerprint'][:12]}`."]
    for pair in sorted(plan["pairs"]):
        for task in measured(plan):
            found = {entry.strategy: (entry, read) for entry, (_, read) in read_group(reader, plan, pair, task)}
            margin = plan.get("margins", {}).get(task, MARGIN_POINTS)
            where = [f"{pair}/{{}}/{{}}/eval/{each}/samples.parquet" for each in plan.get("pools", {}).get(task, [task])]
            parts += [f"## {pair}, {task}", *_told(found, names, where, margin)]
    if reader.problems:
        parts.append("Problems:\n\n" + "\n".join(f"- {problem}" for problem in reader.problems))
    return "\n\n".join(parts) + "\n"


def _named(word: str, known: Sequence[str]) -> str:
    """The one strategy that is meant. Raises ConfigError."""
    meant = [name for name in known if name == word] or [name for name in known if name.startswith(word)]
    if not meant:
        raise ConfigError(f"--compare: no strategy {word!r} in this folder: {nearest(word, known)}")
    if len(meant) > 1:
        raise ConfigError(f"--compare: {word!r} may be {', '.join(meant)}; write one out")
    return meant[0]


def _told(
    found: Mapping[str, tuple[Entry, Mapping[str, Run | str]]], names: Sequence[str], where: Sequence[str], margin: float
) -> list[str]:
    """Paragraphs on one pair and task."""
    absent = [f"`{name}` was not run here" for name in names if name not in found]
    absent += [f"`{name}` is not complete ({found[name][0].status})" for name in names if name in found and not found[name][0].shares]
    if absent:
        return [f"{'; '.join(absent)}: nothing to compare."]
    ours, theirs = (found[name][0] for name in names)
    seeds = sorted(set(ours.shares) & set(theirs.shares))
    if not seeds:
        return [f"No training seed in common ({', '.join(sorted(ours.shares))}; {', '.join(sorted(theirs.shares))}): run the same seeds."]
    run = next(run for run in found[names[0]][1].values() if isinstance(run, Run))
    values = stack([ours, theirs], seeds)
    gaps = values[0].mean(axis=0) - values[1].mean(axis=0)
    won, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
    samples = run.samples or "each task's"
    counts = f"Problems won {won}, lost {lost}, tied {len(gaps) - won - lost}, by the mean of {len(seeds)} seeds x {samples} samples."
    flips = f"Sign-flip test over problems, of these runs alone: p {sign_flip(gaps):.3f}."
    scores = " and ".join(f"{100 * side.mean():.1f} %" for side in values)
    said = f"difference {100 * gaps.mean():+z.1f} points; undecided: {ONE_PROBLEM}"
    if len(gaps) > 1:
        verdict = _verdict([entry for entry, _ in found.values()], ours, theirs, seeds, margin)
        low, high = (f"{100 * end:z.1f}" for end in (verdict.interval.low, verdict.interval.high))
        said = f"difference {100 * gaps.mean():+z.1f} [{low}, {high}] points; {verdict.word}: {verdict.reason}"
    files = [f"- `{name}`: " + ", ".join(f"`{each.format(name, seed)}`" for seed in seeds for each in where) for name in names]
    listed = _problems(list(run.shares.index), values.mean(axis=1), names)
    return [f"{scores}; {said}.", f"{counts} {flips}", *([listed] if listed else []), "Samples:\n\n" + "\n".join(files)]


def _verdict(entries: Sequence[Entry], ours: Entry, theirs: Entry, seeds: Sequence[str], margin: float) -> Verdict:
    """On problems like these, this comparison alone; every complete strategy with these seeds tells of the noise."""
    others = [entry for entry in entries if entry.role not in BASE_ROLES and set(seeds) <= set(entry.shares)]
    rest = sorted((entry for entry in others if entry not in (ours, theirs)), key=lambda entry: entry.strategy)
    effects = differences(stack([theirs, ours, *rest], seeds))
    return judge(only(effects, [0]), margin=margin / 100)[0]


def _problems(ids: Sequence[Any], means: Any, names: Sequence[str]) -> str:
    """The problems furthest apart on either side, as a table; empty where all are tied. means: (2, P) shares."""
    gaps = means[0] - means[1]
    order = sorted(np.flatnonzero(gaps), key=lambda place: (-gaps[place], str(ids[place])))
    won, lost = [place for place in order if gaps[place] > 0], [place for place in reversed(order) if gaps[place] < 0]
    lines = [("problem", *(f"`{name}` %" for name in names), "points"), ("---", "---:", "---:", "---:")]
    for side, word in ((won, "won"), (lost, "lost")):
        lines += [(_cell(ids[at]), *(f"{100 * mean:.1f}" for mean in means[:, at]), f"{100 * gaps[at]:+.1f}") for at in side[:MOST]]
        lines += [(f"and {len(side) - MOST} more {word}", "", "", "")] if len(side) > MOST else []
    return "\n".join(_line(line) for line in lines) if len(lines) > 2 else ""


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
