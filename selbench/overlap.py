"""Overlap of training prompts with evaluation problems: the contamination check.

Both texts are read without case, punctuation, `$` and LaTeX's commands for spacing and sizing (NFKC, then case-folded).

exact   Equal when only letters and digits are kept. Below 40 letters and digits (`47+97`) operators carry the meaning, so
        they and the points and commas within numbers are kept as well.
near    Any of three rules on word n-grams (words: runs of letters or digits, each CJK character one word):
        run          13 words of the problem in a row stand in the prompt (Brown et al., arXiv:2005.14165, appendix C), unless
                     a 6-gram of the run is a stock phrase, held by more than 10 of the prompts and problems at hand. (There:
                     runs in more than 10 documents are ignored. Contest phrases such as "where m and n are relatively prime
                     positive integers" vary at the ends, hence the shorter piece.)
        jaccard      |A ∩ B| / |A ∪ B| >= 0.2 for the sets of 6-grams of prompt A and problem B
        containment  |A ∩ B| / |B| >= 0.6: most of the problem stands in the prompt (Broder, 1997, "On the resemblance and
                     containment of documents")
        A problem of fewer than 6 words can be found exactly only. The rules are cautious: they also find problems that share
        a long statement and ask something else.

The problems are indexed by n-gram, so the time grows with the number of words, not with prompts times problems.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from selbench.errors import ConfigError, UserError
from selbench.prompt_sources import read_prompts
from selbench.records import write_json
from selbench.sources import hub_reachable
from selbench.task import TASKS

__all__ = ["Overlap", "Problem", "Problems", "Rule", "find_overlaps", "key", "render", "save", "survey", "task_problems", "words"]

SHORT = 40  # letters and digits
SHINGLE = 6  # words
COMMON = 10  # texts that may hold the same phrase
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")
LAYOUT = re.compile(
    r"\\(?:(?:quad|qquad|thinspace|medspace|thickspace|negthinspace|enspace|hfill|displaystyle|textstyle|left|right|bigg?[lmr]?|limits)"
    r"(?![a-z])|[hv]space\*?\s*\{[^}]*\}|[,;:!> ])|~"
)
STYLED_FRACTION = re.compile(r"\\[dtc]frac(?![a-z])")
SENTENCE = re.compile(r"[$!?;:\"'`\\。、]|[.,](?!\d)")


@dataclass(frozen=True)
class Rule:
    """When two texts are near; `near` False: exact matches alone."""

    n: int = 13
    jaccard: float = 0.2
    containment: float = 0.6
    near: bool = True


@dataclass(frozen=True)
class Problem:
    """One evaluation problem: `id` is unique within its task."""

    task: str
    id: str
    text: str


@dataclass(frozen=True)
class Overlap:
    """Prompt number `prompt` (from 0) and a problem; `jaccard` and `containment` of their 6-grams, `run`: a shared one, if any."""

    prompt: int
    problem: Problem
    kind: Literal["exact", "near"]
    jaccard: float
    containment: float
    run: str | None = None


def _parse(text: str) -> tuple[str, list[str]]:
    plain = (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold()
    if "\\" in plain or "~" in plain:
        plain = STYLED_FRACTION.sub(r"\\frac", LAYOUT.sub(" ", plain))
    spoken = WORD.findall(plain)
    letters = "".join(spoken)
    return (letters if len(letters) >= SHORT else SENTENCE.sub("", "".join(plain.split()))), spoken


def words(text: str) -> list[str]:
    """The words that n-grams are made of."""
    return _parse(text)[1]


def key(text: str) -> str:
    """What is compared for an exact match; empty for a text without letters, digits or operators."""
    return _parse(text)[0]


Gram = tuple[str, ...]


def _grams(of: Sequence[str], n: int) -> set[Gram]:
    return set(zip(*(of[i:] for i in range(n)), strict=False)) if len(of) >= n else set()


class Problems:
    """Evaluation problems, indexed by key and by n-gram."""

    def __init__(self, problems: Iterable[Problem], rule: Rule) -> None:
        self.rule, self.all = rule, tuple(problems)
        self.by_key: dict[str, list[int]] = defaultdict(list)
        self.by_shingle: dict[Gram, list[int]] = defaultdict(list)
        self.by_run: dict[Gram, list[int]] = defaultdict(list)
        self.size: list[int] = []  # distinct 6-grams of each problem
        for number, problem in enumerate(self.all):
            found, spoken = _parse(problem.text)
            self.by_key[found].append(number)
            shingles = _grams(spoken, SHINGLE)
            self.size.append(len(shingles))
            for gram in shingles:
                self.by_shingle[gram].append(number)
            for gram in _grams(spoken, rule.n):
                self.by_run[gram].append(number)


def find_overlaps(prompts: Sequence[str], problems: Problems) -> list[Overlap]:
    """Every pair of a prompt and a problem that overlap, by prompt, exact before near, then by falling Jaccard index.

    Which pairs are found does not depend on the order of the prompts, nor on how often one of them is repeated.
    """
    rule, found = problems.rule, []
    holders: Counter[Gram] = Counter()  # n-gram of a problem -> distinct prompts that hold it
    seen: set[str] = set()
    candidates: list[tuple[int, int, int, int, list[Gram]]] = []  # prompt, problem, shared, size of the prompt, shared runs
    for number, text in enumerate(prompts):
        mine, spoken = _parse(text)
        exact = problems.by_key.get(mine, []) if mine else []
        found += [Overlap(number, problems.all[p], "exact", 1.0, 1.0) for p in exact]
        if not rule.near:
            continue
        grams = _grams(spoken, SHINGLE)
        common = grams & problems.by_shingle.keys()
        shared: Counter[int] = Counter(p for gram in common for p in problems.by_shingle[gram])
        both = _grams(spoken, rule.n) & problems.by_run.keys() if common or rule.n < SHINGLE else set()
        runs: dict[int, list[Gram]] = defaultdict(list)
        for gram in sorted(both):
            for p in problems.by_run[gram]:
                runs[p].append(gram)
        if (said := " ".join(spoken)) not in seen:
            seen.add(said)
            holders.update(common if rule.n >= SHINGLE else both)
        near = sorted((shared.keys() | runs.keys()) - set(exact))
        candidates += [(number, p, shared[p], len(grams), runs.get(p, [])) for p in near]
    for number, p, both_hold, size, held in candidates:
        jaccard = both_hold / max(1, size + problems.size[p] - both_hold)
        containment = both_hold / max(1, problems.size[p])
        run = next((" ".join(gram) for gram in held if not _is_stock(gram, holders, problems)), None)
        if jaccard >= rule.jaccard or containment >= rule.containment or run:
            found.append(Overlap(number, problems.all[p], "near", jaccard, containment, run))
    return sorted(found, key=lambda o: (o.prompt, o.kind, -o.jaccard, o.problem.task, o.problem.id))


def _is_stock(run: Gram, holders: Counter[Gram], problems: Problems) -> bool:
    index, n = (problems.by_run, len(run)) if len(run) < SHINGLE else (problems.by_shingle, SHINGLE)
    return any(holders[part] + len(index[part]) > COMMON for part in _grams(run, n))


def task_problems(names: Sequence[str] | None) -> tuple[list[Problem], dict[str, str]]:
    """The problems of these tasks (None: of all registered ones), and for each task whose rows cannot be had the reason.

    Raises ConfigError on an unknown name.
    """
    found: list[Problem] = []
    missing: dict[str, str] = {}
    for task in list(TASKS) if names is None else [TASKS.get(name) for name in names]:
        try:
            found += [Problem(task.name, row["id"], row["problem"]) for row in task.load()]
        except UserError as error:
            missing[task.name] = " ".join(error.problems)
    return found, missing


def survey(sources: Sequence[str], tasks: Sequence[str] | None, rule: Rule) -> dict[str, Any]:
    """Which problems of which tasks stand in which prompts: counts per source and task, and every match with both texts.

    `tasks` None: all registered tasks whose rows can be had; the others are listed under `not_checked`. Raises ConfigError when
    a source cannot be read, and when a task that was asked for (or every task) cannot.
    """
    hub_reachable()
    raws = [read_prompts(source, solutions=False) for source in sources]
    problems, missing = task_problems(tasks)
    if missing and (tasks is not None or not problems):
        raise ConfigError(*missing.values())
    index, counts, matches, read = Problems(problems, rule), [], [], []
    for source, raw in zip(sources, raws, strict=True):
        texts = [prompt.problem for prompt in raw.prompts]
        found = find_overlaps(texts, index)
        read.append({"source": source, "origin": raw.origin, "revision": raw.revision, "rows": len(texts)})
        for task, total in Counter(problem.task for problem in problems).items():
            mine = [o for o in found if o.problem.task == task]
            exact = {o.prompt for o in mine if o.kind == "exact"}
            touched = len({o.problem.id for o in mine})
            counts.append({
                "source": source, "task": task, "problems": total, "exact": len(exact), "near": len({o.prompt for o in mine} - exact),
                "touched": touched, "share": touched / total,
            })  # fmt: skip
        matches += [{"source": source, **asdict(o), "row": o.prompt + 1, "text": texts[o.prompt]} for o in found]
    return {"schema": 1, "rule": asdict(rule), "prompts": read, "counts": counts, "not_checked": missing, "matches": matches}


def render(content: dict[str, Any], examples: int) -> str:
    """A survey in words: the table, then `examples` matches of each row and kind with both texts side by side."""
    lines = ["| prompts | rows | task | problems | exact | near | problems touched |", "| --- | ---: | --- | ---: | ---: | ---: | ---: |"]
    rows = {entry["source"]: entry["rows"] for entry in content["prompts"]}
    for c in content["counts"]:
        share = f"{c['touched']} ({100 * c['share']:.3g} %)"
        lines.append(f"| {c['source']} | {rows[c['source']]} | {c['task']} | {c['problems']} | {c['exact']} | {c['near']} | {share} |")
    lines += [f"\n{task}: not checked: {reason}" for task, reason in content["not_checked"].items()]
    shown: Counter[tuple[str, str, str]] = Counter()
    for match in content["matches"]:
        group = (match["source"], match["problem"]["task"], match["kind"])
        shown[group] += 1
        if shown[group] <= examples:
            why = f"Jaccard {match['jaccard']:.2f}, containment {match['containment']:.2f}" if match["kind"] == "near" else "equal"
            why += f', both say "{match["run"]}"' if match["run"] else ""
            lines += ["", f"{match['source']} row {match['row']} | {match['problem']['task']} {match['problem']['id']}: {why}"]
            lines += _side_by_side(match["text"], match["problem"]["text"])
    return "\n".join(lines)


def save(content: dict[str, Any], path: Path) -> None:
    """The survey as JSON. Raises ConfigError when `path` cannot be written."""
    if path.is_dir():
        raise ConfigError(f"--output {path}: is a folder; name a file, as in {path / 'overlap.json'}")
    try:
        write_json(path, content)
    except OSError as error:
        raise ConfigError(f"--output {path}: cannot be written ({error.strerror}); name a file in a folder of yours") from error


def _side_by_side(left: str, right: str, width: int = 64, most: int = 8) -> list[str]:
    both = [textwrap.wrap(" ".join(text.split()), width, max_lines=most, placeholder=" …") for text in (left, right)]
    return [f"  {a:<{width}} | {b}".rstrip() for a, b in zip_longest(*both, fillvalue="")]
