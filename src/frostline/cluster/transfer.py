"""Files between a sweep's parent and a node: a trial's folder there and back, inputs there, in bounded pieces."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from frostline.files import refuse_links

PIECE_BYTES = 8 << 20
"""Largest part of a file that is sent at once."""

_PARTS = ".part.tmp"
_NOT_SENT = frozenset({"lock", "model"})
"""A lock is a process's own; a model is asked for by name where it is kept."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a file, or the news that it was removed.

    Attributes:
        name: Of the file, relative to the folder.
        offset: Where the part begins.
        data: The bytes; None: the file was removed.
        is_last: Whether the file is whole with it.
        mtime_ns: When the file was written, by the clock of where it was written.
    """

    name: str
    offset: int = 0
    data: bytes | None = None
    is_last: bool = True
    mtime_ns: int = 0


Stamp = tuple[int, int]
"""Size in bytes and time of writing of a file: what distinguishes a newer one from an older one."""


def stamps(folder: Path, *, models: bool = False) -> dict[str, Stamp]:
    """Returns the files of a trial's folder that are sent, by their relative names.

    Args:
        folder: Need not be there.
        models: Whether those of `model/` are among them.
    """
    stamp_of: dict[str, Stamp] = {}
    for path in _files(folder, models=models):
        with suppress(OSError):  # it was removed just now
            stat = path.stat()
            stamp_of[path.relative_to(folder).as_posix()] = (stat.st_size, stat.st_mtime_ns)
    return stamp_of


def _files(folder: Path, *, models: bool) -> Iterator[Path]:
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if models or name not in _NOT_SENT]
        for name in names:
            path = Path(at, name)
            if not name.endswith(".tmp") and name not in _NOT_SENT and not path.is_symlink():
                yield path


def pieces(folder: Path, names: Iterable[str]) -> Iterator[Piece]:
    """Yields the parts of some files; one that was removed meanwhile is left out."""
    for name in names:
        path = folder / name
        with suppress(FileNotFoundError), path.open("rb") as file:
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            offset, part = 0, file.read(PIECE_BYTES)
            while True:
                following = file.read(PIECE_BYTES)
                yield Piece(name=name, offset=offset, data=part, is_last=not following, mtime_ns=mtime_ns)
                if not following:
                    break
                offset, part = offset + len(part), following


def write(folder: Path, piece: Piece) -> None:
    """Writes a part of a file into a folder; the file is there when its last part is.

    Raises:
        OSError: There is no room.
        UserError: A link stands where the file would be written.
        ValueError: The name leads out of the folder.
    """
    target = folder / piece.name
    if (target.is_absolute() and not target.is_relative_to(folder)) or ".." in Path(piece.name).parts:
        raise ValueError(f"{piece.name!r} leads out of {folder}")
    refuse_links([target, *(above for above in target.parents if above.is_relative_to(folder))])
    if piece.data is None:
        target.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            target.parent.rmdir()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}{_PARTS}")
    with aside.open("r+b" if piece.offset else "wb") as file:
        file.seek(piece.offset)
        file.write(piece.data)
    if piece.is_last:
        os.utime(aside, ns=(piece.mtime_ns, piece.mtime_ns))
        aside.replace(target)


class Sent:
    """What of a folder the other side has, and what has changed since.

    Args:
        folder: This side's.
        known: The other side's files.
    """

    def __init__(self, folder: Path, known: Mapping[str, Stamp]) -> None:
        self._folder = folder
        self._known = dict(known)

    def changes(self) -> Iterator[Piece]:
        """Yields what the other side lacks: new files in the order of their writing, then those that were removed."""
        now = stamps(self._folder)
        new = [name for name, stamp in now.items() if self._known.get(name) != stamp]
        yield from pieces(self._folder, sorted(new, key=lambda name: now[name][1]))
        for name in self._known.keys() - now.keys():
            yield Piece(name=name)
        self._known = now


@dataclass(frozen=True, kw_only=True)
class LocalInput:
    """A local file or folder that trials read.

    Attributes:
        path: Where it lies.
        beside: Files that go with it, relative to its folder: the images that a table names.
    """

    path: Path
    beside: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """What the names are relative to."""
        return self.path.parent

    def names(self) -> list[str]:
        """Returns its files, relative to `folder`, in a fixed order."""
        own = [self.path] if self.path.is_file() else [each for each in self.path.rglob("*") if each.is_file()]
        return [*sorted(each.relative_to(self.folder).as_posix() for each in own), *sorted(self.beside)]


@dataclass(frozen=True)
class Inputs:
    """Local files and folders that trials read, known by their content.

    Attributes:
        digests: sha256 of the content, by the path as the config has it.
        known: Each of them, alike.
    """

    digests: dict[str, str] = field(default_factory=dict)
    known: dict[str, LocalInput] = field(default_factory=dict)

    def add(self, place: str, local: LocalInput) -> None:
        """Adds an input.

        Args:
            place: Its path in the config.
            local: The file or folder on this machine.

        Raises:
            OSError: It can't be read.
        """
        if place not in self.digests:
            self.digests[place] = _content(local)
            self.known[place] = local


def _content(expected: LocalInput) -> str:
    digest = hashlib.sha256(expected.path.name.encode())
    for name in expected.names():
        digest.update(name.encode())
        with (expected.folder / name).open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def input_pieces(inputs: LocalInput) -> Iterator[Piece]:
    """Yields the parts of an input, under their names relative to its folder."""
    yield from pieces(inputs.folder, inputs.names())


def remove(folder: Path) -> None:
    """Removes a folder of ours with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)


_BATCH = 8


def batches_of(parts: Iterator[Piece]) -> Iterator[tuple[list[Piece], bool]]:
    """Yields parts a few at a time, with whether they are the last ones."""
    batch: list[Piece] = []
    for part in parts:
        if len(batch) == _BATCH:
            yield batch, False
            batch = []
        batch.append(part)
    yield batch, True
