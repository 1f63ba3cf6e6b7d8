"""Which trials are tried first, and which are promoted to the next rung."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from frostline.errors import UserError
from frostline.records.trial import TrialRecord, TrialState, ranked
from frostline.spec import COST_KEYS, DEPTH_KEY, Params, SamplerName, Space, SweepSpec

Key = tuple[int, int | None]
"""Number of a trial, and the seed if a further one is trained."""


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """A rung of a trial's work, to be trained.

    Attributes:
        number: Of the trial.
        params: Of the trial.
        rung: 1 or 2; 3: a further seed of a finished trial.
        seed: Of rung 3.
    """

    number: int
    params: Params
    rung: int
    seed: int | None = None

    @property
    def key(self) -> Key:
        """What distinguishes it from others under way."""
        return self.number, self.seed


def promoted(trials: Sequence[TrialRecord], plan: SweepSpec, maximize: bool) -> list[TrialTask]:
    """Returns the tasks of rung 2: the best share of the trials that wait for it, and the best at each frozen depth.

    "One epoch for all, then finish the best" matches Hyperband at far less compute (arXiv 2307.15422); the best at
    each depth is added so that a table over depths compares finished runs. The order is that of the ranks: if the time
    runs out, the best are done.

    Args:
        trials: All of the study.
        plan: The sweep.
        maximize: Whether more of the objective is better.
    """
    order = _by_rank(trials, plan, maximize)
    chosen = order[: _share(plan.promote_fraction, len(order))]
    best: dict[object, TrialRecord] = {}
    for trial in order:
        best.setdefault(_row(trial.params, plan.axis), trial)
    going = {trial.number for trial in (*chosen, *best.values()) if trial.is_paused}
    return [TrialTask(number=trial.number, params=trial.params, rung=2) for trial in order if trial.number in going]


def promotable(trials: Sequence[TrialRecord], plan: SweepSpec, maximize: bool) -> list[TrialTask]:
    """Returns the trials to promote while rung 1 is still under way, the best first.

    The rule of asynchronous successive halving (Li et al. 2020, algorithm 2): a trial is promoted as soon as it is in
    the best share of the trials that have completed rung 1.

    Args:
        trials: All of the study.
        plan: The sweep.
        maximize: Whether more of the objective is better.
    """
    order = _by_rank(trials, plan, maximize)
    best = order[: math.floor(plan.promote_fraction * len(order) + 1e-9)]
    return [TrialTask(number=trial.number, params=trial.params, rung=2) for trial in best if trial.is_paused]


def _by_rank(trials: Sequence[TrialRecord], plan: SweepSpec, maximize: bool) -> list[TrialRecord]:
    """Returns the trials that finished rung 1, the best there first; ties by number.

    After a few epochs they are compared by their loss, since many accuracies are equal then; whole runs of a first seed
    by the objective, as they are where a loss is not known. A run that learnt nothing comes after all that did.
    """
    alive = [trial.params for trial in trials if trial.first_rung is not None and trial.state is not TrialState.FAILED]
    ended = [
        trial
        for trial in trials
        if trial.first_rung is not None
        and trial.copy_of is None
        and (
            trial.state is not TrialState.FAILED or trial.params not in alive
        )  # else it is retried under another number
    ]
    losses = {trial.number: trial.first_rung.loss for trial in ended if trial.first_rung is not None}
    by_loss = plan.rung_epochs is not None and all(loss is not None for loss in losses.values())

    def rank(trial: TrialRecord) -> tuple[bool, float, int]:
        assert trial.first_rung is not None
        quality = trial.first_rung.quality or 0.0
        loss = losses[trial.number]
        value = loss if by_loss and loss is not None else -quality if maximize else quality
        return not trial.first_rung.learnt, value, trial.number

    return sorted(ended, key=rank)


def eliminated(trials: Sequence[TrialRecord], plan: SweepSpec, maximize: bool, total: int) -> list[int]:
    """Returns the numbers of waiting trials that can't reach rung 2 any more: their checkpoints may go.

    Args:
        trials: All of the study.
        plan: The sweep.
        maximize: Whether more of the objective is better.
        total: Trials that the study is to have.
    """
    tasks = promoted(trials, replace(plan, promote_fraction=1.0), maximize)
    depth_best: dict[object, int] = {}
    for task in tasks:
        depth_best.setdefault(_row(task.params, plan.axis), task.number)
    room = _share(plan.promote_fraction, total)
    return [task.number for rank, task in enumerate(tasks) if rank >= room and task.number not in depth_best.values()]


def _share(share: float, num: int) -> int:
    return math.ceil(share * num - 1e-9)  # 0.07 * 100 is a little above 7


def _row(params: Params, axis: str | None) -> tuple[object, ...]:
    """Returns the row of the answer's table that a trial belongs to: depths of two models, or sizes, don't compare.

    Args:
        params: Of the trial.
        axis: `sweep.axis`.
    """
    values = [params.get(key) for key in ((axis,) if axis is not None else COST_KEYS)]
    # No two trials of a range that can't be counted are of one row, so it has none.
    return TrialRecord.group_of(params), *(value for value in values if isinstance(value, int))


def reason_if_all_failed(trials: Sequence[TrialRecord]) -> str | None:
    """Returns the first reason if no trial has a result, else None."""
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    if not failed or ranked(trials, True) or any(trial.state is TrialState.PRUNED for trial in trials):
        return None
    return failed[0].reason or "unknown"


def queue_of(plan: SweepSpec, space: Space, explicit: Sequence[Params] | None) -> list[Params]:
    """Returns the trials to try before the sampler is asked.

    Args:
        plan: The sweep.
        space: What is swept.
        explicit: The user's own; None: the coarse grid. With the grid sampler the whole grid follows them.

    Raises:
        UserError: A trial is outside of the space.
    """
    grid = plan.sampler.value == "grid"
    trials = list(explicit) if explicit is not None else []
    if explicit is not None and plan.n_trials is not None and len(trials) > plan.n_trials:
        raise UserError(f"sweep.enqueue: names {len(trials)} trials, sweep.n_trials={plan.n_trials}: raise it")
    for params in trials:
        space.check(params)
    if grid:
        trials += [params for params in space.grid(coarse=False) if params not in trials]
    elif explicit is None:
        trials = list(space.grid(coarse=True))
    if explicit is None and plan.sampler is SamplerName.FROST:  # it has an opening of its own
        return []
    limit = plan.n_trials
    if explicit is None and not grid and limit is not None and len(trials) > limit:
        # A drawing rather than a cut or a stride: else the first depths, or one learning rate, would be all there is.
        drawn = set(random.Random(plan.seed).sample(range(len(trials)), limit))
        trials = [params for index, params in enumerate(trials) if index in drawn]
    if plan.deep_first and any(DEPTH_KEY in params for params in trials):
        trials.sort(key=lambda params: -_depth(params))
    if grid and limit is not None:
        trials = trials[:limit]
    if not trials and grid:
        raise UserError("sweep.space: the grid is empty")
    return trials


def _depth(params: Params) -> float:
    value = params.get(DEPTH_KEY)
    return float(value) if isinstance(value, (int, float)) else -1.0
