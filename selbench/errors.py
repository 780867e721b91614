"""What goes wrong by the user's hand: shown as one line a problem, exit code 2, never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["ConfigError", "RecordError", "UserError", "nearest"]


class UserError(ValueError):
    """One or more problems that the user can fix. `problems` holds one complete sentence each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[UserError], tuple[str, ...]]:
        return type(self), self.problems


class ConfigError(UserError):
    """A protocol, a command line or a contribution that cannot run; all its problems at once."""


class RecordError(UserError):
    """A file in a run folder that cannot be read; names the file."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that helps after an unknown name: the nearest known names if any are near, else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return ("known: " + ", ".join(names)) if names else "none is registered"
