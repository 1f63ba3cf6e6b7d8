"""Converts pickled weights to safetensors, once, when the user asks for it.

A pickle can run code when it is loaded. torch's weights-only loader reads tensors and plain containers and refuses the
rest; it is the only one used here. What comes out is the same tensors under the same names.
"""

from __future__ import annotations

import json
import pickle
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from frostline.errors import ModelError, as_user_error, first_line

PICKLED_WEIGHTS = "pytorch_model.bin, or its parts"
_WEIGHTS = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_INDEX = "pytorch_model.bin.index.json"


def to_safetensors(source: Path, target: Path) -> list[Path]:
    """Writes the pickled weights of a model folder as safetensors.

    Args:
        source: A folder with `pytorch_model.bin`, or its parts and their index.
        target: Where `model.safetensors`, or its parts and their index, go; may be the same.

    Returns:
        The files of weights that were written.

    Raises:
        ModelError: There are none, or they hold anything but tensors.
    """
    files = sorted(path for path in source.glob("*.bin") if _WEIGHTS.fullmatch(path.name))
    if not files:
        raise ModelError(f"{source}: no pickled weights there ({PICKLED_WEIGHTS})")
    index = _index(source / _INDEX, {file.name for file in files})
    try:
        with tempfile.TemporaryDirectory(prefix=".convert-", dir=target) as scratch:  # all of it or nothing
            converted = Path(scratch)
            for file in files:
                save_file(_tensors(file), converted / _name(file.name), metadata={"format": "pt"})
            if index is not None:
                (converted / _name(_INDEX)).write_text(index, encoding="utf-8")
            for file in sorted(
                converted.iterdir(), key=lambda path: path.suffix == ".json"
            ):  # what names them comes last
                file.replace(target / file.name)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{target}: safetensors can't be written there: {error}") from error
    return [target / _name(file.name) for file in files]


def is_converted(folder: Path) -> bool:
    """Returns whether a model folder has safetensors, all of them."""
    if (folder / "model.safetensors").is_file():
        return True
    index = folder / _name(_INDEX)
    if not index.is_file():
        return False
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return all((folder / part).is_file() for part in parts)


def _index(path: Path, names: Collection[str]) -> str | None:
    """Returns the index of a model in parts as safetensors have it; None: it is in one.

    Raises:
        ModelError: It can't be read, or names anything but the parts.
    """
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parts: dict[str, str] = content["weight_map"]
        strange = next((part for part in parts.values() if part not in names), None)
        content["weight_map"] = {name: _name(part) for name, part in parts.items() if strange is None}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: is no index of weights ({type(error).__name__})") from error
    if strange is not None:
        raise ModelError(f"{path}: names {strange!r}, which is none of the weights beside it")
    return json.dumps(content, indent=2, sort_keys=True)


def _name(of: str) -> str:
    """As Transformers names them: `pytorch_model-00001-of-00002.bin`, `model-00001-of-00002.safetensors`."""
    return of.replace("pytorch_model", "model", 1).replace(".bin", ".safetensors", 1)


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    def refused(error: BaseException) -> ModelError:
        if isinstance(error, pickle.UnpicklingError):
            return ModelError(
                f"{file}: holds more than tensors, which could run code when loaded: refused; convert it where you "
                "trust it"
            )
        return ModelError(f"{file}: can't be read as weights: {first_line(error)}")

    with as_user_error(refused):
        content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ModelError(f"{file}: holds no tensors by name")
    most = file.stat().st_size
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"{file}: {name} is no tensor: these are not the weights of a model alone")
        is_dense = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not is_dense or name == "__metadata__" or value.numel() * value.element_size() > most:
            raise ModelError(
                f"{file}: {name} is no dense tensor that the file holds, or has no name that safetensors take"
            )
    # Tied weights are one tensor under two names, which safetensors don't hold: each gets its own.
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in content.items()}
