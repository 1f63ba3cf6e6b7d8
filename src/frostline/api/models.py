"""Models of transformers that a program holds, kept as folders under the hash of their content."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from frostline.assets import home
from frostline.errors import ModelError, as_user_error, first_line
from frostline.hashes import file_sha256

FOLDER = "models"
"""Below FROSTLINE_HOME."""

_HASH_DIGITS = 16


def store_model(model: Any, tokenizer: Any = None) -> Path:
    """Writes a model and its tokenizer to a folder below FROSTLINE_HOME, or finds the one that holds them.

    Args:
        model: A `PreTrainedModel`, or whatever has `save_pretrained` and a config of transformers.
        tokenizer: Its tokenizer or image processor; None: that of the folder or repository it was loaded from.

    Raises:
        ModelError: It is no such model, can't be saved, or has no tokenizer.
    """
    if not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        raise ModelError(f"model: a {type(model).__name__} is no model of transformers, and no name or folder of one")
    if hasattr(model, "peft_config"):
        raise ModelError("model: has adapters of peft; give the model below them, or merge_and_unload() them first")
    tokenizer = tokenizer if tokenizer is not None else _own_tokenizer(model)
    base = home() / FOLDER
    base.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=base))
    try:
        with as_user_error(lambda error: ModelError(f"model: can't be saved: {first_line(error)}")):
            model.save_pretrained(temporary, safe_serialization=True)
            tokenizer.save_pretrained(temporary)
        target = base / f"{_name(model)}-{_digest(temporary)[:_HASH_DIGITS]}"
        if not target.is_dir():
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _own_tokenizer(model: Any) -> Any:
    from transformers import AutoImageProcessor, AutoTokenizer

    source = getattr(model, "name_or_path", "") or getattr(model.config, "_name_or_path", "")
    if not source:
        raise ModelError("model: give its tokenizer (or image processor), too: tokenizer=...")
    for kind in (AutoTokenizer, AutoImageProcessor):
        try:
            return kind.from_pretrained(source)
        except (OSError, ValueError, KeyError):
            continue
    raise ModelError(f"model: {source} brings no tokenizer and no image processor; give it: tokenizer=...")


def _name(model: Any) -> str:
    kind = str(getattr(model.config, "model_type", "") or "model")
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in kind)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0{file_sha256(path)}\0".encode())
    return digest.hexdigest()
