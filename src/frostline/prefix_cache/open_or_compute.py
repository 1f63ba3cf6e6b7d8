"""Opens the cache files that a run needs, or computes them once for all processes that wait."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from frostline.models.blocks import Anatomy
from frostline.prefix_cache.compute import (
    OverflowInPrefixError,
    RowsToCompute,
    at_position,
    compute_hidden_states,
)
from frostline.prefix_cache.entry import CacheEntry, CacheError
from frostline.prefix_cache.forward_probe import is_pooled, row_shape
from frostline.prefix_cache.hidden_states import FileShape, HiddenStates
from frostline.prefix_cache.last_block import LastBlockAtPosition
from frostline.prefix_cache.store import PrefixStore
from frostline.records.run_folder import FOR_TERMINAL

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What is computed: a model's lowest blocks.

    Attributes:
        anatomy: The model, on its device.
        facts: All that the numbers depend on besides rows and depth; part of the key.
        about: What a person should read beside the key; not part of it.
        width: Numbers of a hidden state; of images another at each depth, see `shape`.
        dtype: In which they are kept.
        position: Which position the head reads, `first` or `last`, if it is just one.
        reading: Computes the last block for it alone, if the architecture allows.
        autocast: Makes the context in which the model computes.
        threads: CPU threads to compute on.
    """

    anatomy: Anatomy
    facts: Mapping[str, Any]
    about: Mapping[str, str]
    width: int
    dtype: str
    position: str | None
    reading: LastBlockAtPosition | None
    autocast: Callable[[], AbstractContextManager[Any]]
    threads: int

    @contextmanager
    def on_threads(self) -> Iterator[None]:
        """Computes on its threads within a context."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def name(self, depth: int) -> str:
        """Returns the name of a depth's file."""
        if self.is_read(depth):
            return f"read-{self.position}-{depth:03d}"
        return f"{'pooled' if is_pooled(self.anatomy, depth) else 'depth'}-{depth:03d}"

    def is_read(self, depth: int) -> bool:
        """Whether only the position that the head reads is kept: nothing else of the last block is needed."""
        return depth == self.anatomy.num_blocks and self.position is not None

    def shape(self, depth: int, lengths: np.ndarray[Any, Any]) -> FileShape:
        """Returns the form of a depth's file: of an image one vector, in which all of it lies."""
        return FileShape(
            lengths=np.ones_like(lengths) if self.is_read(depth) else lengths,
            width=self.row_width(depth),
            dtype=self.dtype,
        )

    def row_width(self, depth: int) -> int:
        """Returns the numbers of a vector in a depth's file."""
        if self.anatomy.image is None:
            return self.width
        return math.prod(row_shape(self.anatomy, depth, self.position if self.is_read(depth) else None))

    def stored(
        self, depth: int, num_rows: int, vectors: torch.Tensor, counts: Sequence[int]
    ) -> tuple[torch.Tensor, Sequence[int]]:
        """Returns what is kept of some rows after a depth, row after row, and how many vectors each then has.

        Args:
            depth: After how many blocks.
            num_rows: How many rows.
            vectors: All vectors of the rows, row after row, `[sum of counts, D]`.
            counts: Vectors of each row.
        """
        vectors, counts = at_position(vectors, counts, self.position if self.is_read(depth) else None)
        if self.anatomy.image is None:
            return vectors, counts
        return vectors.reshape(num_rows, -1), [1] * num_rows


def num_bytes(prefix: Prefix, depths: Sequence[int], tables: Sequence[RowsToCompute]) -> int:
    """Returns what depths of some tables take on the disk."""
    return sum(prefix.shape(depth, table.lengths).num_bytes for depth in depths for table in tables)


def is_cached(store: PrefixStore, prefix: Prefix, depth: int, tables: Sequence[RowsToCompute]) -> bool:
    """Returns whether all of a depth is in the store; it is not checked for damage yet."""
    name = prefix.name(depth)
    return all(_entry(store, prefix, table).has(name, prefix.shape(depth, table.lengths)) for table in tables)


@dataclass(frozen=True, kw_only=True)
class TableOnDisk:
    """Hidden states, and what they cost.

    Attributes:
        rows: Hidden states of each row.
        pass_s: Seconds that one pass over the rows took up to this depth, when it was computed.
        fill_s: Seconds in which this process computed and wrote them just now; 0 if they were there, or if it waited.
    """

    rows: HiddenStates
    pass_s: float
    fill_s: float


