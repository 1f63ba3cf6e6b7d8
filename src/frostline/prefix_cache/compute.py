"""Computes hidden states after several depths in one pass over the rows.

The batches depend on the rows alone: the same rows give the same bits on like hardware, whichever process computes
which depths.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from frostline.models.blocks import Anatomy
from frostline.prefix_cache.forward_probe import entry_of, is_pooled, probe_forward
from frostline.prefix_cache.hidden_states import HiddenStates
from frostline.prefix_cache.suffix import HIDDEN, Suffix

BATCH_TOKENS = {"cpu": 2048, "cuda": 8192}
"""Tokens of a batch, padding included. Measured on 2 cores with MiniLM: 1024 to 4096 differ by some 3 %, 8192 takes a
fifth more, since what a block makes no longer stays in a processor's cache. On an H100 with BERT-base in bf16 2048 took
three times as long as 8192, since it waits for its host, and 16384 gained another fifth; but copies of more than 32 MiB
made the host slow."""

SLOW_AT_FIRST = {"cuda"}
"""A process loads a GPU's kernels when it first calls them, which took 3 s on an H100: that is no part of a pass."""

Take = Callable[[int, "np.ndarray[Any, Any]", Sequence[int], torch.Tensor], None]
"""Takes a depth, row numbers, how many vectors each row has, and these, row after row, `[sum, D]`, on the device."""

Collate = Callable[[Sequence[int]], Mapping[str, torch.Tensor]]
"""Row numbers -> a padded batch with `input_ids` and `attention_mask`, both `[B, T]`; or `pixel_values`."""


_SEQUENCE = 3
"""Dimensions of a batch of sequences of vectors, `[B, T, D]`."""


class OverflowInPrefixError(Exception):
    """Hidden states are NaN or infinite."""


@dataclass(frozen=True, kw_only=True)
class RowsToCompute:
    """Tokenized rows.

    Attributes:
        name: For messages.
        lengths: Tokens of each row, `[N]`; of images ones.
        sha256: Of all that enters the model: ids and token types, or pixels.
        collate: Pads some of them.
        views: How many views of each row stand one behind the other: `lengths` has them all.
        unit_tokens: How many tokens one of `lengths` counts for when batches are made: of images more than one.
    """

    name: str
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    sha256: str
    collate: Collate
    unit_tokens: int = 1
    views: int = 1


def batch_tokens(device: str) -> int:
    """Returns the tokens of a batch, padding included, on a device of this type: its bits depend on them."""
    return BATCH_TOKENS.get(device, BATCH_TOKENS["cpu"])


