"""What further seeds or rows could settle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from frostline.decision.decide import Array, Decision, LevelState, Standing, standing_of, state_of
from frostline.decision.kernel import square_root
from frostline.decision.posterior import Posterior

_BUDGETS = (1, 2, 4, 8, 16, 32)
"""Further seeds of each contender whose effect is forecast."""


_FORECASTS = 200
"""Simulated futures behind each chance of being settled: a standard error of 3 percent at 0.7."""


_LIKELY = 0.7
"""A budget is named as enough if it settles the question with at least this chance."""


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What it would take to settle the question.

    Attributes:
        seeds: Further seeds of each contender; None: no number of them does, on these rows or at these settings.
        rows: Held-out rows they would be scored on.
        chance: Of being settled then.
        cost: Of these runs, relative.
        contenders: Levels that would be trained.
    """

    seeds: int | None
    rows: int
    chance: float
    cost: float
    contenders: tuple[float, ...]


def least_margin(rows: int, confidence: float, *, row_sd: float = 0.4, correlation: float = 0.5) -> float:
    """Returns the margin that so many held-out rows can settle at best, with any number of seeds.

    Two levels that are equally good differ by the rows that are at hand with a standard deviation of
    `row_sd sqrt((1 - correlation) / rows)`, where half of what two runs don't share is their seeds' (assumed). To call
    one good the margin must be as many quantiles as the confidence asks for.

    Args:
        rows: Held out.
        confidence: Of the statement.
        row_sd: Standard deviation of one row's result: 0.4 of an accuracy of 0.8.
        correlation: Of two runs' results on one row (measured on MiniLM: 0.4 to 0.6).
    """
    return float(ndtri(confidence)) * row_sd * math.sqrt((1 - correlation) / rows)


def requirement(
    decision: Decision, posterior: Posterior, *, rows: int, new_rows: int | None = None, seed: int = 0
) -> Requirement | None:
    """Returns what it would take to settle the question; None if it is settled, or more seeds can't tell.

    Futures are simulated: the posterior covariance after k further seeds of each contender is known beforehand, its
    mean is drawn, and the rule is applied to it. The hyperparameters are taken as they stand.

    Args:
        decision: As it stands.
        posterior: That it was made from.
        rows: Held-out rows that the runs were scored on.
        new_rows: That further runs would be scored on; None: the same.
        seed: Of the simulation.
    """
    if decision.standing is Standing.SETTLED or not decision.is_comparable:
        return None
    contenders = decision.contenders
    held_out = new_rows or rows
    least: Requirement | None = None
    for count in _BUDGETS:
        chance = chance_of_settling(decision, posterior, count, rows=rows, new_rows=held_out, seed=seed)
        needed = Requirement(
            seeds=count, rows=held_out, chance=chance, cost=count * sum(level.cost for level in contenders),
            contenders=tuple(level.level for level in contenders),
        )  # fmt: skip
        if chance >= _LIKELY:
            return needed
        if least is None or chance > least.chance:
            least = needed
    assert least is not None
    return least if least.chance >= 0.5 else replace(least, seeds=None)


def chance_of_settling(
    decision: Decision, posterior: Posterior, count: int, *, rows: int, new_rows: int, seed: int = 0
) -> float:
    """Returns the probability that so many further seeds of each contender settle the question.

    Args:
        decision: As it stands.
        posterior: That it was made from.
        count: Further seeds of each contender.
        rows: Held-out rows that the runs so far were scored on.
        new_rows: That the further runs would be scored on.
        seed: Of the simulation.
    """
    settings = [level.setting for level in decision.levels]
    mean, covariance = posterior.moments(settings)
    contenders = [index for index, level in enumerate(decision.levels) if level in decision.contenders]
    after = covariance_after(posterior, covariance, contenders, count, rows, new_rows)
    rng = np.random.default_rng(seed)
    shift = square_root(covariance - after)
    noise = rng.standard_normal((400, len(settings))) @ square_root(after).T
    settled = 0
    fresh = [level.fresh + (count if index in contenders else 0) for index, level in enumerate(decision.levels)]
    for _ in range(_FORECASTS):
        draws = mean + shift @ rng.standard_normal(len(settings)) + noise
        loss = draws.max(axis=1, keepdims=True) - draws
        future = []
        for index, level in enumerate(decision.levels):
            state = state_of(loss[:, index], draws - draws[:, [index]], decision.margin, decision.confidence)
            state = LevelState.OPEN if state is LevelState.GOOD and not level.tried else state
            future.append(replace(level, state=state, fresh=fresh[index]))
        settled += standing_of(future, decision.margin)[0] is Standing.SETTLED
    return settled / _FORECASTS


def covariance_after(
    posterior: Posterior,
    covariance: Array,
    contenders: Sequence[int],
    count: int,
    rows: int,
    new_rows: int,
) -> Array:
    """Returns the covariance of `f` at some settings after `count` further seeds of the contenders among them.

    The rows' part is approximated: runs of one setting share what the runs at hand share on average; as the same rows
    are used again, that part does not shrink with more seeds. With folds each further seed holds out other rows, until
    every fold was held out; the means over folds have the correlation of `frostline.decision.folds`.
    """
    folds = posterior.noise.num_folds
    parts = 1 if folds == 1 else min(count, folds - 1)
    overlap = (1 + (parts - 1) / folds) / parts
    noise = np.eye(len(contenders)) * posterior.seed_sd**2 * max(1 / count, overlap if folds > 1 else 0.0)
    known = posterior.noise.rows
    if known is not None and len(known):
        counts = posterior.noise.counts if posterior.noise.counts is not None else np.full(len(known), float(rows))
        variance = float(np.mean(np.diag(known) * counts)) / new_rows * overlap
        scale = np.sqrt(np.maximum(np.diag(known), 1e-300))
        # Runs on a part of another's rows correlate less with it than runs on equal rows do.
        part = np.sqrt(np.minimum.outer(counts, counts) / np.maximum.outer(counts, counts))
        correlations = known / np.outer(scale, scale) / part
        shared = _off_diagonal(correlations)
        # What the rows do to all settings alike is no difference between them; the rest is shared by a setting's seeds
        # in part: half of it is assumed to be the setting's own.
        own = variance * (1 - shared)
        noise = noise + np.eye(len(contenders)) * (own / 2 + own / 2 / count) + variance * shared
    cross = covariance[:, contenders]
    gain = cross @ np.linalg.solve(covariance[np.ix_(contenders, contenders)] + noise, cross.T)
    after: Array = covariance - gain
    return after


def _off_diagonal(correlations: Array) -> float:
    count = len(correlations)
    if count < 2:
        return 0.5
    return float(np.clip((correlations.sum() - count) / (count * (count - 1)), 0.0, 0.95))
