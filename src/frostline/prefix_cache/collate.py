"""Batches of rows, or of their hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from frostline.data.fillers import mark_fillers
from frostline.data.pixel_table import PixelTable
from frostline.data.row_table import RowTable
from frostline.data.token_table import Padding
from frostline.prefix_cache.entry import HiddenStates
from frostline.prefix_cache.gpu_memory import RowOffsets
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

    The number one past the last training row is a filler: a copy of another row, whose label says that it is none
    (`frostline.data.fillers.is_row`).

    Args:
        train: Training rows.
        evaluation: Held-out rows.
        padding: How a batch is filled up.
        hidden: Their hidden states, if the model begins at its frozen depth.
    """

    def __init__(
        self, train: RowTable, evaluation: RowTable, padding: Padding, hidden: HiddenRows | None = None
    ) -> None:
        self._train = train
        self._evaluation = evaluation
        self.padding = padding
        self.hidden = hidden

    def __call__(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Returns a batch: the tokenizer's columns `[B, T]`, or pixels `[B, C, H, W]`, and labels `[B]`.

        Hidden states, if there are, are `[B, T, D]`, of images `[B, 1, width]`; or `[B, T]` numbers of where they lie
        on the device.
        """
        is_train = numbers[0] >= 0
        table = self._train if is_train else self._evaluation
        rows = np.asarray(numbers, dtype=np.int64)
        rows = rows if is_train else -1 - rows
        fillers = rows == len(table) if is_train else np.zeros(len(rows), dtype=bool)
        rows = np.where(fillers, rows[0] if not fillers[0] else 0, rows)
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
        width = batch["input_ids"].shape[1] if "input_ids" in batch else 1
        if (labels := table.labels_at(rows, width)) is not None:
            batch["labels"] = mark_fillers(labels, torch.from_numpy(fillers)) if fillers.any() else labels
        return batch
