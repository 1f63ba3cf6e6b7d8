"""Hidden states in a GPU's memory, reused by the runs of a process.

Must not know: files, Trainer. A GPU computes what a file of hidden states holds faster than the file can be written,
read through and sent to it (docs/how-it-is-fast.md): where they fit, nothing leaves the GPU.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from frostline.prefix_cache.compute import OverflowInPrefixError, RowsToCompute, compute_hidden_states
from frostline.prefix_cache.entry import BEYOND_FLOAT16
from frostline.prefix_cache.hidden_states import FileShape
from frostline.prefix_cache.open_or_compute import Prefix
from frostline.process_cache import PROCESS_CACHE
from frostline.records.run_folder import FOR_TERMINAL

log = logging.getLogger(__name__)

MAX_SHARE = 0.125
"""Of the GPU's free memory, for all that is kept (assumed: what a step needs is not known before the first one)."""


class RowOffsets:
    """Where each row's vectors lie on the device: all that a batch's maker has to know, also in another process.

    Args:
        train: The form of the training rows' vectors.
        evaluation: The form of the held-out rows'.
    """

    def __init__(self, train: FileShape, evaluation: FileShape) -> None:
        in_train, in_evaluation = train.offsets(), evaluation.offsets()
        # The first vector is what fills a batch up.
        self._offsets = {True: 1 + in_train, False: 1 + int(in_train[-1]) + in_evaluation}

    @property
    def num_vectors(self) -> int:
        """Of all rows together, and the one that fills up."""
        return int(self._offsets[False][-1])

    def at(self, rows: np.ndarray[Any, np.dtype[np.int64]], length: int, *, is_train: bool) -> torch.Tensor:
        """Returns where some rows' vectors lie, filled up to one length, `[B, length]`.

        Args:
            rows: Their numbers.
            length: Vectors of the longest one, or more.
            is_train: Whether they are training rows.
        """
        where, is_real = self._where(rows, length, is_train)
        return torch.from_numpy(np.where(is_real, where, 0))

    def flat(self, rows: np.ndarray[Any, np.dtype[np.int64]], *, is_train: bool) -> torch.Tensor:
        """Returns where some rows' vectors lie, one behind the other, `[sum of their lengths]`."""
        lengths = self._offsets[is_train][rows + 1] - self._offsets[is_train][rows]
        where, is_real = self._where(rows, int(lengths.max()), is_train)
        return torch.from_numpy(where[is_real])

    def _where(self, rows: np.ndarray[Any, Any], length: int, is_train: bool) -> tuple[Any, Any]:
        offsets = self._offsets[is_train]
        where = offsets[rows][:, None] + np.arange(length)
        return where, where < offsets[rows + 1][:, None]


@dataclass(frozen=True, kw_only=True)
class StatesOnGpu:
    """Hidden states on a device.

    Attributes:
        places: Where each row lies.
        data: All vectors, `[vectors, D]`, float32 or float16; the first one is zero.
        pass_s: Seconds that computing them took: training rows, held-out rows.
    """

    places: RowOffsets
    data: torch.Tensor
    pass_s: tuple[float, float]

    def take(self, at: torch.Tensor) -> torch.Tensor:
        """Returns hidden states `[B, T, D]` by where they lie, `[B, T]`, on the device."""
        return self.data[at].float()


@dataclass(frozen=True, kw_only=True)
class OpenedStates:
    """What a run is given.

    Attributes:
        resident: The hidden states.
        fill_s: Seconds in which they were computed just now; 0 if they were there.
    """

    resident: StatesOnGpu
    fill_s: float


_KEPT: OrderedDict[str, StatesOnGpu] = PROCESS_CACHE.container(OrderedDict())
"""What this process has on its device, the oldest use first."""

_OUT_OF_MEMORY: set[str] = PROCESS_CACHE.container(set())
"""Not empty if a run of this process ran out of memory beside them."""


def fits(prefix: Prefix, depth: int, tables: Sequence[RowsToCompute]) -> bool:
    """Returns whether hidden states may live on the model's device."""
    if _OUT_OF_MEMORY:
        return False
    return _key(prefix, depth, tables) in _KEPT or _num_bytes(prefix, depth, tables) <= free_bytes(prefix)


