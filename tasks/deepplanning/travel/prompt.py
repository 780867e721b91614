"""What the travel agent is told: rules, the plan's format and an invented example, in either language, in selbench's own words.

The agent reads these messages, the tools' descriptions and their results, and nothing else: `meta_info` and
`query_with_constraints` of a task have no way in here.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from selbench import ConfigError

from .parse import parse
from .world import LANGUAGES

__all__ = ["FORMATS", "VERSION", "agent_messages", "example_plan", "system_prompt"]

VERSION = 1  # of the wording; stated beside every score
FORMATS = ("text", "json")  # text: converters lines and llm; json: converter json
FOLDER = Path(__file__).with_name("prompts")


@cache
def _read(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip()


def example_plan(language: str, plan_format: str) -> str:
    """The worked three-day plan."""
    text = _read(f"example_{language}")
    return text if plan_format == "text" else json.dumps(parse(text, ()).plan, ensure_ascii=False)


@cache
def system_prompt(language: str, plan_format: str) -> str:
    """Rules, format and example. Raises ConfigError for an unknown language or format."""
    for what, given, known in (("language", language, LANGUAGES), ("plan format", plan_format, FORMATS)):
        if given not in known:
            raise ConfigError(f"deepplanning travel: unknown {what} {given!r}; known: {', '.join(known)}")
    example = f"<plan>\n{example_plan(language, plan_format)}\n</plan>"
    return "\n\n".join((_read(f"rules_{language}"), _read(f"{plan_format}_{language}"), example))


def agent_messages(query: str, language: str, plan_format: str) -> list[dict[str, str]]:
    """The first messages of an episode: the system prompt and the user's query."""
    return [{"role": "system", "content": system_prompt(language, plan_format)}, {"role": "user", "content": query}]
