"""From an agent's last reply to a structured plan, by a converter with a name; the name and its version belong in every record.

    lines   the official free-text format, read line by line (parse.py): the agent's task as published, no model in the score
    json    the plan asked of the agent as one JSON object: another task than the published one, never in one table with it
    llm     the official way: another model turns the text into JSON, through any OpenAI-compatible endpoint

`lines` and `json` read the last closed <plan> of the reply, after its last </think>; `llm` reads all of them, as published. A reply
without a plan, one cut off by a limit and a plan that cannot be read are not delivered: each has its status, none is mended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from selbench import ConfigError

from .endpoint import EXAMPLE_BUDGETS, Endpoint, ask
from .parse import VERSION, Source, parse
from .plan import Plan, PlanError, strict
from .score import Score

__all__ = ["CONVERTERS", "STATUSES", "Conversion", "agreement", "convert", "plan_blocks", "tally"]

STATUSES = ("delivered", "no_plan", "limit", "unreadable")
THOUGHT = re.compile(r"</think>", re.IGNORECASE)
TAG = re.compile(r"<(/?)plan>", re.IGNORECASE)


@dataclass(frozen=True)
class Conversion:
    """What became of a reply.

    Attributes:
        converter: name and version, for llm with its model. plan: of any JSON type for llm, an object else; None unless delivered.
        status: one of `STATUSES`; `reason` says why it is not "delivered".
        blocks: closed <plan> pairs with content. unread: lines without a reading. sources: where each value was read, by path (lines).
        flags: "several_plans"; of llm "from_limit" (made from a call-limit notice) and "example_budget" (amounts of a prompt's example).
    """

    converter: str
    plan: Any
    status: str
    reason: str = ""
    blocks: int = 0
    unread: tuple[Source, ...] = ()
    sources: Mapping[str, Source] | None = None
    flags: tuple[str, ...] = ()


def plan_blocks(reply: str) -> list[str]:
    """Contents of the closed <plan> pairs after the last </think>, trimmed, empty ones left out."""
    said = THOUGHT.split(reply)[-1]
    blocks, start = [], None
    for tag in TAG.finditer(said):  # one pass: a pattern for the pair takes quadratic time where none closes
        if not tag[1]:
            start = tag.end() if start is None else start
        elif start is not None:
            blocks.append(said[start : tag.start()].strip())
            start = None
    return [block for block in blocks if block]


def convert(name: str, reply: str, *, places: Collection[str] = (), limit: bool = False, endpoint: Endpoint | None = None) -> Conversion:
    """Converts one reply.

    Args:
        name: a key of `CONVERTERS`. reply: the agent's last message, or the notice that a limit ended the episode (`limit`).
        places: names of the case's locations, for lines. endpoint: who converts, for llm.

    Raises ConfigError for an unknown converter and for llm without an endpoint, UserError where the endpoint refuses or stays silent.
    """
    if name not in CONVERTERS:
        raise ConfigError(f"plan converter {name!r}: unknown; known: {', '.join(sorted(CONVERTERS))}")
    return CONVERTERS[name](reply, places, limit, endpoint)


def _lines(reply: str, places: Collection[str], limit: bool, _: Endpoint | None) -> Conversion:
    converter = f"lines-{VERSION}"
    blocks = plan_blocks(reply)
    if lost := _undelivered(converter, blocks, limit):
        return lost
    found = parse(_last(blocks), places)
    unread = tuple(found.unread)
    if not found.plan["daily_plans"]:
        return Conversion(converter, None, "unreadable", "no line opens a day", len(blocks), unread, None, _several(blocks))
    return Conversion(converter, found.plan, "delivered", "", len(blocks), unread, found.sources, _several(blocks))


def _json(reply: str, places: Collection[str], limit: bool, _: Endpoint | None) -> Conversion:
    blocks = plan_blocks(reply)
    if lost := _undelivered("json-1", blocks, limit):
        return lost
    try:
        plan: Plan = strict(_last(blocks))
    except PlanError as error:
        return Conversion("json-1", None, "unreadable", str(error), len(blocks), flags=_several(blocks))
    return Conversion("json-1", plan, "delivered", "", len(blocks), flags=_several(blocks))


def _llm(reply: str, places: Collection[str], limit: bool, endpoint: Endpoint | None) -> Conversion:
    """Published behaviour: a call-limit notice is converted like a plan; the flag tells."""
    if endpoint is None:
        raise ConfigError("plan converter 'llm': needs an endpoint; give its address and model, or use lines or json")
    blocks = [reply.strip()] if limit and reply.strip() else plan_blocks(reply)
    converter = f"llm-1:{endpoint.model}"
    if not blocks:
        return Conversion(converter, None, "no_plan", "the reply has no closed <plan>")
    plan, attempts = ask(endpoint, "\n\n".join(blocks))
    if attempts is None or plan is None:
        return Conversion(converter, None, "unreadable", f"no JSON in {endpoint.attempts} replies of {endpoint.model}", len(blocks))
    summary = plan.get("budget_summary") if isinstance(plan, dict) else None
    copied = isinstance(summary, dict) and any(
        all(summary.get(key) == value for key, value in budget.items()) for budget in EXAMPLE_BUDGETS
    )
    marks = (("several_plans", len(blocks) > 1), ("from_limit", limit), ("example_budget", copied))
    return Conversion(converter, plan, "delivered", "", len(blocks), flags=tuple(name for name, holds in marks if holds))


CONVERTERS: dict[str, Callable[[str, Collection[str], bool, Endpoint | None], Conversion]] = {"lines": _lines, "json": _json, "llm": _llm}


def _undelivered(converter: str, blocks: list[str], limit: bool) -> Conversion | None:
    if limit:
        return Conversion(converter, None, "limit", "the episode ended at a limit", len(blocks))
    return None if blocks else Conversion(converter, None, "no_plan", "the reply has no closed <plan>")


def _last(blocks: list[str]) -> str:
    """The last block, from the last <plan> that opens in it: an earlier one was never closed."""
    return re.split("<plan>", blocks[-1], flags=re.IGNORECASE)[-1].strip()


def _several(blocks: list[str]) -> tuple[str, ...]:
    return ("several_plans",) if len(blocks) > 1 else ()


def tally(conversions: Collection[Conversion]) -> dict[str, Any]:
    """Counts for a table's caption: by status, replies with several plans, flags, plans with unread lines and their lines."""
    return {
        "n": len(conversions),
        **{status: sum(found.status == status for found in conversions) for status in STATUSES},
        **{flag: sum(flag in found.flags for found in conversions) for flag in ("several_plans", "from_limit", "example_budget")},
        "with_unread_lines": sum(bool(found.unread) for found in conversions),
        "unread_lines": sum(len(found.unread) for found in conversions),
    }


def agreement(first: Mapping[str, Score], second: Mapping[str, Score]) -> dict[str, Any]:
    """How far the scores of one set of replies under two converters agree.

    Args:
        first, second: scores by task, one converter each, undelivered ones included.

    Returns:
        n; tasks evaluated under both, one or none; tasks of equal commonsense and equal personalised score; of the tasks evaluated
        under both, single outcomes compared and differing, and which; means over all n. Raises ConfigError for different tasks.
    """
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise ConfigError(f"agreement: both converters need the same tasks; only one has {', '.join(odd[:5])}")
    pairs = [(first[name], second[name]) for name in first]
    both = [(a, b) for a, b in pairs if a.status == b.status == "evaluated"]
    outcomes = [
        (name, bool(a_of[name]) != bool(b_of.get(name)))
        for a, b in both
        for a_of, b_of in (({**a.checks, **a.constraints}, {**b.checks, **b.constraints}),)
        for name in a_of
        if name in b_of
    ]
    differing = [name for name, differs in outcomes if differs]
    count = len(pairs) or 1
    return {
        "n": len(pairs), "evaluated_both": len(both),
        "evaluated_one": sum((a.status == "evaluated") != (b.status == "evaluated") for a, b in pairs),
        "commonsense_equal": sum(a.commonsense_score == b.commonsense_score for a, b in pairs),
        "personalized_equal": sum(a.personalized_score == b.personalized_score for a, b in pairs),
        "outcomes": len(outcomes), "outcomes_differing": len(differing),
        "differing": {name: differing.count(name) for name in sorted(set(differing))},
        "commonsense_means": [sum(score.commonsense_score for score in side) / count for side in zip(*pairs, strict=True)],
        "personalized_means": [sum(score.personalized_score for score in side) / count for side in zip(*pairs, strict=True)],
    }  # fmt: skip
