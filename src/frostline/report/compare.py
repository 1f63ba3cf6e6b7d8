"""Owns: how sure a number is, and whether one is really worse than another. Must not know: what the numbers are of."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from frostline.evidence import Evidence, RowScores

Array = np.ndarray[Any, Any]

LEVEL = 0.95
"""Of every interval."""

ALPHA = 0.05
"""Of every test, one-sided: a difference is called significant below it."""

_FEWEST_SEEDS = 3
"""Of a test over seeds alone: two, of which both lose by as much, could never be significant."""

_Z = statistics.NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One point against another, on the same rows.

    Attributes:
        loss: By how much the second is worse than the first: positive is worse, whichever way the metric goes.
        low: Lower end of the 95 % interval of `loss`; NaN if nothing is known of it.
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
    """Returns how far the farther end of a share's 95 % interval is from it.

    The interval is Wilson's (1927), which is not empty where the share is 0 or 1, and not symmetric: written as +- it
    is rather too wide on one side.
    """
    half = _Z / (1 + _Z**2 / rows) * math.sqrt(share * (1 - share) / rows + _Z**2 / (4 * rows**2))
    centre = (share + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
    return max(centre + half - share, share - (centre - half))


def compare(first: Evidence, second: Evidence, metric: str, *, maximize: bool) -> Comparison | None:
    """Tests whether the second is worse than the first.

    Two things vary, and what is at hand decides which are known. *Seeds*: with two common ones or more, the paired
    t-test over their differences (the sign test where all are equal, and the t-test is undefined). *Rows*, of a metric
    that is a mean over rows: the exact McNemar test (McNemar 1947) for an accuracy of one seed; else the paired t-test
    over the rows' losses, hits or absolute errors, averaged over the seeds. With both, twice the smaller p
    (Bonferroni), so that a few seeds don't hide what hundreds of rows show.

    Args:
        first: Of the better one.
        second: Of the other, on the same rows.
        metric: The name of what is compared.
        maximize: Whether more of it is better.

    Returns:
        None if nothing can be told: other rows; one seed, or so few that no difference would be significant, and no
        rows, or a metric that is no mean over rows.
    """
    seeds = sorted(first.by_seed.keys() & second.by_seed.keys())
    shared = sorted(first.rows.keys() & second.rows.keys())
    pairs = [(first.rows[seed], second.rows[seed]) for seed in shared]
    if len(first.by_seed) == len(second.by_seed) == 1:  # row by row, though they need not be of the same seed
        pairs = list(zip(first.rows.values(), second.rows.values(), strict=False))
    if any(not np.array_equal(one.labels, two.labels) for one, two in pairs):
        return None
    by_rows = _by_rows(pairs, metric)
    if len(seeds) < 2:
        return by_rows
    sign = 1.0 if maximize else -1.0
    by_seeds = _over_seeds([sign * (first.by_seed[seed] - second.by_seed[seed]) for seed in seeds])
    if by_rows is None or len(shared) < len(seeds):
        return by_seeds if len(seeds) >= _FEWEST_SEEDS else None
    p = min(1.0, 2 * min(by_seeds.p, by_rows.p))
    return replace(by_seeds, p=p, how=f"{by_seeds.how} and {by_rows.how}, twice the smaller p")


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
        return _alike(mean, count, f"sign test over {count} seeds")
    half = interval_of_seeds(losses)
    p = float(stats.ttest_1samp(losses, 0.0, alternative="greater").pvalue)
    return Comparison(loss=mean, low=mean - half, high=mean + half, p=p, how=f"paired t-test over {count} seeds")


def _alike(mean: float, count: int, how: str) -> Comparison:
    """Returns the sign test of differences that are all equal; nothing is known of their spread."""
    p = 0.5**count if mean > 1e-12 else 1.0
    return Comparison(loss=mean, low=math.nan, high=math.nan, p=p, how=how)


def _by_rows(pairs: Sequence[tuple[RowScores, RowScores]], metric: str) -> Comparison | None:
    """Tests over the rows, averaged over the seeds; None if there are none, or the metric is no mean over them."""
    if not pairs:
        return None
    if metric == "accuracy":
        hits = [(one.predicted == one.labels, two.predicted == two.labels) for one, two in pairs]
        if len(hits) == 1:
            return _mcnemar(*hits[0])
        losses = [one.astype(np.float64) - two for one, two in hits]
    elif metric in {"loss", "mse"}:
        losses = [two.losses.astype(np.float64) - one.losses for one, two in pairs]
    elif metric == "mae":
        losses = [np.abs(two.predicted - two.labels) - np.abs(one.predicted - one.labels) for one, two in pairs]
    else:
        return None
    return _over_rows(np.mean(losses, axis=0))


def _over_rows(losses: Array) -> Comparison:
    from scipy import stats

    count, mean = len(losses), float(losses.mean())
    how = f"paired t-test over {count} rows"
    spread = float(losses.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    if spread < 1e-15:
        return _alike(mean, count, f"sign test over {count} rows")
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
