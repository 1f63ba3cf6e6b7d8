"""What is known of a trial's quality on a set of rows: a number for each seed, and what its runs said of each row."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from frostline.records.trial import TrialRecord
from frostline.spec import EVAL_SET

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """What one run's weights said of the rows of a set.

    Attributes:
        labels: `[N]`: class ids or numbers, in the set's seeded order: fewer rows are the first ones of more. Where a
            row may have several classes, bit i stands for class i; of many classes `[N, W]`.
        predicted: The same.
        losses: `[N]`.
        num_classes: Of rows that may have several; None: each has one, or a number.
        counts_tokens: Whether labels are the target tokens of each row, whose mean loss is `losses`, and `predicted`
            how many of them the model ranks first.
    """

    labels: Array
    predicted: Array
    losses: Array
    num_classes: int | None = None
    counts_tokens: bool = False


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a trial's quality on one set of rows.

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


EvidenceOf = Callable[[TrialRecord, str], Evidence | None]
"""A trial and the name of a set of rows -> what is known of its quality there."""


def known(trial: TrialRecord, name: str) -> Evidence | None:
    """Returns what a trial itself knows of a set: a number of each seed."""
    outcome = trial.outcome
    values = None if outcome is None else trial.by_seed if name == EVAL_SET else outcome.scores.get(name)
    return Evidence(by_seed=values, rows={}) if values else None
