"""Owns: whose a trial is, and who goes on with one whose parent is gone. Must not know: asking, telling, reading back.

Nothing here takes a lock. What two parents may do at the same moment is decided by what a storage does once: it ends a
trial once, and it gives each trial a number of its own, of which the smallest wins.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from frostline.search import marks
from frostline.search.presence import Presence
from frostline.search.trials import Kind, Look, Trials, has_outcome, kind_of
from frostline.spec import Params

log = logging.getLogger(__name__)

_GRACE_S = 120.0
"""Seconds after which a parent is taken for dead where nobody takes its points over: it is not waited for any more."""

_ORPHAN_S = 60.0  # assumed: a parent signs what it has begun within milliseconds


class Ownership:
    """What belongs to one of several parents on a study.

    Args:
        study: Of all of them.
        trials: Of the study.
        owner: This parent; None: the study is its own, and so is every trial.
        grace_s: Seconds without a sign of life after which another owner's points are taken over; None: never.
    """

    def __init__(self, study: optuna.Study, trials: Trials, owner: str | None, grace_s: float | None) -> None:
        self._study = study
        self._trials = trials
        self._storage = study._storage
        self.owner = owner
        self._grace_s = grace_s
        self.presence = None if owner is None else Presence(study, owner, grace_s or _GRACE_S)
        self._unsigned: dict[int, float] = {}
        """Since when a trial is seen that nobody has signed."""
        self._claims: dict[int, int] = {}
        """Points of others that are taken to their end here, and the trials that say so."""

    def is_mine(self, trial: FrozenTrial) -> bool:
        """Returns whether a trial is this parent's: its checkpoints lie here, and nobody else goes on with it."""
        if self.owner is None:
            return True
        owner = trial.user_attrs.get(marks.OWNER)
        # One that runs and has no owner: another parent has asked for it and not yet said so, or died in that moment.
        return owner == self.owner or (owner is None and trial.state is not TrialState.RUNNING)

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        if marks.OWNER in trial.user_attrs:
            return False
        now = time.monotonic()
        return now - self._unsigned.setdefault(trial.number, now) > _ORPHAN_S

    def gone(self) -> dict[str, dict[str, Any]]:
        """Returns the parents that are gone, as the storage says now, with what they said of themselves."""
        if self.presence is None:
            return {}
        trials = self._trials.look().trials
        owners = {owner for trial in trials if (owner := trial.user_attrs.get(marks.OWNER)) is not None}
        return self.presence.gone(owners, fresh=True)

    def others_at_work(self, total: int) -> bool:
        """Returns whether points of stage 1 are under way elsewhere, or waiting: the best are chosen among all.

        Args:
            total: How many points the study is to have.
        """
        if self.presence is None:
            return False
        counted = self._trials.look().points
        begun = sum(trial.state is not TrialState.WAITING for trial in counted)
        # Nobody takes them over where that is switched off: then they are not waited for.
        gone = self.gone() if self._grace_s is None else {}
        running = [trial for trial in counted if trial.state is TrialState.RUNNING and not self.is_mine(trial)]
        return (begun < total and len(counted) > begun) or any(
            trial.user_attrs.get(marks.OWNER) not in gone for trial in running
        )

    # -- stage 1 -----------------------------------------------------------------------------------------------------

    def take_over(self) -> bool:
        """Puts a point back into the queue whose owner is gone; returns whether there was one.

        Whoever ends the dead trial takes its point over.
        """
        if self.presence is None:
            return False
        gone = self.gone() if self._grace_s is not None else {}
        for trial in self._trials.look().points:
            if trial.state is not TrialState.RUNNING:
                continue
            if trial.user_attrs.get(marks.OWNER) not in gone and not self._is_orphan(trial):
                continue
            try:
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            except (RuntimeError, KeyError):  # it has ended, or another parent was faster
                continue
            ended = self._storage.get_trial(trial._trial_id)
            if kind_of(ended) is Kind.ENDED_FOR_ITS_HOST:  # else it had failed: only that was still to be written down
                log.warning("point %d: its host is gone; it is taken over", trial.number)
                self.put_back(ended)
            return True
        return False

    def put_back(self, trial: FrozenTrial) -> None:
        """Puts the point of an ended trial into the queue once more, unless another parent has just done so."""
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}  # it may have died while it drew them
        mine = self._add(
            TrialState.WAITING,
            system_attrs={"fixed_params": dict(params)},
            user_attrs={
                marks.TAKEN_FROM: trial.number,
                **{key: value for key, value in trial.user_attrs.items() if key == marks.RETRY},
            },
        )
        trials = self._trials.look().trials
        again = [other.number for other in trials if other.user_attrs.get(marks.TAKEN_FROM) == trial.number]
        if mine.number != min(again):
            self.withdraw(mine._trial_id)

    def put_back_what_is_between(self, look: Look) -> bool:
        """Puts back a point that somebody has ended for its dead host and not yet put back; returns whether there was.

        That somebody may have died in between, or be about to do it: then one of the two withdraws.

        Args:
            look: The study as it is now.
        """
        left = look.between_owners if self.presence is not None else ()
        if left:
            self.put_back(left[0])
        return bool(left)

    def withdraw(self, trial_id: int) -> None:
        """Ends a trial that another one does the work of; it counts for nothing, whoever ends it."""
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(trial_id, marks.SURPLUS, True)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def has_lost(self, trial: FrozenTrial) -> bool:
        """Returns whether a point that is trained here was taken over by another parent, as after a long pause."""
        return self.presence is not None and kind_of(trial) in {Kind.ENDED_FOR_ITS_HOST, Kind.SURPLUS}

    # -- stage 2 -----------------------------------------------------------------------------------------------------

    def claim(self, point: FrozenTrial, params: Params, distributions: Mapping[str, BaseDistribution]) -> bool:
        """Returns whether stage 2 of a point is this parent's work: its own, or that of one who is gone.

        Two parents may claim at the same moment: the one whose claim was first has it.

        Args:
            point: As stage 1 left it.
            params: Its parameters.
            distributions: Of its parameters.
        """
        number = point.number
        gone = self.gone() if self._grace_s is not None else {}
        living = [trial for trial in self._claimed(number) if trial.user_attrs.get(marks.OWNER) not in gone]
        for trial in living:
            if trial.user_attrs.get(marks.OWNER) == self.owner:
                self._claims[number] = trial._trial_id
        if living:
            return number in self._claims
        if any(
            trial.user_attrs.get(marks.CONTINUES) == number and has_outcome(trial)
            for trial in self._trials.look().stage_2
        ):
            return False  # another parent has finished it
        if self.is_mine(point):
            return True
        if point.user_attrs.get(marks.OWNER) not in gone:
            return False
        mine = self._add(
            TrialState.RUNNING,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs={marks.CONTINUES: number, marks.OWNER: self.owner},
        )
        claims = [trial for trial in self._claimed(number) if trial.user_attrs.get(marks.OWNER) not in gone]
        is_back = point.user_attrs.get(marks.OWNER) not in self.gone()  # and goes on with what is its own
        if is_back or mine.number != min(trial.number for trial in claims):
            self.withdraw(mine._trial_id)
            return False
        log.warning("point %d: its host is gone; it is trained to its end here", number)
        self._claims[number] = mine._trial_id
        return True

    def claimed_here(self, number: int) -> int | None:
        """Returns the id of the trial by which this parent has claimed a point of another one, and lets go of it."""
        return self._claims.pop(number, None)

    def is_awaited(self, point: FrozenTrial) -> bool:
        """Returns whether somebody will finish a point: its host, or whoever takes it over if that is not off."""
        return self._grace_s is not None or point.user_attrs.get(marks.OWNER) not in self.gone()

    def _claimed(self, number: int) -> list[FrozenTrial]:
        return [
            trial
            for trial in self._trials.look().stage_2
            if trial.state is TrialState.RUNNING and trial.user_attrs.get(marks.CONTINUES) == number
        ]

    # -- trials ------------------------------------------------------------------------------------------------------

    def _add(self, state: TrialState, **content: Any) -> FrozenTrial:
        """Adds a trial and returns it; `Study.add_trial` doesn't say which number it got."""
        trial_id = self._storage.create_new_trial(
            self._study._study_id, template_trial=create_trial(state=state, **content)
        )
        return self._storage.get_trial(trial_id)
