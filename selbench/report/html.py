"""A run folder as one HTML file that needs nothing else: no network, no library, no font; it opens wherever a browser is.

What the page shows is computed here and in the modules beside it, and written into the page as JSON; its script draws. Responses
are model text: they reach the page as data alone, and its policy lets no script or style run but the two of known hash.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from selbench import leaderboard, records
from selbench.errors import RecordError
from selbench.provenance import code_version
from selbench.report import bars, sections, viewer

__all__ = ["ROLLOUTS", "TOKENS", "collect", "render", "write"]

ROLLOUTS, TOKENS = 200, 25_000  # in the viewer, of each pair: a page stays below 5 MB
SCRIPTS = ("page.js", "table.js", "charts.js", "viewer.js")
SHOWN_PACKAGES = ("torch", "transformers", "lm-eval", "math-verify", "sympy", "vllm")


def collect(folder: Path, told: pd.DataFrame | None = None, notes: Sequence[str] = (), *, rollouts: int = ROLLOUTS) -> dict[str, Any]:
    """Everything the page shows, ready for JSON. told: rows of `report/tokens.parquet` (none: as stored there, if it is).

    notes: sentences on what could not be had. Raises RecordError when there is no readable plan.
    """
    board = leaderboard.collect(folder)
    groups = sections.groups_of(board.plan)
    path = folder / viewer.PLACE
    if told is None:
        told = records.read_table(path) if path.exists() else pd.DataFrame()
    banks = [viewer.bank_of(folder, groups, pair) for pair in board.plan["pairs"]]
    table = sections.table(board)
    return {
        "head": _head(folder, board, groups), "problems": board.problems, "notes": list(notes), "table": table,
        "learning": sections.learning(folder, groups), "budgets": sections.budgets(table["rows"], groups),
        "atlas": sections.atlas(folder, groups), "costs": bars.cost_views(folder, groups),
        "overlap": [viewer.overlap(bank) for bank in banks if bank.first],
        "looks": {group.label: group.look for group in groups},
        "viewer": [viewer.view(bank, viewer.chosen(bank, rollouts, TOKENS), told) for bank in banks if bank.first],
    }  # fmt: skip


def _head(folder: Path, board: leaderboard.Board, groups: Sequence[sections.Group]) -> dict[str, Any]:
    """What was run, by which code, on what: (word, value) pairs. Values that differ between runs are all named."""
    plan, passports = board.plan, []
    for cell in [f"{pair}/{base}" for pair in plan["pairs"] for base in records.BASE] + [
        c["folder"] for g in groups for c in g.done(folder)
    ]:
        try:
            passports.append(records.read_json(folder / cell / "passport.json"))
        except RecordError:
            continue

    def each(*keys: str) -> str:
        found: dict[str, None] = {}
        for passport in passports:
            value: Any = passport
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                found[str(value)] = None
        return ", ".join(found) or "not recorded"

    codes = dict.fromkeys(_code(passport.get("code") or {}) for passport in passports)
    gpus = dict.fromkeys(str(gpu) for passport in passports for gpu in (passport.get("hardware") or {}).get("gpus") or ())
    written = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())  # the agreed way to ask for the same bytes again
    facts = [
        ("command", plan["command"]), ("pairs", ", ".join(plan["pairs"])), ("tasks", ", ".join(plan["tasks"])),
        ("strategies", str(len(groups))), ("seeds", ", ".join(map(str, plan["seeds"]))), ("fingerprint", plan["fingerprint"]),
        ("code of the runs", ", ".join(codes) or "not recorded"), ("engine", each("engine")), ("grader", each("grader")),
        ("hardware", f"{each('hardware', 'processor')}; cores {each('hardware', 'cores')}" + "".join(f"; {gpu}" for gpu in gpus)),
        ("platform", f"{each('platform')}; Python {each('python')}"),
        ("packages", "; ".join(f"{name} {version}" for name in SHOWN_PACKAGES if (version := each("packages", name)) != "not recorded")),
        ("page", f"written {time.strftime('%Y-%m-%d %H:%M', time.gmtime(written))} UTC by the code of {_code(code_version())}"),
    ]  # fmt: skip
    return {"protocol": plan["protocol"], "facts": facts}


def _code(code: Mapping[str, Any]) -> str:
    commit = str(code.get("commit") or "no commit")[:12]
    return f"{commit} with changes" if code.get("dirty") else commit


def render(content: Mapping[str, Any]) -> str:
    """The page. The same content gives the same bytes."""
    place = files("selbench") / "report" / "page"
    style = (place / "report.css").read_text(encoding="utf-8")
    script = "\n".join((place / name).read_text(encoding="utf-8") for name in SCRIPTS)
    facts = "".join(f"<dt>{html.escape(word)}</dt><dd>{html.escape(str(value))}</dd>" for word, value in content["head"]["facts"])
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    return Template((place / "template.html").read_text(encoding="utf-8")).substitute(
        policy=policy, protocol=html.escape(content["head"]["protocol"]), facts=facts, style=style, script=script, data=embedded(content)
    )


def embedded(content: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element it stands in, whatever text it holds."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return (
        text.replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def write(output: Path, content: Mapping[str, Any]) -> Path:
    """The page as `output`; returns it."""
    records.write_text(output, render(content))
    return output
