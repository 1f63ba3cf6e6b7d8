"""From the runs at hand to the answer: which level to take, how sure that is, and what would settle it.

The question is *with what probability is a level at most `margin` below the best one?* It is answered from joint draws
of the posterior, so that seeds and rows count together and the choice of the best among many is corrected by shrinkage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from frostline.decision.posterior import Noise, Posterior
from frostline.decision.runs import Axis, Run, Setting, settings_of

Array = np.ndarray[Any, Any]

NUM_DRAWS = 4000
"""Joint draws behind every probability: a standard error of half a percent at 0.9."""

_CREDIBLE_MASS = 0.95
"""Probability that each interval covers."""

_REACH = 0.6
"""Decades beside the best rate tried at a level within which an untried one may be better."""

_NUM_BESIDE = 7
"""Rates considered within that reach."""


class Standing(StrEnum):
    """How far the question is answered."""

    SETTLED = "settled"
    AT_LEAST = "at least"
    NOT_SETTLED = "not settled"


class LevelState(StrEnum):
    """What is known of a level."""

    GOOD = "good"  # within the margin of the best, with the confidence asked for
    OPEN = "open"
    OUT = "out"  # another level is better by more than half the margin, with the confidence asked for


@dataclass(frozen=True, kw_only=True)
class Level:
    """A level of the axis of cost, at the best setting that was tried there.

    Attributes:
        level: As `Axis.levels` has it.
        setting: That the level is judged by: of those tried there the one with the highest posterior mean; of a level
            that was not tried the best guess.
        tried: Whether any run of this level that learnt something is at hand.
        mean: Posterior mean of the quality.
        low: Lower end of its 95 % interval.
        high: Upper end.
        expected_loss: Posterior mean of the distance to the best level, each level at its setting.
        most_loss: What the distance to the best setting is at most, with 95 % probability; untried rates count, too.
        p_within: Probability that the distance to the best level is at most the margin.
        state: What is known of the level.
        seeds: Runs of `setting` that learnt something.
        fresh: Those of them that did not choose the setting.
        collapsed: Runs of this level that learnt nothing, at any setting.
        cost: Relative, of one run.
    """

    level: float
    setting: Setting
    tried: bool
    mean: float
    low: float
    high: float
    expected_loss: float
    most_loss: float
    p_within: float
    state: LevelState
    seeds: int
    fresh: int
    collapsed: int
    cost: float


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The answer.

    Attributes:
        standing: How far the question is answered.
        margin: A level this much below the best one still counts as good.
        confidence: Asked for.
        levels: From the dearest to the cheapest; those that were not tried as well.
        recommended: To take: the cheapest good level, else the best guess.
        best: The level with the highest posterior mean.
        collapsed: Runs that learnt nothing, left out of every average.
        num_runs: All runs, collapsed ones included.
        seed_sd: Posterior mean of the standard deviation from seed to seed.
        knows_rows: Whether the choice of held-out rows is accounted for; else everything is said of these rows.
    """

    standing: Standing
    margin: float
    confidence: float
    levels: tuple[Level, ...]
    recommended: Level
    best: Level
    collapsed: tuple[Run, ...]
    num_runs: int
    seed_sd: float
    knows_rows: bool

    @property
    def open_levels(self) -> tuple[Level, ...]:
        """Those of which it is not known whether they are within the margin."""
        return tuple(level for level in self.levels if level.state is LevelState.OPEN)

    @property
    def lacking_seeds(self) -> tuple[Level, ...]:
        """Levels that matter and have fewer fresh seeds than a settled question needs."""
        return tuple(level for level in self.levels if _lacks_seeds(level))

    @property
    def is_comparable(self) -> bool:
        """Whether more than one level was tried, if there are several: else no probability of theirs is known."""
        return _is_comparable([level.tried for level in self.levels])

    @property
    def contenders(self) -> tuple[Level, ...]:
        """Those that further seeds can settle: what was never trained has no setting to train again."""
        return tuple(level for level in self.levels if level.state is not LevelState.OUT and level.tried)


