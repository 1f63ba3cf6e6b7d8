"""The sha256 of files and of JSON records: distinguishes a damaged file from a whole one.

A hash detects damage, not forgery: a program that can change a file can change the hash beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from frostline.errors import UserError
from frostline.process_cache import PROCESS_CACHE

SEAL = "sha256"
"""Key of a JSON record that holds the hash of all its other keys."""


_EDGE_BYTES = 1 << 20
_EDGES_BYTES = 64 << 20


class DamagedError(UserError):
    """A file is not as it was recorded.

    Attributes:
        finding: Which file, and what is wrong with it; the message adds what the user can do.
    """

    def __init__(self, finding: str, remedy: str) -> None:
        super().__init__(f"{finding}; {remedy}")
        self.finding = finding


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file, 64 hexadecimal digits.

    Raises:
        OSError: It can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unchanged_sha256(path: Path) -> str:
    """Returns the sha256 of a file, read once in a process as long as its size and times stay.

    Raises:
        OSError: It can't be read.
    """
    stat = path.stat()
    return _sha256_of(path, (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))


@PROCESS_CACHE.function
def _sha256_of(path: Path, stamp: tuple[int, ...]) -> str:
    del stamp  # part of the key
    return file_sha256(path)


def sealed(data: Mapping[str, Any], *, indent: int = 1) -> str:
    """Returns a JSON record as text, with a hash of its other keys under `SEAL`.

    Args:
        data: JSON values.
        indent: Spaces per level.
    """
    return _text({**data, SEAL: _digest(data)}, indent)


def unsealed(text: str) -> dict[str, Any]:
    """Reads a text of `sealed`, without the hash.

    Raises:
        ValueError: It is no JSON, or not what was written.
        TypeError: It is no JSON object.
    """
    data = json.loads(text)
    if not isinstance(data, dict):
        raise TypeError("a group of keys is expected")
    if data.pop(SEAL, None) != _digest(data):
        raise ValueError(f"its contents differ from its {SEAL}")
    return data


def quick_sha256(path: Path) -> str:
    """Returns what identifies the content of a large folder or file, within seconds.

    It is a sha256 over the relative path and size of each file, and over the first and last MiB of the files that come
    first, 64 MiB in all: two that differ elsewhere alone have the same.

    Raises:
        OSError: A file can't be read.
    """
    digest, left = hashlib.sha256(), _EDGES_BYTES
    for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not each.is_file():
            continue
        name = each.relative_to(path).as_posix() if path.is_dir() else ""
        with each.open("rb") as file:
            size = each.stat().st_size
            digest.update(f"{name} {size} ".encode("utf-8", "surrogateescape"))
            for start in (0, max(_EDGE_BYTES, size - _EDGE_BYTES)):
                file.seek(start)
                piece = file.read(min(left, _EDGE_BYTES))
                digest.update(piece)
                left -= len(piece)
    return digest.hexdigest()


def hashes_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns the sha256 of files below a folder, by their relative path.

    Args:
        folder: Where they lie.
        names: Files, or folders with all that is in them; one that does not exist is left out.

    Raises:
        OSError: A file can't be read.
    """
    return {path.relative_to(folder).as_posix(): unchanged_sha256(path) for path in _files(folder, names)}


def check(
    folder: Path, recorded: Mapping[str, str], names: Iterable[str], remedy: str, without: Collection[str] = ()
) -> None:
    """Checks files below a folder against their recorded hashes.

    Args:
        folder: Where they lie.
        recorded: From `hashes_of`.
        names: Which: files, or folders with all that is in them. What neither exists nor was recorded passes.
        remedy: What the user can do, for the message.
        without: Relative paths of files that the user may change.

    Raises:
        DamagedError: A file differs, is missing, or is not in the record.
        OSError: A file can't be read.
    """
    names = list(names)
    wanted = {
        name: digest
        for name, digest in recorded.items()
        if any(name == each or name.startswith(f"{each}/") for each in names)
    }
    present = {path.relative_to(folder).as_posix(): path for path in _files(folder, names)}
    for name in sorted((wanted.keys() | present.keys()) - set(without)):
        if name not in present:
            what = "is missing"
        elif name not in wanted:
            what = "is not in the run's record"
        elif unchanged_sha256(present[name]) != wanted[name]:
            what = "differs from the run's record (sha256)"
        else:
            continue
        raise DamagedError(f"{folder / name}: {what}", remedy if name in wanted else "remove it")


def _is_shown(path: Path, folder: Path) -> bool:
    """Returns whether a path is a file that no file manager hides: such files are left by one, and never read."""
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _files(folder: Path, names: Iterable[str]) -> list[Path]:
    paths: list[Path] = []
    for name in names:
        path = folder / name
        paths += sorted(each for each in path.rglob("*") if _is_shown(each, path)) if path.is_dir() else [path]
    return [path for path in paths if path.is_file()]


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(data, None).encode()).hexdigest()


def _text(data: Mapping[str, Any], indent: int | None) -> str:
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    return text if indent is None else text + "\n"
