"""Temporary folders that the next command removes where their process was killed."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = f"frostline-{os.getuid()}-"
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")

_held: dict[Path, tuple[int, int]] = {}
"""Folders of this process: process id and open file. The lock on it goes with the process, however that ends."""


def make(kind: str, longest_path: int | None = None) -> Path:
    """Makes a temporary folder of this user alone, removed at the end of the process.

    Args:
        kind: A word for its name.
        longest_path: Bytes that its path may have, for example for a socket in it.

    Raises:
        OSError: There is no place for one.
    """
    bases = [tempfile.gettempdir(), *(_SHORT if longest_path is not None else ())]
    why: OSError = OSError(f"no temporary folder has a path short enough: {', '.join(bases)}")
    for base in bases:
        try:
            path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}-", dir=base))
        except OSError as error:
            why = error
            continue
        if longest_path is not None and len(os.fsencode(path)) > longest_path:
            path.rmdir()
            continue
        file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(file, fcntl.LOCK_EX)
        if not path.exists():  # removed by another command before it was locked
            os.close(file)
            return make(kind, longest_path)
        _held[path] = os.getpid(), file
        return path
    raise why


def remove(path: Path) -> None:
    """Removes a folder of `make`; does nothing in a fork of the process that made it."""
    pid, file = _held.pop(path, (0, -1))
    if pid == os.getpid():
        shutil.rmtree(path, ignore_errors=True)
        os.close(file)


@contextmanager
def folder(kind: str) -> Iterator[Path]:
    """Yields a temporary folder, removed at the end of the context.

    Args:
        kind: A word for its name.
    """
    path = make(kind)
    try:
        yield path
    finally:
        remove(path)


def remove_left() -> None:
    """Removes this user's temporary folders whose processes have ended."""
    for base in {tempfile.gettempdir(), *_SHORT}:
        for path in Path(base).glob(f"{_PREFIX}*"):
            with suppress(OSError):
                _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
    if path.is_symlink() or not path.is_dir() or path.stat().st_uid != os.getuid():
        return
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its process is at work
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(file)


@atexit.register
def _remove_own() -> None:
    for path in list(_held):
        remove(path)
