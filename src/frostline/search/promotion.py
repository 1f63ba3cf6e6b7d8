"""Owns: which points are tried first, and which go on to their end. Must not know: Optuna, how points are trained."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from frostline.errors import UserError
from frostline.records.trial import Point, State, ranked
from frostline.spec import COST_KEYS, DEPTH_KEY, Params, SamplerName, Space, SweepSpec

Key = tuple[int, int | None]
"""Number of a point, and the seed if a further one is trained."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A stage of a point's work, to be trained.

    Attributes:
        number: Of the point.
        params: Of the point.
        stage: 1 or 2; 3: a further seed of a finished point.
        seed: Of stage 3.
    """

    number: int
    params: Params
    stage: int
    seed: int | None = None

    @property
    def key(self) -> Key:
        """What tells it from others under way."""
        return self.number, self.seed


def finalists(points: Sequence[Point], plan: SweepSpec, maximize: bool) -> list[Task]:
    """Returns the tasks of stage 2: the best share of the points that wait for it, and the best at each frozen depth.

    "One epoch for all, then finish the best" matches Hyperband at far less compute (arXiv 2307.15422); the best at
    each depth is added so that a table over depths compares finished runs. The order is that of the ranks: if the time
    runs out, the best are done.

    Args:
        points: All of the study.
        plan: The sweep.
        maximize: Whether more of the objective is better.
    """
    order = _by_rank(points, plan, maximize)
    chosen = order[: _share(plan.finish, len(order))]
    best: dict[object, Point] = {}
    for point in order:
        best.setdefault(_row(point.params, plan.axis), point)
    going = {point.number for point in (*chosen, *best.values()) if point.is_paused}
    return [Task(number=point.number, params=point.params, stage=2) for point in order if point.number in going]


def promotable(points: Sequence[Point], plan: SweepSpec, maximize: bool) -> list[Task]:
    """Returns the trials to promote while stage 1 is still under way, the best first.

    The rule of asynchronous successive halving (Li et al. 2020, algorithm 2): a trial is promoted as soon as it is in
    the best share of the trials that have completed stage 1.

    Args:
        points: All of the study.
        plan: The sweep.
        maximize: Whether more of the objective is better.
    """
    order = _by_rank(points, plan, maximize)
    best = order[: math.floor(plan.finish * len(order) + 1e-9)]
    return [Task(number=point.number, params=point.params, stage=2) for point in best if point.is_paused]


def _by_rank(points: Sequence[Point], plan: SweepSpec, maximize: bool) -> list[Point]:
    """Returns the points that came to the end of stage 1, the best there first; ties by number.

    After a few epochs they are compared by their loss, since many accuracies are equal then; whole runs of a first seed
    by the objective, as they are where a loss is not known. A run that learnt nothing comes after all that did.
    """
    alive = [point.params for point in points if point.first is not None and point.state is not State.FAILED]
    ended = [
        point
        for point in points
        if point.first is not None
        and point.copy_of is None
        and (point.state is not State.FAILED or point.params not in alive)  # else it is retried under another number
    ]
    losses = {point.number: point.first.loss for point in ended if point.first is not None}
    by_loss = plan.first_epochs is not None and all(loss is not None for loss in losses.values())

    def rank(point: Point) -> tuple[bool, float, int]:
        assert point.first is not None
        quality = point.first.quality or 0.0
        loss = losses[point.number]
        value = loss if by_loss and loss is not None else -quality if maximize else quality
        return not point.first.learnt, value, point.number

    return sorted(ended, key=rank)


def hopeless(points: Sequence[Point], plan: SweepSpec, maximize: bool, total: int) -> list[int]:
    """Returns the numbers of waiting points that can't reach stage 2 any more: their checkpoints may go.

    Args:
        points: All of the study.
        plan: The sweep.
        maximize: Whether more of the objective is better.
        total: Points that the study is to have.
    """
    tasks = finalists(points, replace(plan, finish=1.0), maximize)
    depth_best: dict[object, int] = {}
    for task in tasks:
        depth_best.setdefault(_row(task.params, plan.axis), task.number)
    room = _share(plan.finish, total)
    return [task.number for rank, task in enumerate(tasks) if rank >= room and task.number not in depth_best.values()]


def _share(share: float, num: int) -> int:
    return math.ceil(share * num - 1e-9)  # 0.07 * 100 is a little above 7


def _row(params: Params, axis: str | None) -> tuple[object, ...]:
    """Returns the row of the answer's table that a point belongs to: depths of two models, or sizes, don't compare.

    Args:
        params: Of the point.
        axis: `sweep.axis`.
    """
    values = [params.get(key) for key in ((axis,) if axis is not None else COST_KEYS)]
    # No two points of a range that can't be counted are of one row, so it has none.
    return Point.group_of(params), *(value for value in values if isinstance(value, int))


def check_alike(points: Sequence[Point]) -> str | None:
    """Returns the first reason if no point has a result, else None."""
    failed = [point for point in points if point.state is State.FAILED]
    if not failed or ranked(points, True) or any(point.state is State.PRUNED for point in points):
        return None
    return failed[0].reason or "unknown"


def queue_of(plan: SweepSpec, space: Space, explicit: Sequence[Params] | None) -> list[Params]:
    """Returns the points to try before the sampler is asked.

    Args:
        plan: The sweep.
        space: What is swept.
        explicit: The user's own; None: the coarse grid. With the grid sampler the whole grid follows them.

    Raises:
        UserError: A point is outside of the space.
    """
    grid = plan.sampler.value == "grid"
    points = list(explicit) if explicit is not None else []
    if explicit is not None and plan.n_trials is not None and len(points) > plan.n_trials:
        raise UserError(f"sweep.enqueue: names {len(points)} points, sweep.n_trials={plan.n_trials}: raise it")
    for params in points:
        space.check(params)
    if grid:
        points += [params for params in space.grid(coarse=False) if params not in points]
    elif explicit is None:
        points = list(space.grid(coarse=True))
    if explicit is None and plan.sampler is SamplerName.FROST:  # it has an opening of its own
        return []
    limit = plan.n_trials
    if explicit is None and not grid and limit is not None and len(points) > limit:
        # A drawing rather than a cut or a stride: else the first depths, or one learning rate, would be all there is.
        drawn = set(random.Random(plan.seed).sample(range(len(points)), limit))
        points = [params for index, params in enumerate(points) if index in drawn]
    if plan.deep_first and any(DEPTH_KEY in params for params in points):
        points.sort(key=lambda params: -_depth(params))
    if grid and limit is not None:
        points = points[:limit]
    if not points and grid:
        raise UserError("sweep.space: the grid is empty")
    return points


def _depth(params: Params) -> float:
    value = params.get(DEPTH_KEY)
    return float(value) if isinstance(value, (int, float)) else -1.0
