"""Trials and gains as a report shows them: errors, shares, the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence

from frostline.records.trial import TrialRecord, TrialState, ranked
from frostline.report.significance import interval_of_seeds, interval_of_share
from frostline.spec import CostName

_SHARES = frozenset(
    {"accuracy", "balanced_accuracy", "f1", "f1_macro", "f1_micro", "f1_weighted", "precision", "recall"}
)
"""Metrics between 0 and 1 whose differences people give in points (hundredths)."""


def error_of(trial: TrialRecord, metric: str) -> tuple[float | None, str]:
    """Returns half the width of a value's own 95 % interval, and what it knows of.

    With several seeds it is Student's t over them: another seed, on the same rows. With one, of an accuracy, Wilson's
    for the held-out rows (its farther end): other rows, but nothing of what another seed would give.
    """
    values = list(trial.by_seed.values())
    if len(values) > 1:
        return interval_of_seeds(values), f"{len(values)} seeds"
    rows = trial.outcome.cost.get("eval_rows") if trial.outcome else None
    quality = trial.quality
    if metric == "accuracy" and rows and quality is not None and 0 <= quality <= 1:
        return interval_of_share(quality, rows), f"{rows:.0f} held-out rows"
    return None, ""


def pareto(trials: Sequence[TrialRecord], cost: CostName, *, maximize: bool) -> list[TrialRecord]:
    """Returns the Pareto front of quality and cost among the finished trials, the cheapest first."""
    sign = -1.0 if maximize else 1.0
    known_cost = [trial for trial in ranked(trials, maximize) if trial.cost(cost) is not None]
    known_cost.sort(key=lambda trial: (trial.cost(cost) or 0.0, sign * (trial.quality or 0.0)))
    front: list[TrialRecord] = []
    for trial in known_cost:
        if not front or sign * (trial.quality or 0.0) < sign * (front[-1].quality or 0.0):
            front.append(trial)
    return front


def is_share(metric: str) -> bool:
    """Returns whether differences of a metric are given in points (hundredths)."""
    return metric in _SHARES


def in_range(value: float, metric: str) -> float:
    """Returns a value that a metric can have: what is believed of a share may lie a little above 1."""
    return min(1.0, max(0.0, value)) if is_share(metric) else value


def difference(gain: float, metric: str) -> str:
    """Returns a difference of two qualities in words: `0.3 points` of an accuracy, else the number."""
    if not is_share(metric):
        return f"{gain:.4g}"
    shown = f"{100 * gain:.1f}"
    return f"{shown.removesuffix('.0')} point{'' if shown == '1.0' else 's'}"


def is_finite_trial(trial: TrialRecord) -> bool:
    """Returns whether a trial ended with a value."""
    return trial.state is TrialState.COMPLETE and trial.quality is not None and math.isfinite(trial.quality)
