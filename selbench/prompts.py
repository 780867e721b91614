"""Training prompts: which rows are left out and why, and which prompts a step gets.

Filters look at the rows alone, never at a strategy. A row is counted under the first reason that applies, in the order of
REASONS. Two rows hold the same problem if they differ in white space only; the row that is kept is the first one with an
answer. Answers differ if they differ as text, white space aside: nobody says which one is right, so none of them is kept.
The order in which a step draws prompts depends on the seed alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from selbench.config import Filters, Protocol
from selbench.errors import ConfigError
from selbench.overlap import Problem, Problems, Rule, find_overlaps, task_problems
from selbench.prompt_sources import Prompt, Raw, local_file, read_prompts
from selbench.records import read_json
from selbench.seeding import derive
from selbench.task import MIRROR

if TYPE_CHECKING:
    from selbench.models import PairSpec

__all__ = [
    "REPORT", "Prompt", "PromptSet", "Report", "check_planned", "load_prompts", "prompts_changed", "prompts_of_step", "training_prompts",
]  # fmt: skip

REPORT = "prompts.json"  # in the protocol's folder
EXAMPLES = 3  # of each reason, in the report
REASONS = {
    "empty": "without a problem text",
    "unanswered": "without an answer",
    "conflicting": "with the problem of another row and a different answer",
    "repeated": "repeat an earlier problem",
    "equal": "equal to an evaluation problem",
    "near": "near an evaluation problem",
    "too_long": "too long",
}
Dropped = dict[int, tuple[str, str]]  # row (from 0) -> reason, detail
Tokens = Callable[[Sequence[str]], list[int]]  # problems -> length of each rendered prompt


@dataclass(frozen=True)
class Report:
    """What was read, what was left out, what is kept: read = kept + the sum of dropped. `sha256` is of the kept prompts in order."""

    source: str
    origin: str
    revision: str | None
    read: int
    unwrapped: int
    dropped: dict[str, int]
    examples: dict[str, list[dict[str, Any]]]
    filters: dict[str, Any]
    checked: tuple[str, ...]
    not_checked: dict[str, str]
    kept: int
    sha256: str

    def content(self) -> dict[str, Any]:
        """For prompts.json."""
        return {"schema": 1, **asdict(self)}

    def identity(self) -> dict[str, Any]:
        """For a passport: what was trained on."""
        return {name: getattr(self, name) for name in ("source", "origin", "revision", "read", "kept", "sha256", "filters", "checked")}

    def lines(self) -> list[str]:
        """For people."""
        origin = "" if self.origin == self.source else f" ({self.origin})"
        commit = f", revision {self.revision[:12]}" if self.revision else ""
        lines = [f"prompts      {self.kept} of {self.read} kept from {self.source}{origin}{commit}; content {self.sha256[:12]}"]
        lines += [f"             {self.unwrapped} came in a known instruction, which was taken off"] if self.unwrapped else []
        for reason, count in self.dropped.items():
            if count:
                example = self.examples[reason][0]
                shown = " ".join(example["problem"].split())
                shown = shown if len(shown) <= 60 else shown[:59] + "…"
                detail = f" ({example['detail']})" if example["detail"] else ""
                lines.append(f"             {count} left out: {REASONS[reason]}; first: row {example['row']}{detail} {shown!r}")
        if self.filters["overlap"] != "none":
            missed = f"; not against {', '.join(self.not_checked)}" if self.not_checked else ""
            lines.append(f"             checked for overlap with {', '.join(self.checked) or 'no task'}{missed}")
        return lines


@dataclass(frozen=True)
class PromptSet(Sequence[Prompt]):
    """The prompts that are kept, in the order of the source, and the report on the others."""

    prompts: tuple[Prompt, ...]
    report: Report

    @overload
    def __getitem__(self, place: int) -> Prompt: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Prompt]: ...
    def __getitem__(self, place: int | slice) -> Prompt | Sequence[Prompt]:
        return self.prompts[place]

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)


def load_prompts(
    source: str,
    filters: Filters | None = None,
    problems: Sequence[Problem] = (),
    tokens: Tokens | None = None,
    not_checked: Mapping[str, str] | None = None,
) -> PromptSet:
    """The prompts of a source (`selbench.prompt_sources.read_prompts`) that pass the filters.

    problems: those that must not be trained on. tokens: lengths in tokens, needed where `filters.max_prompt_tokens` is set.
    not_checked: tasks whose problems could not be had, with the reason, for the report.
    Raises ConfigError when the source cannot be read or nothing in it is left.
    """
    filters = filters or Filters()
    raw = read_prompts(source)
    dropped = drop(raw.prompts, filters, problems, tokens)
    kept = tuple(prompt for row, prompt in enumerate(raw.prompts) if row not in dropped)
    report = _report(source, raw, kept, dropped, filters, sorted({p.task for p in problems}), dict(not_checked or {}))
    if not raw.prompts:
        raise ConfigError(f"prompts {source}: no prompt in it; write one JSON object a line with prompt and, if known, answer")
    if not kept:
        counts = ", ".join(f"{count} {REASONS[reason]}" for reason, count in report.dropped.items() if count)
        raise ConfigError(f"prompts {source}: none of {report.read} rows is left: {counts}; change filters or the source")
    return PromptSet(kept, report)


def drop(prompts: Sequence[Prompt], filters: Filters, problems: Sequence[Problem], tokens: Tokens | None) -> Dropped:
    """The rows that are left out, each with its reason and a detail."""
    dropped: Dropped = {}

    def left() -> list[int]:
        return [row for row in range(len(prompts)) if row not in dropped]

    for row, prompt in enumerate(prompts):
        if not prompt.problem.strip():
            dropped[row] = "empty", ""
        elif filters.require_answer and prompt.answer is None:
            dropped[row] = "unanswered", ""
    same: dict[str, list[int]] = defaultdict(list)
    for row in left():
        same[f"{prompts[row].case or ''}\0" + " ".join(prompts[row].problem.split())].append(row)
    for rows in same.values():
        answers = {"".join(answer.split()): answer for row in rows if (answer := prompts[row].answer) is not None}
        first = next((row for row in rows if prompts[row].answer is not None), rows[0])
        if len(answers) > 1:
            dropped.update({row: ("conflicting", f"{len(rows)} rows, answers {', '.join(list(answers.values())[:4])}") for row in rows})
        else:
            dropped.update({row: ("repeated", f"of row {first + 1}") for row in rows if row != first})
    if filters.overlap != "none" and problems:
        rule = Rule(filters.ngram, filters.jaccard, filters.containment, near=filters.overlap == "ngram")
        rows = left()
        for found in reversed(find_overlaps([prompts[row].problem for row in rows], Problems(problems, rule))):  # the best one stays
            reason = "equal" if found.kind == "exact" else "near"
            dropped[rows[found.prompt]] = reason, f"{found.problem.task} {found.problem.id}"
    if filters.max_prompt_tokens is not None:
        if tokens is None:
            raise ConfigError("filters.max_prompt_tokens: needs a student's tokenizer to count with; leave it out here")
        rows = left()
        for row, length in zip(rows, tokens([prompts[row].problem for row in rows]), strict=True):
            if length > filters.max_prompt_tokens:
                dropped[row] = "too_long", f"{length} tokens, at most {filters.max_prompt_tokens}"
    return dropped


def _report(
    source: str, raw: Raw, kept: Sequence[Prompt], dropped: Dropped, filters: Filters, checked: Sequence[str], not_checked: dict[str, str]
) -> Report:
    counts = dict.fromkeys(REASONS, 0)
    examples: dict[str, list[dict[str, Any]]] = {reason: [] for reason in REASONS}
    for row, (reason, detail) in sorted(dropped.items()):
        counts[reason] += 1
        if len(examples[reason]) < EXAMPLES:
            examples[reason].append({"row": row + 1, "problem": raw.prompts[row].problem, "detail": detail})
    content = hashlib.sha256()
    for prompt in kept:
        case = [] if prompt.case is None else [prompt.case]
        content.update(json.dumps([prompt.problem, prompt.answer, prompt.solution, *case]).encode() + b"\n")
    return Report(
        source, raw.origin, raw.revision, len(raw.prompts), raw.unwrapped, counts, examples, filters.model_dump(mode="json"),
        tuple(checked), not_checked, len(kept), content.hexdigest(),
    )  # fmt: skip


def training_prompts(protocol: Protocol, pairs: Sequence[PairSpec]) -> PromptSet:
    """What every cell of a protocol trains on, the same for all its pairs: a prompt is too long if any student's tokenizer says so.

    Problems of `filters.tasks`, else of
    the protocol's tasks, are kept out; a task of the protocol whose rows cannot be had is named in the report.
    Raises ConfigError as `load_prompts` does, and when a task in `filters.tasks` cannot be had.
    """
    counting = protocol.filters.max_prompt_tokens is not None
    model = (
        protocol.model.model_dump_json(include={"template", "system", "thinking", "chat_template", "student_revision"}) if counting else ""
    )
    path = local_file(protocol.prompts)
    stamp = (str(path), path.stat().st_mtime_ns, path.stat().st_size) if path else ()
    return _training_prompts(
        protocol.prompts,
        protocol.filters,
        protocol.tasks,
        tuple((pair.student, pair.teacher) for pair in pairs) if counting else (),
        model,
        stamp,
        os.environ.get(MIRROR),
    )


@lru_cache(maxsize=2)
def _training_prompts(
    source: str, filters: Filters, tasks: tuple[str, ...], pairs: tuple[tuple[str, str], ...], model: str, *stamp: object
) -> PromptSet:
    problems, missing = ([], {}) if filters.overlap == "none" else task_problems(tasks if filters.tasks is None else filters.tasks)
    if missing and filters.tasks is not None:
        raise ConfigError(*missing.values())
    return load_prompts(source, filters, problems, _lengths(pairs, json.loads(model)) if pairs else None, missing)


def _lengths(pairs: Sequence[tuple[str, str]], model: dict[str, Any]) -> Tokens:
    from selbench.renderer import load_renderer

    revision = model.pop("student_revision")

    def tokens(problems: Sequence[str]) -> list[int]:
        longest = [0] * len(problems)
        for student, teacher in pairs:
            renderer = load_renderer(student, **model, teacher=teacher, revision=revision)
            texts = [renderer.text(problem) for problem in problems]
            counts = [len(ids) for ids in renderer.tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
            longest = [max(pair) for pair in zip(longest, counts, strict=True)]
        return longest

    return tokens


def prompts_changed(prompts: PromptSet, root: Path) -> list[str]:
    """A sentence if cells below `root` were trained, or began to be, on other prompts than these."""
    path = root / REPORT
    if not path.exists() or not next(root.glob("*/*/*/metrics.jsonl"), None):
        return []
    before, now = read_json(path), prompts.report
    if before["sha256"] == now.sha256:
        return []
    return [
        f"{path}: the cells there are trained on other prompts ({before['kept']} with content {before['sha256'][:12]}; now {now.kept} with "
        f"{now.sha256[:12]}); restore the prompts, name the same filters.tasks, or choose another --output"
    ]


def check_planned(prompts: PromptSet, root: Path) -> None:
    """Raises ConfigError where the plan of `root` was made for other prompts: another machine's mirror, or an edited file."""
    path = root / REPORT
    planned = read_json(path)["sha256"] if path.exists() else prompts.report.sha256
    if planned != prompts.report.sha256:
        raise ConfigError(
            f"{path}: planned for prompts with content {planned[:12]}, yet {prompts.report.source} now gives {prompts.report.sha256[:12]} "
            f"({prompts.report.kept} kept of {prompts.report.read}); restore the source, or choose another --output"
        )


def prompts_of_step(prompts: Sequence[Prompt], seed: int, step: int, count: int) -> list[Prompt]:
    """The `count` prompts of step 1, 2, …: consecutive places in an endless row of shuffled passes over the file."""
    chosen: list[Prompt] = []
    for place in range((step - 1) * count, step * count):
        turn, within = divmod(place, len(prompts))
        chosen.append(prompts[_shuffled(len(prompts), derive(seed, turn, "prompts"))[within]])
    return chosen


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).permutation(count)]
