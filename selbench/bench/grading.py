"""The graders side by side: accuracy on labelled pairs, speed, long responses, the price of a comparison that hangs.

Every number is measured here and now through `grade_many`, the way evaluation uses it, with the library graders in the same workers.
Accuracy: each answer is boxed in a sentence (the extraction set has whole responses); a pair counts as judged equal only if its
verdict is "correct", so a timeout or an unparsed answer is an error on an equal pair and none on an unequal one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selbench.errors import ConfigError
from selbench.grading import GRADERS, Item, grade_many
from selbench.provenance import hardware, package_versions

__all__ = ["accuracy", "labelled_sets", "markdown", "measure", "render"]

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
LONG = 20_000  # characters of a long response
HANG = r"\prod_{k=1}^{100000000} k"  # takes minutes; the limit below ends it
HANG_SECONDS = 3.0


def labelled_sets(folder: Path = GOLDEN) -> dict[str, list[dict[str, Any]]]:
    """The labelled pairs by name of their set. Raises ConfigError where they are absent: an installed wheel does not carry them."""
    paths = sorted([*folder.glob("equivalence*.jsonl"), *folder.glob("extraction*.jsonl")])
    if not paths:
        raise ConfigError(f"{folder}: no equivalence*.jsonl there; the labelled sets come with a checkout, not with the installed package")
    sets = {path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in paths}
    return {name: [{"equal": row.get("correct"), **row} for row in rows] for name, rows in sets.items()}


def boxed(answer: str) -> str:
    """A typical last sentence with that answer."""
    return f"Therefore the answer is $\\boxed{{{answer}}}$."


def _item(pair: dict[str, Any]) -> Item:
    return pair.get("response", boxed(pair.get("answer", ""))), pair["gold"]


def accuracy(pairs: Sequence[dict[str, Any]], grader: str) -> dict[str, Any]:
    """Share of pairs judged as labelled, false positives and negatives, verdicts; over all and by kind."""
    began = time.perf_counter()
    grades = grade_many([_item(pair) for pair in pairs], grader=grader)
    seconds = time.perf_counter() - began
    kinds: dict[str, dict[str, int]] = {}
    verdicts: dict[str, int] = {}
    for pair, judged in zip(pairs, grades, strict=True):
        row = kinds.setdefault(pair["kind"], {"pairs": 0, "false_positives": 0, "false_negatives": 0})
        row["pairs"] += 1
        row["false_positives"] += judged.verdict == "correct" and not pair["equal"]
        row["false_negatives"] += judged.verdict != "correct" and pair["equal"]
        verdicts[judged.verdict] = verdicts.get(judged.verdict, 0) + 1
    total = {name: sum(row[name] for row in kinds.values()) for name in ("pairs", "false_positives", "false_negatives")}
    right = total["pairs"] - total["false_positives"] - total["false_negatives"]
    return {"accuracy": right / total["pairs"], **total, "seconds": seconds, "verdicts": verdicts, "kinds": kinds}


def speed(grader: str) -> dict[str, float]:
    """Pairs per second on one core, warm, none of them seen before: integers, numbers in two notations, expressions."""
    sets: dict[str, list[Item]] = {
        "integers": [(boxed(f"{n:03d}"), str(n + n % 3)) for n in range(1000, 3000)],
        "numbers": [(boxed(rf"\frac{{{n}}}{{8}}\text{{ cm}}"), rf"{n / 8}") for n in range(1001, 1201)],
        "expressions": [(boxed(rf"(x+{n})(x-{n + 1})"), rf"x^2-x-{n * (n + 1)}") for n in range(101, 201)],
        "radicals": [(boxed(rf"\sqrt{{{8 * n}}}"), rf"2\sqrt{{{2 * n}}}") for n in range(101, 201)],
    }
    found = {}
    for name, items in sets.items():
        grade_many([(boxed(rf"\sqrt{{{len(name)}}}"), "7x")], grader=grader, workers=1, timeout=60)
        began = time.perf_counter()
        grade_many(items, grader=grader, workers=1)
        found[name] = len(items) / (time.perf_counter() - began)
    return found


def long_responses(grader: str, count: int) -> float:
    """Seconds for that many responses of 20,000 characters each, whose answers are integers at the end, on all cores."""
    line = "We know that $x^2+3x=10$ holds for 2 and so \\(f(x)=\\frac{1}{2}\\) follows; therefore 17 of 40 remain. "
    text = (line * (LONG // len(line) + 1))[: LONG - 60]
    items: list[Item] = [(f"{text} In case {n}, {boxed(str(n))}", str(n % 500)) for n in range(count)]
    began = time.perf_counter()
    grade_many(items, grader=grader)
    return time.perf_counter() - began


def hang(grader: str, offset: int) -> dict[str, Any]:
    """Seconds for 200 pairs with and without one comparison that hangs, on two workers, and the verdict on that one."""
    pairs: list[Item] = [(boxed(rf"\sqrt{{{4 * n}}}"), rf"2\sqrt{{{n}}}") for n in range(offset, offset + 400)]
    warm: list[Item] = [(boxed(rf"\sqrt{{{n}}}+{offset}"), "2x") for n in range(20)]
    grade_many(warm, grader=grader, workers=2, timeout=60)
    began = time.perf_counter()
    grade_many(pairs[:200], grader=grader, workers=2, timeout=HANG_SECONDS)
    without = time.perf_counter() - began
    began = time.perf_counter()
    grades = grade_many([(boxed(HANG), "x+1"), *pairs[200:]], grader=grader, workers=2, timeout=HANG_SECONDS)
    return {
        "limit_seconds": HANG_SECONDS, "without_seconds": without, "with_seconds": time.perf_counter() - began,
        "verdict": grades[0].verdict, "others_correct": sum(judged.verdict == "correct" for judged in grades[1:]),
    }  # fmt: skip


def measure(responses: int = 10_000) -> dict[str, Any]:
    """All of it: {"graders", "accuracy": {set: {grader: …}}, "speed", "long", "hang", "packages", "hardware"}."""
    sets = labelled_sets()
    return {
        "schema": 1,
        "graders": GRADERS,
        "accuracy": {name: {grader: accuracy(pairs, grader) for grader in GRADERS} for name, pairs in sets.items()},
        "pairs_per_second_and_core": {grader: speed(grader) for grader in GRADERS},
        "long_responses": {
            "responses": responses, "characters": LONG, "seconds": {grader: long_responses(grader, responses) for grader in GRADERS}
        },
        "hang": {grader: hang(grader, 1000 * (place + 1)) for place, grader in enumerate(GRADERS) if grader != "exact"},
        "packages": package_versions(),
        "hardware": hardware(),
    }  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    """The accuracies as a table: share judged as labelled, false positives and false negatives, by set and grader."""
    graders = list(found["graders"])
    lines = ["| labelled set | pairs | " + " | ".join(f"`{name}`" for name in graders) + " |", "| --- | ---: |" + " ---: |" * len(graders)]
    for name, by_grader in found["accuracy"].items():
        cells = [f"{100 * r['accuracy']:.1f} % ({r['false_positives']} + {r['false_negatives']})" for r in by_grader.values()]
        lines.append(f"| {name} | {next(iter(by_grader.values()))['pairs']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def render(found: dict[str, Any]) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for name, by_grader in found["accuracy"].items():
        pairs = next(iter(by_grader.values()))["pairs"]
        table = Table("kind", "pairs", *by_grader, title=f"{name}: errors on {pairs} pairs (false positives + false negatives)")
        for kind, row in next(iter(by_grader.values()))["kinds"].items():
            table.add_row(kind, str(row["pairs"]), *(_errors(result["kinds"][kind]) for result in by_grader.values()))
        table.add_section()
        table.add_row("all", str(pairs), *(_errors(result) for result in by_grader.values()))
        table.add_row("accuracy", "", *(f"{result['accuracy']:.2%}" for result in by_grader.values()))
        console.print(table)
    table = Table("", *found["graders"], title="speed")
    for kind in next(iter(found["pairs_per_second_and_core"].values())):
        table.add_row(f"{kind}, pairs/s/core", *(f"{rates[kind]:,.0f}" for rates in found["pairs_per_second_and_core"].values()))
    long = found["long_responses"]
    table.add_row(
        f"{long['responses']:,} responses x {long['characters']:,} characters, s", *(f"{s:.1f}" for s in long["seconds"].values())
    )
    hangs = [found["hang"].get(grader) for grader in found["graders"]]
    table.add_row("200 pairs, s", *(f"{h['without_seconds']:.1f}" if h else "" for h in hangs))
    shown = [f"{h['with_seconds']:.1f}, {h['verdict']}" if h else "" for h in hangs]
    table.add_row(f"the same with one that hangs (limit {HANG_SECONDS:g} s), s", *shown)
    console.print(table)
    for name, version in found["graders"].items():
        console.print(f"{name}: {version}", highlight=False)


def _errors(row: dict[str, Any]) -> str:
    return f"{row['false_positives']}+{row['false_negatives']}" if row["false_positives"] or row["false_negatives"] else "."
