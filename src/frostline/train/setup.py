"""Owns: everything a run needs before its first step. Must not know: how it trains."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from frostline import assets, process_cache, provenance
from frostline.data.load import Rows
from frostline.data.pixel_table import ImageInput, PixelTable
from frostline.data.token_table import NO_PADDING, Padding
from frostline.data.tokenize import Tokenized
from frostline.errors import ModelError, SpecError, listing
from frostline.freezing.drift import Drift
from frostline.freezing.freeze import FrozenPart, freeze
from frostline.freezing.methods.depth import FreezeDepth
from frostline.freezing.methods.none import FreezeNone
from frostline.hashes import unchanged_sha256
from frostline.machine import Machine
from frostline.metrics import ComputeMetrics
from frostline.metrics import check as check_metrics
from frostline.models import loading, optimizer
from frostline.models.blocks import Anatomy, find_blocks, num_blocks_of, whole_as_head
from frostline.models.loading import LoadedModel
from frostline.prefix_cache.attach import CachedPrefix, CacheRequest, cache_use, open_cache
from frostline.prefix_cache.probe_model import probe_model
from frostline.process_cache import LruCache
from frostline.records.result import CacheUse
from frostline.records.run_folder import Sharing
from frostline.registry import plugins_sha256
from frostline.spec import (
    EVAL_SET,
    TEST_SET,
    CacheMode,
    FreezePhase,
    Init,
    LastBlock,
    RunSpec,
)
from frostline.train.data import load_data, load_pixels, load_tables, overlap, warn_once
from frostline.train.device import seed_everything, set_up
from frostline.train.distributed import World
from frostline.train.progress import wants_bar
from frostline.train.unfreezing import UnfreezeSchedule, open_phases, phases_reached

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A run, ready to train.

    Attributes:
        machine: Device, precision, threads.
        loaded: Model and tokenizer; the frozen part is frozen.
        anatomy: The model taken apart.
        frozen: The frozen part and its hashes.
        drift: The trained part as it was.
        tables: Tokenized rows.
        optimizer: Over the trained part.
        metrics: Logits and labels -> numbers.
        cached: If the frozen prefix comes from the cache, throughout the run.
        phases: If what is frozen changes.
        data: The data report, truncation counted.
        provenance: Versions, platform, hashes.
    """

    machine: Machine
    loaded: LoadedModel
    anatomy: Anatomy
    frozen: FrozenPart
    drift: Drift
    tables: Tokenized
    optimizer: Any
    metrics: ComputeMetrics
    cached: CachedPrefix | None
    phases: UnfreezeSchedule | None
    data: dict[str, Any]
    provenance: dict[str, Any]