def keep_on_gpu(
    prefix: Prefix, depth: int, tables: Sequence[RowsToCompute], heartbeat: Callable[[], None]
) -> OpenedStates | None:
    """Returns hidden states on the model's device: those of an earlier run, or computed now; None if it is too full.

    Args:
        prefix: What computes them.
        depth: After how many blocks.
        tables: Training and held-out rows.
        heartbeat: Called now and then.

    Raises:
        OverflowInPrefixError: A hidden state is NaN or infinite.
    """
    key = _key(prefix, depth, tables)
    if (resident := _KEPT.get(key)) is not None:
        _KEPT.move_to_end(key)
        return OpenedStates(resident=resident, fill_s=0.0)
    size = _num_bytes(prefix, depth, tables)
    room, is_first = free_bytes(prefix), not _KEPT
    while _KEPT and size + sum(each.data.nbytes for each in _KEPT.values()) > room:
        _KEPT.popitem(last=False)
    began = time.monotonic()
    try:
        computed = compute_on_gpu(prefix, depth, tables, heartbeat)
    except torch.OutOfMemoryError:
        log.info("prefix cache: no memory is left on the GPU to compute hidden states there")
        give_up()
        return None
    took = time.monotonic() - began
    _KEPT[key] = computed
    log.info(
        "prefix cache: on, in the GPU's memory: blocks 1 to %d of %d, %.0f MB, computed in %.1f s",
        depth, prefix.anatomy.num_blocks, size / 1e6, took, extra={FOR_TERMINAL: is_first},
    )  # fmt: skip
    return OpenedStates(resident=computed, fill_s=took)


def resident() -> list[StatesOnGpu]:
    """Returns what is in the device's memory, the oldest use first."""
    return list(_KEPT.values())


def forget() -> None:
    """Gives the memory back."""
    _KEPT.clear()


def give_up() -> bool:
    """Gives the memory back and takes none any more; returns whether there was any."""
    had = bool(_KEPT)
    _KEPT.clear()
    _OUT_OF_MEMORY.add("seen")
    return had


def compute_on_gpu(
    prefix: Prefix, depth: int, tables: Sequence[RowsToCompute], heartbeat: Callable[[], None]
) -> StatesOnGpu:
    """Computes the hidden states of training and evaluation rows into one tensor on the model's device."""
    train, evaluation = tables
    places = RowOffsets(prefix.shape(depth, train.lengths), prefix.shape(depth, evaluation.lengths))
    device = next(prefix.anatomy.model.parameters()).device
    dtype = torch.float16 if prefix.dtype == "float16" else torch.float32
    data = torch.zeros((places.num_vectors, prefix.row_width(depth)), dtype=dtype, device=device)
    position = prefix.position if prefix.is_read(depth) else None
    reading = prefix.reading.attached() if prefix.reading is not None and position is not None else nullcontext()
    seconds = []
    with prefix.on_threads(), reading:
        for table in tables:

            def take(
                depth: int,
                rows: np.ndarray[Any, Any],
                counts: Sequence[int],
                vectors: torch.Tensor,
                is_train: bool = table is train,
            ) -> None:
                vectors, _ = prefix.stored(depth, len(rows), vectors, counts)
                kept = vectors.to(dtype)
                if not bool(torch.isfinite(kept).all()):
                    raise OverflowInPrefixError(BEYOND_FLOAT16)
                data[places.flat(rows, is_train=is_train).to(device)] = kept

            took = compute_hidden_states(
                prefix.anatomy, table, [depth], take, autocast=prefix.autocast(), heartbeat=heartbeat
            )
            seconds.append(took[depth])
    return StatesOnGpu(places=places, data=data, pass_s=(seconds[0], seconds[1]))


def _key(prefix: Prefix, depth: int, tables: Sequence[RowsToCompute]) -> str:
    device = str(next(prefix.anatomy.model.parameters()).device)
    rows = [table.sha256 for table in tables]
    return json.dumps([dict(prefix.facts), prefix.name(depth), rows, device], sort_keys=True)


def _num_bytes(prefix: Prefix, depth: int, tables: Sequence[RowsToCompute]) -> int:
    return sum(prefix.shape(depth, table.lengths).num_bytes for table in tables)


def free_bytes(prefix: Prefix) -> int:
    """Returns the bytes that may be kept on the model's device, what is kept already included."""
    device = next(prefix.anatomy.model.parameters()).device
    if device.type != "cuda":
        return 0  # the CPU reads mapped files, and processes share them
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    held = sum(each.data.nbytes for each in _KEPT.values())
    return int(MAX_SHARE * (free + unused + held))
