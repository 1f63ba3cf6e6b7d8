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
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from frostline.record import write_atomically

log = logging.getLogger(__name__)

PREFIX_FOLDER = "prefix"
"""Where all entries lie, below `assets.home()`."""

SCHEMA_VERSION = 1
_CHUNK = 1 << 24
_KEY_FILE = "key.json"
_LOCK_FILE = ".lock"
_RESERVE = 1 << 28
"""Bytes of the disk that a cache leaves free (assumed): a run's own files must find room."""


class CacheError(Exception):
    """The cache can't hold or give something; the run goes on without it.

    The message is one line that says why.
    """


_STORED: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The form of one file.

    Attributes:
        lengths: Vectors of each row, `[N]`: its tokens, or ones.
        width: Numbers of a vector.
        dtype: `float32` or `float16`.
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
        self._data = np.asarray(data)  # a view: np.memmap does much at each access
        self._offsets = shape.offsets()
        self.shape = shape

    def __len__(self) -> int:
        return len(self.shape.lengths)

    def __getitem__(self, row: int) -> np.ndarray[Any, Any]:
        """Returns a row's vectors, `[T, width]`."""
        return self._data[self._offsets[row] : self._offsets[row + 1]]

    def padded(self, rows: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
        """Returns some rows' vectors, filled up with zeros, `[B, length, width]`, float32."""
        out = np.zeros((len(rows), length, self.shape.width), dtype=np.float32)
        for index, row in enumerate(rows.tolist()):
            first, last = self._offsets[row], self._offsets[row + 1]
            out[index, : last - first] = self._data[first:last]
        return out

    def single(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Returns the vectors of rows that have one each, `[B, width]`, float32."""
        vectors: np.ndarray[Any, Any] = self._data[self._offsets[rows]]
        return np.asarray(vectors, dtype=np.float32)


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

    def open(self, name: str, shape: Shape, alive: Callable[[], None] | None = None) -> Rows | None:
        """Returns a file's rows; None if it isn't there. A damaged one is told and taken for absent: never handed out.

        Args:
            name: Of the file.
            shape: The form that it must have.
            alive: Called now and then while it is read through.
        """
        path, manifest = self.folder / f"{name}.bin", self.folder / f"{name}.json"
        try:
            if not manifest.is_file():
                return None
            trouble = self._trouble(name, shape)
            if trouble is None:
                with path.open("rb") as file:  # what is hashed is what is mapped, though it be replaced meanwhile
                    trouble = _damage(file, str(path), self._manifest(name), alive)
                    if trouble is None:
                        data = np.memmap(file, dtype=_STORED[shape.dtype], mode="r").reshape(-1, shape.width)
                        os.utime(manifest)  # it was used: the oldest ones go first when room is needed
                        return Rows(data, shape)
        except (OSError, ValueError) as error:  # removed by somebody who needed room, or the disk is ill
            trouble = str(error)
        log.warning("prefix cache: %s is damaged (%s): it is computed again", path, trouble)
        return None

    def seconds(self, name: str) -> float:
        """Returns how long computing a file took, from token ids on."""
        return float(self._manifest(name).get("seconds", 0.0))

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
            try:
                for left in self.folder.glob(".*.tmp"):  # by a builder that died
                    left.unlink(missing_ok=True)
                if not (self.folder / _KEY_FILE).is_file():
                    write_atomically(self.folder / _KEY_FILE, json.dumps(self._key, indent=1) + "\n")
            except OSError as error:
                raise CacheError(f"{self.folder} can't be written: {error.strerror}") from error
            yield
        finally:
            lock.release()

    @contextmanager
    def writing(self, shapes: Mapping[str, Shape]) -> Iterator[tuple[dict[str, Writer], dict[str, float]]]:
        """Makes files, all of them or none: they exist when the context ends well and every row was put.

        Args:
            shapes: By name.

        Yields:
            A writer for each; and what is to be filled in: the seconds that computing each took.

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
            seconds: dict[str, float] = {}
            yield writers, seconds
            for name, shape in shapes.items():
                assert writers[name].is_whole, f"{name}: rows are missing"
                os.fsync(fds[name])
                self._publish(name, paths[name], shape, seconds.get(name, 0.0))
        except OSError as error:
            what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise CacheError(f"{self.folder} can't be written: {what}") from error
        finally:
            for fd in fds.values():
                os.close(fd)
            for path in paths.values():
                path.unlink(missing_ok=True)

    def _publish(self, name: str, path: Path, shape: Shape, seconds: float) -> None:
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
        """Returns folder, key, bytes by name and time of last use of each entry, the one used last first.

        What a builder that died has left counts too, under its file's name.
        """
        found = []
        for folder in self._folders():
            sizes = {}
            for path in _files(folder):
                with suppress(OSError):
                    sizes[path.stem if path.suffix == ".bin" else path.name] = path.stat().st_size
            used = max((_used(path) for path in folder.glob("*.json")), default=0.0)
            found.append((folder, _read_key(folder), sizes, used))
        return sorted(found, key=lambda item: item[3], reverse=True)

    def clear(self) -> int:
        """Removes everything that nobody is building; returns how many bytes that freed."""
        freed = 0
        for folder in self._folders():
            size = sum(path.stat().st_size for path in _files(folder))
            with _unless_held(folder) as ours:
                if ours:
                    shutil.rmtree(folder, ignore_errors=True)
                    freed += size
        return freed

    def room_for(self, num_bytes: int) -> str | None:
        """Returns why so many bytes can't be held even if everything else were removed, or None if they can."""
        if num_bytes > self._max_bytes:
            limit = f"runtime.cache.max_bytes is {self._max_bytes / 1e6:.0f} MB"
            return f"it would take {num_bytes / 1e6:.0f} MB, and {limit}"
        free = _free_bytes(self.root) + self._held() - _RESERVE
        if num_bytes > free:
            return f"it would take {num_bytes / 1e6:.0f} MB, and {max(free, 0) / 1e6:.0f} MB are free at {self.root}"
        return None

    def make_room(self, num_bytes: int, keep: Collection[tuple[Path, str]] = ()) -> None:
        """Removes the files that were used longest ago until so many bytes more are within bounds.

        Args:
            num_bytes: What is to be written.
            keep: Folders and names of files that must stay. Those that somebody is building stay, too.

        Raises:
            CacheError: There is nothing left to remove.
        """
        manifests = [path for folder in self._folders() for path in folder.glob("*.json") if path.name != _KEY_FILE]
        for manifest in sorted(manifests, key=_used):
            if self._fits(num_bytes):
                return
            if (manifest.parent, manifest.stem) in keep:
                continue
            with _unless_held(manifest.parent, building=any(folder == manifest.parent for folder, _ in keep)) as ours:
                if ours:
                    log.info("prefix cache: %s was used longest ago and goes", manifest.with_suffix(".bin"))
                    manifest.unlink(missing_ok=True)
                    manifest.with_suffix(".bin").unlink(missing_ok=True)
        if not self._fits(num_bytes):
            raise CacheError(self.room_for(num_bytes) or f"there is no room for {num_bytes / 1e6:.0f} MB more")

    def _fits(self, num_bytes: int) -> bool:
        return self._held() + num_bytes <= self._max_bytes and num_bytes <= _free_bytes(self.root) - _RESERVE

    def _held(self) -> int:
        return sum(sum(sizes.values()) for _, _, sizes, _ in self.listing())

    def _folders(self) -> list[Path]:
        return [path for path in self.root.glob("*") if path.is_dir() and not path.is_symlink()]


def _files(folder: Path) -> list[Path]:
    return [*folder.glob("*.bin"), *folder.glob(".*.tmp")]


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read_key(folder: Path) -> dict[str, Any]:
    try:
        key = json.loads((folder / _KEY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return key if isinstance(key, dict) else {}


@contextmanager
def _unless_held(folder: Path, *, building: bool = False) -> Iterator[bool]:
    """Holds the right to write in an entry, if nobody else has it; gives whether that is so.

    Args:
        folder: The entry's.
        building: This process has it already.
    """
    if building:
        yield True
        return
    lock = FileLock(folder / _LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _reserve(fd: int, num_bytes: int) -> None:
    """Takes the room on the disk now: a full disk is an error here, and not a SIGBUS later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, num_bytes)
    else:  # macOS
        os.ftruncate(fd, num_bytes)


def _free_bytes(path: Path) -> int:
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def _damage(file: BinaryIO, path: str, manifest: Mapping[str, Any], alive: Callable[[], None] | None) -> str | None:
    stat = os.fstat(file.fileno())
    seen = (path, stat.st_ino, stat.st_mtime_ns, stat.st_size)
    if seen not in _verified:
        if _sha256(file, alive) != manifest.get("sha256"):
            return "another checksum"
        _verified.add(seen)
    return None


def _sha256(file: BinaryIO, alive: Callable[[], None] | None = None) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        if alive is not None:
            alive()
    return digest.hexdigest()
