"""What a run is trained and scored on: its rows as the model takes them, and its metrics."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from frostline import process_cache
from frostline.data.augment import Augmentation, AugmentedTable
from frostline.data.label_sets import CLASSES_PER_NUMBER
from frostline.data.load import Rows
from frostline.data.pixel_table import ImageInput, PixelTable
from frostline.data.tokenize import Tokenized
from frostline.errors import SpecError, listing
from frostline.hashes import unchanged_sha256
from frostline.metrics import ComputeMetrics
from frostline.models import config_file, processors
from frostline.process_cache import PROCESS_CACHE, LruCache
from frostline.spec import EVAL_SET, TEST_SET, RunSpec
from frostline.train.data import load_data, load_pixels, load_tables, overlap, warn_once


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A run's rows, read and tokenized.

    Attributes:
        rows: Train and evaluation rows.
        others: Those of the other data sets that it is scored on, by name.
        tables: All of them as the model takes them.
        processor: What made them: tokenizer or image processor.
        processor_sha256: Of its files.
        metrics: Logits and labels -> numbers.
    """

    rows: Rows
    others: Mapping[str, Rows]
    tables: Tokenized
    processor: PreTrainedTokenizerBase | BaseImageProcessor
    processor_sha256: str
    metrics: ComputeMetrics

    def report(self, name: str) -> dict[str, Any]:
        """Returns the data report of a run, truncation counted.

        Args:
            name: Of the data set.
        """
        others = {
            other: {"eval_rows": rows.report["eval_rows"], "overlap": overlap(self.rows, rows)}
            for other, rows in self.others.items()
        }
        return {
            "name": name,
            "label_names": list(self.rows.label_names),
            **self.rows.report,
            **({"also": others} if others else {}),
            "truncated": self.tables.truncated,
            **({"words_cut": dict(self.tables.words_cut)} if self.tables.words_cut else {}),
        }


def load_inputs(spec: RunSpec, folder: Path, bar: bool) -> Inputs:
    """Reads and tokenizes the rows of a run, cheap checks first.

    Args:
        spec: The run.
        folder: The model's.
        bar: Draw a bar while fetching.

    Raises:
        UserError: They can't be had or used; one line.
    """
    processor, processor_sha256 = load_processor(spec, folder)
    rows, others = load_data(spec, bar)
    num_labels = spec.dataset.task.num_outputs(rows.label_names)
    metrics = ComputeMetrics(spec.training.metrics, spec.dataset.task, num_labels, rows.label_names)
    _check_objective(spec, metrics, num_labels)
    if isinstance(processor, ImageInput):
        tables = _augmented(spec, load_pixels(spec, rows, others, processor))
    else:
        tables = load_tables(spec, rows, others, processor, processor_sha256)
    _warn_of_truncation(spec, tables)
    _warn_of_rare_evaluations(spec, len(rows.train))
    labels = tables.train.labels
    if spec.training.mixup and labels is not None and labels.dim() > 1:
        raise SpecError(f"training.mixup={spec.training.mixup:g}: takes up to {CLASSES_PER_NUMBER} classes; give 0")
    return Inputs(
        rows=rows,
        others=others,
        tables=tables,
        processor=processor.processor if isinstance(processor, ImageInput) else processor,
        processor_sha256=processor_sha256,
        metrics=metrics,
    )


def _augmented(spec: RunSpec, tables: Tokenized) -> Tokenized:
    """Returns the rows of a run with views of its training images, if its config asks for them."""
    augmentation = Augmentation.of(spec.dataset, spec.seed)
    if augmentation is None:
        return tables
    assert isinstance(tables.train, PixelTable), "only images are augmented"
    train = AugmentedTable(tables.train, augmentation, spec.dataset.views)
    # Folds share no pool: the same image is augmented in one, and evaluated as it is in another.
    return replace(tables, train=train, pool=None, places=None)


def _warn_of_truncation(spec: RunSpec, tables: Tokenized) -> None:
    cut, max_tokens = sum(tables.truncated.values()), spec.training.max_tokens
    if cut:
        keys = f"training.max_tokens={max_tokens}"
        if (target := spec.training.max_target_tokens) is not None:
            keys += f" (targets: training.max_target_tokens={target})"
        warn_once(f"{spec.dataset_name}: texts longer than {keys}, which were cut: {cut}")
    for name, num_cut in tables.words_cut.items():
        if num_cut:
            set_name = spec.dataset_name if name in {"train", EVAL_SET, TEST_SET} else name
            warn_once(
                f"{set_name} ({name}): words beyond training.max_tokens={max_tokens}, which nothing is trained or "
                f"scored on: {num_cut}"
            )


def _warn_of_rare_evaluations(spec: RunSpec, num_rows: int) -> None:
    """Says so where a run ends before its first evaluation by `training.eval_steps`."""
    training, rows_per_step = spec.training, spec.training.batch_size * spec.training.accumulation_steps
    steps = training.max_steps or math.ceil((training.epochs or 0) * max(1, -(-num_rows // rows_per_step)))
    if training.eval_steps is not None and training.eval_steps > steps:
        idle = ", and training.patience counts nothing" if training.patience is not None else ""
        warn_once(f"training.eval_steps={training.eval_steps}: a run has {steps} steps, so it is evaluated once{idle}")


def _check_objective(spec: RunSpec, metrics: ComputeMetrics, num_labels: int) -> None:
    """Computes the metrics once on made-up numbers: whether a foreign metric gives the objective is known only then."""
    values = metrics(*spec.dataset.task.example(num_labels))
    if spec.training.objective not in {*values, "loss"}:
        raise SpecError(
            f"training.objective={spec.training.objective}: is not computed; training.metrics gives "
            f"{listing([*values, 'loss'])}"
        )


def load_processor(spec: RunSpec, folder: Path) -> tuple[PreTrainedTokenizerBase | ImageInput, str]:
    """Returns what makes a model's input of rows, and the sha256 of its files.

    Args:
        spec: The run: its rows are texts or images.
        folder: The model's.

    Raises:
        ModelError: There is no such thing in the folder, or it doesn't fit the model.
    """
    cache_key = (folder, process_cache.stamp([folder / "config.json"]))
    if spec.dataset.is_image:
        files = [path for name in processors.PROCESSOR_FILES if (path := folder / name).is_file()]
        processor = _PROCESSORS.get(
            (*cache_key, process_cache.stamp(files)), lambda: processors.load_image_processor(folder)
        )
        # What it does, not the file: there are two, of which one overrides the other.
        sha256 = hashlib.sha256(json.dumps(processor.to_dict(), sort_keys=True, default=str).encode()).hexdigest()
        channels = int(getattr(config_file.load_config(folder), "num_channels", 3))
        return ImageInput(processor=processor, sha256=sha256, channels=channels), sha256
    lengths, sha256 = (spec.training.max_tokens, spec.training.max_target_tokens), _tokenizer_sha256(folder)
    by_word = spec.dataset.task.labels_words
    tokenizer = _TOKENIZERS.get(
        (*cache_key, sha256, lengths, by_word),
        lambda: processors.load_tokenizer(folder, *lengths, by_word=by_word),
    )
    return tokenizer, sha256


_TOKENIZERS: LruCache[PreTrainedTokenizerBase] = PROCESS_CACHE.lru()
_PROCESSORS: LruCache[BaseImageProcessor] = PROCESS_CACHE.lru()


def _tokenizer_sha256(folder: Path) -> str:
    names = (
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
        "chat_template.jinja",
    )
    files = [folder / name for name in names] + sorted(folder.glob("*.model"))
    parts = [f"{path.name}:{unchanged_sha256(path)}" for path in files if path.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
