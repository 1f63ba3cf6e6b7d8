"""Which setting to try next: where the ridge lies, one setting on it for each level, then expected improvement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import ndtr

from frostline.decision.posterior import Posterior
from frostline.decision.runs import Axis, Setting, settings_of

_SCOUT_GAP = 0.8
"""Decades beside the ridge at which the cheapest levels are tried, too. A difference of two such runs tells the place
of the best rate to 0.2 decades: noise of 2.7 points, curvature of 5 points per decade squared.
"""

_NUM_SCOUT_LEVELS = 2
"""Cheapest levels that are tried beside the ridge."""

_MOST_LEVELS = 9
"""Levels that get a run of their own before the search is free; of a deeper model they are spread over the depth."""

_OPENING_REACH = 2.0
"""Standard deviations of the ridge's offset within which the opening places a level's first rate."""

_SAME_RATE = 0.02
"""Decades within which two rates are one: what is left of a rate that was rounded to three digits."""

_STEP = 0.1
"""Distance of the rates that are considered, in decades: a twentieth of a point where the loss is 5 points per decade
squared."""


def opening_levels(axis: Axis) -> tuple[float, ...]:
    """Returns the levels that are tried first, in the order in which they are: all, or some spread over the axis.

    The scouts' levels come first, the cheapest ones; then the middle of the others, then always the one farthest (in
    places, not in value) from those before it, the dearest of equals. The cheap end is known by then; good weights are
    often those of a dear level, and every level trained before it delays them.
    """
    count = len(axis.levels)
    levels = axis.levels[::-1]
    if count > _MOST_LEVELS:
        places = {round(index * (count - 1) / (_MOST_LEVELS - 1)) for index in range(_MOST_LEVELS)}
        levels = tuple(axis.levels[place] for place in sorted(places, reverse=True))
    order = list(range(min(_NUM_SCOUT_LEVELS, len(levels))))
    left = list(range(len(order), len(levels)))
    if left:
        order.append(left.pop(len(left) // 2))
    while left:
        order.append(max(left, key=lambda place: (min(abs(place - other) for other in order), place)))
        left.remove(order[-1])
    return tuple(levels[place] for place in order)


def scouts(axis: Axis, allowed: Sequence[float] | None = None) -> list[Setting]:
    """Returns the settings to begin with: the cheapest levels on the ridge and beside it, where there are rates.

    What they show of the ridge holds for the dear levels, where each try costs many times as much.

    Args:
        axis: Of cost.
        allowed: See `next_opening`.
    """
    settings: list[Setting] = []
    for level in opening_levels(axis)[:_NUM_SCOUT_LEVELS]:
        for offset in (0.0, -_SCOUT_GAP, _SCOUT_GAP) if axis.rates is not None else (0.0,):
            setting = Setting(level=level, rate=_nearest(axis.ridge_rate(level, offset), allowed))
            near = (other for other in settings if other.level == level)
            if all(abs(other.rate - setting.rate) > _SCOUT_GAP / 2 for other in near):
                settings.append(setting)
    return settings


def _nearest(rate: float, allowed: Sequence[float] | None) -> float:
    """Returns the rate that can be had next to one, of some in log10; that one itself if all can be had."""
    return min(allowed, key=lambda each: abs(each - rate)) if allowed else rate


def rates_of(axis: Axis) -> list[float]:
    """Returns log10 of the rates that are considered at each level."""
    if axis.rates is None:
        return [0.0]
    low, high = axis.rates
    count = max(1, math.ceil((high - low) / _STEP - 1e-9))
    return [low + (high - low) * index / count for index in range(count + 1)]


def next_opening(
    axis: Axis,
    started: Sequence[tuple[float, float]],
    posterior: Posterior | None,
    allowed: Sequence[float] | None = None,
) -> tuple[float, float] | None:
    """Returns level and rate (log10) of the next run of the opening; None when the opening is over.

    After the scouts each level gets one run (in the order of `opening_levels`) at the rate near the ridge that the runs
    so far say is best: the scouts place the rate for dear levels.

    Args:
        axis: Of cost.
        started: Level and rate of every run that ended or is under way.
        posterior: Of the runs that ended; None: there are none yet, and the ridge is taken as it is expected.
        allowed: log10 of the rates that can be had, where they are a list; None: all between the ends.
    """
    for scout in scouts(axis, allowed):
        if not any(level == scout.level and abs(rate - scout.rate) < _SAME_RATE for level, rate in started):
            return scout.level, scout.rate
    known = {level for level, _ in started}
    for level in opening_levels(axis):
        if level in known:
            continue
        if posterior is None or axis.ridge is None:
            return level, _nearest(axis.ridge_rate(level), allowed)
        reach = _OPENING_REACH * axis.ridge.offset_sd
        count = max(1, round(reach / _STEP))
        offsets = [reach * index / count for index in range(-count, count + 1)]
        template = posterior.runs[0].setting
        rates = [_nearest(axis.ridge_rate(level, offset), allowed) for offset in offsets]
        candidates = [replace(template, level=level, rate=rate) for rate in rates]
        mean, _ = posterior.mean_and_sd(candidates)
        return level, candidates[int(np.argmax(np.round(mean, 12)))].rate
    return None


def next_setting(
    posterior: Posterior, candidates: Sequence[Setting], *, progress: float, exclude: Sequence[Setting] = ()
) -> Setting:
    """Returns the candidate with the greatest expected improvement for its cost.

    The improvement (Jones, Schonlau and Welch 1998) is over the highest posterior mean of the settings tried, since the
    values are noisy. It is divided by `cost ** (1 - progress)`: at first cheap settings are preferred, at the end cost
    does not count any more ("cost cooling", Lee et al. 2020, arXiv 2003.10870).

    Args:
        posterior: Of the runs at hand.
        candidates: To choose from, at least one.
        progress: Share of the search that is over, 0 to 1.
        exclude: Settings that were tried or are under way; taken all the same if nothing else is left.
    """
    known = set(exclude)
    fresh = [setting for setting in candidates if setting not in known] or list(candidates)
    incumbent = float(posterior.mean_and_sd(settings_of(posterior.runs))[0].max())
    mean, sd = posterior.mean_and_sd(fresh)
    sd = np.maximum(sd, 1e-12)
    gap = (mean - incumbent) / sd
    improvement = sd * (gap * ndtr(gap) + np.exp(-0.5 * gap**2) / math.sqrt(2 * math.pi))
    costs = np.array([posterior.axis.cost(setting.level) for setting in fresh])
    score = np.log(np.maximum(improvement, 1e-300)) - (1 - min(1.0, max(0.0, progress))) * np.log(costs)
    return fresh[int(np.argmax(score))]