def decide(
    runs: Sequence[Run],
    axis: Axis,
    noise: Noise,
    *,
    margin: float,
    confidence: float,
    seed: int = 0,
    posterior: Posterior | None = None,
) -> Decision:
    """Returns the answer that the runs at hand support.

    Args:
        runs: All of them; those that collapsed are counted and left out.
        axis: Of cost.
        noise: Of the runs that did not collapse, in their order.
        margin: A level this much below the best still counts as good, in the unit of the values.
        confidence: Of every statement, in (0.5, 1).
        seed: Of the draws: the same runs give the same answer.
        posterior: Of these runs, if the caller has it.

    Raises:
        ValueError: No run learnt anything, or a parameter is out of its range.
    """
    _check(runs, margin, confidence)
    posterior = posterior or Posterior([run for run in runs if not run.collapsed], axis, noise)
    targets = representatives(posterior)
    settings = [target for target, _ in targets]
    kinds = list(dict.fromkeys((setting.others, setting.groups) for setting in settings))
    beside = [other for setting in settings for other in _beside(setting, axis, kinds)]
    every = posterior.draws([*settings, *beside], NUM_DRAWS, np.random.default_rng(seed))
    draws = could = every[:, : len(settings)]
    if beside:  # what a level could give at a rate, or with other keys, that was not tried there
        could = np.maximum(draws, every[:, len(settings) :].reshape(len(every), len(settings), -1).max(axis=2))
    loss = draws.max(axis=1, keepdims=True) - draws
    most = np.quantile(could.max(axis=1, keepdims=True) - draws, _CREDIBLE_MASS, axis=0)
    low, high = np.quantile(draws, [(1 - _CREDIBLE_MASS) / 2, (1 + _CREDIBLE_MASS) / 2], axis=0)
    counts = _Counts(runs)
    levels = []
    for index, (setting, tried) in enumerate(targets):
        state = state_of(loss[:, index], draws - could[:, [index]], margin, confidence)
        # What was never trained can't be taken, and what mostly learns nothing is no good.
        is_bad = not tried or counts.failing[setting] > counts.seeds[setting]
        if not _is_comparable([tried for _, tried in targets]) or (state is LevelState.GOOD and is_bad):
            state = LevelState.OPEN
        levels.append(
            Level(
                level=setting.level, setting=setting, tried=tried, mean=float(draws[:, index].mean()),
                low=float(low[index]), high=float(high[index]), expected_loss=float(loss[:, index].mean()),
                most_loss=float(most[index]), p_within=float((loss[:, index] <= margin).mean()), state=state,
                seeds=counts.seeds[setting], fresh=counts.fresh[setting], collapsed=counts.collapsed[setting.level],
                cost=axis.cost(setting.level),
            )
        )  # fmt: skip
    standing, recommended = standing_of(levels, margin)
    return Decision(
        standing=standing, margin=margin, confidence=confidence, levels=tuple(levels), recommended=recommended,
        best=max(levels, key=lambda level: level.mean), collapsed=tuple(run for run in runs if run.collapsed),
        num_runs=len(runs), seed_sd=posterior.seed_sd, knows_rows=noise.rows is not None,
    )  # fmt: skip


def _is_comparable(tried: Sequence[bool]) -> bool:
    """Whether the runs say how much levels differ: those of one level alone do not."""
    return sum(tried) > 1 or len(tried) == 1


