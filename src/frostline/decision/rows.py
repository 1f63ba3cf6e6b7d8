"""What the held-out rows contribute to the noise of runs' values: a vector for each run; products are covariances.

A metric that is a mean over rows has the rows' centred results, divided by their number: the products of two runs'
vectors estimate the covariance of their means over the choice of rows. Runs on fewer of the rows share that part. Any
other metric that can be computed from labels and predictions has the deviations of a bootstrap over rows (Efron 1979),
in which all runs see the same resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_FEW = 5
"""Rows of the rarer kind below which a share's variance is not taken from them."""

ROW_CORRELATION = 0.5
"""Correlation of two runs' results on one row, where the rows can't show it (measured on MiniLM: 0.4 to 0.6)."""

NUM_RESAMPLES = 200
"""Of the bootstrap: a standard deviation is then known to 5 percent."""


def of_mean(results: Array, first: int = 0) -> Array:
    """Returns the vector of a run whose value is the mean of its rows' results.

    Args:
        results: `[N]`: hits, negative losses or errors.
        first: Number of the first of these rows among all rows of the sweep.
    """
    centred = np.asarray(results, dtype=np.float64)
    centred = (centred - centred.mean()) / len(centred)
    return np.concatenate([np.zeros(first), centred])


def of_bootstrap(metric: Callable[[Array, Array], float], labels: Array, predicted: Array, first: int = 0) -> Array:
    """Returns the vector of a run whose value is any function of labels and predictions.

    Each row is drawn a Poisson number of times, so that a row that two runs share is drawn alike for both.

    Args:
        metric: Labels and predictions -> value.
        labels: `[N, ...]`.
        predicted: `[N, ...]`.
        first: Number of the first of these rows among all rows of the sweep.
    """
    times = np.random.default_rng(0).poisson(1.0, (first + len(labels), NUM_RESAMPLES))[first:]
    values = np.full(NUM_RESAMPLES, np.nan)
    for index in range(NUM_RESAMPLES):
        chosen = np.repeat(np.arange(len(labels)), times[:, index])
        if len(chosen):
            values[index] = metric(labels[chosen], predicted[chosen])
    deviations = np.nan_to_num(values - np.nanmean(values))
    vector: Array = deviations / math.sqrt(NUM_RESAMPLES - 1)
    return vector


def least_variance(right: float, count: int) -> float:
    """Returns the variance of a share of rows where it is so near 0 or 1 that the rows themselves say too little.

    Of 20 rows that are all right the empirical variance is 0. From two more of each kind (Agresti and Coull 1998) comes
    one that is not; with five rows of each kind or more it is not needed, and 0 is returned.

    Args:
        right: Rows that are right.
        count: Of all rows.
    """
    if min(right, count - right) >= _FEW:
        return 0.0
    share = (right + 2) / (count + 4)
    return share * (1 - share) / count


def with_least(covariance: Array, least: Sequence[float]) -> Array:
    """Returns the covariance with no variance below the least; what is added, runs share in part, as rows they share.

    Args:
        covariance: `[R, R]`.
        least: `[R]`: variances.
    """
    missing = np.sqrt(np.maximum(np.asarray(least) - np.diag(covariance), 0.0))
    shared = ROW_CORRELATION + (1 - ROW_CORRELATION) * np.eye(len(missing))
    added: Array = covariance + np.outer(missing, missing) * shared
    return added


def covariance(vectors: Sequence[Array]) -> Array:
    """Returns the covariance `[R, R]` of runs' values from their vectors, which may differ in length."""
    length = max(len(vector) for vector in vectors)
    table = np.zeros((len(vectors), length))
    for index, vector in enumerate(vectors):
        table[index, : len(vector)] = vector
    product: Array = table @ table.T
    return product
