"""Checks of a job that take less than a second and need no torch."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from frostline import assets, metrics
from frostline.errors import SpecError, UserError
from frostline.models import optimizer
from frostline.records.recorder import RECORDERS
from frostline.records.run_folder import SPEC_FILE, is_run_id
from frostline.spec import RunSpec, Source, Stack, spec_diff

if TYPE_CHECKING:
    from frostline.config import Job

_DECODER_KEYS = ("num_decoder_layers", "decoder_layers")
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers")


def preflight(job: Job) -> None:
    """Checks names, local files and the depth against the model.

    Raises:
        UserError: One line that says what to mend.
    """
    spec = job.run
    optimizer.check(spec.optimizer)
    metrics.check(spec.training, spec.dataset.task)
    for name in job.tracking.recorders:
        RECORDERS.get(name)
    spec.freeze.check_installed()
    if spec.model.quantize is not None and importlib.util.find_spec("torchao") is None:
        raise UserError("model.quantize: needs torchao: pip install 'frostline[quantize]', or set it to null")
    if spec.training.generate_rows is not None and importlib.util.find_spec("rouge_score") is None:
        raise UserError("training.generate_rows: needs rouge-score: pip install 'frostline[rouge]', or set it to null")
    if spec.model.source is Source.PATH:
        spec.check_depth(num_blocks(spec))
    for dataset in (spec.dataset, *spec.dataset.also_evaluate):
        if dataset.source is Source.PATH:
            assets.data_file(dataset)
            for key, path in dataset.other_files().items():
                assets.local_file(path, key, folder=dataset.is_image)
    if job.resume is not None:
        check_resume(job)


def check_folder(folder: Path) -> None:
    """Makes a folder, as Hydra is about to, and checks that it can be written.

    Raises:
        UserError: It can't.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: can't be made ({error.strerror}); give another, for example hydra.run.dir=runs/NEW"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: can't be written (permissions); give another, for example hydra.run.dir=runs/NEW")


def check_resume(job: Job) -> Path:
    """Returns the folder to resume from.

    Raises:
        UserError: It holds no run, or one of another config; the message has the difference.
    """
    from frostline.config import spec_from_json

    assert job.resume is not None
    folder = _resumed(job.resume, job.tracking.uri)
    try:
        recorded = spec_from_json((folder / SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"resume={job.resume}: no run's folder there ({SPEC_FILE}: {error})") from error
    difference = spec_diff(recorded, job.run)
    if difference:
        raise SpecError(f"resume={job.resume}: that run had another config: {'; '.join(difference)}")
    return folder


def _resumed(run: str, uri: str) -> Path:
    if Path(run).is_dir() or not is_run_id(run):
        return Path(run)
    from frostline import tracking  # MLflow: only if it is a run id

    try:
        return tracking.recorded_folder(uri, run)
    except UserError as error:
        raise UserError(f"resume={error}") from error


def num_blocks(spec: RunSpec) -> int | None:
    """Returns how many blocks a run's model has, if that can be known without loading it."""
    model = spec.model
    if model.num_blocks is not None or model.source is Source.PACKAGE:
        return model.num_blocks
    path = assets.model_folder(model) / "config.json" if model.source is Source.PATH else assets.fetched_config(model)
    if path is None:
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read: {error}") from error
    if isinstance(config, dict) and isinstance(config.get("vision_config"), dict):
        config = config["vision_config"]
    counts = [config[key] for key in _LAYER_KEYS if isinstance(config, dict) and isinstance(config.get(key), int)]
    if counts and config.get("is_encoder_decoder"):
        behind = next((config[key] for key in _DECODER_KEYS if isinstance(config.get(key), int)), counts[0])
        layers: dict[Stack, int] = {Stack.ENCODER: counts[0], Stack.DECODER: behind}
        return sum(layers[stack] for stack in spec.dataset.task.stacks)
    if not counts and isinstance(config, dict) and isinstance(config.get("depths"), list):
        return len(config["depths"])  # a convolutional network's stages
    return counts[0] if counts else None
