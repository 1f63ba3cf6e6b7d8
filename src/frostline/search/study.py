"""Owns: a study in Optuna's storage - asked, told, read back as trials. Must not know: how trials are trained.

Only the parent process of a sweep writes to the storage. Everything that a resumed sweep needs lies in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, create_trial
from optuna.trial import TrialState as OptunaState

from frostline import scratch
from frostline.errors import UserError
from frostline.records.trial import BASELINE_NUMBER, TrialOutcome, TrialRecord, TrialState
from frostline.search import attributes
from frostline.search.pruning import ask_pruner
from frostline.search.samplers import FrostSampler, PausedAsPruned, SeededSampler, distribution, make_pruner
from frostline.search.storages import CorruptStudyError, Journal, again_if_cut_off, quiet
from frostline.search.study_view import StudyView, TrialKind, is_paused, kind_of
from frostline.spec import DEPTH_KEY, Params, PrunerName, SamplerName, Space, SweepSpec

_STATES = {
    OptunaState.WAITING: TrialState.WAITING,
    OptunaState.RUNNING: TrialState.RUNNING,
    OptunaState.COMPLETE: TrialState.COMPLETE,
    OptunaState.PRUNED: TrialState.PRUNED,
    OptunaState.FAIL: TrialState.FAILED,
}


class Study:
    """One study.

    Args:
        storage: From `Journal.open` or `open_url`.
        name: Of the study.
        plan: The sweep.
        space: What is swept.
        maximize: Whether more of the objective is better.
        max_steps: How many reports a trial makes at most, if known; for hyperband.
        propose: For sampler `frost`: all trials but one, and the number of that -> its parameters.

    Raises:
        UserError: The study is there already with other directions.
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
        self._maximize = maximize
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
        found = [direction.name.lower() for direction in self._study.directions]
        if found != directions:
            raise UserError(f"study {name}: is there already, to {' and '.join(found)}; give another sweep.name")

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

        return FrostSampler(proposed, self._distributions({}))

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of it was trained yet: it may be made anew for another config."""
        return all(
            frozen.state is OptunaState.WAITING
            or (frozen.state is OptunaState.RUNNING and not frozen.intermediate_values)
            for frozen in self._trials.look().frozen_trials
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
        """What sweep it is of, as somebody described it; None if nobody did yet."""
        found = self._study.user_attrs.get(attributes.DESCRIPTION)
        return dict(found) if found is not None else None

    def describe(self, description: Mapping[str, Any]) -> None:
        """Keeps what sweep it is of: a shared storage must not mix two sweeps of one name."""
        self._study.set_user_attr(attributes.DESCRIPTION, dict(description))

    @property
    def mlflow_run(self) -> str | None:
        """The id of the sweep's run in MLflow, if a command noted it: for one that resumes from another machine."""
        found = self._study.user_attrs.get(attributes.MLFLOW_RUN)
        return None if found is None else str(found)

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
        present = {frozen.number for frozen in self._trials.look().frozen_trials}
        rows = [self._warm_trial(trial) for trial in warm]
        rows += [
            create_trial(state=OptunaState.WAITING, system_attrs={"fixed_params": dict(params)}) for params in queue
        ]
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
            self._study.add_trial(create_trial(state=OptunaState.WAITING, system_attrs={"fixed_params": dict(params)}))
        return len(missing)

    def retry_failed(self) -> int:
        """Puts the trials that failed into the queue once more, beyond the total; returns how many.

        One that failed when it was promoted is promoted again: what rung 1 came to stands.
        """
        trials = self.trials()
        done = [trial.params for trial in trials if trial.state is not TrialState.FAILED]
        again: list[TrialRecord] = []
        for trial in trials:
            known = (*done, *(other.params for other in again))  # it may have failed twice
            if trial.state is TrialState.FAILED and trial.params not in known:
                again.append(trial)
        for trial in again:
            if trial.first_rung is not None:
                paused = replace(trial, state=TrialState.PRUNED, outcome=trial.first_rung, rung=1)
                frozen = self._rebuilt(paused)
                frozen.user_attrs = {**frozen.user_attrs, attributes.RETRY: True}
            else:
                frozen = create_trial(
                    state=OptunaState.WAITING,
                    system_attrs={"fixed_params": dict(trial.params)},
                    user_attrs={attributes.RETRY: True},
                )
            self._study.add_trial(frozen)
        if again:
            self._study.set_user_attr(attributes.EXTRA, self.num_extra + len(again))
        return len(again)

    @property
    def num_extra(self) -> int:
        """Trials beyond the total, because failed ones were tried again."""
        return int(self._study.user_attrs.get(attributes.EXTRA, 0))

    @property
    def is_empty(self) -> bool:
        """Whether nothing was put into it yet."""
        return not self._trials.look().frozen_trials and not self.is_ready

    def _warm_trial(self, trial: TrialRecord) -> FrozenTrial:
        assert trial.outcome is not None
        return create_trial(
            state=OptunaState.COMPLETE,
            values=self._values(trial.outcome),
            params=dict(trial.params),
            distributions=self._distributions(trial.params),
            user_attrs={attributes.WARM: True, attributes.OUTCOME: trial.outcome.to_dict(trial.rung)},
        )

    def rebuild(self, trials: Sequence[TrialRecord], warm: Sequence[TrialRecord] = ()) -> None:
        """Puts recorded trials into an empty study, each under its number.

        A number without a trial's file was that of an earlier study's trial, or of one that had just been chosen: it
        stays taken, and counts for nothing.

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
                self._study.add_trial(self._rebuilt(trial))
            elif number < len(warm):
                self._study.add_trial(self._warm_trial(warm[number]))
            else:
                self._study.add_trial(create_trial(state=OptunaState.FAIL, user_attrs={attributes.SURPLUS: True}))
        for trial in trials:
            for seed, replicate in trial.replicates.items():
                self.tell_replicate(trial.number, seed, replicate)
        failed = [trial for trial in trials if trial.state is TrialState.FAILED and not trial.is_baseline]
        retries = sum(any(p.params == f.params and p.number > f.number for p in trials) for f in failed)
        if retries:
            self._study.set_user_attr(attributes.EXTRA, retries)

    def _rebuilt(self, trial: TrialRecord) -> FrozenTrial:
        attrs: dict[str, Any] = {}
        state, outcome = trial.state, trial.outcome
        if trial.copy_of is not None:
            attrs[attributes.COPY] = trial.copy_of
        if outcome is not None:
            attrs[attributes.OUTCOME] = (trial.first_rung or outcome).to_dict(1)
        if trial.rung == 2 and outcome is not None:
            attrs[attributes.FINAL] = outcome.to_dict(2)
        if trial.is_paused:
            state = TrialState.RUNNING
        wanted = {value: key for key, value in _STATES.items()}[state]
        values = self._values(outcome) if wanted is OptunaState.COMPLETE and outcome is not None else None
        if wanted is OptunaState.PRUNED and trial.first_quality is not None and not self._plan.cost:
            values = [trial.first_quality]
        return create_trial(
            state=wanted,
            values=values,
            params=dict(trial.params),
            distributions=self._distributions(trial.params),
            user_attrs=attrs,
            intermediate_values=dict(trial.history),
        )

    # -- asking ------------------------------------------------------------------------------------------------------

    @again_if_cut_off
    def begin(self, total: int) -> tuple[int, Params] | None:
        """Returns the next trial: one that was running when its process died, a waiting one, or a new one.

        Args:
            total: How many trials the study is to have.

        Returns:
            Number and parameters; None when there are enough.
        """
        trials = self._trials.look().trials
        for frozen in trials:
            is_begun = frozen.state is OptunaState.RUNNING and not is_paused(frozen)
            if is_begun and frozen.number not in self._active:
                return self._suggest(Trial(self._asking, frozen._trial_id))
        waiting = sum(frozen.state is OptunaState.WAITING for frozen in trials)
        if len(trials) - waiting >= total or (not waiting and len(trials) >= total):
            return None
        with quiet():
            return self._suggest(self._asking.ask())

    def _suggest(self, frozen: Trial) -> tuple[int, Params]:
        params: Params = {}
        with quiet():
            for group in self._space.groups:
                params[group.key] = frozen._suggest(group.key, distribution(group))
            for dimension in self._space.of(params):
                params[dimension.key] = frozen._suggest(dimension.key, distribution(dimension))
        self._active.add(frozen.number)
        return frozen.number, params

    @again_if_cut_off
    def settle(self, number: int, quality: float) -> None:
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
        if frozen.state is not OptunaState.RUNNING or is_paused(frozen):  # nobody prunes what was promoted
            return False
        self._study._storage.set_trial_intermediate_value(frozen._trial_id, step, value)
        if self._plan.pruner.name is PrunerName.NONE:
            return False
        verdicts: dict[str, Any] = dict(frozen.user_attrs.get(attributes.VERDICTS) or {"steps": {}, "attrs": {}})
        known = verdicts["steps"].get(str(step))
        if known is None:
            newest = self._frozen(number)
            others = [other for other in self._trials.look().trials if self._is_comparable(other, newest)]
            known, attrs = ask_pruner(
                self._pruner, newest, others,
                name=self._study.study_name, maximize=self._maximize, noted=verdicts["attrs"],
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

        A value that is no finite number makes it FAILED: Optuna would take -inf for the best.

        Args:
            number: Of the trial.
            outcome: What rung 1 came to.
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
                values, state = self._values(outcome), OptunaState.COMPLETE
            elif outcome.state is TrialState.PRUNED:
                state = OptunaState.PRUNED
            self._study.tell(number, values=values, state=state, skip_if_finished=True)

    def release(self, number: int) -> None:
        """Lets go of a trial that was interrupted: it stays RUNNING, and is begun again by the next command."""
        self._active.discard(number)

    @again_if_cut_off
    def tell_final(self, number: int, outcome: TrialOutcome) -> None:
        """Ends a trial that was promoted.

        Args:
            number: Of the trial.
            outcome: What rung 2 came to.
        """
        frozen = self._frozen(number)
        storage = self._study._storage
        if frozen.state.is_finished():  # told before, by a call that was cut off
            return
        storage.set_trial_user_attr(frozen._trial_id, attributes.FINAL, outcome.to_dict(2))
        done = outcome.state is TrialState.COMPLETE
        state = OptunaState.COMPLETE if done else OptunaState.FAIL
        storage.set_trial_state_values(frozen._trial_id, state, self._values(outcome) if done else None)

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

    @again_if_cut_off
    def tell_replicate(self, number: int, seed: int, outcome: TrialOutcome) -> None:
        """Keeps what a further seed of a finished trial came to: Optuna never changes a finished trial.

        Args:
            number: Of the trial.
            seed: Of the run.
            outcome: Of this seed alone.
        """
        self._study.set_user_attr(f"{attributes.REPLICATE}{number}.{seed}", outcome.to_dict(1))

    @again_if_cut_off
    def tell_baseline(self, params: Params, outcome: TrialOutcome) -> None:
        """Keeps what full fine-tuning came to, which lies outside of the space and is no trial.

        Args:
            params: With which it was trained.
            outcome: Of it.
        """
        self._study.set_user_attr(attributes.BASELINE, {"params": params, "outcome": outcome.to_dict(1)})

    @again_if_cut_off
    def baseline(self) -> TrialRecord | None:
        """Returns what full fine-tuning came to; None if it was not trained."""
        return baseline_in(self._study)

    def with_baseline(self) -> list[TrialRecord]:
        """Returns all trials, and the baseline behind them if it was trained."""
        baseline = self.baseline()
        return self.trials() if baseline is None else [*self.trials(), baseline]

    # -- reading -----------------------------------------------------------------------------------------------------

    @again_if_cut_off
    def trials(self, *, fresh: bool = True) -> list[TrialRecord]:
        """Returns all trials by number.

        Args:
            fresh: As the storage has them now; else as they were when a trial was begun last.
        """
        look = self._trials.look() if fresh or self._trials.last is None else self._trials.last
        known = self._read_before
        found = [known.get(frozen.number) or self._read(frozen) for frozen in look.trials]
        replicates = replicates_in(self._study)
        if replicates:
            found = [
                replace(trial, replicates=dict(sorted(own.items()))) if (own := replicates.get(trial.number)) else trial
                for trial in found
            ]
        if all(trial.copy_of is None for trial in found):
            return found
        first = {trial.number: trial.first_rung or trial.outcome for trial in found}
        return [
            trial if trial.copy_of is None else replace(trial, first_rung=first.get(trial.copy_of)) for trial in found
        ]

    def _read(self, frozen: FrozenTrial) -> TrialRecord:
        """Reads a trial; a finished one, which never changes, only once: the loop asks for all at each event."""
        trial = _record_of(frozen)
        if frozen.state.is_finished():
            self._read_before[frozen.number] = trial
        return trial

    def num_warm(self) -> int:
        """Returns how many trials of an earlier study it learns from."""
        return sum(kind_of(frozen) is TrialKind.WARM for frozen in self._trials.look().frozen_trials)

    def _frozen(self, number: int) -> FrozenTrial:
        storage = self._study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        return storage.get_trial(trial_id)

    def _values(self, outcome: TrialOutcome) -> list[float]:
        assert outcome.quality is not None
        values = [outcome.quality]
        if self._plan.cost is not None:
            values.append(float(outcome.cost[self._plan.cost.value]))
        return values

    def _distributions(self, params: Params) -> dict[str, Any]:
        dimensions = (*self._space.groups, *self._space.of(params))
        return {dimension.key: distribution(dimension) for dimension in dimensions}


def read_trials(path: Path, name: str) -> list[TrialRecord]:
    """Returns the trials in a sweep's journal, the baseline first; nothing is written to it.

    Args:
        path: Of the journal; a process may be at work on it.
        name: Of the study.

    Returns:
        By number; nothing if the journal can't be read.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with scratch.folder("journal") as folder, quiet():
        copy = folder / path.name
        try:
            shutil.copyfile(path, copy)
            study = optuna.load_study(study_name=name, storage=Journal(copy).open())
        except (OSError, KeyError, CorruptStudyError):
            return []
        replicates = replicates_in(study)
        trials = [
            replace(_record_of(frozen), replicates=dict(sorted(replicates.get(frozen.number, {}).items())))
            for frozen in study.get_trials(deepcopy=False)
            if kind_of(frozen) is TrialKind.TRIAL
        ]
        baseline = baseline_in(study)
    return trials if baseline is None else [baseline, *trials]


