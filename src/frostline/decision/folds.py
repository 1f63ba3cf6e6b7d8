"""What runs that hold out different folds share: most of their training rows.

The results of k-fold cross-validation are not independent. Nadeau and Bengio (2003, "Inference for the generalization
error", section 3) take the correlation of two folds' results to be the share of the rows that is held out, 1 / k, since
no unbiased estimate of it exists (Bengio and Grandvalet 2004).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from frostline.decision.rows import ROW_CORRELATION

Array = np.ndarray[Any, Any]


def rows_across(rows: Array, folds: Sequence[int], settings: Sequence[Hashable], num_folds: int) -> Array:
    """Returns the covariance `[N, N]` of runs' values from the choice of rows, with what different folds share.

    On one fold it is the covariance at hand. Between folds it is 1 / k of what it would be on one: of a setting's own
    standard deviations where both runs have the same setting, else of the correlation that two runs have on average.

    Args:
        rows: `[N, N]`: between runs on one fold; what it says between folds is not read.
        folds: Of each run.
        settings: Of each run.
        num_folds: k.
    """
    same_fold = _equal(folds)
    scale = np.sqrt(np.maximum(np.diag(rows), 0.0))
    products = np.outer(scale, scale)
    pairs = same_fold & ~np.eye(len(rows), dtype=bool) & (products > 0)
    shared = float(np.clip(np.mean(rows[pairs] / products[pairs]), 0.0, 1.0)) if pairs.any() else ROW_CORRELATION
    alike = shared + (1 - shared) * _equal(settings)
    return _semidefinite(np.where(same_fold, rows, products * alike / num_folds))


def seeds_across(folds: Sequence[int], settings: Sequence[Hashable], num_folds: int) -> Array:
    """Returns the correlation `[N, N]` of runs' own effects: 1 / k between two folds of one setting, else none.

    Args:
        folds: Of each run.
        settings: Of each run.
        num_folds: k.
    """
    correlation: Array = np.eye(len(folds)) + (_equal(settings) & ~_equal(folds)) / num_folds
    return _semidefinite(correlation)


def _equal(values: Sequence[Hashable]) -> Array:
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    codes = np.array([numbers[value] for value in values])
    equal: Array = codes[:, None] == codes[None, :]
    return equal


def _semidefinite(matrix: Array) -> Array:
    """Returns the matrix without its negative eigenvalues: pairwise estimates need not fit together."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if values[0] >= 0:
        return matrix
    clipped: Array = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return clipped
