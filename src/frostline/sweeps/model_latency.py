"""What the recommended model of a sweep takes for a row, measured on its held-out rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from frostline.records.run_folder import MODEL_FOLDER
from frostline.spec import RunSpec

if TYPE_CHECKING:
    from frostline.inference.latency import Latency


def latency_of(spec: RunSpec, folder: Path) -> Latency:
    """Loads a run's model and its held-out rows, and measures the model.

    Args:
        spec: The run's.
        folder: The run's.

    Raises:
        UserError: The model or the rows can't be had.
    """
    import datasets

    from frostline.data.pixel_table import ImageInput
    from frostline.data.token_table import NO_PADDING, Padding
    from frostline.inference.latency import measure_latency
    from frostline.inference.predict import Predictor
    from frostline.models.config_file import load_config
    from frostline.train.data import load_data, load_pixels, load_tables
    from frostline.train.inputs import load_processor

    datasets.disable_progress_bars()
    model_folder = folder / MODEL_FOLDER
    kind = spec.dataset.task.auto_class(load_config(model_folder))
    predictor = Predictor(model_folder, spec.training.max_tokens, kind)
    rows, _ = load_data(spec, False)
    processor, sha256 = load_processor(spec, model_folder)
    if isinstance(processor, ImageInput):
        return measure_latency(predictor, load_pixels(spec, rows, {}, processor).evaluation, NO_PADDING)
    table = load_tables(spec, rows, {}, processor, sha256).evaluation
    return measure_latency(predictor, table, Padding.of(processor, predictor.model))
