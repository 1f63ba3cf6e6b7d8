"""Mixup: a training image mixed with another, pixels and loss alike (Zhang et al., ICLR 2018).

The partner of a row and its share are drawn from seed, epoch and row, not from the batch: how a step is cut into
forward passes changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from frostline.data.fillers import is_row
from frostline.data.token_table import NO_LABEL, IntArray


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """Draws partners and shares.

    Attributes:
        alpha: Of the Beta distribution of shares, above 0.
        seed: The run's.
    """

    alpha: float
    seed: int

    def draw(self, rows: IntArray, epochs: IntArray, num_rows: int) -> tuple[IntArray, np.ndarray[Any, Any]]:
        """Returns the partner of each row, `[B]`, and the share of the row itself, float32 `[B]`.

        Args:
            rows: Numbers of training rows, `[B]`.
            epochs: In which each is used, `[B]`.
            num_rows: Of all training rows.
        """
        draws = [np.random.default_rng([self.seed, int(e), int(r)]) for r, e in zip(rows, epochs, strict=True)]
        partners = np.array([rng.integers(num_rows) for rng in draws], dtype=np.int64)
        shares = np.array([rng.beta(self.alpha, self.alpha) for rng in draws], dtype=np.float32)
        return partners, shares


def mix_labels(own: torch.Tensor, other: torch.Tensor, shares: np.ndarray[Any, Any]) -> torch.Tensor:
    """Returns labels of mixed rows, float64 `[B, 3]`: their own, the partner's, the share of their own.

    Args:
        own: `[B]`; that of a filler says so (`frostline.data.fillers`).
        other: `[B]`.
        shares: `[B]`.
    """
    filled = own.double().masked_fill(~is_row(own), torch.nan)
    return torch.stack([filled, other.double(), torch.from_numpy(shares).double()], dim=1)


def unmix(labels: torch.Tensor, label_dtype: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns both labels of mixed rows, `[B]` in a task's own type, and the shares of the first, float32 `[B]`.

    Args:
        labels: From `mix_labels`.
        label_dtype: The task's.
    """
    own, other, shares = labels.unbind(1)
    if label_dtype == "int64":
        filler = own.isnan()
        own, other = (each.nan_to_num().long().masked_fill(filler, NO_LABEL) for each in (own, other))
    else:
        other = other.masked_fill(own.isnan(), torch.nan)
        own, other = own.float(), other.float()
    return own, other, shares.float()
