"""A study in Optuna's storage: opened, described, filled, read back as trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from frostline.errors import UserError
from frostline.records.trial import BASELINE_NUMBER, TrialOutcome, TrialRecord, TrialState
from frostline.search import attributes
from frostline.search.frozen_trials import FrozenTrials, record_of
from frostline.search.read_trials import baseline_in, replicates_in
from frostline.search.samplers import FrostSampler, PausedAsPruned, SeededSampler, make_pruner
from frostline.search.storages import again_if_cut_off, quiet
from frostline.search.study_view import StudyView, TrialKind, kind_of
from frostline.spec import Params, SamplerName, Space, SweepSpec


class StoredStudy:
    """One study, as it is stored.

    Args:
        storage: From `Journal.open` or `open_url`.
        name: Of the study.
        plan: The sweep.
        space: What is swept.
        maximize: Whether more of the objective is better.
        max_steps: How many reports a trial makes at most, if known; for hyperband.
        propose: For sampler `frost`: all trials but one, and the number of that -> its parameters.

    Raises:
        UserError: The study already exists with other directions.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        plan: SweepSpec,
        space: Space,
        *,
        maximize: bool,
        max_steps: int | None = None,
        propose: Callable[[Sequence[TrialRecord], int], Params] | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._plan = plan
        self._space = space
        self._make = FrozenTrials(plan, space)
        self.maximize = maximize
        self._active: set[int] = set()
        self._read_before: dict[int, TrialRecord] = {}
        self._pruner = make_pruner(plan.pruner, max_steps)
        directions: list[Any] = ["maximize" if maximize else "minimize", *(["minimize"] if plan.cost else [])]
        self._storage = storage
        self._propose = propose
        self._directions = directions
        self._study = self._open(name)
        self._asking = self._with_paused()
        self._trials = StudyView(self._study)
        stored_directions = [direction.name.lower() for direction in self._study.directions]
        if stored_directions != directions:
            raise UserError(
                f"study {name}: already exists, to {' and '.join(stored_directions)}; give another sweep.name"
            )

    def _open(self, name: str) -> optuna.Study:
        with quiet():
            return optuna.create_study(
                storage=self._storage,
                study_name=name,
                directions=self._directions,
                sampler=self._sampler(),
                pruner=self._pruner,
                load_if_exists=True,
            )

    def _with_paused(self) -> optuna.Study:
        """Returns the same study as its sampler is to see it."""
        storage: Any = PausedAsPruned(self._study._storage)
        return optuna.Study(
            study_name=self._study.study_name, storage=storage, sampler=self._study.sampler, pruner=self._pruner
        )

    def _sampler(self) -> BaseSampler:
        propose = self._propose
        if self._plan.sampler is not SamplerName.FROST or propose is None:
            return SeededSampler(self._plan.sampler, self._plan.seed)

        def proposed(number: int) -> Params:
            return propose([trial for trial in self.trials() if trial.number != number], number)

        return FrostSampler(proposed, self._make.distributions({}))

    @property
    def is_untouched(self) -> bool:
        """Whether no trial of the sweep has reported or ended: it may be reset for another config."""
        return all(
            frozen.state is OptunaState.WAITING
            or (frozen.state is OptunaState.RUNNING and not frozen.intermediate_values)
            for frozen in self._trials.read().trials
        )

    def reset(self) -> None:
        """Makes it anew, empty."""
        name = self._study.study_name
        optuna.delete_study(study_name=name, storage=self._storage)
        self._study = self._open(name)
        self._asking = self._with_paused()
        self._trials = StudyView(self._study)
        self._active.clear()
        self._read_before.clear()

    @property
    def description(self) -> dict[str, Any] | None:
        """The description of its sweep that `describe` stored; None before."""
        stored = self._study.user_attrs.get(attributes.DESCRIPTION)
        return dict(stored) if stored is not None else None

    def describe(self, description: Mapping[str, Any]) -> None:
        """Keeps what sweep it is of: a shared storage must not mix two sweeps of one name."""
        self._study.set_user_attr(attributes.DESCRIPTION, dict(description))

    @property
    def mlflow_run(self) -> str | None:
        """The id of the sweep's run in MLflow, if a command noted it: for one that resumes from another machine."""
        stored = self._study.user_attrs.get(attributes.MLFLOW_RUN)
        return None if stored is None else str(stored)

    def note_mlflow_run(self, run_id: str) -> None:
        """Keeps the id of the sweep's run in MLflow."""
        self._study.set_user_attr(attributes.MLFLOW_RUN, run_id)

    # -- filling -----------------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether the queue was filled."""
        return bool(self._study.user_attrs.get(attributes.READY))

    def fill(self, queue: Sequence[Params], warm: Sequence[TrialRecord] = ()) -> None:
        """Puts the trials to try first into the study, after those of an earlier one to learn from. Once.

        Args:
            queue: In the order in which they are tried.
            warm: Trials of an earlier study.
        """
        if self.is_ready:
            return
        present = {frozen.number for frozen in self._trials.read().frozen_trials}
        rows = [self._make.warm(trial) for trial in warm] + [self._make.waiting(params) for params in queue]
        for number, frozen in enumerate(rows):
            if number not in present:
                self._study.add_trial(frozen)
        self._study.set_user_attr(attributes.READY, True)

    def extend(self, queue: Sequence[Params], total: int) -> int:
        """Puts the trials of a queue that the study lacks behind its own: a grid whose total was raised.

        Args:
            queue: All of it.
            total: Trials that the study is to have.

        Returns:
            How many were added.
        """
        trials = self.trials()
        present = [trial.params for trial in trials]
        missing = [params for params in queue if params not in present][: max(0, total - len(trials))]
        for params in missing:
            self._study.add_trial(self._make.waiting(params))
        return len(missing)

    def retry_failed(self) -> int:
        """Puts the trials that failed into the queue once more, beyond the total; returns how many.

        One that failed when it was promoted is promoted again: the result of rung 1 stays.
        """
        trials = self.trials()
        done = [trial.params for trial in trials if trial.state is not TrialState.FAILED]
        retried: list[TrialRecord] = []
        for trial in trials:
            known = (*done, *(other.params for other in retried))  # it may have failed twice
            if trial.state is TrialState.FAILED and trial.params not in known:
                retried.append(trial)
        for trial in retried:
            if trial.first_rung is not None:
                paused = replace(trial, state=TrialState.PRUNED, outcome=trial.first_rung, rung=1)
                frozen = self._make.recorded(paused)
                frozen.user_attrs = {**frozen.user_attrs, attributes.RETRY: True}
            else:
                frozen = self._make.waiting(trial.params, is_retry=True)
            self._study.add_trial(frozen)
        if retried:
            self._study.set_user_attr(attributes.EXTRA, self.num_extra + len(retried))
        return len(retried)

    @property
    def num_extra(self) -> int:
        """Trials beyond the total, because failed ones were tried again."""
        return int(self._study.user_attrs.get(attributes.EXTRA, 0))

    @property
    def is_empty(self) -> bool:
        """Whether nothing was put into it yet."""
        return not self._trials.read().frozen_trials and not self.is_ready

    def rebuild(self, trials: Sequence[TrialRecord], warm: Sequence[TrialRecord] = ()) -> None:
        """Puts recorded trials into an empty study, each under its number.

        A number without a record becomes the warm-start trial that had it, else a placeholder that samplers ignore.

        Args:
            trials: By their own files.
            warm: Trials of an earlier study, which have the first numbers.
        """
        by_number = {trial.number: trial for trial in trials}
        baseline = by_number.get(BASELINE_NUMBER)
        if baseline is not None and baseline.outcome is not None:
            self.tell_baseline(baseline.params, baseline.outcome)
        for number in range(max(by_number, default=-1) + 1):
            trial = by_number.get(number)
            if trial is not None:
                self._study.add_trial(self._make.recorded(trial))
            elif number < len(warm):
                self._study.add_trial(self._make.warm(warm[number]))
            else:
                self._study.add_trial(self._make.surplus())
        for trial in trials:
            for seed, replicate in trial.replicates.items():
                self.tell_replicate(trial.number, seed, replicate)
        failed = [trial for trial in trials if trial.state is TrialState.FAILED and not trial.is_baseline]
        retries = sum(any(p.params == f.params and p.number > f.number for p in trials) for f in failed)
        if retries:
            self._study.set_user_attr(attributes.EXTRA, retries)

    # -- reading -----------------------------------------------------------------------------------------------------

    @again_if_cut_off
    def tell_replicate(self, number: int, seed: int, outcome: TrialOutcome) -> None:
        """Stores the result of a further seed of a finished trial: Optuna never changes a finished trial.

        Args:
            number: Of the trial.
            seed: Of the run.
            outcome: Of this seed alone.
        """
        self._study.set_user_attr(f"{attributes.REPLICATE}{number}.{seed}", outcome.to_dict(1))

    @again_if_cut_off
    def tell_baseline(self, params: Params, outcome: TrialOutcome) -> None:
        """Stores the result of full fine-tuning, which lies outside of the space and is no trial.

        Args:
            params: With which it was trained.
            outcome: Of it.
        """
        self._study.set_user_attr(attributes.BASELINE, {"params": params, "outcome": outcome.to_dict(1)})

    @again_if_cut_off
    def baseline(self) -> TrialRecord | None:
        """Returns the result of full fine-tuning; None if it was not trained."""
        return baseline_in(self._study)

    def with_baseline(self) -> list[TrialRecord]:
        """Returns all trials, and the baseline behind them if it was trained."""
        baseline = self.baseline()
        return self.trials() if baseline is None else [*self.trials(), baseline]

    @again_if_cut_off
    def trials(self, *, fresh: bool = True) -> list[TrialRecord]:
        """Returns all trials by number.

        Args:
            fresh: As the storage has them now; False: the newest snapshot that an earlier call read.
        """
        snapshot = self._trials.read() if fresh or self._trials.last is None else self._trials.last
        known = self._read_before
        trials = [known.get(frozen.number) or self._read(frozen) for frozen in snapshot.trials]
        replicates = replicates_in(self._study)
        if replicates:
            trials = [
                replace(trial, replicates=dict(sorted(own.items()))) if (own := replicates.get(trial.number)) else trial
                for trial in trials
            ]
        if all(trial.copy_of is None for trial in trials):
            return trials
        first = {trial.number: trial.first_rung or trial.outcome for trial in trials}
        return [
            trial if trial.copy_of is None else replace(trial, first_rung=first.get(trial.copy_of)) for trial in trials
        ]

    def _read(self, frozen: FrozenTrial) -> TrialRecord:
        """Reads a trial; a finished one, which never changes, only once: the loop asks for all at each event."""
        trial = record_of(frozen)
        if frozen.state.is_finished():
            self._read_before[frozen.number] = trial
        return trial

    def num_warm(self) -> int:
        """Returns how many trials of an earlier study it learns from."""
        return sum(kind_of(frozen) is TrialKind.WARM for frozen in self._trials.read().frozen_trials)

    def _frozen(self, number: int) -> FrozenTrial:
        storage = self._study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        return storage.get_trial(trial_id)
