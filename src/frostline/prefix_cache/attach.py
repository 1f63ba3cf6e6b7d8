"""Attaches cached hidden states to a run, if its settings allow it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from frostline import assets
from frostline.data.pixel_table import PixelTable
from frostline.data.row_table import RowTable
from frostline.data.split import Indices
from frostline.errors import UserError, in_one_line
from frostline.models.blocks import Anatomy
from frostline.models.config_file import config_sha256
from frostline.prefix_cache.collate import HiddenRows
from frostline.prefix_cache.compare import autocast, compare_with_whole
from frostline.prefix_cache.compute import OverflowInPrefixError, RowsToCompute, batch_tokens
from frostline.prefix_cache.entry import CacheError
from frostline.prefix_cache.forward_probe import row_shape
from frostline.prefix_cache.gpu_memory import fits, keep_on_gpu
from frostline.prefix_cache.open_or_compute import Prefix, TableOnDisk, is_cached, num_bytes, open_or_compute
from frostline.prefix_cache.policy import num_passes, reason_to_skip
from frostline.prefix_cache.request import CachedPrefix, CacheRequest
from frostline.prefix_cache.store import PREFIX_FOLDER, PrefixStore
from frostline.prefix_cache.suffix import Suffix, TrainableModel, hidden_size
from frostline.process_cache import PROCESS_CACHE
from frostline.records.result import CacheUse
from frostline.records.run_context import Sharing
from frostline.records.run_folder import FOR_TERMINAL
from frostline.spec import CacheMode, RunSpec

log = logging.getLogger(__name__)

_FILL_VERSION = 4
"""Part of the key: raise it when the same rows would give other bits. 4: entries before it may hold wrong seconds."""

_SHARED_FROM = 2
"""Least number of runs for which caching pays if each run reads the rows once."""

_SEQUENCE = 2
"""Dimensions of what is cached of an image, if it is a sequence of vectors, and no map."""

_PIXELS_PER_TOKEN = 256
"""What a token of a convolutional network counts for, as a patch of 16 x 16 pixels is one of a vision transformer
(assumed)."""


def open_cache(request: CacheRequest) -> CachedPrefix | None:
    """Lets a run begin at its frozen depth, if `runtime.cache` wants that and it can be had.

    Raises:
        UserError: `runtime.cache=require`, and it can't be had.
    """
    mode, resumed = request.spec.runtime.cache.mode, request.resumed
    if resumed is not None and not resumed.is_on and mode is CacheMode.REQUIRE:
        log.warning("resume: the run started without a prefix cache, and continues so, whatever runtime.cache says")
    if mode is CacheMode.OFF if resumed is None else not resumed.is_on:
        return None
    why_not = reason_for_none(request)
    if why_not is None:
        assert request.depth is not None
        try:
            return open_prefix(request, request.depth)
        except (CacheError, OverflowInPrefixError) as error:
            why_not = str(error)
        except Exception as error:
            log.debug("prefix cache", exc_info=True)
            why_not = f"the cache failed ({type(error).__name__}: {in_one_line(error)})"
    if mode is CacheMode.REQUIRE:
        raise UserError(f"runtime.cache=require: {why_not}; give runtime.cache=auto to run without it")
    if resumed is not None:
        log.warning("resume: the run had a prefix cache and continues without one (%s): last bits may differ", why_not)
    else:
        log.info("prefix cache: off: %s", why_not, extra={FOR_TERMINAL: True})
    return None


def cache_use(cached: CachedPrefix | None, resumed: CacheUse | None) -> CacheUse:
    """Returns how a run uses the cache, including a cache that was dropped when it was resumed."""
    if cached is not None:
        return cached.use
    if resumed is None:
        return CacheUse()
    return replace(resumed, dropped=True) if resumed.is_on else resumed


def reason_for_none(request: CacheRequest) -> str | None:
    """Returns why nothing can be cached, for people; None if it can."""
    probe, depth, training = request.probe, request.depth, request.spec.training
    if depth is None:
        return "the embeddings are trained, or some of them" if probe.anatomy.blocks else "it has no blocks"
    if depth == 0:
        return "no block is frozen together with all that is below it"
    if request.tables.train.views is None:
        return "each epoch draws new views of the images (dataset.views=null): no two of them are the same"
    if training.mixup:
        return "images are mixed (training.mixup), before the frozen blocks see them"
    if training.frozen_dropout:
        return "the frozen part drops out at random (training.frozen_dropout=true)"
    if not probe.is_steady:
        return "the model's forward changes the model"
    anatomy = probe.anatomy
    if any(getattr(anatomy.model.config, key, 0.0) for key in ("layerdrop", "encoder_layerdrop")):
        return "the model drops whole blocks at random (layerdrop)"
    if anatomy.image is None and not hasattr(anatomy.model.config, "hidden_size"):
        return "the config names no hidden_size: unsupported architecture"
    return None


_CHECKED: set[str] = PROCESS_CACHE.container(set())
"""What this process has compared already."""


def open_prefix(request: CacheRequest, depth: int) -> CachedPrefix:
    """Returns the hidden states of a depth, opened or computed, with the part that is trained on them.

    Raises:
        CacheError: They can't be cached; the message says why.
        OverflowInPrefixError: A hidden state is not finite.
    """
    spec, machine, probe, sharing = request.spec, request.machine, request.probe, request.sharing
    anatomy, frozen_depth = probe.anatomy, depth
    depth = anatomy.cached_depth(depth)
    tables = (request.tables.train, request.tables.evaluation)
    if any((table.lengths == 0).any() for table in request.tables.every):
        raise CacheError("a row has no tokens")
    both = [_table(name, table, request) for name, table in zip(("training", "held-out"), tables, strict=True)]
    if machine.device == "cuda":
        threads = machine.threads  # nothing there depends on them
    elif request.resumed is None:
        threads = sharing.threads or machine.threads
    else:
        threads = request.resumed.threads or machine.threads
    prefix = _prefix(request, threads)
    anatomy.model.to(machine.device)
    position = prefix.position if prefix.is_read(depth) else None
    held, others, others_s = None, dict[str, HiddenRows](), 0.0
    if fits(prefix, depth, both) and (request.resumed is not None or _pays_on_gpu(spec, sharing, both)):
        held = keep_on_gpu(prefix, depth, both, request.heartbeat)
    if held is not None:
        hidden = HiddenRows(states=held.resident.places, position=position)
        suffix = Suffix(anatomy, depth, held.resident.take, position)
        fill_s, pass_s = held.fill_s, held.resident.pass_s
    else:
        train, evaluation = _from_files(request, prefix, depth, both)
        hidden = HiddenRows(states=(train.rows, evaluation.rows), position=position)
        fill_s, pass_s = train.fill_s + evaluation.fill_s, (train.pass_s, evaluation.pass_s)
        others, others_s = _others(request, prefix, depth, position)
        suffix = Suffix(anatomy, depth, None, position)
    checked = json.dumps([prefix.facts, depth, position, held is not None, *(table.sha256 for table in both)])
    if checked not in _CHECKED:
        compare_with_whole(request, suffix, hidden)
        _CHECKED.add(checked)
    part = TrainableModel(anatomy, frozen_depth)
    suffix.attach()
    return CachedPrefix(
        part=part,
        hidden=hidden,
        others=others,
        detach=suffix.detach,
        attach=suffix.attach,
        use=CacheUse(
            depth=depth, position=position, threads=threads if threads != machine.threads else None, dtype=request.dtype
        ),
        fill_s=fill_s + others_s,
        pass_s=(pass_s[0] / both[0].views, pass_s[1]),
    )


def _others(
    request: CacheRequest, prefix: Prefix, depth: int, position: str | None
) -> tuple[dict[str, HiddenRows], float]:
    """Returns hidden states of the other rows that a run is scored on, and the seconds of computing them.

    Each run reads them once, so that they are cached only if several runs will.
    """
    spec, sharing = request.spec, request.sharing
    store = PrefixStore(assets.home() / PREFIX_FOLDER, int(spec.runtime.cache.max_bytes))
    also = [each for each in _cached_depths(prefix.anatomy, sharing) if each != depth]
    opened, seconds = {}, 0.0
    for name, rows in request.tables.others.items():
        table = _table(name, rows, request)
        if sharing.num_runs < _SHARED_FROM or store.room_for(num_bytes(prefix, [depth, *also], [table])) is not None:
            continue
        provided = open_or_compute(store, prefix, depth, also, table, request.heartbeat)
        opened[name] = HiddenRows(states=(provided.rows, provided.rows), position=position)
        seconds += provided.fill_s
    return opened, seconds


def _cached_depths(anatomy: Anatomy, sharing: Sharing) -> set[int]:
    """Returns the depths whose hidden states the runs of a sweep read."""
    return {anatomy.cached_depth(each) for each in sharing.depths if 1 <= each <= anatomy.num_blocks}


def _prefix(request: CacheRequest, threads: int) -> Prefix:
    """Returns what computes hidden states."""
    spec, machine, probe = request.spec, request.machine, request.probe
    model = probe.anatomy.model
    is_gpu = machine.device == "cuda"
    return Prefix(
        anatomy=probe.anatomy,
        facts={
            **request.facts,
            "filling": _FILL_VERSION,
            "architecture": type(model).__name__,
            "config": config_sha256(model.config),
            "attention": str(getattr(model.config, "_attn_implementation", None)),
            "max_tokens": spec.training.max_tokens,
            **({"batch_tokens": batch_tokens(machine.device)} if is_gpu else {"threads": threads}),
            **{key: machine.describe()[key] for key in ("device", "device_name", "precision", "cpu_capability")},
        },
        about={"model": spec.model_name, "dataset": spec.dataset_name},
        width=hidden_size(model) if probe.anatomy.image is None else 0,
        dtype=request.dtype,
        position=probe.position,
        reading=probe.reading,
        autocast=partial(autocast, machine),
        threads=threads,
    )


def _pays_on_gpu(spec: RunSpec, sharing: Sharing, tables: Sequence[RowsToCompute]) -> bool:
    """Returns whether computing hidden states in a GPU's memory pays.

    They are computed in larger batches than a step's and nothing is written: once is no more than it would be anyway.
    """
    own = replace(sharing, num_runs=max(1, sharing.num_runs // max(1, len(sharing.depths))))
    return spec.runtime.cache.mode is CacheMode.REQUIRE or _passes(spec, own, tables) >= 1


def _passes(spec: RunSpec, sharing: Sharing, tables: Sequence[RowsToCompute]) -> float:
    views = tables[0].views
    train, evaluation = (int(table.lengths.sum()) // table.views for table in tables)
    return num_passes(spec, sharing, len(tables[0].lengths) // views, (train, evaluation), views)


def _from_files(
    request: CacheRequest, prefix: Prefix, depth: int, tables: list[RowsToCompute]
) -> tuple[TableOnDisk, TableOnDisk]:
    """Returns hidden states from files, of training and held-out rows.

    Raises:
        CacheError: They don't pay, or can't be had.
    """
    spec, sharing = request.spec, request.sharing
    store = PrefixStore(assets.home() / PREFIX_FOLDER, int(spec.runtime.cache.max_bytes))
    depths = sorted({depth, *_cached_depths(prefix.anatomy, sharing)})
    pool, places = request.tables.pool, request.tables.places
    # Rows that were dealt into folds are kept together: one filling serves all folds.
    stored = tables if pool is None else [_table("dealt", pool, request)]
    passes = _passes(spec, sharing, tables)
    may_skip = spec.runtime.cache.mode is CacheMode.AUTO and request.resumed is None
    # Before a look at what is cached already: the same spec decides the same, whatever ran before.
    if may_skip and (reason := reason_to_skip(passes)) is not None:
        raise CacheError(reason)
    was_cached = is_cached(store, prefix, depth, stored)
    size = num_bytes(prefix, [depth], tables)
    if not was_cached:
        if (trouble := store.room_for(size)) is not None:
            raise CacheError(trouble)
        also = [each for each in depths if each != depth]
        if also and store.room_for(num_bytes(prefix, depths, tables)) is not None:
            also = []
        how = f"computed once for {passes:.0f} forward passes"
        if also:
            others = ", ".join(map(str, also))
            how += f"; with those of depth {others} of the sweep {num_bytes(prefix, depths, tables) / 1e6:.0f} MB"
    else:
        also, how = [], "already computed"
    log.info(
        "prefix cache: on: blocks 1 to %d of %d, %.0f MB, %s",
        depth, prefix.anatomy.num_blocks, size / 1e6, how, extra={FOR_TERMINAL: not was_cached},
    )  # fmt: skip
    opened = [open_or_compute(store, prefix, depth, also, table, request.heartbeat, stored) for table in stored]
    if places is not None:
        opened = _by_fold(opened[0], places)
    train, evaluation = opened
    return train, evaluation


def _by_fold(provided: TableOnDisk, places: tuple[Indices, Indices]) -> list[TableOnDisk]:
    """Returns the training and the held-out rows of all that were dealt; the seconds go with the rows."""
    share = len(places[0]) / (len(places[0]) + len(places[1]))
    return [
        TableOnDisk(rows=provided.rows.select(part), pass_s=provided.pass_s * own, fill_s=provided.fill_s * own)
        for part, own in zip(places, (share, 1 - share), strict=True)
    ]


def _table(name: str, table: RowTable, request: CacheRequest) -> RowsToCompute:
    # What hidden states are computed from does not depend on a run's precision, and they are an encoder's alone.
    plain = request.padding.without_decoder()

    def collate(numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
        return table.inputs(numbers, plain)

    unit = _tokens_of_image(request.probe.anatomy) if isinstance(table, PixelTable) else 1
    views = table.views or 1
    return RowsToCompute(
        name=name, lengths=np.tile(table.lengths, views), sha256=table.sha256, collate=collate, unit_tokens=unit,
        views=views,
    )  # fmt: skip


def _tokens_of_image(anatomy: Anatomy) -> int:
    """Returns how many tokens an image counts for in a batch that hidden states are computed in."""
    assert anatomy.image is not None
    shape = row_shape(anatomy, 1, None)
    if len(shape) == _SEQUENCE:
        return shape[0]
    return max(1, math.prod(anatomy.image[1:]) // _PIXELS_PER_TOKEN)
