"""Atomic writes, bounded copies, and checks for symbolic links and Git LFS pointers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from frostline.errors import UserError

_PIECE_BYTES = 1 << 20
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

MAX_GROWTH = 200
"""Times that a file may grow when it is unpacked (assumed: texts are compressed to a tenth, a file that is made to fill
a disk to a thousandth)."""

SMALL_BYTES = 64 << 20


class TooLargeError(ValueError):
    """A compressed file unpacks to more than its limit."""


def unpacked_limit(packed: Path) -> int:
    """Returns how many bytes the content of a compressed file may have."""
    return max(SMALL_BYTES, MAX_GROWTH * packed.stat().st_size)


def copy_bounded(
    source: IO[bytes], sink: IO[bytes], limit: int, on_bytes: Callable[[bytes], object] = lambda _piece: None
) -> int:
    """Copies a stream.

    Args:
        source: Read to its end.
        sink: Written to.
        limit: Bytes that are copied at most.
        on_bytes: Called with each piece, for example to hash it.

    Returns:
        The bytes that were copied.

    Raises:
        TooLargeError: There are more.
    """
    size = 0
    while piece := source.read(_PIECE_BYTES):
        size += len(piece)
        if size > limit:
            raise TooLargeError(f"unpacks to more than {limit >> 20} MiB, {MAX_GROWTH} times its size")
        on_bytes(piece)
        sink.write(piece)
    return size


def is_lfs_pointer(path: Path) -> bool:
    """Returns whether a file is what git leaves where a large file was not fetched.

    Raises:
        OSError: It can't be read.
    """
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def regular_files(folder: Path) -> list[Path]:
    """Returns the files below a folder, sorted; links are left out, and folders that are links not entered."""
    paths = []
    for root, _, names in os.walk(folder):
        paths += [path for name in names if not (path := Path(root) / name).is_symlink() and path.is_file()]
    return sorted(paths)


def refuse_links(paths: Iterable[Path]) -> None:
    """Refuses links where something is written, deleted or uploaded: it would be done to something else.

    Args:
        paths: Of files and folders that need not exist.

    Raises:
        UserError: One is a link.
    """
    for path in paths:
        if path.is_symlink():
            raise UserError(f"{path}: is a link, and is refused here: remove it, or copy what it names")


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process left of `written_whole`; the folder must be locked."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside a file; what is written there replaces the file at the end, unless it failed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if temporary.is_file():
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a reader or a crash never sees half of it: temporary file, fsync, rename."""
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
