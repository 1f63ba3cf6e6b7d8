"""Owns: how sure a number is, and whether one is really worse than another. Must not know: what the numbers are of."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LEVEL = 0.95
"""Of every interval."""

ALPHA = 0.05
"""Of every test, one-sided: a difference is called significant below it."""

_Z = statistics.NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """What one run's weights said of the rows of a set.

    Attributes:
        labels: `[N]`: class ids or numbers.
        predicted: `[N]`: the same.
        losses: `[N]`.
    """

    labels: Array
    predicted: Array
    losses: Array


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a point's quality on one set of rows.

    Attributes:
        by_seed: The metric of each seed.
        rows: Per-row results by seed, as far as they are at hand.
    """

    by_seed: Mapping[int, float]
    rows: Mapping[int, RowScores]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.by_seed.values())


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One point against another, on the same rows.

    Attributes:
        loss: By how much the second is worse than the first: positive is worse, whichever way the metric goes.
        low: Lower end of the 95 % interval of `loss`.
        high: Its upper end.
        p: Probability of a loss as large if the second were as good as the first (one-sided).
        how: By which test, on what.
    """

    loss: float
    low: float
    high: float
    p: float
    how: str

    @property
    def is_worse(self) -> bool:
        """Whether the second is significantly worse."""
        return self.p < ALPHA


def interval_of_seeds(values: Sequence[float]) -> float:
    """Returns half the width of the mean's 95 % interval (Student's t, n - 1 degrees of freedom)."""
    from scipy import stats

    spread = statistics.stdev(values) / math.sqrt(len(values))
    return float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1) * spread)


def interval_of_share(share: float, rows: float) -> float:
    """Returns half the width of a share's 95 % interval by Wilson (1927), which is not 0 where the share is 0 or 1."""
    inside = share * (1 - share) / rows + _Z**2 / (4 * rows**2)
    return _Z / (1 + _Z**2 / rows) * math.sqrt(inside)


def compare(first: Evidence, second: Evidence, metric: str, *, maximize: bool) -> Comparison | None:
    """Tests whether the second is worse than the first.

    With two common seeds or more: the paired t-test over their differences, which knows of the spread between seeds
    (the sign test where all differences are equal, and the t-test is undefined). With one: over the rows - the exact
    McNemar test for an accuracy (McNemar 1947), the paired t-test over the rows' losses for a loss or an mse, over
    their absolute errors for an mae. It says nothing of what another seed would give.

    Args:
        first: Of the better one.
        second: Of the other, on the same rows.
        metric: The name of what is compared.
        maximize: Whether more of it is better.

    Returns:
        None if there is nothing to test by: one seed, and no rows or a metric that is no mean over rows.
    """
    seeds = sorted(first.by_seed.keys() & second.by_seed.keys())
    if len(seeds) > 1:
        sign = 1.0 if maximize else -1.0
        return _over_seeds([sign * (first.by_seed[seed] - second.by_seed[seed]) for seed in seeds])
    shared = sorted(first.rows.keys() & second.rows.keys())
    if not shared:
        return None
    one, two = first.rows[shared[0]], second.rows[shared[0]]
    if not np.array_equal(one.labels, two.labels):
        return None  # other rows
    if metric == "accuracy":
        return _mcnemar(one.predicted == one.labels, two.predicted == two.labels)
    if metric in {"loss", "mse"}:
        return _over_rows(two.losses.astype(np.float64) - one.losses)
    if metric == "mae":
        return _over_rows(np.abs(two.predicted - two.labels) - np.abs(one.predicted - one.labels))
    return None


def holm(values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for being several (Holm 1979)."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def _over_seeds(losses: Sequence[float]) -> Comparison:
    from scipy import stats

    count, mean = len(losses), statistics.fmean(losses)
    if max(losses) - min(losses) < 1e-12:
        p = 0.5**count if mean > 1e-12 else 1.0
        return Comparison(loss=mean, low=mean, high=mean, p=p, how=f"sign test over {count} seeds")
    half = interval_of_seeds(losses)
    p = float(stats.ttest_1samp(losses, 0.0, alternative="greater").pvalue)
    return Comparison(loss=mean, low=mean - half, high=mean + half, p=p, how=f"paired t-test over {count} seeds")


def _over_rows(losses: Array) -> Comparison:
    from scipy import stats

    count, mean = len(losses), float(losses.mean())
    how = f"paired t-test over {count} rows"
    spread = float(losses.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    if spread == 0.0:
        return Comparison(loss=mean, low=mean, high=mean, p=1.0, how=how)
    p = float(stats.t.sf(mean / spread, count - 1))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, count - 1)) * spread
    return Comparison(loss=mean, low=mean - half, high=mean + half, p=p, how=how)


def _mcnemar(first: Array, second: Array) -> Comparison:
    from scipy import stats

    count = len(first)
    lost, won = int((first & ~second).sum()), int((~first & second).sum())
    p = float(stats.binomtest(lost, lost + won, 0.5, alternative="greater").pvalue) if lost + won else 1.0
    loss = (lost - won) / count
    half = _Z * math.sqrt(max(lost + won - (lost - won) ** 2 / count, 0.0)) / count
    return Comparison(loss=loss, low=loss - half, high=loss + half, p=p, how=f"McNemar's test on {count} rows")
