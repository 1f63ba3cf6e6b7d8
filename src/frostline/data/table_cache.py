"""Converted tables on the disk: each with its sha256 beside it, made anew where a file is damaged."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets

from frostline.files import write_atomically, written_whole
from frostline.hashes import sealed, unchanged_sha256, unsealed

log = logging.getLogger(__name__)

_MANIFEST = "frostline.json"


def map_cached(
    table: datasets.Dataset, function: Callable[..., Any], fingerprint: str, *, path: Path | None = None, **options: Any
) -> datasets.Dataset:
    """Applies `Dataset.map`, whose result is kept and found again.

    Args:
        table: Rows.
        function: See `Dataset.map`.
        fingerprint: Identifies the result, 32 characters.
        path: Where it is kept; None: beside the table, of rows in memory nowhere.
        options: Of `Dataset.map`.
    """
    target = path if path is not None else _beside(table, fingerprint)
    if target is None:
        return table.map(function, new_fingerprint=fingerprint, **options)
    if not _is_sealed(target):
        # Made aside and renamed: another process may be about to read what it has just made and not yet sealed.
        with written_whole(target) as temporary:
            table.map(
                function, new_fingerprint=fingerprint, cache_file_name=str(temporary), load_from_cache_file=False,
                **options,
            )  # fmt: skip
        if target.is_file():  # of no rows nothing is kept
            _seal(target)
    return table.map(
        function, new_fingerprint=fingerprint, cache_file_name=str(target), load_from_cache_file=True, **options
    )


def load_cached(folder: Path, load: Callable[[], datasets.Dataset], *, again: bool = True) -> datasets.Dataset:
    """Loads a file through `datasets.load_dataset`, whose tables are kept in a folder and found again.

    Args:
        folder: Of this file's tables alone.
        load: Calls `load_dataset` with the folder as its cache.
        again: Whether a failure is put down to what is kept there, which goes then: not where the source may be out of
            reach.

    Raises:
        Exception: Of `load`, if it fails without kept tables, too.
    """
    was_there = folder.is_dir()
    if was_there and not _is_whole(folder):
        log.warning("%s: a converted table is damaged: converting it again", folder)
        shutil.rmtree(folder, ignore_errors=True)
        was_there = False
    try:
        table = load()
    except Exception:
        if not (was_there and again):
            raise
        shutil.rmtree(folder, ignore_errors=True)  # cut off before its hash was known, or the file is no good
        table = load()
    files = {file["filename"] for file in table.cache_files}
    known = _manifest(folder) or {}
    new = {os.path.relpath(name, folder): unchanged_sha256(Path(name)) for name in files}
    if new.items() - known.items():
        with suppress(OSError):
            write_atomically(folder / _MANIFEST, sealed({**known, **new}))
    return table


def _beside(table: datasets.Dataset, fingerprint: str) -> Path | None:
    files = table.cache_files
    return Path(files[0]["filename"]).parent / f"cache-{fingerprint}.arrow" if files else None


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _is_sealed(path: Path) -> bool:
    """Returns whether a kept table is there as it was written; logs a warning if it is damaged."""
    if not path.is_file():
        return False
    with suppress(OSError, UnicodeDecodeError):
        if _seal_of(path).read_text(encoding="utf-8").strip() == unchanged_sha256(path):
            return True
    if _seal_of(path).exists():
        log.warning("%s: a converted table is damaged: converting it again", path)
    return False


def _seal(path: Path) -> None:
    with suppress(OSError):  # another process has just replaced it by its own, the same
        digest = unchanged_sha256(path)
        seal = _seal_of(path)
        if not seal.is_file() or seal.read_text(encoding="utf-8").strip() != digest:
            write_atomically(seal, digest + "\n")


def _is_whole(folder: Path) -> bool:
    known = _manifest(folder)
    if known is None:
        return not (folder / _MANIFEST).exists()
    try:
        return all(unchanged_sha256(folder / name) == digest for name, digest in known.items())
    except OSError:
        return False


def _manifest(folder: Path) -> dict[str, str] | None:
    try:
        return unsealed((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, json.JSONDecodeError):
        return None
