"""What is registered, for people: lists, one entry in full, and the contract checks in words."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import rich
from rich.table import Table

from selbench.card import print_card, raw_protocol
from selbench.config import protocol_names
from selbench.errors import ConfigError, nearest
from selbench.models import PAIRS, adhoc_pair
from selbench.registry import load_plugin
from selbench.signals import SIGNALS
from selbench.strategy import STRATEGIES, Strategy
from selbench.task import TASKS

__all__ = ["check", "print_list", "print_one"]


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0] if text and text.strip() else ""


def _rows(what: str) -> tuple[list[str], list[list[str]]]:
    if what == "strategies":
        head = ["name", "version", "in all", "score", "signals", "source"]
        return head, [
            [s.name, str(s.version), "" if s.role == "extra" else s.role, _first_line(s.function.__doc__), ", ".join(s.needs), s.source]
            for s in STRATEGIES
        ]
    if what == "tasks":
        return ["name", "version", "samples", "source"], [[t.name, str(t.version), str(t.samples), t.source] for t in TASKS]
    if what == "pairs":
        return ["name", "teacher", "student", "summary"], [[p.name, _short(p.teacher), _short(p.student), p.summary] for p in PAIRS]
    if what == "protocols":
        return ["name", "summary"], [[name, str(raw_protocol(name).get("summary", ""))] for name in protocol_names()]
    if what == "signals":
        return ["name", "meaning"], [[name, meaning] for name, meaning in SIGNALS.items()]
    raise ConfigError(f"cannot list {what!r}: {nearest(what, ['strategies', 'tasks', 'pairs', 'protocols', 'signals'])}")


def _short(source: str) -> str:
    home = str(files("selbench"))
    return source.replace(home, "selbench") if source.startswith(home) else source


def print_list(what: str) -> None:
    """Print one kind of contribution as a table. Raises ConfigError on an unknown kind."""
    head, rows = _rows(what)
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    shown = Table(*head)
    for row in rows:
        shown.add_row(*row)
    rich.print(shown)


def print_one(name: str, *, as_json: bool = False) -> None:
    """Print everything about one name. Raises ConfigError with the nearest names when nothing has it."""
    if name in protocol_names():
        print_card(name, as_json=as_json)
    elif as_json:
        raise ConfigError(f"show {name} --json: only protocols are shown as JSON; {nearest(name, protocol_names())}")
    elif name in STRATEGIES:
        _print_strategy(STRATEGIES.get(name))
    elif name in TASKS:
        task = TASKS.get(name)
        print(
            f"task {task.name}, version {task.version}\nsource   {task.source}\nsamples  {task.samples} per problem"
            f"\nlm-eval  {task.lm_eval_name or 'none: it is acted on, turn by turn'}\n"
            + (f"pool     {task.pool}: judged as one with its other tasks\n" if task.pool else "")
        )
        print((task.yaml.read_text(encoding="utf-8") if task.arena is None else type(task.arena).__doc__ or "").rstrip())
    elif name in PAIRS:
        pair = PAIRS.get(name)
        print(f"pair {pair.name}: {pair.summary}\nteacher  {_short(pair.teacher)}\nstudent  {_short(pair.student)}")
        print(f"planted truth  {'known for every token' if pair.planted else 'none'}")
        for role, shape in pair.shapes.items():
            print(f"{role:<8} " + ", ".join(f"{key} {value}" for key, value in shape.items()))
        for key, value in pair.settings.items():
            print(f"{key} = {json.dumps(value)}   ({pair.sources[key]})")
    elif name in SIGNALS:
        print(f"signal {name}: {SIGNALS[name]}")
    else:
        known = [s.name for s in STRATEGIES] + [t.name for t in TASKS] + [p.name for p in PAIRS] + protocol_names() + list(SIGNALS)
        raise ConfigError(f"nothing is called {name!r}: {nearest(name, known)}")


def _print_strategy(strategy: Strategy) -> None:
    module = inspect.getmodule(strategy.function)
    budget = "1 always" if strategy.role == "reference" else f"{strategy.budget:g} published"
    print(f"strategy {strategy.name}, version {strategy.version}: {_first_line(strategy.function.__doc__)}")
    print(f"source   {strategy.source}\nsignals  {', '.join(strategy.needs) or 'none'}\nbudget   {budget}\nrole     {strategy.role}")
    if strategy.candidates:
        print(f"candidates  {_first_line(strategy.candidates.__doc__)}")
    if strategy.min_per_sample:
        fill = _first_line(strategy.fill.__doc__) if strategy.fill else "own score"
        print(f"minimum  {strategy.min_per_sample} per response on top of the budget, by {fill}")
    if strategy.parameters is not None:
        print("parameters  " + ", ".join(f"{f.name} = {getattr(strategy.parameters, f.name)}" for f in fields(strategy.parameters)))
    print(f"file     {_short(strategy.file)}\n\n{inspect.getdoc(module)}")


def check(target: str, *, models: tuple[str, str] | None = None, weights: bool = True, device: str | None = None) -> bool:
    """Check a strategy, all that a file registers, or a pair (by name, or `models`: teacher and student); print the findings.

    True when all passed. weights, device: see `diagnose.template.report_pair`.
    """
    from selbench.conformance import check_strategy

    if models or target in PAIRS:
        from selbench.diagnose.template import report_pair

        return report_pair(adhoc_pair(*models) if models else PAIRS.get(target), weights=weights, device=device)
    if target.endswith(".py") or Path(target).is_file():
        path = load_plugin(target)
        strategies = STRATEGIES.from_file(path)
        if not strategies:
            raise ConfigError(f"{target}: registers no strategy; decorate a function with @register_strategy(...)")
    elif target not in STRATEGIES:
        known = [entry.name for entry in (*STRATEGIES, *PAIRS)]
        raise ConfigError(f"unknown strategy or pair {target!r}: {nearest(target, known)} (selbench list strategies, selbench list pairs)")
    else:
        strategies = [STRATEGIES.get(target)]
    passed = True
    for strategy in strategies:
        for finding in check_strategy(strategy):
            passed = passed and finding.problem is None
            print(
                f"{'ok  ' if finding.problem is None else 'FAIL'} {strategy.name}: {finding.check}"
                + (f"\n     {finding.problem}" if finding.problem else "")
            )
    return passed
