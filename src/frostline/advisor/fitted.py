"""Trials of one question, fitted."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from frostline.records.trial import TrialRecord

if TYPE_CHECKING:
    import numpy as np

    from frostline.decision import Axis, Noise, Posterior, Run, Setting

    Array = np.ndarray[Any, Any]


P = ParamSpec("P")


R = TypeVar("R")


MOST_TRIALS = 500
"""A fit takes the cube of the number of trials: of more a part is taken while the sweep is under way (0.5 s)."""


MOST_AT_THE_END = 1000
"""The same for the answer (some seconds)."""


def on_one_thread(method: Callable[P, R]) -> Callable[P, R]:
    """Lets linear algebra of small matrices run on one thread: more only wait for each other while trials train."""

    @functools.wraps(method)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1, user_api="blas"):
            return method(*args, **kwargs)

    return limited


@dataclass(kw_only=True)
class Fitted:
    """A question with the trials that are at hand.

    Attributes:
        axis: Of cost.
        runs: All, those that collapsed too.
        noise: Of those that didn't.
        posterior: Of those; None if there are none.
        trials: Setting -> its trial.
        constant_score: Of a constant prediction (for an accuracy the majority class), in the metric's sign; None:
            unknown.
        rows: Held-out rows of the search's runs; 0 if unknown.
        most_rows: Of any run.
        num_folds: Into which the rows were dealt; 1: all runs of the search hold out the same rows.
        race_rows: Held-out rows that further seeds are scored on; None: those of the search.
        race_cost: Of such a run beside one of the search.
        num_left_out: Trials that it was made without, because there are so many.
    """

    axis: Axis
    runs: list[Run]
    noise: Noise | None
    posterior: Posterior | None
    trials: dict[Setting, TrialRecord]
    constant_score: float | None
    rows: int
    most_rows: int
    num_folds: int = 1
    race_rows: int | None = None
    race_cost: float = 1.0
    num_left_out: int = 0


@dataclass
class RunTable:
    """Runs of one question, one for each seed of a finished trial, and what is known of their held-out rows.

    Attributes:
        trials: By setting.
        runs: All of them; values are larger where they are better.
        numbers: Held-out rows of each run whose predictions are at hand.
        constants: The score of a constant prediction on them.
        vectors: Of each run that learnt something: what its rows contribute to its noise, `[N]`; None: not known.
        counts: Its held-out rows; 0: not known.
        folds: Its fold.
        row_sds: Standard deviation of one of its rows, where predictions are at hand.
        least: Least variance of its mean over the rows, where predictions are at hand.
    """

    trials: dict[Setting, TrialRecord] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    constants: list[float] = field(default_factory=list)
    vectors: list[Array | None] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    folds: list[int] = field(default_factory=list)
    row_sds: list[float] = field(default_factory=list)
    least: list[float] = field(default_factory=list)

    @property
    def learnt(self) -> list[Run]:
        """The runs that learnt something."""
        return [run for run in self.runs if not run.collapsed]

    @property
    def constant_score(self) -> float | None:
        """The score of a constant prediction; None if no run records it."""
        return next((value for value in self.constants if math.isfinite(value)), None)


def spread_part(finished: list[tuple[TrialRecord, Setting]], most: int) -> list[tuple[TrialRecord, Setting]]:
    """Returns as many trials of each level as of the others, chosen without a look at their results.

    Those with further seeds are always among them. A choice by value would believe luck.
    """
    if len(finished) <= most:
        return finished
    of_level: dict[float, list[tuple[bool, float, int]]] = {}
    for trial, setting in finished:
        place = math.modf(trial.number * _GOLDEN)[0]  # spread evenly over the course of the sweep
        of_level.setdefault(setting.level, []).append((not trial.replicates, place, trial.number))
    order: list[tuple[bool, int, float, int]] = []
    for own in of_level.values():
        order += [(is_single, rank, place, number) for rank, (is_single, place, number) in enumerate(sorted(own))]
    chosen = {number for *_, number in sorted(order)[:most]}
    return [trial for trial in finished if trial[0].number in chosen]


def is_near(first: Setting, second: Setting) -> bool:
    """Returns whether a setting says nothing that another one wouldn't: a rate beside it, all else alike."""
    alike = (first.level, first.others, first.groups) == (second.level, second.others, second.groups)
    return alike and abs(first.rate - second.rate) < _NEAR_RATE


def train_rows_of(trial: TrialRecord) -> int | None:
    """Returns how many rows a trial was trained on, if that is known."""
    rows = trial.outcome.cost.get("train_rows") if trial.outcome is not None else None
    return None if rows is None else int(rows)


def assumed_noise(
    values: Sequence[float], trials: Mapping[Setting, TrialRecord], metric: str, train_rows: int
) -> tuple[Array | None, float]:
    """Returns the rows' covariance and a row's standard deviation where no predictions are at hand."""
    import numpy as np

    from frostline.decision.rows import ROW_CORRELATION

    spread = float(np.std(values))
    mean = abs(float(np.mean(values)))
    if metric != "accuracy" or not 0 <= mean <= 1:
        # Seeds are then taken to make a third of what all runs differ by, however many rows they train on.
        return None, max(spread, 1e-9) / 3 * math.sqrt(train_rows)
    row_sd = math.sqrt(max(mean * (1 - mean), 1e-4))
    numbers = [int(p.outcome.cost["eval_rows"]) for p in trials.values() if p.outcome and "eval_rows" in p.outcome.cost]
    if not numbers:
        return None, row_sd
    count = len(values)
    shared = np.full((count, count), ROW_CORRELATION) + (1 - ROW_CORRELATION) * np.eye(count)
    return row_sd**2 / numbers[0] * shared, row_sd


_NEAR_RATE = 0.15
"""Decades within which a second rate at one level says less than a second seed would: 0.1 points of accuracy."""


_GOLDEN = (math.sqrt(5) - 1) / 2
"""The fractional parts of its multiples are the most evenly spread ones there are, wherever one stops."""
