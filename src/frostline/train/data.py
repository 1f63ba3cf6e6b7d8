"""Loads and tokenizes a run's rows, once per process."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from frostline import assets, process_cache
from frostline.data.build_rows import keys_of
from frostline.data.image_files import image_files
from frostline.data.load import Rows, load_rows
from frostline.data.pixel_table import ImageInput, PixelTable, pixel_tables
from frostline.data.tokenize import Tokenized, pixelize, tokenize
from frostline.errors import AssetError, DataError, as_user_error, listing
from frostline.process_cache import PROCESS_CACHE, LruCache
from frostline.spec import EVAL_SET, TEST_SET, DatasetSpec, Format, RunSpec, Source

log = logging.getLogger(__name__)

_ROWS: LruCache[Rows] = PROCESS_CACHE.lru(8)
_OVERLAPS: LruCache[int] = PROCESS_CACHE.lru(32)
_TABLES: LruCache[Tokenized] = PROCESS_CACHE.lru()


def load_data(spec: RunSpec, bar: bool) -> tuple[Rows, dict[str, Rows]]:
    """Reads a run's rows, and those of the other data sets that it is scored on.

    Args:
        spec: The run.
        bar: Draw a bar while fetching.

    Raises:
        UserError: They can't be had or used; one line.
    """
    rows = _kept_rows(spec.dataset, bar)
    for warning in rows.warnings:
        warn_once(f"{spec.dataset_name}: {warning}")
    others = {}
    for other in spec.dataset.also_evaluate:
        name = other.short_name
        others[name] = _kept_rows(other, bar)
        repeated = overlap(rows, others[name])
        if repeated:
            warn_once(
                f"{name}: evaluation rows whose {other.unit} is trained on: "
                f"{repeated} of {len(others[name].evaluation)}"
            )
        if others[name].label_names != rows.label_names:
            raise DataError(
                f"dataset.also_evaluate: {name} has the classes {listing(others[name].label_names)}, "
                f"{spec.dataset_name} has {listing(rows.label_names)}: give them the same dataset.label_names"
            )
    return rows, others


def overlap(rows: Rows, other: Rows) -> int:
    """Returns how many of another set's evaluation rows have a text (or an image) that is trained on."""
    return _OVERLAPS.get((rows.fingerprint, other.fingerprint), lambda: _overlap(rows, other))


def _overlap(rows: Rows, other: Rows) -> int:
    trained = set(keys_of(rows.train))
    return sum(key in trained for key in keys_of(other.evaluation))


def load_tables(
    spec: RunSpec,
    rows: Rows,
    others: Mapping[str, Rows],
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_sha256: str,
) -> Tokenized:
    """Tokenizes what `load_data` read.

    Args:
        spec: The run.
        rows: Its rows.
        others: Of other data sets.
        tokenizer: The model's.
        tokenizer_sha256: Of its files.
    """
    max_tokens = spec.training.max_tokens
    also = _also(spec, rows, others)
    data = _key(spec.dataset)
    keys = [_key(other) for other in spec.dataset.also_evaluate]
    lengths = max_tokens, spec.training.max_target_tokens
    known = None if data is None or None in keys else (data, tuple(keys), tokenizer_sha256, *lengths)
    encode = spec.dataset.task.row_encoder(tokenizer, spec.training)
    return _TABLES.get(known, lambda: tokenize(rows, tokenizer, tokenizer_sha256, max_tokens, also, encode))


def load_pixels(spec: RunSpec, rows: Rows, others: Mapping[str, Rows], images: ImageInput) -> Tokenized:
    """Makes pixels of the images that `load_data` read.

    Args:
        spec: The run.
        rows: Its rows.
        others: Of other data sets.
        images: How the model takes them.
    """
    also = _also(spec, rows, others)
    folder = _pixel_folder()
    known = (rows.fingerprint, *(identity for _, identity in also.values()), images.sha256, images.channels)

    def make() -> Tokenized:
        tables = pixelize(rows, images, folder, also)
        paths = {table.path for table in tables.every if isinstance(table, PixelTable)}
        assets.trim_pixels(int(spec.runtime.cache.max_bytes), paths)
        return tables

    return _TABLES.get(known, make)


def load_pixel_table(name: str, table: Any, rows: Rows, images: ImageInput) -> PixelTable:
    """Makes pixels of some of the rows that `load_data` read.

    Args:
        name: Of the set.
        table: Its images.
        rows: What they are part of.
        images: How the model takes them.
    """
    return pixel_tables({name: (table, rows.identities[name])}, images, _pixel_folder())[name]


def _pixel_folder() -> Path:
    folder = assets.pixels_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(f"{folder}: can't keep pixels there: {error.strerror or error}") from error
    return folder


def _also(spec: RunSpec, rows: Rows, others: Mapping[str, Rows]) -> dict[str, tuple[Any, str]]:
    """Returns the rows besides training and held-out ones, each with what identifies them."""

    def identity(of: Rows, part: str) -> str:
        return of.identities.get(part, f"{of.fingerprint} {part}")

    also = {name: (other.evaluation, identity(other, EVAL_SET)) for name, other in others.items()}
    if rows.test is not None and spec.dataset.test_at_end:
        also = {TEST_SET: (rows.test, identity(rows, TEST_SET)), **also}
    return also


def load_only(spec: RunSpec) -> tuple[int, int]:
    """Returns how many training and held-out rows a spec has.

    Raises:
        UserError: Something the user can mend.
    """
    rows = _kept_rows(spec.dataset, False)
    return len(rows.train), len(rows.evaluation)


@PROCESS_CACHE.function
def warn_once(message: str) -> None:
    """Logs once what every run of a multirun would repeat; `result.json` has the counts of each."""
    log.warning(message)


def _kept_rows(spec: DatasetSpec, bar: bool) -> Rows:
    return _ROWS.get(_key(spec, bar), lambda: _rows(spec, bar))


def _key(spec: DatasetSpec, bar: bool = False) -> Hashable | None:
    """Returns what rows depend on; None where that isn't known here."""
    if spec.source is Source.HUB:
        return None
    files = [assets.data_file(spec, progress=bar)]
    files += [assets.local_file(path, key, folder=spec.is_image) for key, path in spec.other_files().items()]
    contained = spec.format is Format.PIXELS or all(path.suffix == ".parquet" for path in files if path.is_file())
    if spec.is_image and not contained:
        return None  # it may name files
    every = [each for path in files for each in ([path] if path.is_file() else image_files(path))]
    return spec, process_cache.stamp(every)


def _rows(spec: DatasetSpec, bar: bool) -> Rows:
    def find_file(other: str | None) -> Path:
        if other is not None:
            key = next(key for key, path in spec.other_files().items() if path == other)
            return assets.local_file(other, key, folder=spec.is_image)
        return assets.data_file(spec, progress=bar)

    if spec.source is Source.HUB:  # of a node a local copy may lie elsewhere
        spec = replace(spec, location=str(assets.local_path(spec.location)))
    cache_dir = assets.home() / "datasets"
    of_hub = as_user_error(lambda error: assets.hub_error("dataset", spec.location, error))
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with of_hub if spec.source is Source.HUB else nullcontext():
            return load_rows(spec, find_file, cache_dir)
    except OSError as error:
        raise AssetError(f"{cache_dir}: can't keep converted rows there: {error.strerror or error}") from error
