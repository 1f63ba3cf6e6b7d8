"""Owns: what a process that trains one run after another keeps from run to run. Must not know: how a run trains.

A run of a few seconds must not pay for reading the same files again. What is kept is named by all that it depends on,
files by path, size and times; numbers don't depend on whether it was kept.
"""

from __future__ import annotations

import gc
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

Value = TypeVar("Value")

_MOST = 4
"""Things of one kind that are kept (assumed: a sweep has one or two data sets and models)."""


class Kept(Generic[Value]):
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
    """Returns what tells files from others and from what they were before."""
    stats = [(path, path.stat()) for path in files]
    return tuple(
        (path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats
    )


@cache
def settle() -> None:
    """Takes what was imported out of the garbage collector's sight, once: Trainer collects at the start of each run."""
    gc.collect()
    gc.freeze()


def be_own_process() -> None:
    """Makes a fork as it would be had it imported for itself: the threads of its environment, random states its own.

    A run seeds itself; what a plugin draws before that must not be the same in all slots.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():
        torch.set_num_threads(max(1, int(threads)))
    np.random.seed()
    torch.seed()


def can_be_forked() -> bool:
    """Whether forks of this process could use its GPUs: a CUDA context doesn't outlive a fork, so none may be open."""
    child = os.fork()
    if child == 0:
        os._exit(int(torch.cuda._is_in_bad_fork()))
    _, status = os.waitpid(child, 0)
    return status == 0
