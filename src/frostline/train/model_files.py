"""The files of a trained model: all of them, or none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from frostline.models.loading import LoadedModel


def save_model(loaded: LoadedModel, folder: Path) -> None:
    """Writes the whole model with its tokenizer (or image processor) and label names.

    Args:
        loaded: The trained model.
        folder: Written beside it first, then renamed: it never exists in part.
    """
    partial = _partial_folder(folder)
    shutil.rmtree(partial, ignore_errors=True)
    model: Any = loaded.model
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        model.config.use_cache = True  # false is a setting of the training, and not of the model
    type(model).save_pretrained(model, partial)  # the class's: the object's own is for checkpoints
    loaded.processor.save_pretrained(partial)
    for path in partial.rglob("*"):  # weights come out readable by their owner alone, whatever the umask says
        path.chmod(0o666 & ~_umask())
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def remove_unfinished(folder: Path) -> None:
    """Removes what an aborted `save_model` left beside a folder."""
    shutil.rmtree(_partial_folder(folder), ignore_errors=True)


def _partial_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.writing")


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
