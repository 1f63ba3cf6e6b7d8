"""A study: it is asked for trials and gets their results.

Only the parent process of a sweep writes to the storage. Everything that a resumed sweep needs lies in it.
"""

from __future__ import annotations

from typing import Any

from optuna.trial import FrozenTrial, Trial
from optuna.trial import TrialState as OptunaState

from frostline.records.trial import TrialOutcome, TrialState
from frostline.search import attributes
from frostline.search.pruning import ask_pruner
from frostline.search.samplers import distribution
from frostline.search.storages import again_if_cut_off, quiet
from frostline.search.stored_study import StoredStudy
from frostline.search.study_view import is_paused
from frostline.spec import DEPTH_KEY, Params, PrunerName


class Study(StoredStudy):
    """A study that a sweep's command works on: see `StoredStudy` for its arguments."""

    # -- asking ------------------------------------------------------------------------------------------------------

    @again_if_cut_off
    def begin(self, total: int) -> tuple[int, Params] | None:
        """Returns the next trial: one that was running when its process died, a waiting one, or a new one.

        Args:
            total: How many trials the study is to have.

        Returns:
            Number and parameters; None when there are enough.
        """
        trials = self._trials.read().trials
        for frozen in trials:
            is_begun = frozen.state is OptunaState.RUNNING and not is_paused(frozen)
            if is_begun and frozen.number not in self._active:
                return self._suggest(Trial(self._asking, frozen._trial_id))
        waiting = sum(frozen.state is OptunaState.WAITING for frozen in trials)
        if len(trials) - waiting >= total or (not waiting and len(trials) >= total):
            return None
        with quiet():
            return self._suggest(self._asking.ask())

    def _suggest(self, trial: Trial) -> tuple[int, Params]:
        params: Params = {}
        with quiet():
            for group in self._space.groups:
                params[group.key] = trial._suggest(group.key, distribution(group))
            for dimension in self._space.of(params):
                params[dimension.key] = trial._suggest(dimension.key, distribution(dimension))
        self._active.add(trial.number)
        return trial.number, params

    @again_if_cut_off
    def set_rung_value(self, number: int, quality: float) -> None:
        """Makes the last report of a trial that waits for rung 2 its quality: what samplers compare it by.

        A run keeps its best epoch, and doesn't report its last one.
        """
        frozen = self._frozen(number)
        last = max(frozen.intermediate_values, default=0)
        reported = self._plan.rung_epochs is not None and last >= self._plan.rung_epochs
        step = last if reported else last + 1
        self._study._storage.set_trial_intermediate_value(frozen._trial_id, step, quality)

    # -- telling -----------------------------------------------------------------------------------------------------

    @again_if_cut_off
    def report(self, number: int, step: int, value: float) -> bool:
        """Stores a report of a running trial and returns whether the pruner wants it stopped.

        With several objectives Optuna prunes nothing; here the quality is compared among the trials of its own depth.

        Args:
            number: Of the trial.
            step: Of the report, counted from 1.
            value: The objective.
        """
        frozen = self._frozen(number)
        if frozen.state is not OptunaState.RUNNING or is_paused(frozen):  # promoted trials are not pruned
            return False
        self._study._storage.set_trial_intermediate_value(frozen._trial_id, step, value)
        if self._plan.pruner.name is PrunerName.NONE:
            return False
        verdicts: dict[str, Any] = dict(frozen.user_attrs.get(attributes.VERDICTS) or {"steps": {}, "attrs": {}})
        known = verdicts["steps"].get(str(step))
        if known is None:
            newest = self._frozen(number)
            others = [other for other in self._trials.read().trials if self._is_comparable(other, newest)]
            known, attrs = ask_pruner(
                self._pruner, newest, others,
                name=self._study.study_name, maximize=self.maximize, noted=verdicts["attrs"],
            )  # fmt: skip
            # In one piece: a pruner that is asked again after a kill must not see half of what it noted before.
            verdicts = {"steps": {**verdicts["steps"], str(step): known}, "attrs": attrs}
            self._study._storage.set_trial_user_attr(frozen._trial_id, attributes.VERDICTS, verdicts)
        return bool(known)

    def _is_comparable(self, other: FrozenTrial, frozen: FrozenTrial) -> bool:
        if other.number == frozen.number or not other.intermediate_values:
            return False
        return self._plan.cost is None or other.params.get(DEPTH_KEY) == frozen.params.get(DEPTH_KEY)

    @again_if_cut_off
    def tell(self, number: int, outcome: TrialOutcome, *, copy_of: int | None = None) -> None:
        """Ends a trial, or its rung 1: then it waits, until it is promoted or pruned.

        Values must be finite, which `loop.checked` ensures: Optuna would take -inf for the best.

        Args:
            number: Of the trial.
            outcome: The result of rung 1.
            copy_of: Number of the like trial that it was taken from.
        """
        frozen = self._frozen(number)
        self._active.discard(number)
        if frozen.state is not OptunaState.RUNNING:
            return
        storage = self._study._storage
        with quiet():
            storage.set_trial_user_attr(frozen._trial_id, attributes.OUTCOME, outcome.to_dict(1))
            if copy_of is not None:
                storage.set_trial_user_attr(frozen._trial_id, attributes.COPY, copy_of)
            if outcome.paused:
                return
            values, state = None, OptunaState.FAIL
            if outcome.state is TrialState.COMPLETE:
                values, state = self._make.values(outcome), OptunaState.COMPLETE
            elif outcome.state is TrialState.PRUNED:
                state = OptunaState.PRUNED
            self._study.tell(number, values=values, state=state, skip_if_finished=True)

    def release(self, number: int) -> None:
        """Releases a trial that was interrupted: it stays RUNNING, and the next command resumes it."""
        self._active.discard(number)

    @again_if_cut_off
    def tell_final(self, number: int, outcome: TrialOutcome) -> None:
        """Ends a trial that was promoted.

        Args:
            number: Of the trial.
            outcome: The result of rung 2.
        """
        frozen = self._frozen(number)
        storage = self._study._storage
        if frozen.state.is_finished():  # an earlier call that was cut off did it
            return
        storage.set_trial_user_attr(frozen._trial_id, attributes.FINAL, outcome.to_dict(2))
        done = outcome.state is TrialState.COMPLETE
        state = OptunaState.COMPLETE if done else OptunaState.FAIL
        storage.set_trial_state_values(frozen._trial_id, state, self._make.values(outcome) if done else None)

    @again_if_cut_off
    def prune(self, number: int) -> None:
        """Ends a trial that is not promoted."""
        frozen = self._frozen(number)
        if not is_paused(frozen):
            return
        value = frozen.intermediate_values.get(max(frozen.intermediate_values, default=0))
        self._study._storage.set_trial_state_values(
            frozen._trial_id, OptunaState.PRUNED, None if value is None else [value]
        )
