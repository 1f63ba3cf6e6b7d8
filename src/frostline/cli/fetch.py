"""Owns: `frostline fetch` - assets ahead of time. Must not know: how they are used."""

from __future__ import annotations

import sys

from frostline import assets
from frostline.cli.common import compose, override_parser
from frostline.cli.run import configure_logging
from frostline.spec import DatasetSpec, Source


def main(arguments: list[str]) -> int:
    """Fetches the model and the dataset of a config."""
    parser = override_parser(
        "fetch",
        "Fetches the model and the data of a config, checked, so that a later run needs no network.",
        "example: frostline fetch model=minilm dataset=movie_reviews",
    )
    configure_logging()
    job = compose(parser.parse_args(arguments))
    bar = sys.stderr.isatty()
    print(f"model    {job.run.model_name}: {assets.model_folder(job.run.model, progress=bar)}")
    for dataset in (job.run.dataset, *job.run.dataset.also_evaluate):
        print(f"dataset  {dataset.short_name}: {_dataset(dataset, bar)}")
    return 0


def _dataset(spec: DatasetSpec, bar: bool) -> str:
    if spec.source is not Source.HUB:
        return str(assets.data_file(spec, progress=bar))
    from frostline.dataset.read import read_hub

    cache_dir = assets.home() / "datasets"
    try:
        splits = [spec.split, *(split for split in (spec.eval_from, spec.test_from) if split is not None)]
        return ", ".join(f"{split} {len(read_hub(spec, split, cache_dir).table)} rows" for split in splits)
    except ValueError:
        raise
    except Exception as error:
        raise assets.hub_error("dataset", spec.location, error) from error
