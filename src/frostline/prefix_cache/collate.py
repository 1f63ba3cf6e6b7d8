"""Batches of rows, or of their hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from frostline.data.fillers import mark_fillers
from frostline.data.mixup import Mixup, mix_labels
from frostline.data.pixel_table import PixelTable
from frostline.data.row_table import RowTable
from frostline.data.token_table import DECODER_INPUTS, IntArray, Padding
from frostline.prefix_cache.forward_probe import PIXELS
from frostline.prefix_cache.gpu_memory import RowOffsets
from frostline.prefix_cache.hidden_states import HiddenStates
from frostline.prefix_cache.packing import packed
from frostline.prefix_cache.suffix import HIDDEN, HIDDEN_AT


@dataclass(frozen=True, kw_only=True)
class HiddenRows:
    """Hidden states of all rows, from the cache.

    Attributes:
        states: Of the training and of the held-out rows, for a batch to bring; or where they lie on the run's device.
        position: `first` or `last` if only what the head reads is there: a batch is then one token wide. All of an
            image lies in one vector.
    """

    states: tuple[HiddenStates, HiddenStates] | RowOffsets
    position: str | None


class Collator:
    """Row numbers to batches: training rows count from 0 up, held-out rows from -1 down.

    A training row's number has its epoch in it (`number_in_epoch`). The row one past the last one is a filler: a copy
    of another row, whose label says that it is none (`frostline.data.fillers.is_row`).

    Args:
        train: Training rows.
        evaluation: Held-out rows.
        padding: How a batch is filled up.
        hidden: Their hidden states, if the model begins at its frozen depth.
        mixup: Mixes training rows; then they have no hidden states.
        packs: Whether training rows are put one behind the other (`frostline.prefix_cache.packing`).
    """

    def __init__(
        self,
        train: RowTable,
        evaluation: RowTable,
        padding: Padding,
        hidden: HiddenRows | None = None,
        mixup: Mixup | None = None,
        *,
        packs: bool = False,
    ) -> None:
        self._train = train
        self._evaluation = evaluation
        self.padding = padding
        self.hidden = hidden
        self._mixup = mixup
        self.packs = packs

    def __call__(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Returns a batch: the tokenizer's columns `[B, T]`, or pixels `[B, C, H, W]`, and labels `[B]`.

        Hidden states, if there are, are `[B, T, D]`, of images `[B, 1, width]`; or `[B, T]` numbers of where they lie
        on the device.
        """
        is_train = numbers[0] >= 0
        table = self._train if is_train else self._evaluation
        rows = np.asarray(numbers, dtype=np.int64)
        epochs, rows = np.divmod(rows, len(table) + 1) if is_train else (np.zeros_like(rows), -1 - rows)
        fillers = rows == len(table) if is_train else np.zeros(len(rows), dtype=bool)
        labelled = np.where(fillers, rows[0] if not fillers[0] else 0, rows)
        rows = labelled + table.view_of(epochs) * len(table)
        hidden = self.hidden
        if hidden is None:
            batch = table.inputs(rows, self.padding)
        else:
            if isinstance(table, PixelTable):
                batch = table.stand_in(len(rows))
            elif hidden.position is not None:
                batch = table.inputs_at(rows, hidden.position, self.padding)
            else:
                batch = table.inputs(rows, self.padding)
            is_single = hidden.position is not None or isinstance(table, PixelTable)
            length = batch["input_ids"].shape[1] if "input_ids" in batch else 1
            if isinstance(hidden.states, RowOffsets):
                batch[HIDDEN_AT] = hidden.states.at(rows, length, is_train=is_train)
            else:
                states = hidden.states[0 if is_train else 1]
                hidden_states = states.single(rows)[:, None] if is_single else states.padded(rows, length)
                batch[HIDDEN] = torch.from_numpy(hidden_states)
        keys = (DECODER_INPUTS, "input_ids")
        width = next((batch[key].shape[1] for key in keys if key in batch), 1)
        if (labels := table.labels_at(labelled, width)) is not None:
            batch["labels"] = mark_fillers(labels, torch.from_numpy(fillers)) if fillers.any() else labels
            if is_train and self._mixup is not None:
                self._mix(batch, labelled, epochs)
        if is_train and self.packs:
            return packed(batch, table.lengths[labelled])
        return batch

    def _mix(self, batch: dict[str, Any], rows: IntArray, epochs: IntArray) -> None:
        """Mixes each image with its partner of the same epoch."""
        assert self._mixup is not None
        table = self._train
        partners, shares = self._mixup.draw(rows, epochs, len(table))
        others = table.inputs(partners + table.view_of(epochs) * len(table), self.padding)[PIXELS]
        own = torch.from_numpy(shares)[:, None, None, None]
        batch[PIXELS] = own * batch[PIXELS] + (1 - own) * others
        labels = table.labels_at(partners, 1)
        assert labels is not None, "training rows have labels"
        batch["labels"] = mix_labels(batch["labels"], labels, shares)


def replace_packing(collator: Collator, *, packs: bool) -> Collator:
    """Returns a collator that packs training rows or pads them, and else is the same."""
    other = copy(collator)
    other.packs = packs
    return other


def number_in_epoch(row: int, epoch: int, num_rows: int) -> int:
    """Returns a training row's number in an epoch, as `Collator` takes it.

    Args:
        row: From 0; `num_rows` is the filler.
        epoch: Counted from 0.
        num_rows: Training rows.
    """
    return row + epoch * (num_rows + 1)
