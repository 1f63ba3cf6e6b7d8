"""Forecasts a sweep's time and cost from a few measured trials."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from frostline.spec import DEPTH_KEY, Params, SweepSpec


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What trials cost.

    Attributes:
        epoch_s: Frozen depth (None: it is not swept) -> seconds of one epoch with its evaluation.
        trial_s: Seconds of a trial beside its epochs, in a warm worker.
        start_s: Seconds until a node's workers are ready.
        fill_s: Seconds in which a node fills its prefix cache.
        cache_bytes: What that takes on each node's disk.
    """

    epoch_s: Callable[[int | None], float]
    trial_s: float
    start_s: float
    fill_s: float
    cache_bytes: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a sweep will take.

    Attributes:
        trials: In all.
        num_promoted: Of these, how many are promoted to rung 2.
        by_depth: Frozen depth -> trials, and seconds of one of them in rung 1 and to its end.
        busy_s: Seconds of all trials together.
        longest_s: Of the longest trial.
        wall_s: From the first node's start to the last one's end.
        idle: Share of the slots' time in which they have nothing to do.
        fill_s: Of `wall_s`, what filling takes.
        cache_bytes: On each node's disk.
    """

    trials: int
    num_promoted: int
    by_depth: dict[int | None, tuple[int, float, float]]
    busy_s: float
    longest_s: float
    wall_s: float
    idle: float
    fill_s: float
    cache_bytes: float


def forecast(
    plan: SweepSpec,
    queue: Sequence[Params],
    depths: Sequence[int | None],
    epochs: float,
    costs: Costs,
    workers: int,
) -> Forecast:
    """Schedules the trials of a sweep on its workers.

    The trials of the queue are known; those that a sampler chooses are spread evenly over the depths, and so are the
    finalists, of which there is at least one at each depth. A pruner's savings are left out.

    Args:
        plan: The sweep.
        queue: The trials to try first.
        depths: That the space has; `[None]` if depth is not swept.
        epochs: Of a whole run.
        costs: Measured.
        workers: Slots of all nodes together.
    """
    total = plan.n_trials if plan.n_trials is not None else len(queue)
    chosen = [_depth_of(params, depths) for params in queue[:total]]
    chosen += [depths[number % len(depths)] for number in range(total - len(chosen))]
    seeds = len(plan.seeds) if plan.seeds else 1
    rung_epochs = epochs if plan.rung_epochs is None else float(plan.rung_epochs)

    def rung_1(depth: int | None) -> float:
        if not plan.has_rungs:
            return seeds * (costs.trial_s + epochs * costs.epoch_s(depth))
        return costs.trial_s + rung_epochs * costs.epoch_s(depth)

    def rung_2(depth: int | None) -> float:
        rest = costs.trial_s + (epochs - rung_epochs) * costs.epoch_s(depth)
        return (rest if epochs > rung_epochs else 0.0) + (seeds - 1) * (costs.trial_s + epochs * costs.epoch_s(depth))

    counts = Counter(chosen)
    num_promoted: list[int | None] = []
    if plan.has_rungs:
        share = math.ceil(plan.promote_fraction * total - 1e-9)
        # The best share is expected to hold the best of that share of the depths: the other depths' best are added.
        number = min(total, share + round(len(counts) * (1 - plan.promote_fraction)))
        order = sorted(counts, key=lambda depth: -1 if depth is None else depth)
        num_promoted = [order[index % len(order)] for index in range(number)]
    first = [rung_1(depth) for depth in chosen]
    second = [rung_2(depth) for depth in num_promoted]
    makespan = _makespan(first, workers) + _makespan(second, workers)
    busy_s = sum(first) + sum(second)
    full_cost = {depth: rung_1(depth) + (rung_2(depth) if plan.has_rungs else 0.0) for depth in counts}
    return Forecast(
        trials=total,
        num_promoted=len(num_promoted),
        by_depth={depth: (counts[depth], rung_1(depth), full_cost[depth]) for depth in counts},
        busy_s=busy_s,
        longest_s=max(full_cost.values(), default=0.0),
        wall_s=costs.start_s + costs.fill_s + makespan,
        idle=0.0 if makespan == 0 else max(0.0, 1 - busy_s / (workers * makespan)),
        fill_s=costs.fill_s,
        cache_bytes=costs.cache_bytes,
    )


def _depth_of(params: Params, depths: Sequence[int | None]) -> int | None:
    value = params.get(DEPTH_KEY)
    return value if isinstance(value, int) else depths[0]


def _makespan(seconds: Sequence[float], workers: int) -> float:
    """Returns when the last task ends, if each is started in turn by the first free worker."""
    free = [0.0] * workers
    for task in seconds:
        heapq.heappush(free, heapq.heappop(free) + task)
    return max(free, default=0.0)
