"""Filler rows, which even out the rows of processes and count in no loss."""

from __future__ import annotations

import math

import torch

from frostline.data.token_table import NO_LABEL


def mark_fillers(labels: torch.Tensor, fillers: torch.Tensor) -> torch.Tensor:
    """Returns labels that say which rows are no rows: copies that only fill up a batch.

    Args:
        labels: `[B]`, or of each token `[B, T]`.
        fillers: `[B]`.
    """
    which = fillers if labels.dim() == 1 else fillers[:, None]
    return labels.masked_fill(which, math.nan if labels.is_floating_point() else NO_LABEL)


def is_row(labels: torch.Tensor) -> torch.Tensor:
    """Returns which labels, `[B]` or `[B, T]`, are those of rows, or of words."""
    return ~labels.isnan() if labels.is_floating_point() else labels != NO_LABEL
