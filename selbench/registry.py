"""Named contributions: register, look up with near names, and find them in folders, distributions and single files.

Nothing here knows a contribution's name. Discovery happens at the first look-up, so importing selbench stays cheap.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from selbench.errors import ConfigError, nearest

__all__ = ["PLUGINS", "Named", "Registry", "caller", "load_plugin"]

PLUGINS = "SELBENCH_PLUGINS"  # paths of plugin files, so that worker processes load what the command line named


class Named(Protocol):
    """A contribution: a unique name and the file it was registered in."""

    @property
    def name(self) -> str: ...
    @property
    def file(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """One kind of contribution by name, found in the package folder `selbench.<kind>` and its entry-point group."""

    def __init__(self, kind: str, plural: str) -> None:
        self.kind, self.plural = kind, plural
        self._entries: dict[str, T] = {}
        self._found = False

    def add(self, entry: T) -> None:
        """Raises ConfigError when another file holds the name. The same file run twice is the same contribution."""
        held = self._entries.get(entry.name)
        if held is not None and os.path.realpath(held.file) != os.path.realpath(entry.file):
            raise ConfigError(f"{self.kind} {entry.name!r} is registered twice, in {held.file} and {entry.file}; rename one")
        self._entries[entry.name] = entry

    def get(self, name: str) -> T:
        """Raises ConfigError with the nearest names when `name` is unknown."""
        if name not in self:
            raise ConfigError(f"unknown {self.kind} {name!r}: {nearest(name, self._entries)} (selbench list {self.plural})")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def __iter__(self) -> Iterator[T]:
        """All contributions by name."""
        self._discover()
        return iter([self._entries[name] for name in sorted(self._entries)])

    def from_file(self, file: str | Path) -> list[T]:
        """The contributions that a file registered."""
        self._discover()
        return [entry for entry in self._entries.values() if os.path.realpath(entry.file) == os.path.realpath(file)]

    def _discover(self) -> None:
        if self._found:
            return
        self._found = True
        try:
            package = importlib.import_module(f"selbench.{self.plural}")
            for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
                _run(module.name, partial(importlib.import_module, module.name))
            for point in entry_points(group=f"selbench.{self.plural}"):
                _run(point.value, point.load)
            for path in filter(None, os.environ.get(PLUGINS, "").split(os.pathsep)):
                load_plugin(path)
        except BaseException:
            self._found = False
            raise


def _run(what: str, load: Callable[[], object]) -> None:
    try:
        load()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{what}: cannot be imported ({type(error).__name__}: {error})") from error


def load_plugin(path: str | Path) -> Path:
    """Run one contributor's file, so that what it registers is known here and in worker processes.

    Raises ConfigError when the file is missing or fails.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise ConfigError(f"plugin {path}: no such file")
    name = f"selbench_plugin_{file.stem}"
    if getattr(sys.modules.get(name), "__file__", None) != str(file):
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ConfigError(f"plugin {path}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        loader = spec.loader
        try:
            _run(str(path), lambda: loader.exec_module(module))
        except ConfigError:
            del sys.modules[name]
            raise
    listed = [entry for entry in os.environ.get(PLUGINS, "").split(os.pathsep) if entry]
    if str(file) not in listed:
        os.environ[PLUGINS] = os.pathsep.join([*listed, str(file)])
    return file


def caller(function: Callable[..., object]) -> str:
    """The file a decorated function stands in."""
    return inspect.getsourcefile(function) or "<unknown>"
