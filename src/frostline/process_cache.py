"""What a process that trains one run after another keeps from run to run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

Value = TypeVar("Value")


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


def stamp(files: Iterable[Path]) -> tuple[Hashable, ...]:
    """Returns what distinguishes files from others and from their earlier content."""
    stats = [(path, path.stat()) for path in files]
    return tuple(
        (path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats
    )
