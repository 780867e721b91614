"""What a publication shows while it works: a line on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

__all__ = ["Shown"]


class Shown:
    """A spinner with the work at hand, and a bar where it is counted. Use as a context."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        console = Console(stderr=True)
        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        self.progress = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self.at = self.progress.add_task("", total=None)

    def __enter__(self) -> Shown:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def say(self, what: str) -> None:
        """The work at hand, of unknown length."""
        self.progress.reset(self.at, total=None, description=what)

    def counter(self, what: str) -> Callable[[int, int], None]:
        """A function of (done, all) that moves the bar."""
        self.say(what)

        def advance(done: int, total: int) -> None:
            self.progress.update(self.at, completed=done, total=total)

        return advance
