"""Owns: whether hidden states that are computed once and read often are worth it. Must not know: where they are kept.

A run without the cache takes `passes x compute` seconds in its frozen blocks; with it, one filling and `passes x read`.
Computing is measured on a few rows of the run itself, and so is bringing their hidden states to the device; how fast a
disk reads what memory can't hold is assumed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from frostline.prefix.fill import at_position, batch_tokens, fill
from frostline.prefix.provide import Prefix, Table, num_bytes
from frostline.provenance import free_memory
from frostline.record import Sharing
from frostline.spec import Every, RunSpec

_PAYS_FROM = 1.5
"""Computed passes that must be saved for one filling, which also writes (assumed: a margin for the unforeseen)."""

_PROBE_PART = 2
"""Half a batch's tokens are measured (assumed: enough that a GPU's or a thread's start does not show)."""
_DISK_BYTES_PER_S = 2e8
"""Of what memory can't hold (assumed: a common network disk; local ones are faster)."""

_WRITE_BYTES_PER_S = 5e8
"""Of writing files and reading them through for their hash (assumed). Beside a GPU's computing it is what filling
takes."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a prefix costs, over all training and held-out rows.

    Attributes:
        passes: How often the rows will go through the frozen blocks if nothing is kept.
        compute_s: Seconds of one such pass; NaN if so few passes were not worth a measurement.
        read_s: Seconds of reading the hidden states instead.
        write_s: Seconds of writing them, once.
    """

    passes: float
    compute_s: float
    read_s: float
    write_s: float = 0.0

    def why_not(self) -> str | None:
        """Returns why filling doesn't pay, or None if it does."""
        if self.passes < _PAYS_FROM:
            return f"it would save {self.passes:.1f} passes over the rows, and filling takes one"
        if self.passes * (self.compute_s - self.read_s) < _PAYS_FROM * self.compute_s + self.write_s:
            writing = f", writing them {self.write_s:.1f} s" if self.write_s >= 0.05 else ""
            computing = f"computing them {self.compute_s:.1f} s"
            return f"reading hidden states takes {self.read_s:.1f} s a pass, {computing}{writing}"
        return None

    def words(self) -> str:
        """Returns the estimate in words, to follow what will be done; empty if nothing was measured."""
        if math.isnan(self.compute_s):
            return ""
        reading = f"reading one takes {self.read_s:.1f} s"
        return f" in some {self.compute_s:.1f} s, for {self.passes:.0f} passes over the rows; {reading}"


def estimate(prefix: Prefix, depth: int, tables: Sequence[Table], spec: RunSpec, sharing: Sharing) -> Estimate:
    """Measures a few rows of middling length.

    Args:
        prefix: The model, on its device.
        depth: How many blocks.
        tables: Training and held-out rows.
        spec: The run.
        sharing: Who else will want it.

    Raises:
        OverflowInPrefixError: A hidden state is NaN or infinite.
    """
    passes = passes_of(spec, sharing, tables)
    if passes < _PAYS_FROM:
        return Estimate(passes=passes, compute_s=math.nan, read_s=math.nan)
    train = tables[0]
    order = np.argsort(train.lengths, kind="stable")
    middle = len(order) // 2
    device = next(prefix.anatomy.model.parameters()).device
    num_tokens = batch_tokens(device.type) // _PROBE_PART
    half = max(1, num_tokens // max(1, int(train.lengths[order[middle]])) // 2)
    rows = order[max(0, middle - half) : middle + half]
    kept: list[torch.Tensor] = []

    def collate(numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
        return train.collate([int(rows[number]) for number in numbers])

    def take(depth: int, _rows: np.ndarray[Any, Any], counts: Sequence[int], vectors: torch.Tensor) -> None:
        position = prefix.position if prefix.is_read(depth) else None
        kept.append(at_position(vectors, counts, position)[0].cpu())

    compute = 0.0
    for _ in range(2):  # the first call of a shape chooses kernels
        kept.clear()
        reading = prefix.reading.attached() if prefix.reading is not None and prefix.is_read(depth) else nullcontext()
        with prefix.on_threads(), reading:
            took = fill(prefix.anatomy, train.lengths[rows], collate, [depth], take, autocast=prefix.autocast())
        compute = took[depth]
    began = time.perf_counter()
    torch.cat([vectors.float() for vectors in kept]).to(device)
    read = time.perf_counter() - began
    tokens = sum(int(table.lengths.sum()) for table in tables)
    scale = tokens / max(1, int(train.lengths[rows].sum()))
    size = num_bytes(prefix, [depth], tables)
    from_disk = size / _DISK_BYTES_PER_S if size > free_memory() else 0.0
    return Estimate(
        passes=passes,
        compute_s=compute * scale,
        read_s=max(read * scale, from_disk),
        write_s=size / _WRITE_BYTES_PER_S,
    )


def passes_of(spec: RunSpec, sharing: Sharing, tables: Sequence[Table]) -> float:
    """Returns how often the rows will be run through the frozen blocks, if they aren't kept: 1 is once each."""
    train, evaluation = (int(table.lengths.sum()) for table in tables)
    training = spec.training
    steps_per_epoch = max(1, -(-len(tables[0].lengths) // (training.batch_size * training.accumulation_steps)))
    epochs = training.epochs if training.epochs is not None else (training.max_steps or 0) / steps_per_epoch
    evaluations = max(1.0, epochs) if training.evaluate is Every.EPOCH else 1.0
    return sharing.num_runs * (epochs * train + evaluations * evaluation) / max(1, train + evaluation)
