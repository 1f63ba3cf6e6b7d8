"""Packs rows of a padded batch one behind the other, so that little of it is padding.

Positions begin at 0 with each row, and there is no attention mask: from such positions Transformers makes one in which
a token attends to its own row alone (transformers.masking_utils.find_packed_sequence_indices).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from frostline.data.token_table import NO_LABEL, IntArray

_MASK, _LABELS, _POSITIONS = "attention_mask", "labels", "position_ids"


def bins_of(lengths: IntArray) -> list[list[int]]:
    """Returns which rows lie in which sequence: the longest first, each into the first sequence with room.

    First fit by falling size uses at most 11/9 of the fewest sequences, and one more (Johnson 1973).

    Args:
        lengths: Tokens of each row, `[B]`; a sequence has room for the longest.
    """
    width = int(lengths.max())
    bins: list[list[int]] = []
    room: list[int] = []
    for row in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[row])
        place = next((index for index, free in enumerate(room) if free >= length), None)
        if place is None:
            bins.append([])
            room.append(width)
            place = len(bins) - 1
        bins[place].append(row)
        room[place] -= length
    return bins


def packed(batch: dict[str, Any], lengths: IntArray) -> dict[str, Any]:
    """Returns a batch with fewer, fuller rows, and `position_ids`.

    Args:
        batch: Padded on the right: `input_ids` and labels `[B, T]`, hidden states `[B, T, D]` or where they lie.
        lengths: Tokens of each row, `[B]`.
    """
    bins = bins_of(lengths)
    out = {}
    for name, values in batch.items():
        if name == _MASK:
            continue
        fill = NO_LABEL if name == _LABELS else 0
        out[name] = torch.stack([_joined(values, rows, lengths, fill) for rows in bins])
    width = int(lengths.max())
    out[_POSITIONS] = torch.from_numpy(np.stack([_positions(lengths[rows], width) for rows in bins]))
    return out


def _joined(values: torch.Tensor, rows: list[int], lengths: IntArray, fill: int) -> torch.Tensor:
    """Returns the values of some rows one behind the other, filled up, `[T, ...]`."""
    width = int(lengths.max())
    parts = [values[row, : lengths[row]] for row in rows]
    missing = width - sum(len(part) for part in parts)
    return torch.cat([*parts, values.new_full((missing, *values.shape[2:]), fill)])


def _positions(lengths: IntArray, width: int) -> IntArray:
    """Returns positions from 0 on in each row, and in what fills up, `[T]`."""
    parts = [np.arange(length) for length in lengths.tolist()]
    missing = width - int(lengths.sum())
    return np.concatenate([*parts, np.arange(missing)]).astype(np.int64)