def canonical_batches(lengths: np.ndarray[Any, Any], num_tokens: int) -> Iterator[np.ndarray[Any, Any]]:
    """Yields row numbers, rows of like length together, the longest first: a machine too small shows at once.

    Args:
        lengths: Tokens of each row, `[N]`.
        num_tokens: Of a batch, padding included.
    """
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        size = max(1, num_tokens // max(1, int(lengths[order[first]])))
        yield order[first : first + size]
        first += size


@torch.no_grad()
def compute_hidden_states(
    anatomy: Anatomy,
    table: RowsToCompute,
    depths: Sequence[int],
    take: Take,
    *,
    start: tuple[int, HiddenStates] | None = None,
    autocast: AbstractContextManager[Any] | None = None,
    heartbeat: Callable[[], None] | None = None,
) -> dict[int, float]:
    """Runs the lowest blocks over all rows once, in eval mode, and hands out what comes after each depth.

    Args:
        anatomy: The model, on its device.
        table: The rows.
        depths: Each 1 or more.
        take: Called for each batch and depth; each row comes once.
        start: A depth below all of them and the hidden states after it: from there on is enough, in the same bits.
        autocast: In which the model computes.
        heartbeat: Called after each batch.

    Returns:
        Seconds that computing took from the start up to each depth.

    Raises:
        OverflowInPrefixError: A hidden state is NaN or infinite.
    """
    device = next(anatomy.model.parameters()).device
    seen: dict[int, torch.Tensor] = {}
    clock = _Clock(device)
    with _lowest_blocks(anatomy, depths, partial(_keep, seen, clock), start, autocast or nullcontext()) as run:
        is_warm = device.type not in SLOW_AT_FIRST
        for rows in canonical_batches(table.lengths * table.unit_tokens, batch_tokens(device.type)):
            inputs = table.collate([int(row) for row in rows])
            batch = {key: value.to(device) for key, value in inputs.items()}
            if start is not None:
                states = start[1].padded(rows, int(table.lengths[rows].max()))
                batch[HIDDEN] = torch.from_numpy(states).to(device)
            if not is_warm:
                run(batch)
                seen.clear()
                clock.seconds.clear()
                is_warm = True
            clock.start()
            run(batch)
            for depth in depths:
                vectors, counts = _vectors(seen.pop(depth), inputs.get("attention_mask"))
                if not bool(torch.isfinite(vectors).all()):
                    raise OverflowInPrefixError(f"the hidden states after block {depth} are not finite")
                take(depth, rows, counts, vectors)
            if heartbeat is not None:
                heartbeat()
    return clock.seconds


class _DeepestReached(Exception):  # noqa: N818 - no error: it ends a forward pass
    """The deepest wanted depth was computed: the rest of the model need not run."""


@contextmanager
def _lowest_blocks(
    anatomy: Anatomy,
    depths: Sequence[int],
    keep: Callable[..., None],
    start: tuple[int, HiddenStates] | None,
    autocast: AbstractContextManager[Any],
) -> Iterator[Callable[[Mapping[str, torch.Tensor]], None]]:
    """Gives what runs a model up to the deepest depth, in eval mode; `keep` gets what comes after each depth."""
    model: Any = anatomy.model
    probe = probe_forward(anatomy)  # it runs the model: before anything is attached
    was_training, deepest = model.training, max(depths)
    model.eval()

    def stop(*call: Any) -> None:
        del call
        raise _DeepestReached

    with ExitStack() as stack:
        stack.callback(model.train, was_training)
        if start is not None:
            suffix = Suffix(anatomy, start[0])
            suffix.attach()
            stack.callback(suffix.detach)
        for depth in depths:
            block = anatomy.blocks[depth - 1][1]
            if is_pooled(anatomy, depth) and probe.pooled is not None:
                reader = model.get_submodule(probe.pooled)
                handles = [
                    reader.register_forward_pre_hook(lambda _, inputs, depth=depth: keep(depth, inputs[0])),
                    reader.register_forward_pre_hook(stop),
                ]
            else:
                handles = [block.register_forward_hook(partial(keep, depth))]
                handles += [block.register_forward_hook(stop)] if depth == deepest else []
            for handle in handles:
                stack.callback(handle.remove)
        run = model if start is not None else entry_of(anatomy)

        def run_batch(batch: Mapping[str, torch.Tensor]) -> None:
            with suppress(_DeepestReached), autocast:  # the model alone: a batch is made without it
                run(**batch)

        yield run_batch


def _vectors(hidden: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, Sequence[int]]:
    """Returns the vectors of real tokens, row after row, `[sum, D]`, and how many each row has.

    Args:
        hidden: `[B, T, D]`; of images also maps, which count as one vector.
        mask: Of the tokens, `[B, T]`; None: images, of which every vector is real.
    """
    if mask is None:
        is_sequence = hidden.dim() == _SEQUENCE
        count = hidden.shape[1] if is_sequence else 1
        flat = hidden.flatten(0, 1) if is_sequence else hidden.flatten(1)
        return flat, [count] * len(hidden)
    # A last block that is computed for one position gives just that.
    real = (mask if hidden.shape[1] == mask.shape[1] else mask[:, : hidden.shape[1]]).bool()
    return hidden[real.to(hidden.device)], real.sum(1).tolist()


def at_position(
    vectors: torch.Tensor, counts: Sequence[int], position: str | None
) -> tuple[torch.Tensor, Sequence[int]]:
    """Returns one vector of each row, and how many each then has; None takes all of them.

    Args:
        vectors: Of some rows, one behind the other, `[sum of counts, D]`.
        counts: Vectors of each row.
        position: `first` or `last`.
    """
    if position is None or all(count == 1 for count in counts):
        return vectors, counts
    ends = np.cumsum(counts)
    at = ends - counts if position == "first" else ends - 1
    return vectors[torch.from_numpy(at).to(vectors.device)], [1] * len(counts)


class _Clock:
    """Seconds from the begin of a batch to the end of a depth, added up."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = 0.0
        self.seconds: dict[int, float] = {}

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def start(self) -> None:
        self._began = self._now()

    def stop(self, depth: int) -> None:
        self.seconds[depth] = self.seconds.get(depth, 0.0) + self._now() - self._began


def _keep(hidden_states: dict[int, torch.Tensor], clock: _Clock, depth: int, *call: Any) -> None:
    output = call[-1]  # after the module and its inputs
    clock.stop(depth)
    hidden_states[depth] = output[0] if isinstance(output, tuple) else output
