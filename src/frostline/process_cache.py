"""The one object that holds what a process keeps from run to run."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

Value = TypeVar("Value")
Container = TypeVar("Container", bound="set[Any] | dict[Any, Any]")
P = ParamSpec("P")

_MOST = 4
"""Things of one kind that are kept (assumed: a sweep has one or two data sets and models)."""


class LruCache(Generic[Value]):
    """The last few things that were made.

    Args:
        most: How many.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable | None, make: Callable[[], Value]) -> Value:
        """Returns what is kept under a key, else what `make` returns; None is no key: nothing is kept."""
        if key is None:
            return make()
        if key not in self._values:
            self._values[key] = make()
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]

    def clear(self) -> None:
        """Forgets everything."""
        self._values.clear()


class ProcessCache:
    """Everything that a process keeps from run to run. Numbers never depend on it.

    A module declares its part at import; `clear` empties all parts, so that what a process knows has one owner and one
    end.
    """

    def __init__(self) -> None:
        self._clear: list[Callable[[], None]] = []

    def lru(self, most: int = _MOST) -> LruCache[Any]:
        """Returns a part for the last few things of a kind.

        Args:
            most: How many.
        """
        part: LruCache[Any] = LruCache(most)
        self._clear.append(part.clear)
        return part

    def container(self, part: Container) -> Container:
        """Makes an empty set or dict a part, and returns it."""
        self._clear.append(part.clear)
        return part

    def function(self, function: Callable[P, Value]) -> Callable[P, Value]:
        """Decorates a function whose last 1,024 results are kept, by its arguments."""
        cached = functools.lru_cache(maxsize=1024)(function)
        self._clear.append(cached.cache_clear)
        return functools.wraps(function)(cached)  # type: ignore[return-value]

    def clear(self) -> None:
        """Forgets everything."""
        for clear in self._clear:
            clear()


PROCESS_CACHE = ProcessCache()
"""Of this process."""


def stamp(files: Iterable[Path]) -> tuple[Hashable, ...]:
    """Returns what distinguishes files from others and from their earlier content."""
    stats = [(path, path.stat()) for path in files]
    return tuple(
        (path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats
    )
