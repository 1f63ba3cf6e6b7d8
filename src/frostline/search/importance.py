"""Owns: which key of a space a sweep's result depends on. Must not know: how the points were chosen."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import optuna
from optuna.trial import create_trial

from frostline.point import Point, State
from frostline.search.samplers import distribution
from frostline.search.storages import quiet
from frostline.spec import Space

log = logging.getLogger(__name__)

_MIN_FOR_IMPORTANCES = 8  # assumed: below it the shares say more of chance than of the space


def importances(points: Sequence[Point], space: Space, *, maximize: bool) -> dict[str, float]:
    """Returns how much of the quality's variation each key explains, summing to 1 (PED-ANOVA, arXiv 2304.10255).

    All points are compared at the end of stage 1: the finished ones alone are a biased choice. Empty with fewer than 8
    points or where nothing can be said.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    shadow = optuna.create_study(direction="maximize" if maximize else "minimize")
    for point in points:
        value = point.first_quality
        if value is None or point.is_baseline or point.state not in {State.COMPLETE, State.PRUNED}:
            continue
        dimensions = (*space.groups, *space.of(point.params))
        distributions = {dimension.key: distribution(dimension) for dimension in dimensions}
        shadow.add_trial(create_trial(value=value, params=dict(point.params), distributions=distributions))
    if len(shadow.get_trials(deepcopy=False)) < _MIN_FOR_IMPORTANCES:
        return {}
    try:
        with quiet():
            found = optuna.importance.get_param_importances(shadow)
    except (ValueError, RuntimeError) as error:
        log.debug("no importances: %s", error)
        return {}
    return {key: float(value) for key, value in found.items()}
