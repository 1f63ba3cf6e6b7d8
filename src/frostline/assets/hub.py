"""Models and data sets of the Hugging Face hub."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from frostline.assets.home import home
from frostline.assets.package import COMPLETE_FILE, is_whole, locked
from frostline.errors import AssetError, best_effort
from frostline.hashes import hashes_of, sealed
from frostline.spec import Init, ModelSpec

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


def hub_model(spec: ModelSpec) -> Path:
    """Returns the snapshot of a model on the hub, with safetensors: converted before, if the repository has none."""
    folder = _snapshot(spec, _HUB_MODEL_FILES)
    if spec.init is Init.RANDOM or any(folder.glob("*.safetensors")):
        return folder
    converted = _converted_folder(spec, folder)
    if is_whole(converted):
        return converted
    damaged = f"{converted} is damaged; " if converted.is_dir() else ""
    choice = f"model={spec.name}" if spec.name else f"model=hub model.location={spec.location}"
    choice += f" model.revision={spec.revision}" if spec.revision and not spec.name else ""
    raise AssetError(
        f"model.location={spec.location}: {damaged}no safetensors at this commit; pickled weights can run code when "
        f"loaded, so they are read once, as tensors alone, when you say so: frostline fetch {choice} --convert-pickle"
    )


def fetched_config(spec: ModelSpec) -> Path | None:
    """Returns the `config.json` of a model on the hub; None: it was not fetched yet."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(spec.location, "config.json", revision=spec.revision)
    return Path(path) if isinstance(path, str) else None


def _snapshot(spec: ModelSpec, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    fetch = partial(snapshot_download, spec.location, revision=spec.revision, allow_patterns=patterns)
    try:
        return Path(fetch())
    except Exception as error:
        if _is_of_the_network(error):
            # huggingface_hub 1.33 asks for the list of a commit's files even if they were fetched before.
            with best_effort("the copy at hand"):
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
    with locked(f"convert-{target.parent.name}"):
        if not is_whole(target):
            try:
                _convert(folder, target, convert)
            except OSError as error:
                raise AssetError(f"{target}: can't be written: {error.strerror or error}") from error
    return target


def _convert(snapshot: Path, target: Path, convert: Callable[[Path, Path], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as scratch:
        converted = Path(scratch) / target.name
        converted.mkdir()
        for path in snapshot.iterdir():
            is_wanted = any(path.match(pattern) for pattern in _HUB_MODEL_FILES) and path.is_file()
            if is_wanted and not any(path.match(pattern) for pattern in _HUB_PICKLES):
                shutil.copyfile(path, converted / path.name)
        convert(snapshot, converted)
        files = hashes_of(converted, [path.name for path in converted.iterdir()])
        (converted / COMPLETE_FILE).write_text(sealed({"files": files}), encoding="utf-8")
        if target.exists():  # damaged
            shutil.rmtree(target)
        converted.replace(target)


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
        f"needs no hub, for example {group}={nearby[1]}"
    )
