"""The store of all cache entries: found by key, listed, bounded in size."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from frostline.prefix_cache.entry import KEY_FILE, LOCK_FILE, SCHEMA_VERSION, CacheEntry, CacheError

log = logging.getLogger(__name__)

PREFIX_FOLDER = "prefix"
"""Where all entries lie, below `assets.home()`."""

_RESERVE = 1 << 28
"""Bytes of the disk that a cache leaves free (assumed): a run's own files must find room."""


def shown_bytes(num_bytes: float) -> str:
    """Returns a number of bytes, for people."""
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes >= 1e6 or num_bytes == 0 else f"{num_bytes / 1e3:.0f} kB"


class PrefixStore:
    """All entries below one folder.

    Args:
        root: Need not be there.
        max_bytes: What they may take together.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self._max_bytes = max_bytes

    def entry(self, key: Mapping[str, Any], about: Mapping[str, str] | None = None) -> CacheEntry:
        """Returns the entry of a key.

        Args:
            key: All that its numbers depend on.
            about: What a person should read beside it.
        """
        text = json.dumps({"schema": SCHEMA_VERSION, **key}, sort_keys=True)
        return CacheEntry(
            self.root / hashlib.sha256(text.encode()).hexdigest()[:32], {**key, "about": dict(about or {})}
        )

    def listing(self) -> list[tuple[Path, dict[str, Any], dict[str, int], float]]:
        """Returns folder, key, bytes by name and time of last use of each entry, the one used last first.

        What a builder that died has left counts too, under its file's name.
        """
        entries = []
        for folder in self._folders():
            sizes = {}
            for path in _files(folder):
                with suppress(OSError):
                    sizes[path.stem if path.suffix == ".bin" else path.name] = path.stat().st_size
            used = max((_used(path) for path in folder.glob("*.json")), default=0.0)
            entries.append((folder, _read_key(folder), sizes, used))
        return sorted(entries, key=lambda item: item[3], reverse=True)

    def clear(self) -> int:
        """Removes everything that no process is building; returns how many bytes that freed."""
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
            limit = f"runtime.cache.max_bytes is {shown_bytes(self._max_bytes)}"
            return f"it would take {shown_bytes(num_bytes)}, and {limit}"
        free = _free_bytes(self.root) + self._held() - _RESERVE
        if num_bytes > free:
            return f"it would take {shown_bytes(num_bytes)}, and {shown_bytes(max(free, 0))} are free at {self.root}"
        return None

    def make_room(self, num_bytes: int, keep: Collection[tuple[Path, str]] = ()) -> None:
        """Removes the files that were used longest ago until so many bytes more are within bounds.

        Args:
            num_bytes: What is to be written.
            keep: Folders and names of files that must stay. Those that a process is building stay, too.

        Raises:
            CacheError: There is nothing left to remove.
        """
        manifests = [path for folder in self._folders() for path in folder.glob("*.json") if path.name != KEY_FILE]
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
            raise CacheError(self.room_for(num_bytes) or f"there is no room for {shown_bytes(num_bytes)} more")

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
        key = json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return key if isinstance(key, dict) else {}


@contextmanager
def _unless_held(folder: Path, *, building: bool = False) -> Iterator[bool]:
    """Takes the right to write in an entry unless another process has it; yields whether it was free.

    Args:
        folder: The entry's.
        building: This process has it already.
    """
    if building:
        yield True
        return
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _free_bytes(path: Path) -> int:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free
