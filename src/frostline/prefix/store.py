"""Owns: hidden states on disk - whole or not there, shared, bounded. Must not know: models, how they are computed.

An entry is a folder named by a digest of all that its numbers depend on. In it each depth is one file of rows without
padding, and a manifest beside it, written last: a file without one does not exist. Files are never changed in place, so
whoever has one open goes on reading it when it is replaced or removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from frostline.record import write_atomically

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_KEY_FILE = "key.json"
_LOCK_FILE = ".lock"
_RESERVE = 1 << 28
"""Bytes of the disk that a cache leaves free (assumed): a run's own files must find room."""


class CacheError(Exception):
    """The cache can't hold or give something; the run goes on without it.

    The message is one line that says why.
    """


_STORED: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}  # numpy has no bfloat16


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The form of one file.

    Attributes:
        lengths: Vectors of each row, `[N]`: its tokens, or ones.
        width: Numbers of a vector.
        dtype: `float32`, `float16` or `bfloat16`.
    """

    lengths: np.ndarray[Any, np.dtype[np.int64]]
    width: int
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Size of one vector."""
        return self.width * int(_STORED[self.dtype].itemsize)

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return int(self.lengths.sum()) * self.row_bytes

    def offsets(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Returns where each row begins, in vectors, `[N + 1]`."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def describe(self) -> dict[str, Any]:
        """Returns what has to be the same for a file to fit."""
        lengths = hashlib.sha256(np.ascontiguousarray(self.lengths, dtype="<i8").tobytes()).hexdigest()
        return {"num_rows": len(self.lengths), "lengths": lengths, "width": self.width, "dtype": self.dtype}


class Rows:
    """Hidden states of every row, read from a mapped file.

    Args:
        data: All rows one behind the other, `[vectors, width]`.
        shape: Their form.
    """

    def __init__(self, data: np.ndarray[Any, Any], shape: Shape) -> None:
        self._data = data
        self._offsets = shape.offsets()
        self.shape = shape

    def __len__(self) -> int:
        return len(self.shape.lengths)

    def __getitem__(self, row: int) -> np.ndarray[Any, Any]:
        """Returns a row's vectors, `[T, width]`; bfloat16 as the 16 bits that it is."""
        return self._data[self._offsets[row] : self._offsets[row + 1]]


class Writer:
    """Takes the rows of one file, in any order.

    Args:
        fd: Of a file that has its full size already.
        shape: Its form.
    """

    def __init__(self, fd: int, shape: Shape) -> None:
        self._fd = fd
        self._shape = shape
        self._offsets = shape.offsets()
        self._missing = np.ones(len(shape.lengths), dtype=bool)

    def put(self, row: int, vectors: np.ndarray[Any, Any]) -> None:
        """Writes a row.

        Args:
            row: Its number.
            vectors: `[T, width]`.
        """
        length, width = int(self._shape.lengths[row]), self._shape.width
        assert vectors.shape == (length, width), f"row {row}: {vectors.shape} instead of {(length, width)}"
        array: Any = np.ascontiguousarray(vectors, dtype=_STORED[self._shape.dtype])
        data = memoryview(array).cast("B")
        at = int(self._offsets[row]) * self._shape.row_bytes
        while data:
            written = os.pwrite(self._fd, data, at)
            data, at = data[written:], at + written
        self._missing[row] = False

    @property
    def is_whole(self) -> bool:
        """Whether every row has been written."""
        return not self._missing.any()


class Entry:
    """The files of one key.

    Args:
        folder: Need not be there.
        key: What its numbers depend on; kept for people.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        self._key = dict(key)

    def has(self, name: str, shape: Shape) -> bool:
        """Returns whether a file is there and fits; it is not read yet."""
        return self._trouble(name, shape) is None

    def open(self, name: str, shape: Shape) -> Rows | None:
        """Returns a file's rows; None if it isn't there. A damaged one is told, removed and taken for absent."""
        path, manifest = self.folder / f"{name}.bin", self.folder / f"{name}.json"
        if not manifest.is_file():
            return None
        trouble = self._trouble(name, shape) or self._damage(name)
        if trouble is None:
            try:
                data = np.memmap(path, dtype=_STORED[shape.dtype], mode="r").reshape(-1, shape.width)
                os.utime(manifest)  # it was used: the oldest ones go first when room is needed
            except (OSError, ValueError) as error:
                trouble = str(error)
            else:
                return Rows(data, shape)
        log.warning("prefix cache: %s is damaged (%s): it is computed again", path, trouble)
        self.remove(name)
        return None

    def remove(self, name: str) -> None:
        """Removes a file, its manifest first."""
        for end in ("json", "bin"):
            (self.folder / f"{name}.{end}").unlink(missing_ok=True)

    @contextmanager
    def building(self, alive: Callable[[], None] | None = None, wait_s: float = math.inf) -> Iterator[None]:
        """Holds the right to write; waits for whoever has it. The system frees that of a process that died.

        Args:
            alive: Called now and then while waiting.
            wait_s: How long at most.

        Raises:
            CacheError: Somebody had it longer, or the folder can't be made.
        """
        until = time.monotonic() + wait_s
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / _LOCK_FILE)
            while not lock.is_locked:
                with suppress(Timeout):
                    lock.acquire(timeout=min(1.0, max(0.0, until - time.monotonic())), poll_interval=0.1)
                    break
                if time.monotonic() >= until:
                    raise CacheError(f"another process is still filling {self.folder}")
                if alive is not None:
                    alive()
        except OSError as error:
            raise CacheError(f"{self.folder} can't be written: {error.strerror}") from error
        try:
            for left in self.folder.glob(".*.tmp"):  # by a builder that died
                left.unlink(missing_ok=True)
            if not (self.folder / _KEY_FILE).is_file():
                write_atomically(self.folder / _KEY_FILE, json.dumps(self._key, indent=1) + "\n")
            yield
        finally:
            lock.release()

    @contextmanager
    def writing(self, shapes: Mapping[str, Shape]) -> Iterator[dict[str, Writer]]:
        """Makes files, all of them or none: they exist when the context ends well and every row was put.

        Args:
            shapes: By name.

        Raises:
            CacheError: The disk is full, or something else is wrong with it; nothing is left behind.
        """
        fds: dict[str, int] = {}
        paths = {name: self.folder / f".{name}.{os.getpid()}.tmp" for name in shapes}
        try:
            for name, shape in shapes.items():
                fds[name] = os.open(paths[name], os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
                if shape.num_bytes:
                    _reserve(fds[name], shape.num_bytes)
            writers = {name: Writer(fds[name], shape) for name, shape in shapes.items()}
            yield writers
            for name, shape in shapes.items():
                assert writers[name].is_whole, f"{name}: rows are missing"
                os.fsync(fds[name])
                self._publish(name, paths[name], shape)
        except OSError as error:
            what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise CacheError(f"{self.folder} can't be written: {what}") from error
        finally:
            for fd in fds.values():
                os.close(fd)
            for path in paths.values():
                path.unlink(missing_ok=True)

    def _publish(self, name: str, path: Path, shape: Shape) -> None:
        self.remove(name)
        manifest = {"schema": SCHEMA_VERSION, "bytes": shape.num_bytes, "sha256": _sha256(path), **shape.describe()}
        path.replace(self.folder / f"{name}.bin")
        write_atomically(self.folder / f"{name}.json", json.dumps(manifest, indent=1) + "\n")

    def _manifest(self, name: str) -> dict[str, Any]:
        try:
            data = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def _trouble(self, name: str, shape: Shape) -> str | None:
        manifest = self._manifest(name)
        if not manifest:
            return "no readable manifest"
        for key, value in {"schema": SCHEMA_VERSION, "bytes": shape.num_bytes, **shape.describe()}.items():
            if manifest.get(key) != value:
                return f"{key} is {manifest.get(key)} instead of {value}"
        try:
            size = (self.folder / f"{name}.bin").stat().st_size
        except OSError:
            return "its file is missing"
        return None if size == shape.num_bytes else f"{size} bytes instead of {shape.num_bytes}"

    def _damage(self, name: str) -> str | None:
        path = self.folder / f"{name}.bin"
        stat = path.stat()
        seen = (str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen not in _verified:
            if _sha256(path) != self._manifest(name).get("sha256"):
                return "another checksum"
            _verified.add(seen)
        return None


_verified: set[tuple[str, int, int, int]] = set()
"""Files that this process has read through: once is enough, since nobody changes them in place."""


class PrefixStore:
    """All entries below one folder.

    Args:
        root: Need not be there.
        max_bytes: What they may take together.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self._max_bytes = max_bytes

    def entry(self, key: Mapping[str, Any], about: Mapping[str, str] | None = None) -> Entry:
        """Returns the entry of a key.

        Args:
            key: All that its numbers depend on.
            about: What a person should read beside it.
        """
        text = json.dumps({"schema": SCHEMA_VERSION, **key}, sort_keys=True)
        return Entry(self.root / hashlib.sha256(text.encode()).hexdigest()[:32], {**key, "about": dict(about or {})})

    def listing(self) -> list[tuple[Path, dict[str, Any], dict[str, int], float]]:
        """Returns folder, key, bytes by name and time of last use of each entry, the one used last first."""
        found = []
        for folder in self.root.glob("*"):
            try:
                key = json.loads((folder / _KEY_FILE).read_text(encoding="utf-8"))
                sizes = {path.stem: path.stat().st_size for path in folder.glob("*.bin")}
                used = max((path.stat().st_mtime for path in folder.glob("*.json")), default=0.0)
            except (OSError, ValueError):
                continue
            found.append((folder, key if isinstance(key, dict) else {}, sizes, used))
        return sorted(found, key=lambda item: item[3], reverse=True)

    def clear(self) -> int:
        """Removes everything; returns how many bytes that freed."""
        freed = 0
        for folder, _, sizes, _ in self.listing():
            freed += sum(sizes.values())
            shutil.rmtree(folder, ignore_errors=True)
        return freed

    def room_for(self, num_bytes: int) -> str | None:
        """Returns why so many bytes can't be held even if everything else were removed, or None if they can."""
        if num_bytes > self._max_bytes:
            return (
                f"it would take {num_bytes / 1e6:.0f} MB, and runtime.cache.max_bytes is {self._max_bytes / 1e6:.0f} MB"
            )
        held = sum(sum(sizes.values()) for _, _, sizes, _ in self.listing())
        free = _free_bytes(self.root) + held - _RESERVE
        if num_bytes > free:
            return f"it would take {num_bytes / 1e6:.0f} MB, and {max(free, 0) / 1e6:.0f} MB are free at {self.root}"
        return None

    def make_room(self, num_bytes: int, keep: Entry) -> None:
        """Removes the entries that were used longest ago until so many bytes more are within bounds.

        Raises:
            CacheError: Without the one to keep there is nothing left to remove.
        """
        entries = self.listing()
        held = sum(sum(sizes.values()) for _, _, sizes, _ in entries)
        for folder, _, sizes, _ in reversed(entries):
            if held + num_bytes <= self._max_bytes and num_bytes <= _free_bytes(self.root) - _RESERVE:
                return
            if folder != keep.folder:
                log.info("prefix cache: %s was used longest ago and goes", folder)
                shutil.rmtree(folder, ignore_errors=True)
                held -= sum(sizes.values())
        if held + num_bytes > self._max_bytes or num_bytes > _free_bytes(self.root) - _RESERVE:
            raise CacheError(self.room_for(num_bytes) or f"there is no room for {num_bytes / 1e6:.0f} MB more")


def _reserve(fd: int, num_bytes: int) -> None:
    """Takes the room on the disk now: a full disk is an error here, and not a SIGBUS later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, num_bytes)
    else:  # macOS
        os.ftruncate(fd, num_bytes)


def _free_bytes(path: Path) -> int:
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
