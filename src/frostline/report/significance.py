"""Confidence intervals, and tests of whether one result is worse than another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frostline.advisor import row_vector
from frostline.records.predictions import Evidence

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
    """One trial against another, on the same rows.

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
    """Returns how far the farther end of a share's 95 % interval is from it.

    The interval is Wilson's (1927), which is not empty where the share is 0 or 1, and not symmetric: written as +- it
    is rather too wide on one side.
    """
    half = _Z / (1 + _Z**2 / rows) * math.sqrt(share * (1 - share) / rows + _Z**2 / (4 * rows**2))
    centre = (share + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
    return max(centre + half - share, share - (centre - half))


def compare(
    first: Evidence, second: Evidence, metric: str, *, maximize: bool, seed_sd: float | None = None
) -> Comparison | None:
    """Tests whether the second is worse than the first; what rows and what seeds contribute is added.

    The difference of the two means has two sources of variance. *Rows*: that of the mean over rows of the runs'
    differences, row by row, averaged over the seeds; of a metric that is no mean over rows, of a bootstrap over them
    (`frostline.decision.rows`). *Seeds*: `seed_sd^2 (1/J + 1/K)` for J and K seeds if the standard deviation from seed
    to seed is known, for example from a sweep's posterior; else that of the differences of three common seeds or more,
    with the degrees of freedom of Satterthwaite (1946).

    Args:
        first: Of the better one.
        second: Of the other, on the same rows.
        metric: The name of what is compared.
        maximize: Whether more of it is better.
        seed_sd: Standard deviation of the metric from seed to seed; None: unknown.

    Returns:
        None if the two were scored on different rows, or if the variance over seeds is unknown.
    """
    seeds = sorted(first.by_seed.keys() & second.by_seed.keys())
    sign = 1.0 if maximize else -1.0
    first_values, second_values = (_values(each, seeds) for each in (first, second))
    loss = sign * (statistics.fmean(first_values) - statistics.fmean(second_values))
    is_same, by_rows = _row_variance(first, second, seeds, metric)
    if not is_same:
        return None
    over = "rows and seeds" if by_rows is not None else "seeds, on these rows"
    if seed_sd is not None:
        variance = (by_rows or 0.0) + seed_sd**2 * (1 / len(first_values) + 1 / len(second_values))
        return _normal(loss, math.sqrt(variance), math.inf, f"normal, {over}")
    if len(seeds) < _FEWEST_SEEDS:
        return None
    by_seeds = statistics.variance([a - b for a, b in zip(first_values, second_values, strict=True)]) / len(seeds)
    variance = (by_rows or 0.0) + by_seeds
    freedom = (len(seeds) - 1) * (variance / by_seeds) ** 2 if by_seeds > 0 else math.inf
    return _normal(loss, math.sqrt(variance), freedom, f"t-test, {over}")


def holm(values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for being several (Holm 1979)."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def _values(evidence: Evidence, seeds: Sequence[int]) -> list[float]:
    """Returns the values of some seeds; of all if there are none."""
    return [evidence.by_seed[seed] for seed in seeds] or list(evidence.by_seed.values())


def _row_variance(first: Evidence, second: Evidence, seeds: Sequence[int], metric: str) -> tuple[bool, float | None]:
    """Returns whether both saw the same rows, and the variance of their difference over rows; None if unknown."""
    first_rows, second_rows = ([each.rows.get(seed) for seed in (seeds or each.by_seed)] for each in (first, second))
    known = [run for run in (*first_rows, *second_rows) if run is not None]
    if len(known) < len(first_rows) + len(second_rows):
        return True, None
    vectors = [vector for run in known if (vector := row_vector(run, metric)) is not None]
    if len(vectors) < len(known):
        return True, None
    longest = max((run.labels for run in known), key=len)
    if all(np.array_equal(longest[: len(run.labels)], run.labels) for run in known):  # further seeds may see more rows
        size = max(len(vector) for vector in vectors)
        padded = [np.pad(vector, (0, size - len(vector))) for vector in vectors]
        gap = np.mean(padded[: len(first_rows)], axis=0) - np.mean(padded[len(first_rows) :], axis=0)
        return True, float(gap @ gap)
    pairs = list(zip(known[: len(first_rows)], known[len(first_rows) :], strict=False))
    if len(first_rows) != len(second_rows) or any(not np.array_equal(a.labels, b.labels) for a, b in pairs):
        return False, None
    # Each seed held out a fold of its own.
    gaps = [a - b for a, b in zip(vectors[: len(first_rows)], vectors[len(first_rows) :], strict=True)]
    return True, float(sum(gap @ gap for gap in gaps)) / len(gaps) ** 2


def _normal(loss: float, sd: float, freedom: float, how: str) -> Comparison:
    from scipy import stats

    if sd <= 0:
        return Comparison(loss=loss, low=loss, high=loss, p=0.0 if loss > 0 else 1.0, how=how)
    law = stats.t(freedom) if math.isfinite(freedom) else stats.norm()
    half = float(law.ppf(0.5 + LEVEL / 2)) * sd
    return Comparison(loss=loss, low=loss - half, high=loss + half, p=float(law.sf(loss / sd)), how=how)
