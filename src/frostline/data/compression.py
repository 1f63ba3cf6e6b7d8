"""Compressed data files: unpacked once, within bounds."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from frostline.errors import DataError
from frostline.files import TooLargeError, copy_bounded, unpacked_limit, written_whole
from frostline.hashes import unchanged_sha256

_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zip": lambda path: _only_member(path),
}


def is_compressed(path: Path) -> bool:
    """Returns whether a file is compressed, by its extension."""
    return path.suffix.lower() in _OPENERS


def decompressed(path: Path, cache_dir: Path) -> Path:
    """Returns the file that a compressed one holds, unpacked once for the same content.

    Args:
        path: A `.gz`, `.bz2` or `.xz` file, or a `.zip` of one file.
        cache_dir: Where it is kept.

    Raises:
        DataError: It can't be unpacked, holds several files, or is made to fill a disk.
        OSError: There is no room for it.
    """
    key = hashlib.sha256(f"{unchanged_sha256(path)} {path.suffix.lower()}".encode()).hexdigest()
    folder = cache_dir / "unpacked" / key[:20]
    seal = folder / ".sha256"
    target = folder / _inner_name(path)
    try:
        if seal.read_text(encoding="ascii").strip() == unchanged_sha256(target):
            return target
    except (OSError, UnicodeDecodeError):
        pass
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as temporary:
        digest = _unpack(path, temporary)
    seal.write_text(digest + "\n", encoding="ascii")
    return target


def _unpack(path: Path, aside: Path) -> str:
    digest = hashlib.sha256()
    try:
        with _OPENERS[path.suffix.lower()](path) as source, aside.open("wb") as sink:
            copy_bounded(source, sink, unpacked_limit(path), digest.update)
    except TooLargeError as error:
        raise DataError(f"{path}: {error}: refused; unpack it yourself if it is what it should be") from error
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: can't be unpacked: {error}") from error
    except (RuntimeError, NotImplementedError) as error:  # an encrypted zip, or one that Python does not know
        raise DataError(f"{path}: can't be unpacked ({error}); unpack it yourself") from error
    except OSError as error:
        if error.errno is None:  # of bz2, whose content is at fault
            raise DataError(f"{path}: can't be unpacked: {error}") from error
        raise
    return digest.hexdigest()


def _inner_name(path: Path) -> str:
    if path.suffix.lower() != ".zip":
        return path.stem
    try:
        with zipfile.ZipFile(path) as archive:
            return Path(_member(archive, path).filename).name
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: can't be unpacked: {error}") from error


def _only_member(path: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(path)
    return archive.open(_member(archive, path))


def _member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    members = [item for item in archive.infolist() if not item.is_dir() and not item.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        raise DataError(f"{path}: holds {len(members)} files; unpack it, and give one as dataset.location")
    if Path(members[0].filename).name in {"", ".", ".."}:
        raise DataError(f"{path}: holds a file without a name ({members[0].filename!r}); unpack it yourself")
    return members[0]
