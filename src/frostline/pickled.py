"""Owns: pickled weights -> safetensors, once, at a user's word. Must not know: whose they are, what model they make.

A pickle can run code when it is loaded. torch's weights-only loader reads tensors and plain containers and refuses the
rest; it is the only one used here. What comes out is the same tensors under the same names.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from frostline.errors import ModelError

PICKLED_WEIGHTS = "pytorch_model*.bin"
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
    files = sorted(source.glob(PICKLED_WEIGHTS))
    if not files:
        raise ModelError(f"{source}: no pickled weights there ({PICKLED_WEIGHTS})")
    written = []
    for file in files:
        written.append(target / _name(file.name))
        _write(_tensors(file), written[-1])
    index = source / _INDEX
    if index.is_file():
        content: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] = {name: _name(part) for name, part in content["weight_map"].items()}
        (target / _name(_INDEX)).write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
    return written


def _name(of: str) -> str:
    """As Transformers names them: `pytorch_model-00001-of-00002.bin`, `model-00001-of-00002.safetensors`."""
    return of.replace("pytorch_model", "model", 1).replace(".bin", ".safetensors", 1)


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file}: holds more than tensors, which could run code when loaded: refused; convert it where you trust it"
        ) from error
    except Exception as error:
        raise ModelError(f"{file}: can't be read as weights: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ModelError(f"{file}: holds no tensors by name")
    strange = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise ModelError(f"{file}: {strange[0]} is no tensor: these are not the weights of a model alone")
    # Tied weights are one tensor under two names, which safetensors don't hold: each gets its own.
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in content.items()}


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, scratch, metadata={"format": "pt"})
        scratch.replace(path)  # whole or not at all
    finally:
        scratch.unlink(missing_ok=True)
