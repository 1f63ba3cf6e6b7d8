"""A model's config.json: loaded, hashed, asked for the longest input."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)
from transformers.utils import logging as transformers_logging

from frostline.errors import ModelError, as_user_error, first_line
from frostline.models import timm_models


def reads_images(config: Any) -> bool:
    """Returns whether a config is of a model that classifies images, and not texts."""
    kind = type(config)
    return kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING and kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING


def load_config(folder: Path, settings: dict[str, Any] | None = None) -> Any:
    """Reads a model folder's config.json.

    Raises:
        ModelError: It isn't valid, or names code of its own.
    """
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = raw.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / 'config.json'}: can't be read: {first_line(error)}") from error
    if timm_models.is_of_timm(raw):
        timm_models.check_config(raw, folder / "config.json")
        timm_models.check_installed(folder)
        if settings is not None:  # of the number of classes its own config has the last word
            settings = {**settings, "num_labels": len(settings["id2label"])}

    def unusable(error: BaseException) -> ModelError:
        if "auto_map" in raw:
            return ModelError(f"{folder}: the model ({kind}) brings code of its own, which frostline doesn't run")
        return ModelError(f"{folder}: model_type {kind!r}: {first_line(error)}")

    with as_user_error(unusable), quiet_transformers():
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **(settings or {}))


def config_sha256(config: Any) -> str:
    """Returns a sha256 of what the config says of the computation; label names are the head's."""
    own = {
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "_name_or_path",
        "transformers_version",
        "architectures",
        "num_classes",
        "label_names",
    }
    data = {key: value for key, value in config.to_dict().items() if key not in own}
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


class quiet_transformers:  # noqa: N801 - reads as a statement
    """Silences transformers while loading: what it warns of is checked here and reported in one line."""

    def __enter__(self) -> None:
        self._verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exc_info: object) -> None:
        transformers_logging.set_verbosity(self._verbosity)


def _first_line(error: BaseException) -> str:
    return first_line(error)