def open_or_compute(
    store: PrefixStore,
    prefix: Prefix,
    depth: int,
    also: Sequence[int],
    table: RowsToCompute,
    heartbeat: Callable[[], None],
    keep: Sequence[RowsToCompute] = (),
) -> TableOnDisk:
    """Returns the hidden states of a table after a depth; computes them, and other depths in the same pass, if need be.

    Args:
        store: Where they are kept.
        prefix: What computes them.
        depth: What is wanted, 1 or more.
        also: Other depths that other runs will use: computed along if this one has to be.
        table: The rows.
        heartbeat: Called now and then.
        keep: Tables whose hidden states after that depth must not go to make room.

    Raises:
        CacheError: There is no room, or what is computed is not finite.
    """
    fill_s = 0.0
    entry, lengths = _entry(store, prefix, table), table.lengths
    shapes = {each: prefix.shape(each, lengths) for each in sorted({depth, *also})}
    rows = entry.open(prefix.name(depth), shapes[depth], heartbeat)
    if rows is not None:
        return TableOnDisk(rows=rows, pass_s=entry.seconds(prefix.name(depth)), fill_s=0.0)
    name = prefix.name(depth)
    in_use = {(_entry(store, prefix, each).folder, name) for each in (*keep, table)}
    with entry.building(heartbeat):
        rows = entry.open(name, shapes[depth], heartbeat)  # another process may have computed it meanwhile
        if rows is None:
            missing = {each: shape for each, shape in shapes.items() if not entry.has(prefix.name(each), shape)}
            missing[depth] = shapes[depth]  # there perhaps, but damaged
            start = _start(prefix, entry, min(missing), lengths, heartbeat)
            if start is not None:
                in_use.add((entry.folder, prefix.name(start[0])))
            store.make_room(sum(shape.num_bytes for shape in missing.values()), in_use)
            began = time.monotonic()
            _make(prefix, entry, missing, table, heartbeat, start)
            fill_s = time.monotonic() - began
            rows = entry.open(name, shapes[depth], heartbeat)
    if rows is None:
        raise CacheError(f"{entry.folder} was written and can't be read back")
    return TableOnDisk(rows=rows, pass_s=entry.seconds(name), fill_s=fill_s)


def _start(
    prefix: Prefix, entry: CacheEntry, lowest: int, lengths: np.ndarray[Any, Any], heartbeat: Callable[[], None]
) -> tuple[int, HiddenStates] | None:
    """Returns the deepest cached depth below `lowest`, the shallowest missing one, with its hidden states."""
    for depth in range(lowest - 1, 0, -1):
        shape = prefix.shape(depth, lengths)
        if entry.has(prefix.name(depth), shape):
            rows = entry.open(prefix.name(depth), shape, heartbeat)
            if rows is not None:
                return depth, rows
    return None


def _entry(store: PrefixStore, prefix: Prefix, table: RowsToCompute) -> CacheEntry:
    key = {**prefix.facts, "rows_sha256": table.sha256, "width": prefix.width, "dtype": prefix.dtype}
    return store.entry(key, {**prefix.about, "rows": f"{len(table.lengths)} {table.name}"})


def _make(
    prefix: Prefix,
    entry: CacheEntry,
    shapes: Mapping[int, FileShape],
    table: RowsToCompute,
    heartbeat: Callable[[], None],
    start: tuple[int, HiddenStates] | None,
) -> None:
    began = time.monotonic()
    reading = prefix.reading.attached() if prefix.reading is not None and any(map(prefix.is_read, shapes)) else None
    names = {prefix.name(depth): shape for depth, shape in shapes.items()}
    with prefix.on_threads(), reading or nullcontext(), _as_cache_error(), entry.writing(names) as (writers, seconds):
        by_depth = {depth: writers[prefix.name(depth)] for depth in shapes}

        def take(depth: int, rows: np.ndarray[Any, Any], counts: Sequence[int], vectors: torch.Tensor) -> None:
            vectors, counts = prefix.stored(depth, len(rows), vectors, counts)
            on_host = vectors.cpu().float()  # float32 holds what any precision computes
            for row, own in zip(rows, torch.split(on_host, list(counts)), strict=True):
                by_depth[depth].put(int(row), own.numpy())

        took = compute_hidden_states(
            prefix.anatomy, table, list(shapes), take, start=start, autocast=prefix.autocast(), heartbeat=heartbeat
        )
        before = 0.0 if start is None else entry.seconds(prefix.name(start[0]))
        seconds.update({prefix.name(depth): before + took[depth] for depth in shapes})
    log.info(
        "prefix cache: blocks %s of %d %s rows in %.1f s%s",
        ", ".join(map(str, shapes)), len(table.lengths), table.name, time.monotonic() - began,
        "" if start is None else f", from block {start[0]} on",
        extra={FOR_TERMINAL: True},
    )  # fmt: skip


@contextmanager
def _as_cache_error() -> Iterator[None]:
    try:
        yield
    except OverflowInPrefixError as error:
        raise CacheError(str(error)) from error
