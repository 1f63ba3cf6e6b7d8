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
        labels: `[N]`.
        predicted: `[N]`.
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


def covariance(vectors: Sequence[Array]) -> Array:
    """Returns the covariance `[R, R]` of runs' values from their vectors, which may differ in length."""
    length = max(len(vector) for vector in vectors)
    table = np.zeros((len(vectors), length))
    for index, vector in enumerate(vectors):
        table[index, : len(vector)] = vector
    product: Array = table @ table.T
    return product
