"""How much of the expected quality each swept key explains."""

from __future__ import annotations

import math
from dataclasses import replace

from frostline.advisor.fitted import Fitted, on_one_thread
from frostline.advisor.question import NOTHING_FROZEN, Question

_NUM_VALUES = 12
"""Values of a key by which its importance is measured, at most."""

_FEWEST_SETTINGS = 8
"""That learnt something: of fewer the importances say more of what was assumed than of the runs."""

_NUM_COMBINATIONS = 4096
"""Of values of all keys, at most; of more a random part is taken."""

TOGETHER = "keys together"
"""The share of the variation that no key explains by itself."""


@on_one_thread
def importances(question: Question, fitted: Fitted) -> dict[str, float]:
    """Returns the share of the expected quality's variation over the space that each swept key explains by itself.

    First-order indices of Sobol' (1993) of the posterior mean, so of the very surface that the report draws, with
    all keys evenly spread over their ranges; what is left is `TOGETHER`. They sum to 1. Empty with less than two
    swept keys or eight settings that learnt something, or where nothing varies.
    """
    import numpy as np

    dimensions, posterior = question.dimensions, fitted.posterior
    if posterior is None or len(dimensions) < 2 or len({run.setting for run in posterior.runs}) < _FEWEST_SETTINGS:
        return {}
    values = {each.key: each.values(_NUM_VALUES) for each in dimensions}
    if (axis := question.axis_key) is not None:
        template = posterior.runs[0].setting
        levels = [level for level in fitted.axis.levels if level != NOTHING_FROZEN]
        typed = (question.params(replace(template, level=level))[axis] for level in levels)
        values[axis] = tuple(typed)
    count = math.prod(len(each) for each in values.values())
    which = np.arange(count)
    if count > _NUM_COMBINATIONS:
        which = np.random.default_rng(0).choice(count, _NUM_COMBINATIONS, replace=False)
    places = np.unravel_index(which, [len(each) for each in values.values()])
    combinations = [dict(zip(values, each, strict=True)) for each in zip(*places, strict=True)]
    params = [{key: values[key][place] for key, place in each.items()} for each in combinations]
    settings = [setting for each in params if (setting := question.setting(each)) is not None]
    if len(settings) < len(params):
        return {}
    mean, _ = posterior.mean_and_sd(settings)
    total = float(mean.var())
    if total <= 0:
        return {}
    shares = {}
    for key, own in zip(values, places, strict=True):
        number = np.bincount(own)
        by_value = np.bincount(own, weights=mean - mean.mean())[number > 0] / number[number > 0]
        shares[key] = float(number[number > 0] @ by_value**2 / len(mean)) / total
    explained = max(1.0, sum(shares.values()))  # above 1 by what the random part of many combinations adds
    return {
        **{key: share / explained for key, share in shares.items()},
        TOGETHER: max(0.0, 1 - sum(shares.values())),
    }
