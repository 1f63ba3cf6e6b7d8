"""`frostline fetch`: downloads models and data ahead of time."""

from __future__ import annotations

import sys
from pathlib import Path

from frostline import assets
from frostline.cli.common import compose, override_parser
from frostline.console import configure_logging
from frostline.errors import as_user_error
from frostline.spec import DatasetSpec, ModelSpec, Source


def main(arguments: list[str]) -> int:
    """Fetches the model and the dataset of a config."""
    parser = override_parser(
        "fetch",
        "Fetches the model and the data of a config, checked, so that a later run needs no network.",
        "example: frostline fetch model=minilm dataset=movie_reviews",
    )
    parser.add_argument(
        "--convert-pickle",
        action="store_true",
        help="where a model has only pickled weights: read them once, as tensors alone (torch's weights-only loader "
        "refuses all that could run code), and keep them as safetensors",
    )
    configure_logging()
    options = parser.parse_args(arguments)
    job = compose(options)
    bar = sys.stderr.isatty()
    folder = _converted(job.run.model, bar) if options.convert_pickle else assets.model_folder(job.run.model, bar)
    print(f"model    {job.run.model_name}: {folder}")
    for dataset in (job.run.dataset, *job.run.dataset.also_evaluate):
        print(f"dataset  {dataset.short_name}: {_dataset(dataset, bar)}")
    return 0


def _converted(spec: ModelSpec, bar: bool) -> Path:
    from frostline.assets.convert import is_converted, to_safetensors

    if spec.source is Source.HUB:
        return assets.converted_hub_model(spec, to_safetensors)
    folder = assets.model_folder(spec, bar)
    if spec.source is Source.PATH and not is_converted(folder):
        to_safetensors(folder, folder)
    return folder


def _dataset(spec: DatasetSpec, bar: bool) -> str:
    if spec.source is not Source.HUB:
        return str(assets.data_file(spec, progress=bar))
    from frostline.data.readers import read_hub

    cache_dir = assets.home() / "datasets"
    with as_user_error(lambda error: assets.hub_error("dataset", spec.location, error)):
        splits = [spec.split, *(split for split in (spec.eval_from, spec.test_from) if split is not None)]
        return ", ".join(f"{split} {len(read_hub(spec, split, cache_dir).table)} rows" for split in splits)
