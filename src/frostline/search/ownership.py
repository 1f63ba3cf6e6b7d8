"""Owns: whose a trial is, and who goes on with one whose parent is gone. Must not know: asking, telling, reading back.

Nothing here takes a lock. What two parents may do at the same moment is decided by what a storage does once: it ends a
trial once, and it gives each trial a number of its own, of which the smallest wins.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from frostline.search import marks
from frostline.search.presence import Presence
from frostline.search.trials import Kind, Look, Trials, is_paused, kind_of

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
        running = [
            trial
            for trial in counted
            if trial.state is TrialState.RUNNING and not is_paused(trial) and not self.is_mine(trial)
        ]
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
            if trial.state is not TrialState.RUNNING or is_paused(trial):
                continue
            if trial.user_attrs.get(marks.OWNER) not in gone and not self._is_orphan(trial):
                continue
            ended = self._ended_for_its_host(trial)
            if ended is None:
                continue
            if kind_of(ended) is Kind.ENDED_FOR_ITS_HOST:  # else it had failed: only that was still to be written down
                self.put_back(ended)
            return True
        return False

    def _ended_for_its_host(self, trial: FrozenTrial) -> FrozenTrial | None:
        """Ends a trial whose host is gone; None if it has ended, or another parent was faster."""
        try:
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except (RuntimeError, KeyError):
            return None
        log.warning("point %d: its host is gone; it is taken over", trial.number)
        return self._storage.get_trial(trial._trial_id)

    def put_back(self, trial: FrozenTrial) -> FrozenTrial | None:
        """Puts the point of an ended trial back, unless another parent has just done so; returns its new trial.

        A trial that completed stage 1 keeps that result and belongs to this parent; any other one is WAITING again.
        """
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}  # it may have died while it drew them
        attrs = {key: value for key, value in trial.user_attrs.items() if key == marks.RETRY}
        attrs[marks.TAKEN_FROM] = trial.number
        outcome = trial.user_attrs.get(marks.OUTCOME) or {}
        if outcome.get("more"):
            mine = self._add(
                TrialState.RUNNING,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
                user_attrs={**attrs, marks.OWNER: self.owner, marks.OUTCOME: outcome},
            )
        else:
            mine = self._add(TrialState.WAITING, system_attrs={"fixed_params": dict(params)}, user_attrs=attrs)
        trials = self._trials.look().trials
        again = [other.number for other in trials if other.user_attrs.get(marks.TAKEN_FROM) == trial.number]
        if mine.number == min(again):
            return mine
        self.withdraw(mine._trial_id)
        return None

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

    def claim(self, trial: FrozenTrial) -> int | None:
        """Returns the number under which stage 2 of a point is this parent's work; None if it is another's.

        It is its own, or that of a parent that is gone: then it goes on under a new number, as in stage 1.

        Args:
            trial: As the storage has it now.
        """
        if not is_paused(trial):
            return None
        if self.is_mine(trial):
            return trial.number
        gone = self.gone() if self._grace_s is not None else {}
        if trial.user_attrs.get(marks.OWNER) not in gone:
            return None
        ended = self._ended_for_its_host(trial)
        taken = None if ended is None else self.put_back(ended)
        return None if taken is None else taken.number

    def is_awaited(self, point: FrozenTrial) -> bool:
        """Returns whether somebody will finish a point: its host, or whoever takes it over if that is not off."""
        return self._grace_s is not None or point.user_attrs.get(marks.OWNER) not in self.gone()

    def may_end(self, trial: FrozenTrial) -> bool:
        """Returns whether this parent ends a trial that is not promoted: its own, or that of one that is gone."""
        return self.is_mine(trial) or trial.user_attrs.get(marks.OWNER) in self.gone()

    # -- trials ------------------------------------------------------------------------------------------------------

    def _add(self, state: TrialState, **content: Any) -> FrozenTrial:
        """Adds a trial and returns it; `Study.add_trial` doesn't say which number it got."""
        trial_id = self._storage.create_new_trial(
            self._study._study_id, template_trial=create_trial(state=state, **content)
        )
        return self._storage.get_trial(trial_id)