def prepare(
    spec: RunSpec,
    sharing: Sharing | None = None,
    resumed: Sequence[CacheUse] | None = None,
    alive: Callable[[], None] = lambda: None,
    world: World | None = None,
) -> Setup:
    """Fetches, loads, tokenizes and freezes, cheap checks first.

    Args:
        spec: What to train.
        sharing: Who else will want the same frozen prefix; None: nobody.
        resumed: How each phase of the interrupted run used the prefix cache; None: a new run.
        alive: Called now and then.
        world: The processes of the run; None: this one alone.

    Raises:
        UserError: Something the user can mend.
    """
    optimizer.check(spec.optimizer)
    check_metrics(spec.training, spec.dataset.task)
    machine = set_up(spec, world)
    bar = wants_bar(spec.runtime.progress)
    (datasets.enable_progress_bars if bar else datasets.disable_progress_bars)()
    folder = assets.model_folder(spec.model, progress=bar)
    spec.check_depth(spec.model.num_blocks or num_blocks_of(loading.load_config(folder)))
    processor, processor_sha256 = load_processor(spec, folder)
    rows, others = load_data(spec, bar)
    num_labels = spec.dataset.task.num_outputs(rows.label_names)
    metrics = ComputeMetrics(spec.training.metrics, spec.dataset.task, num_labels, rows.label_names)
    _check_objective(spec, metrics, num_labels)
    if isinstance(processor, ImageInput):
        tables = load_pixels(spec, rows, others, processor)
    else:
        tables = load_tables(spec, rows, others, processor, processor_sha256)
    cut, max_tokens = sum(tables.truncated.values()), spec.training.max_tokens
    if cut:
        warn_once(f"{spec.dataset_name}: texts longer than training.max_tokens={max_tokens}, which were cut: {cut}")

    for name, lost in tables.words_cut.items():
        if lost:
            set_name = spec.dataset_name if name in {"train", EVAL_SET, TEST_SET} else name
            warn_once(
                f"{set_name} ({name}): words beyond training.max_tokens={max_tokens}, which nothing is trained or "
                f"scored on: {lost}"
            )

    def load() -> tuple[LoadedModel, Anatomy]:
        seed_everything(spec.seed)  # here, so that the head's weights don't depend on what came before
        loaded = loading.load_model(
            spec.model, folder, task=spec.dataset.task, label_names=rows.label_names,
            processor=processor.processor if isinstance(processor, ImageInput) else processor,
        )  # fmt: skip
        anatomy = _anatomy(loaded, spec)
        if isinstance(tables.train, PixelTable):
            anatomy = replace(anatomy, image=tables.train.shape)
        if spec.model.init is Init.PRETRAINED:
            loading.check_fresh(loaded.fresh, [n for n, _ in anatomy.prefix(anatomy.num_blocks)], folder)
        return loaded, anatomy

    probe = probe_model(load, tables, wanted=_wants_look(spec, resumed))
    if spec.freeze.prepare(probe.anatomy, spec.seed):
        probe = replace(probe, reading=None)  # it reads the layers' own weights, not what is beside them
    loaded, anatomy, reading = probe.loaded, probe.anatomy, probe.reading
    origin, dropout = f"{loaded.weights_sha256} {probe.kind}", spec.training.frozen_dropout
    phases = phases_reached(spec, anatomy.num_blocks, len(rows.train))
    if phases:
        frozen = _frozen_to_the_end(spec, phases, origin, loaded, anatomy)
    else:
        frozen = freeze(anatomy, spec.freeze, origin, fresh=loaded.changed, dropout=dropout)
    seen = {
        **provenance.capture(),
        "weights_sha256": loaded.weights_sha256,
        ("image_processor_sha256" if spec.dataset.is_image else "tokenizer_sha256"): processor_sha256,
        "data_fingerprint": rows.fingerprint,
        "fresh_tensors": list(loaded.fresh),
    }
    if (plugins := plugins_sha256()) is not None:
        seen["plugins_sha256"] = plugins
    if spec.dataset.is_image:
        seen["versions"]["pillow"] = version("pillow")
    reads = spec.training.last_block is LastBlock.READ_POSITION and reading is not None
    if reading is not None and reads:
        reading.attach()
    request = CacheRequest(
        spec=spec,
        machine=machine,
        depth=frozen.prefix_depth,
        probe=probe,
        tables=tables,
        padding=padding_of(loaded),
        facts=_prefix_facts(seen),
        sharing=sharing or Sharing(num_runs=spec.runtime.num_runs),
        resumed=resumed[0] if resumed is not None else None,
        alive=alive,
    )
    cached, unfreezing = None, None
    if phases:
        unfreezing, uses = open_phases(request, phases, resumed)
    else:
        cached = open_cache(request)
        uses = (cache_use(cached, request.resumed),)
    levels = [(name, [module for _, module in modules]) for name, modules in anatomy.groups()]
    return Setup(
        machine=machine,
        loaded=loaded,
        anatomy=anatomy,
        frozen=frozen,
        drift=Drift(anatomy),
        tables=tables,
        optimizer=optimizer.build(spec.optimizer, optimizer.param_groups(levels, spec.optimizer)),
        metrics=metrics,
        cached=cached,
        phases=unfreezing,
        data={
            "name": spec.dataset_name,
            "label_names": list(rows.label_names),
            **rows.report,
            **({"also": also} if (also := _of_others(rows, others)) else {}),
            "truncated": tables.truncated,
            **({"words_cut": dict(tables.words_cut)} if tables.words_cut else {}),
        },
        provenance={
            **seen,
            "compute": {
                **machine.describe(),
                "prefix_cache": [asdict(use) for use in uses],
                "last_block": f"{probe.position} position" if reads else "whole",
            },
        },
    )


def _wants_look(spec: RunSpec, resumed: Sequence[CacheUse] | None) -> bool:
    """Returns whether anything depends on where the model's head reads."""
    has_cache = spec.runtime.cache.mode is not CacheMode.OFF or resumed is not None
    has_prefix = spec.freeze.may_freeze_a_prefix or spec.freeze.first_phase is not None
    reads = spec.training.last_block is LastBlock.READ_POSITION and not spec.dataset.is_image
    return reads or (has_prefix and has_cache)