class _Counts:
    """How many runs learnt something, or didn't, by setting and level."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.seeds = Counter(run.setting for run in runs if not run.collapsed)
        self.fresh = Counter(run.setting for run in runs if not run.collapsed and not run.chosen)
        self.failing = Counter(run.setting for run in runs if run.collapsed)
        self.collapsed = Counter(run.setting.level for run in runs if run.collapsed)


def _beside(setting: Setting, axis: Axis, kinds: Sequence[tuple[tuple[float, ...], tuple[str, ...]]]) -> list[Setting]:
    """Returns untried neighbours of a level's setting: nearby rates, and other keys. Every level gets equally many.

    Args:
        setting: Of the level.
        axis: Of cost: at rates beside the setting's, if the rate is swept.
        kinds: Further keys and groups of all levels: with those of another, if they differ.
    """
    settings = [replace(setting, others=others, groups=groups) for others, groups in kinds] if len(kinds) > 1 else []
    if axis.rates is not None:
        low, high = axis.rates
        rates = (setting.rate + gap for gap in np.linspace(-_REACH, _REACH, _NUM_BESIDE))
        settings += [replace(setting, rate=float(min(high, max(low, rate)))) for rate in rates]
    return settings


def _check(runs: Sequence[Run], margin: float, confidence: float) -> None:
    if all(run.collapsed for run in runs):
        raise ValueError("no run learnt anything: there is nothing to decide from")
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin={margin}: must be above 0")
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be above 0.5 and below 1")


def representatives(posterior: Posterior) -> list[tuple[Setting, bool]]:
    """Returns the setting that each level is judged by, and whether it was tried.

    Of the settings tried at a level it is the one with the highest posterior mean: the user takes a setting that was
    trained. A level that was not tried borrows the rate that the nearest level's setting has on the ridge.
    """
    axis = posterior.axis
    tried = settings_of(posterior.runs)
    mean, _ = posterior.mean_and_sd(tried)
    best: dict[float, tuple[float, Setting]] = {}
    for setting, value in zip(tried, mean, strict=True):
        if setting.level not in best or value > best[setting.level][0]:
            best[setting.level] = (float(value), setting)
    targets = []
    for index, level in enumerate(axis.levels):
        if level in best:
            targets.append((best[level][1], True))
            continue
        nearest = min(best, key=lambda other: abs(axis.position(other) - axis.positions[index]))
        source = best[nearest][1]
        offset = source.rate - axis.ridge.base - axis.ridge.slope * axis.position(nearest) if axis.ridge else 0.0
        targets.append((replace(source, level=level, rate=axis.ridge_rate(level, offset)), False))
    return targets


def state_of(loss: Array, gaps: Array, margin: float, confidence: float) -> LevelState:
    """Returns what draws say of a level.

    Args:
        loss: `[D]`: by how much its setting is below the best level's.
        gaps: `[D, L]`: by how much the level, even at its own best rate, is below each level's setting. What is out is
            the level, and one other must be better: the best of many equal ones is always better by chance.
        margin: That still counts as good.
        confidence: Of the statement.
    """
    if float((loss <= margin).mean()) >= confidence:
        return LevelState.GOOD
    return LevelState.OUT if float((gaps > margin / 2).mean(axis=0).max()) >= confidence else LevelState.OPEN


def _lacks_seeds(level: Level) -> bool:
    return level.tried and level.state is not LevelState.OUT and level.fresh < _FRESH_SEEDS


def standing_of(levels: Sequence[Level], margin: float) -> tuple[Standing, Level]:
    """Returns the standing and the level to take; `levels` go from the dearest to the cheapest."""
    good = [level for level in levels if level.state is LevelState.GOOD]
    if not good:
        near = [level for level in levels if level.tried and level.expected_loss <= margin]
        guess = near[-1] if near else min((v for v in levels if v.tried), key=lambda level: level.expected_loss)
        return Standing.NOT_SETTLED, guess
    recommended = good[-1]
    cheaper = levels[levels.index(recommended) + 1 :]
    is_open = any(level.state is LevelState.OPEN for level in cheaper)
    lacks = any(map(_lacks_seeds, levels))
    return (Standing.AT_LEAST if is_open or lacks else Standing.SETTLED), recommended


_FRESH_SEEDS = 2
"""Runs that did not choose their setting, which each level that matters must have before anything is settled."""