def baseline_in(study: optuna.Study) -> TrialRecord | None:
    """Returns what full fine-tuning came to; None if it was not trained."""
    data = study.user_attrs.get(attributes.BASELINE)
    if data is None:
        return None
    outcome = TrialOutcome.from_dict(data["outcome"])[0]
    return TrialRecord(
        number=BASELINE_NUMBER, params=dict(data["params"]), state=outcome.state, outcome=outcome,
        replicates=dict(sorted(replicates_in(study).get(BASELINE_NUMBER, {}).items())),
    )  # fmt: skip


def replicates_in(study: optuna.Study) -> dict[int, dict[int, TrialOutcome]]:
    """Returns what further seeds came to, by number of the trial and seed."""
    found: dict[int, dict[int, TrialOutcome]] = {}
    for key, data in study.user_attrs.items():
        if key.startswith(attributes.REPLICATE):
            number, seed = key.removeprefix(attributes.REPLICATE).split(".")
            found.setdefault(int(number), {})[int(seed)] = TrialOutcome.from_dict(data)[0]
    return found


def _record_of(frozen: FrozenTrial) -> TrialRecord:
    state, rung = _STATES[frozen.state], 1
    first = _outcome(frozen, attributes.OUTCOME)
    final = _outcome(frozen, attributes.FINAL) if frozen.state.is_finished() else None
    outcome = first
    if final is not None and first is not None:
        rung = 2
        outcome = final
        if final.state is TrialState.FAILED:
            # It keeps its rung 1 result, is not retried, and no other trial is promoted instead: a resumed sweep must
            # end in the same table as an undisturbed one.
            outcome = replace(
                first, state=TrialState.FAILED, reason=final.reason, cause=final.cause, error=final.error, paused=False
            )
    elif outcome is not None and outcome.paused and is_paused(frozen):
        state = TrialState.PRUNED  # unless it is promoted
    elif outcome is not None and outcome.paused:
        outcome = replace(outcome, paused=False)
    params = frozen.params or frozen.system_attrs.get("fixed_params", {})
    return TrialRecord(
        number=frozen.number,
        params=dict(params),
        state=state,
        outcome=outcome,
        history=dict(frozen.intermediate_values),
        copy_of=frozen.user_attrs.get(attributes.COPY),
        rung=rung,
        first_rung=first if first is not None and first.paused else None,
    )


def _outcome(frozen: FrozenTrial, mark: str) -> TrialOutcome | None:
    data = frozen.user_attrs.get(mark)
    return TrialOutcome.from_dict(data)[0] if data else None