def _of_others(rows: Rows, others: Mapping[str, Rows]) -> dict[str, dict[str, int]]:
    return {
        name: {"eval_rows": other.report["eval_rows"], "overlap": overlap(rows, other)}
        for name, other in others.items()
    }


def _frozen_to_the_end(
    spec: RunSpec, phases: tuple[FreezePhase, ...], origin: str, loaded: LoadedModel, anatomy: Anatomy
) -> FrozenPart:
    """Freezes what stays frozen in a run with stages."""
    depth = phases[-1].depth
    method = FreezeNone() if depth is None else FreezeDepth(depth=depth)
    frozen = freeze(anatomy, method, origin, fresh=loaded.changed)
    first = "all but the head at first"
    words = f"{first}, {frozen.frozen.words} in the end"
    return replace(frozen, frozen=replace(frozen.frozen, name=spec.freeze.name, words=words))


def _prefix_facts(seen: dict[str, Any]) -> dict[str, Any]:
    """Returns what a frozen prefix depends on besides depth, rows and machine."""
    versions = {name: seen["versions"].get(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    return {"weights_sha256": seen["weights_sha256"], "tokenizer_sha256": seen.get("tokenizer_sha256"), **versions}


def _check_objective(spec: RunSpec, metrics: ComputeMetrics, num_labels: int) -> None:
    """Computes the metrics once on made-up numbers: whether a foreign metric gives the objective is known only then."""
    given = metrics(*spec.dataset.task.example(num_labels))
    if spec.training.objective not in {*given, "loss"}:
        raise SpecError(
            f"training.objective={spec.training.objective}: is not computed; training.metrics gives "
            f"{listing([*given, 'loss'])}"
        )


def _anatomy(loaded: LoadedModel, spec: RunSpec) -> Anatomy:
    try:
        anatomy = find_blocks(loaded.model)
    except ModelError as error:
        if spec.freeze.needs_blocks:
            raise
        if spec.optimizer.layer_decay != 1:
            raise ModelError(f"optimizer.layer_decay needs blocks: {error}") from error
        return whole_as_head(loaded.model)
    spec.check_depth(anatomy.num_blocks)
    if spec.model.num_blocks not in {None, anatomy.num_blocks}:
        raise ModelError(f"model.num_blocks={spec.model.num_blocks}: {spec.model_name} has {anatomy.num_blocks} blocks")
    return anatomy


def padding_of(loaded: LoadedModel, multiple_of: int = 1) -> Padding:
    """Returns how batches for a model are filled up.

    Args:
        loaded: The model.
        multiple_of: Lengths are rounded up to it.
    """
    if isinstance(loaded.processor, BaseImageProcessor):
        return NO_PADDING
    return Padding.of(loaded.processor, loaded.model, multiple_of)


def load_processor(spec: RunSpec, folder: Path) -> tuple[PreTrainedTokenizerBase | ImageInput, str]:
    """Returns what makes a model's input of rows, and the sha256 of its files.

    Args:
        spec: The run: its rows are texts or images.
        folder: The model's.

    Raises:
        ModelError: There is no such thing in the folder, or it doesn't fit the model.
    """
    kept = (folder, process_cache.stamp([folder / "config.json"]))
    if spec.dataset.is_image:
        files = [path for name in loading.PROCESSOR_FILES if (path := folder / name).is_file()]
        found = _PROCESSORS.get((*kept, process_cache.stamp(files)), lambda: loading.load_image_processor(folder))
        # What it does, not the file: there are two, of which one overrides the other.
        sha256 = hashlib.sha256(json.dumps(found.to_dict(), sort_keys=True, default=str).encode()).hexdigest()
        channels = int(getattr(loading.load_config(folder), "num_channels", 3))
        return ImageInput(processor=found, sha256=sha256, channels=channels), sha256
    max_tokens, sha256 = spec.training.max_tokens, _tokenizer_sha256(folder)
    by_word = spec.dataset.task.labels_words
    tokenizer = _TOKENIZERS.get(
        (*kept, sha256, max_tokens, by_word), lambda: loading.load_tokenizer(folder, max_tokens, by_word=by_word)
    )
    return tokenizer, sha256


_TOKENIZERS: LruCache[PreTrainedTokenizerBase] = LruCache()
_PROCESSORS: LruCache[BaseImageProcessor] = LruCache()


def _tokenizer_sha256(folder: Path) -> str:
    names = (
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
    )
    files = [folder / name for name in names] + sorted(folder.glob("*.model"))
    parts = [f"{path.name}:{unchanged_sha256(path)}" for path in files if path.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
