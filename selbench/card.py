"""A protocol for people: every setting with where its value is from, the published numbers, and when a reproduction counts as met."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selbench.config import DOCUMENTATION, Frozen, Protocol
from selbench.models import PAIRS

__all__ = ["card", "flatten", "print_card", "raw_protocol"]

WIDTH = 100
UNSTATED = "not stated"
DEFAULT = "selbench's default"


def raw_protocol(name: str) -> dict[str, Any]:
    """A shipped protocol as its file says, unvalidated."""
    import yaml

    return dict(yaml.safe_load((files("selbench") / "protocols" / f"{name}.yaml").read_text(encoding="utf-8")))


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections as dotted keys; lists, and mappings without content, are values."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def card(name: str) -> dict[str, Any]:
    """What is known of a shipped protocol: name, summary, settings (key, value, source), published (rows), criteria (sentences).

    Settings come in the file's order, then those that its pair fills in, then the defaults that the file leaves as they are.
    """
    content = raw_protocol(name)
    given = flatten({key: value for key, value in content.items() if key not in ("name", *DOCUMENTATION)})
    stated = content.get("sources", {})
    settings = [{"key": key, "value": value, "source": stated.get(key, UNSTATED)} for key, value in given.items()]
    listed = [entry for entry in content.get("pairs", []) if isinstance(entry, str) and entry in PAIRS]
    for entry in listed[:1]:
        pair = PAIRS.get(entry)
        filled = {key: value for key, value in pair.settings.items() if key not in given}
        settings += [{"key": key, "value": value, "source": f"pair {entry}: {pair.sources[key]}"} for key, value in filled.items()]
        given |= filled
    settings += [{"key": key, "value": value, "source": DEFAULT} for key, value in _defaults().items() if key not in given]
    published = content.get("published", [])
    return {
        "schema": 1, "protocol": name, "summary": content.get("summary", ""), "settings": settings, "published": published,
        "criteria": content.get("criteria", []),
    }  # fmt: skip


def _defaults() -> dict[str, Any]:
    fields = Protocol.model_fields
    found: dict[str, Any] = {}
    for key, field in fields.items():
        if key in DOCUMENTATION or field.is_required():
            continue
        value = field.get_default()
        found |= flatten({key: value.model_dump(mode="json")}) if isinstance(value, Frozen) else {key: value}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def print_card(name: str, *, as_json: bool = False) -> None:
    """Print a shipped protocol's card: tables of at most 100 columns, or one JSON object (`schema` 1, keys of `card`)."""
    content = card(name)
    if as_json:
        print(json.dumps(content, indent=1))
        return
    console = Console(width=WIDTH if not Console().is_terminal else min(WIDTH, Console().width), highlight=False)
    console.print(f"protocol {name}: {content['summary']}", markup=False)
    settings = _table("settings", "key", "value", "source")
    settings.columns[1].max_width = 26
    for row in content["settings"]:
        if row["source"] != DEFAULT:
            settings.add_row(*(escape(cell) for cell in (row["key"], _shown(row["value"]), row["source"])))
    console.print(settings)
    left = ", ".join(f"{row['key']} = {_shown(row['value'])}" for row in content["settings"] if row["source"] == DEFAULT)
    console.print(f"left at selbench's defaults: {left}", markup=False)
    if content["published"]:
        table = _table("published numbers", "task", "strategy", "published", "metric", "source and note")
        for row in content["published"]:
            spread = f" ± {row['spread']:g}" if row.get("spread") is not None else ""
            note = f"; {row['note']}" if row.get("note") else ""
            table.add_row(
                *(escape(cell) for cell in (row["task"], row["strategy"], f"{row['value']:g}{spread}", row["metric"], row["source"] + note))
            )
        console.print(table)
    if content["criteria"]:
        console.print("when a reproduction counts as met:")
    for sentence in content["criteria"]:
        console.print(f"- {sentence}", markup=False)
    if any("[P~]" in str(row["source"]) for row in [*content["settings"], *content["published"]]):
        console.print("[P~]: relayed by others, not read in the paper itself. [C]: read in the code.", markup=False)


def _table(title: str, *heads: str) -> Table:
    table = Table(*heads, title=f"\n{title}", title_justify="left")
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    return table


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return ", ".join(value) or "none"
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        return "; ".join(", ".join(f"{key} {text}" for key, text in entry.items()) for entry in value)
    return "none" if value is None or value == {} else json.dumps(value)
