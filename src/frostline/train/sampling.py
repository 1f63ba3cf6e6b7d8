"""Samplers: which rows make a batch, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from frostline.prefix_cache.collate import number_in_epoch

_MOST_STEPS = 50
_FEWEST_PARTS = 4
"""Rows are sorted by length within parts of an epoch: of 50 steps, fewer if there would not be 4 parts. The values of
transformers' `LengthGroupedSampler`: enough to save nearly all padding, little enough for rows to meet others each
epoch."""


class IndexDataset(Sequence[int]):
    """The numbers of the training rows, as Trainer's data set; a sampler may name fillers, and rows in an epoch.

    Args:
        total: How many rows there are.
    """

    def __init__(self, total: int) -> None:
        self._total = total

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, number: Any) -> Any:
        return number

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._total))


class PaddedSampler(Sampler[int]):
    """Another sampler's rows, then fillers, so that every process of a run gets as many rows in the last step too.

    Without them Accelerate repeats rows of the epoch's beginning, which would count twice.

    Args:
        sampler: Of the rows.
        multiple_of: Rows of one forward pass of all processes.
        filler: The number that stands for no row.
    """

    def __init__(self, sampler: Any, multiple_of: int, filler: int) -> None:
        self._sampler = sampler
        self._missing = -len(sampler) % multiple_of
        self._filler = filler

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate before each epoch."""
        self._sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._sampler) + self._missing

    def __iter__(self) -> Iterator[int]:
        """Yields each row once, and the fillers."""
        yield from self._sampler
        yield from [self._filler] * self._missing


class EpochSampler(Sampler[int]):
    """Another sampler's rows, their epoch in their number, so that a batch's maker knows which view of a row it makes.

    Args:
        sampler: Of the rows.
        num_rows: Training rows.
    """

    def __init__(self, sampler: Any, num_rows: int) -> None:
        self._sampler = sampler
        self._num_rows = num_rows
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate before each epoch, also when a run is resumed in the middle of one."""
        self._epoch = epoch
        self._sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        """Yields what the other yields."""
        for row in self._sampler:
            yield number_in_epoch(row, self._epoch, self._num_rows)


class LengthGroupedSampler(Sampler[int]):
    """Row numbers of an epoch, so that the rows of a step are of like length.

    The rows are shuffled, sorted by length within parts, cut into steps, and the steps shuffled; rows that are left
    over make the last, shorter step. The order depends on seed and epoch alone.

    Args:
        lengths: Tokens of each row, `[N]`.
        rows_per_step: Rows of an optimizer step, so that accumulation changes nothing but the cut.
        seed: Of the order.
    """

    def __init__(self, lengths: np.ndarray[Any, np.dtype[np.int64]], rows_per_step: int, seed: int) -> None:
        self._lengths = lengths
        self._rows_per_step = rows_per_step
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate before each epoch, also when a run is resumed in the middle of one."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """Yields each row once."""
        size, total = self._rows_per_step, len(self._lengths)
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(total)
        num_steps = total // size
        per_part = max(1, min(num_steps // _FEWEST_PARTS, _MOST_STEPS)) * size
        parts = [order[first : first + per_part] for first in range(0, num_steps * size, per_part)]
        if parts:
            parts[-1] = parts[-1][: num_steps * size - (len(parts) - 1) * per_part]
            sorted_rows = np.concatenate([part[np.argsort(-self._lengths[part], kind="stable")] for part in parts])
            steps = sorted_rows.reshape(num_steps, size)[rng.permutation(num_steps)]
            yield from steps.ravel().tolist()
        yield from order[num_steps * size :].tolist()
