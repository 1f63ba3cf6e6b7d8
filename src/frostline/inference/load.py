"""A trained run's model, ready to be asked."""

from __future__ import annotations

from pathlib import Path

from frostline.inference.generate import Writer
from frostline.inference.predict import Predictor
from frostline.spec import RunSpec


def load_model(model_folder: Path, spec: RunSpec) -> Predictor | Writer:
    """Loads the model of a run: one that predicts labels, or one that writes.

    Args:
        model_folder: `model/` of the run's folder.
        spec: What was trained.

    Raises:
        ModelError: There is no model, or it can't be loaded.
    """
    max_tokens = spec.training.max_tokens
    if spec.dataset.task.generates:
        return Writer(model_folder, is_chat=spec.dataset.messages_column is not None, max_tokens=max_tokens)
    return Predictor(model_folder, max_tokens)
