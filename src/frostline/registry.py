"""Registries: names that a config may choose, and what they stand for.

A config names a choice (`optimizer.name: adamw`); it never holds a path to code. A user's own choice is registered by a
module named on the command line (`plugins=[my_module]`) or by an entry point of the group `frostline.plugins`.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

from frostline import paths
from frostline.errors import UserError, as_user_error, listing, nearest

T = TypeVar("T")

ENTRY_POINT_GROUP = "frostline.plugins"


class Registry(Generic[T]):
    """A table from names to objects of one kind.

    Args:
        kind: What is registered, for error messages: `optimizer`.
        package: Dotted name of a package whose modules register frostline's own entries; they are imported when a name
            is first asked for. None: nothing is imported.
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}

    def _load_package(self) -> None:
        if self._package is not None:
            name, self._package = self._package, None
            package = importlib.import_module(name)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{name}.{module.name}")

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that registers what it decorates under `name`.

        Raises:
            ValueError: The name is taken by something else.
        """

        def decorator(entry: T) -> T:
            if self._entries.get(name, entry) is not entry:
                raise ValueError(f"{self.kind} {name!r} is registered already")
            self._entries[name] = entry
            return entry

        return decorator

    def get(self, name: str) -> T:
        """Returns the entry of a name.

        Raises:
            UserError: There is no such name.
        """
        if name not in self:
            known = listing(self._entries)
            raise UserError(f"{self.kind} {name!r} is not known{nearest(name, self._entries)}; known: {known}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._load_package()
        if name not in self._entries:
            _load_entry_points()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load_package()
        return iter(sorted(self._entries))


_loaded_entry_points = False


def _load_entry_points() -> None:
    # Only when a name isn't built in: a plugin's imports are not free.
    global _loaded_entry_points
    if not _loaded_entry_points:
        _loaded_entry_points = True
        for entry in entry_points(group=ENTRY_POINT_GROUP):
            entry.load()


IMPORTED_PLUGINS: list[str] = []


def imported_plugins() -> tuple[str, ...]:
    """Returns the modules that were imported by `import_plugins`, in order."""
    return tuple(IMPORTED_PLUGINS)


def plugins_sha256() -> str | None:
    """Returns a sha256 of the imported plugins' files; None without plugins."""
    if not IMPORTED_PLUGINS:
        return None
    digest = hashlib.sha256()
    for name in sorted(IMPORTED_PLUGINS):
        module = sys.modules[name]
        folders = [Path(each) for each in getattr(module, "__path__", [])]
        files = [path for folder in folders for path in sorted(folder.rglob("*.py"))] or [Path(module.__file__ or "")]
        for path in files:
            digest.update(f"{name} {path.name}\0".encode())
            digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def import_plugins(modules: Iterable[str]) -> None:
    """Imports the modules that the user named, which register what they bring.

    Args:
        modules: Dotted names; the working directory is searched too, after all else.

    Raises:
        UserError: A module can't be found or doesn't import.
    """
    for module in modules:
        sys.path[:] = paths.search_path()
        with as_user_error(partial(_import_error, module)):
            importlib.import_module(module)
        if module not in IMPORTED_PLUGINS:
            IMPORTED_PLUGINS.append(module)


def _import_error(module: str, error: BaseException) -> UserError:
    """Returns the error of a plugin that doesn't import, with the line that failed."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    inside = [frame for frame in own if not frame.filename.startswith(str(Path(__file__).parent))]
    where = f" ({inside[-1].filename}, line {inside[-1].lineno})" if inside else ""
    return UserError(f"plugins: can't import {module!r}: {type(error).__name__}: {error}{where}")
