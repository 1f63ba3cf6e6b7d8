"""Breaks the n-th operation of a process that changes its files: as a power cut does, or a full disk."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"}


def install(folder: str, how: str, number: int) -> None:
    """Counts what this process does to files below a folder, and breaks one of these operations.

    Args:
        folder: Others don't count.
        how: `kill` ends the process at once, before the operation; `full` lets it fail, as on a full disk.
        number: Which, counted from 1; 0: none, and the count is written to `folder` + `.count` each time.
    """
    root = os.path.realpath(folder)
    pid, seen, busy = os.getpid(), [0], [False]

    def hit(path: object) -> None:
        if os.getpid() != pid or busy[0] or not isinstance(path, (str, bytes, os.PathLike)):
            return
        if not os.path.realpath(os.path.join(os.getcwd(), os.fsdecode(path))).startswith(root):  # noqa: PTH118, PTH109
            return
        seen[0] += 1
        if number == 0:
            busy[0] = True
            Path(f"{root}.count").write_text(str(seen[0]))
            busy[0] = False
        elif seen[0] == number and how == "kill":
            os.kill(pid, signal.SIGKILL)
        elif seen[0] == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            if isinstance(flags, int) and flags & _WRITING:
                hit(path)
        elif event in _CHANGES:
            hit(given[0])

    sys.addaudithook(hook)
    fsync = os.fsync

    def broken(file: Any) -> None:
        hit(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
        fsync(file)

    os.fsync = broken
