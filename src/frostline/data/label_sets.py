"""Sets of classes as whole numbers, in whose bits they stand: one number a row, of many classes several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]

CLASSES_PER_NUMBER = 52
"""Their bits make one number, which a double holds exactly."""


def numbers_per_row(num_classes: int) -> int:
    """Returns how many numbers a row takes, W."""
    return max(1, -(-num_classes // CLASSES_PER_NUMBER))


def as_label(bits: int, num_classes: int) -> int | list[int]:
    """Returns a row's label: one number, or a list of W.

    Args:
        bits: Of any size: bit i stands for class i.
        num_classes: C.
    """
    count = numbers_per_row(num_classes)
    if count == 1:
        return bits
    mask = (1 << CLASSES_PER_NUMBER) - 1
    return [bits >> (CLASSES_PER_NUMBER * index) & mask for index in range(count)]


def as_bits(label: Any) -> int:
    """Returns the one number of any size that a row's label stands for.

    Args:
        label: A number, or several.
    """
    numbers = label if isinstance(label, (list, tuple)) else [label]
    return sum(int(number) << (CLASSES_PER_NUMBER * index) for index, number in enumerate(numbers))


def indicators(labels: Array, num_classes: int) -> Array:
    """Returns a 0 or a 1 for each class, `[N, C]`, int64.

    Args:
        labels: `[N]`, or `[N, W]`.
        num_classes: C.
    """
    import numpy as np

    classes = np.arange(num_classes)
    numbers = labels.astype(np.int64).reshape(len(labels), -1)
    bits: Array = numbers[:, classes // CLASSES_PER_NUMBER] >> classes % CLASSES_PER_NUMBER & 1
    return bits


def tensor_indicators(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """The same of a tensor, on its device."""
    import torch

    classes = torch.arange(num_classes, device=labels.device)
    numbers = labels.reshape(len(labels), -1)
    return numbers[:, classes // CLASSES_PER_NUMBER] >> classes % CLASSES_PER_NUMBER & 1


def as_labels(bits: Array) -> Array:
    """Returns labels, `[N]` or `[N, W]`, of what `indicators` returns."""
    import numpy as np

    num_rows, num_classes = bits.shape
    count = numbers_per_row(num_classes)
    filled = np.zeros((num_rows, count * CLASSES_PER_NUMBER), dtype=np.int64)
    filled[:, :num_classes] = bits
    numbers: Array = (filled.reshape(num_rows, count, -1) << np.arange(CLASSES_PER_NUMBER)).sum(-1)
    return numbers[:, 0] if count == 1 else numbers
