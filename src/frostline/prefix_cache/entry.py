"""The files of one cache entry: complete or absent, readable while others write.

An entry is a folder named by a digest of all that its numbers depend on. In it each depth is one file of rows without
padding, and a manifest beside it, written last: a file without one does not exist. Files are never changed in place, so
a process that has one open reads it to the end when it is replaced or removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from frostline.files import write_atomically
from frostline.prefix_cache.hidden_states import NUMPY_DTYPES, FileShape, HiddenStates
from frostline.process_cache import PROCESS_CACHE

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
KEY_FILE = "key.json"
LOCK_FILE = ".lock"
_CHUNK = 1 << 24


BEYOND_FLOAT16 = "a hidden state is beyond the range of float16 (65504): give runtime.cache.dtype=float32"


class CacheError(Exception):
    """The cache can't hold or give something; the run continues without it.

    The message is one line that says why.
    """


class EntryWriter:
    """Takes the rows of one file, in any order.

    Args:
        fd: Of a file that has its full size already.
        shape: Its form.
    """

    def __init__(self, fd: int, shape: FileShape) -> None:
        self._fd = fd
        self._shape = shape
        self._offsets = shape.offsets()
        self._missing = np.ones(len(shape.lengths), dtype=bool)

    def put(self, row: int, vectors: np.ndarray[Any, Any]) -> None:
        """Writes a row.

        Args:
            row: Its number.
            vectors: `[T, width]`.

        Raises:
            CacheError: A number is beyond the range of what they are kept in.
        """
        length, width = int(self._shape.lengths[row]), self._shape.width
        assert vectors.shape == (length, width), f"row {row}: {vectors.shape} instead of {(length, width)}"
        with np.errstate(over="ignore"):  # checked below
            array: Any = np.ascontiguousarray(vectors, dtype=NUMPY_DTYPES[self._shape.dtype])
        if self._shape.dtype == "float16" and not np.isfinite(array).all():
            raise CacheError(BEYOND_FLOAT16)
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


class CacheEntry:
    """The files of one key.

    Args:
        folder: Need not be there.
        key: What its numbers depend on; kept for people.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        self._key = dict(key)

    def has(self, name: str, shape: FileShape) -> bool:
        """Returns whether a file is there and fits; it is not read yet."""
        return self._trouble(name, shape) is None

    def open(self, name: str, shape: FileShape, heartbeat: Callable[[], None] | None = None) -> HiddenStates | None:
        """Returns a file's rows; None if it isn't there. A damaged one is logged and counts as absent.

        Args:
            name: Of the file.
            shape: The form that it must have.
            heartbeat: Called now and then while it is read through.
        """
        path, manifest = self.folder / f"{name}.bin", self.folder / f"{name}.json"
        try:
            if not manifest.is_file():
                return None
            trouble = self._trouble(name, shape)
            if trouble is None:
                with path.open("rb") as file:  # what is hashed is what is mapped, though it be replaced meanwhile
                    trouble = damage_of(file, str(path), self._manifest(name), heartbeat)
                    if trouble is None:
                        data = np.memmap(file, dtype=NUMPY_DTYPES[shape.dtype], mode="r").reshape(-1, shape.width)
                        os.utime(manifest)  # it was used: the oldest ones go first when room is needed
                        return HiddenStates(data, shape)
        except (OSError, ValueError) as error:  # removed by a process that needed room, or a disk error
            trouble = str(error)
        log.warning("prefix cache: %s is damaged (%s): it is computed again", path, trouble)
        return None

    def seconds(self, name: str) -> float:
        """Returns how long computing a file took, from token ids on."""
        return float(self._manifest(name).get("seconds", 0.0))

    def _unwritable(self, error: OSError) -> CacheError:
        what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        return CacheError(f"{self.folder} can't be written: {what}")

    def remove(self, name: str) -> None:
        """Removes a file, its manifest first."""
        for end in ("json", "bin"):
            (self.folder / f"{name}.{end}").unlink(missing_ok=True)

    @contextmanager
    def building(self, heartbeat: Callable[[], None] | None = None, wait_s: float = math.inf) -> Iterator[None]:
        """Holds the write lock; waits for the process that has it. The system frees that of a process that died.

        Args:
            heartbeat: Called now and then while waiting.
            wait_s: How long at most.

        Raises:
            CacheError: Somebody had it longer, or the folder can't be made.
        """
        until = time.monotonic() + wait_s
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK_FILE)
            while not lock.is_locked:
                with suppress(Timeout):
                    lock.acquire(timeout=min(1.0, max(0.0, until - time.monotonic())), poll_interval=0.1)
                    break
                if time.monotonic() >= until:
                    raise CacheError(f"another process is still filling {self.folder}")
                if heartbeat is not None:
                    heartbeat()
        except OSError as error:
            raise CacheError(f"{self.folder} can't be written: {error.strerror}") from error
        try:
            try:
                for left in self.folder.glob(".*.tmp"):  # by a builder that died
                    left.unlink(missing_ok=True)
                if not (self.folder / KEY_FILE).is_file():
                    write_atomically(self.folder / KEY_FILE, json.dumps(self._key, indent=1) + "\n")
            except OSError as error:
                raise CacheError(f"{self.folder} can't be written: {error.strerror}") from error
            yield
        finally:
            lock.release()

    @contextmanager
    def writing(self, shapes: Mapping[str, FileShape]) -> Iterator[tuple[dict[str, EntryWriter], dict[str, float]]]:
        """Makes files, all of them or none: they exist when the context ends well and every row was put.

        Args:
            shapes: By name.

        Yields:
            A writer for each name; and a dict that the caller fills: seconds that computing each took.

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
            writers = {name: EntryWriter(fds[name], shape) for name, shape in shapes.items()}
            seconds: dict[str, float] = {}
            yield writers, seconds
            for name, shape in shapes.items():
                assert writers[name].is_whole, f"{name}: rows are missing"
                os.fsync(fds[name])
                self._publish(name, paths[name], shape, seconds.get(name, 0.0))
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            for fd in fds.values():
                os.close(fd)
            for path in paths.values():
                path.unlink(missing_ok=True)

    def _publish(self, name: str, path: Path, shape: FileShape, seconds: float) -> None:
        self.remove(name)
        with path.open("rb") as file:
            sha256 = _sha256(file)
        form = {"bytes": shape.num_bytes, "sha256": sha256, **shape.describe()}
        manifest = {"schema": SCHEMA_VERSION, **form, "seconds": round(seconds, 3)}
        path.replace(self.folder / f"{name}.bin")
        write_atomically(self.folder / f"{name}.json", json.dumps(manifest, indent=1) + "\n")

    def _manifest(self, name: str) -> dict[str, Any]:
        try:
            data = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def _trouble(self, name: str, shape: FileShape) -> str | None:
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


_verified: set[tuple[str, int, int, int]] = PROCESS_CACHE.container(set())
"""Files that this process has read through: once is enough, since they are never changed in place."""


def _reserve(fd: int, num_bytes: int) -> None:
    """Takes the room on the disk now: a full disk is an error here, and not a SIGBUS later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, num_bytes)
    else:  # macOS
        os.ftruncate(fd, num_bytes)


def damage_of(
    file: BinaryIO, path: str, manifest: Mapping[str, Any], heartbeat: Callable[[], None] | None
) -> str | None:
    """Returns what is wrong with a file, by its manifest; None if it is whole."""
    stat = os.fstat(file.fileno())
    seen = (path, stat.st_ino, stat.st_mtime_ns, stat.st_size)
    if seen not in _verified:
        if _sha256(file, heartbeat) != manifest.get("sha256"):
            return "another checksum"
        _verified.add(seen)
    return None


def _sha256(file: BinaryIO, heartbeat: Callable[[], None] | None = None) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        if heartbeat is not None:
            heartbeat()
    return digest.hexdigest()
