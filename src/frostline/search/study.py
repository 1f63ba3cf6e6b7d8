"""Owns: a study in Optuna's storage - asked, told, read back as points. Must not know: how points are trained.

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
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from frostline import scratch
from frostline.errors import UserError
from frostline.records.trial import BASELINE_NUMBER, Outcome, Point, State
from frostline.search import attributes
from frostline.search.pruning import ask_pruner
from frostline.search.samplers import FrostSampler, PausedAsPruned, SeededSampler, distribution, make_pruner
from frostline.search.storages import CorruptStudyError, Journal, again_if_cut_off, quiet
from frostline.search.study_view import Kind, Trials, is_paused, kind_of
from frostline.spec import DEPTH_KEY, Params, PrunerName, SamplerName, Space, SweepSpec

_STATES = {
    TrialState.WAITING: State.WAITING,
    TrialState.RUNNING: State.RUNNING,
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.FAILED,
}


class Study:
    """One study.

    Args:
        storage: From `Journal.open` or `open_url`.
        name: Of the study.
        plan: The sweep.
        space: What is swept.
        maximize: Whether more of the objective is better.
        max_steps: How many reports a point makes at most, if known; for hyperband.
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
        propose: Callable[[Sequence[Point], int], Params] | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._plan = plan
        self._space = space
        self._maximize = maximize
        self._active: set[int] = set()
        self._read_before: dict[int, Point] = {}
        self._pruner = make_pruner(plan.pruner, max_steps)
        directions: list[Any] = ["maximize" if maximize else "minimize", *(["minimize"] if plan.cost else [])]
        self._storage = storage
        self._propose = propose
        self._directions = directions
        self._study = self._open(name)
        self._asking = self._with_paused()
        self._trials = Trials(self._study)
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
            return propose([point for point in self.points() if point.number != number], number)

        return FrostSampler(proposed, self._distributions({}))

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of it was trained yet: it may be made anew for another config."""
        return all(
            trial.state is TrialState.WAITING or (trial.state is TrialState.RUNNING and not trial.intermediate_values)
            for trial in self._trials.look().trials
        )

    def reset(self) -> None:
        """Makes it anew, empty."""
        name = self._study.study_name
        optuna.delete_study(study_name=name, storage=self._storage)
        self._study = self._open(name)
        self._asking = self._with_paused()
        self._trials = Trials(self._study)
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

    def fill(self, queue: Sequence[Params], warm: Sequence[Point] = ()) -> None:
        """Puts the points to try first into the study, after those of an earlier one to learn from. Once.

        Args:
            queue: In the order in which they are tried.
            warm: Points of an earlier study.
        """
        if self.is_ready:
            return
        present = {trial.number for trial in self._trials.look().trials}
        rows = [self._warm_trial(point) for point in warm]
        rows += [
            create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": dict(params)}) for params in queue
        ]
        for number, trial in enumerate(rows):
            if number not in present:
                self._study.add_trial(trial)
        self._study.set_user_attr(attributes.READY, True)

    def extend(self, queue: Sequence[Params], total: int) -> int:
        """Puts the points of a queue that the study lacks behind its own: a grid whose total was raised.

        Args:
            queue: All of it.
            total: Points that the study is to have.

        Returns:
            How many were added.
        """
        points = self.points()
        present = [point.params for point in points]
        missing = [params for params in queue if params not in present][: max(0, total - len(points))]
        for params in missing:
            self._study.add_trial(create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": dict(params)}))
        return len(missing)

    def retry_failed(self) -> int:
        """Puts the points that failed into the queue once more, beyond the total; returns how many.

        One that failed when it was promoted is promoted again: what stage 1 came to stands.
        """
        points = self.points()
        done = [point.params for point in points if point.state is not State.FAILED]
        again: list[Point] = []
        for point in points:
            known = (*done, *(other.params for other in again))  # it may have failed twice
            if point.state is State.FAILED and point.params not in known:
                again.append(point)
        for point in again:
            if point.first is not None:
                paused = replace(point, state=State.PRUNED, outcome=point.first, stage=1)
                trial = self._rebuilt(paused)
                trial.user_attrs = {**trial.user_attrs, attributes.RETRY: True}
            else:
                trial = create_trial(
                    state=TrialState.WAITING,
                    system_attrs={"fixed_params": dict(point.params)},
                    user_attrs={attributes.RETRY: True},
                )
            self._study.add_trial(trial)
        if again:
            self._study.set_user_attr(attributes.EXTRA, self.num_extra + len(again))
        return len(again)

    @property
    def num_extra(self) -> int:
        """Points beyond the total, because failed ones were tried again."""
        return int(self._study.user_attrs.get(attributes.EXTRA, 0))

    @property
    def is_empty(self) -> bool:
        """Whether nothing was put into it yet."""
        return not self._trials.look().trials and not self.is_ready

    def _warm_trial(self, point: Point) -> FrozenTrial:
        assert point.outcome is not None
        return create_trial(
            state=TrialState.COMPLETE,
            values=self._values(point.outcome),
            params=dict(point.params),
            distributions=self._distributions(point.params),
            user_attrs={attributes.WARM: True, attributes.OUTCOME: point.outcome.to_dict(point.stage)},
        )

    def rebuild(self, points: Sequence[Point], warm: Sequence[Point] = ()) -> None:
        """Puts recorded points into an empty study, each under its number.

        A number without a point's file was that of an earlier study's point, or of one that had just been chosen: it
        stays taken, and counts for nothing.

        Args:
            points: By their own files.
            warm: Points of an earlier study, which have the first numbers.
        """
        by_number = {point.number: point for point in points}
        baseline = by_number.get(BASELINE_NUMBER)
        if baseline is not None and baseline.outcome is not None:
            self.tell_baseline(baseline.params, baseline.outcome)
        for number in range(max(by_number, default=-1) + 1):
            point = by_number.get(number)
            if point is not None:
                self._study.add_trial(self._rebuilt(point))
            elif number < len(warm):
                self._study.add_trial(self._warm_trial(warm[number]))
            else:
                self._study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={attributes.SURPLUS: True}))
        for point in points:
            for seed, replicate in point.replicates.items():
                self.tell_replicate(point.number, seed, replicate)
        failed = [point for point in points if point.state is State.FAILED and not point.is_baseline]
        retries = sum(any(p.params == f.params and p.number > f.number for p in points) for f in failed)
        if retries:
            self._study.set_user_attr(attributes.EXTRA, retries)

    def _rebuilt(self, point: Point) -> FrozenTrial:
        attrs: dict[str, Any] = {}
        state, outcome = point.state, point.outcome
        if point.copy_of is not None:
            attrs[attributes.COPY] = point.copy_of
        if outcome is not None:
            attrs[attributes.OUTCOME] = (point.first or outcome).to_dict(1)
        if point.stage == 2 and outcome is not None:
            attrs[attributes.FINAL] = outcome.to_dict(2)
        if point.is_paused:
            state = State.RUNNING
        wanted = {value: key for key, value in _STATES.items()}[state]
        values = self._values(outcome) if wanted is TrialState.COMPLETE and outcome is not None else None
        if wanted is TrialState.PRUNED and point.first_quality is not None and not self._plan.cost:
            values = [point.first_quality]
        return create_trial(
            state=wanted,
            values=values,
            params=dict(point.params),
            distributions=self._distributions(point.params),
            user_attrs=attrs,
            intermediate_values=dict(point.history),
        )

    # -- asking ------------------------------------------------------------------------------------------------------

    @again_if_cut_off
    def begin(self, total: int) -> tuple[int, Params] | None:
        """Returns the next point: one that was running when its process died, a waiting one, or a new one.

        Args:
            total: How many points the study is to have.

        Returns:
            Number and parameters; None when there are enough.
        """
        points = self._trials.look().points
        for trial in points:
            is_begun = trial.state is TrialState.RUNNING and not is_paused(trial)
            if is_begun and trial.number not in self._active:
                return self._suggest(Trial(self._asking, trial._trial_id))
        waiting = sum(trial.state is TrialState.WAITING for trial in points)
        if len(points) - waiting >= total or (not waiting and len(points) >= total):
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
    def settle(self, number: int, quality: float) -> None:
        """Makes the last report of a trial that waits for stage 2 its quality: what samplers compare it by.

        A run keeps its best epoch, and doesn't report its last one.
        """
        frozen = self._frozen(number)
        last = max(frozen.intermediate_values, default=0)
        reported = self._plan.first_epochs is not None and last >= self._plan.first_epochs
        step = last if reported else last + 1
        self._study._storage.set_trial_intermediate_value(frozen._trial_id, step, quality)

    # -- telling -----------------------------------------------------------------------------------------------------

    @again_if_cut_off
    def report(self, number: int, step: int, value: float) -> bool:
        """Stores a report of a running trial and returns whether the pruner wants it stopped.

        With several objectives Optuna prunes nothing; here the quality is compared among the points of its own depth.

        Args:
            number: Of the trial.
            step: Of the report, counted from 1.
            value: The objective.
        """
        frozen = self._frozen(number)
        if frozen.state is not TrialState.RUNNING or is_paused(frozen):  # nobody prunes what was promoted
            return False
        self._study._storage.set_trial_intermediate_value(frozen._trial_id, step, value)
        if self._plan.pruner.name is PrunerName.NONE:
            return False
        verdicts: dict[str, Any] = dict(frozen.user_attrs.get(attributes.VERDICTS) or {"steps": {}, "attrs": {}})
        known = verdicts["steps"].get(str(step))
        if known is None:
            newest = self._frozen(number)
            others = [trial for trial in self._trials.look().points if self._is_comparable(trial, newest)]
            known, attrs = ask_pruner(
                self._pruner, newest, others,
                name=self._study.study_name, maximize=self._maximize, noted=verdicts["attrs"],
            )  # fmt: skip
            # In one piece: a pruner that is asked again after a kill must not see half of what it noted before.
            verdicts = {"steps": {**verdicts["steps"], str(step): known}, "attrs": attrs}
            self._study._storage.set_trial_user_attr(frozen._trial_id, attributes.VERDICTS, verdicts)
        return bool(known)

    def _is_comparable(self, trial: FrozenTrial, frozen: FrozenTrial) -> bool:
        if trial.number == frozen.number or not trial.intermediate_values:
            return False
        return self._plan.cost is None or trial.params.get(DEPTH_KEY) == frozen.params.get(DEPTH_KEY)

    @again_if_cut_off
    def tell(self, number: int, outcome: Outcome, *, copy_of: int | None = None) -> None:
        """Ends a trial, or its stage 1: then it waits, until it is promoted or pruned.

        A value that is no finite number makes it FAILED: Optuna would take -inf for the best.

        Args:
            number: Of the trial.
            outcome: What stage 1 came to.
            copy_of: Number of the like point that it was taken from.
        """
        frozen = self._frozen(number)
        self._active.discard(number)
        if frozen.state is not TrialState.RUNNING:
            return
        storage = self._study._storage
        with quiet():
            storage.set_trial_user_attr(frozen._trial_id, attributes.OUTCOME, outcome.to_dict(1))
            if copy_of is not None:
                storage.set_trial_user_attr(frozen._trial_id, attributes.COPY, copy_of)
            if outcome.more:
                return
            values, state = None, TrialState.FAIL
            if outcome.state is State.COMPLETE:
                values, state = self._values(outcome), TrialState.COMPLETE
            elif outcome.state is State.PRUNED:
                state = TrialState.PRUNED
            self._study.tell(number, values=values, state=state, skip_if_finished=True)

    def release(self, number: int) -> None:
        """Lets go of a trial that was interrupted: it stays RUNNING, and is begun again by the next command."""
        self._active.discard(number)

    @again_if_cut_off
    def tell_final(self, number: int, outcome: Outcome) -> None:
        """Ends a trial that was promoted.

        Args:
            number: Of the trial.
            outcome: What stage 2 came to.
        """
        frozen = self._frozen(number)
        storage = self._study._storage
        if frozen.state.is_finished():  # told before, by a call that was cut off
            return
        storage.set_trial_user_attr(frozen._trial_id, attributes.FINAL, outcome.to_dict(2))
        done = outcome.state is State.COMPLETE
        state = TrialState.COMPLETE if done else TrialState.FAIL
        storage.set_trial_state_values(frozen._trial_id, state, self._values(outcome) if done else None)

    @again_if_cut_off
    def prune(self, number: int) -> None:
        """Ends a trial that is not promoted."""
        frozen = self._frozen(number)
        if not is_paused(frozen):
            return
        value = frozen.intermediate_values.get(max(frozen.intermediate_values, default=0))
        self._study._storage.set_trial_state_values(
            frozen._trial_id, TrialState.PRUNED, None if value is None else [value]
        )

    @again_if_cut_off
    def tell_replicate(self, number: int, seed: int, outcome: Outcome) -> None:
        """Keeps what a further seed of a finished trial came to: Optuna never changes a finished trial.

        Args:
            number: Of the trial.
            seed: Of the run.
            outcome: Of this seed alone.
        """
        self._study.set_user_attr(f"{attributes.REPLICATE}{number}.{seed}", outcome.to_dict(1))

    @again_if_cut_off
    def tell_baseline(self, params: Params, outcome: Outcome) -> None:
        """Keeps what full fine-tuning came to, which lies outside of the space and is no trial.

        Args:
            params: With which it was trained.
            outcome: Of it.
        """
        self._study.set_user_attr(attributes.BASELINE, {"params": params, "outcome": outcome.to_dict(1)})

    @again_if_cut_off
    def baseline(self) -> Point | None:
        """Returns what full fine-tuning came to; None if it was not trained."""
        return baseline_in(self._study)

    def with_baseline(self) -> list[Point]:
        """Returns all points, and the baseline behind them if it was trained."""
        baseline = self.baseline()
        return self.points() if baseline is None else [*self.points(), baseline]

    # -- reading -----------------------------------------------------------------------------------------------------

    @again_if_cut_off
    def points(self, *, fresh: bool = True) -> list[Point]:
        """Returns all points by number.

        Args:
            fresh: As the storage has them now; else as they were when a point was begun last.
        """
        look = self._trials.look() if fresh or self._trials.last is None else self._trials.last
        known = self._read_before
        found = [known.get(trial.number) or self._read(trial) for trial in look.points]
        replicates = replicates_in(self._study)
        if replicates:
            found = [
                replace(point, replicates=dict(sorted(own.items()))) if (own := replicates.get(point.number)) else point
                for point in found
            ]
        if all(point.copy_of is None for point in found):
            return found
        first = {point.number: point.first or point.outcome for point in found}
        return [point if point.copy_of is None else replace(point, first=first.get(point.copy_of)) for point in found]

    def _read(self, trial: FrozenTrial) -> Point:
        """Reads a trial; a finished one, which never changes, only once: the loop asks for all at each event."""
        point = _point(trial)
        if trial.state.is_finished():
            self._read_before[trial.number] = point
        return point

    def num_warm(self) -> int:
        """Returns how many points of an earlier study it learns from."""
        return sum(kind_of(trial) is Kind.WARM for trial in self._trials.look().trials)

    def _frozen(self, number: int) -> FrozenTrial:
        storage = self._study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        return storage.get_trial(trial_id)

    def _values(self, outcome: Outcome) -> list[float]:
        assert outcome.quality is not None
        values = [outcome.quality]
        if self._plan.cost is not None:
            values.append(float(outcome.cost[self._plan.cost.value]))
        return values

    def _distributions(self, params: Params) -> dict[str, Any]:
        dimensions = (*self._space.groups, *self._space.of(params))
        return {dimension.key: distribution(dimension) for dimension in dimensions}


def read_points(path: Path, name: str) -> list[Point]:
    """Returns the points in a sweep's journal, the baseline first; nothing is written to it.

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
        points = [
            replace(_point(trial), replicates=dict(sorted(replicates.get(trial.number, {}).items())))
            for trial in study.get_trials(deepcopy=False)
            if kind_of(trial) is Kind.POINT
        ]
        baseline = baseline_in(study)
    return points if baseline is None else [baseline, *points]


def baseline_in(study: optuna.Study) -> Point | None:
    """Returns what full fine-tuning came to; None if it was not trained."""
    data = study.user_attrs.get(attributes.BASELINE)
    if data is None:
        return None
    outcome = Outcome.from_dict(data["outcome"])[0]
    return Point(
        number=BASELINE_NUMBER, params=dict(data["params"]), state=outcome.state, outcome=outcome,
        replicates=dict(sorted(replicates_in(study).get(BASELINE_NUMBER, {}).items())),
    )  # fmt: skip


def replicates_in(study: optuna.Study) -> dict[int, dict[int, Outcome]]:
    """Returns what further seeds came to, by number of the point and seed."""
    found: dict[int, dict[int, Outcome]] = {}
    for key, data in study.user_attrs.items():
        if key.startswith(attributes.REPLICATE):
            number, seed = key.removeprefix(attributes.REPLICATE).split(".")
            found.setdefault(int(number), {})[int(seed)] = Outcome.from_dict(data)[0]
    return found


def _point(trial: FrozenTrial) -> Point:
    state, stage = _STATES[trial.state], 1
    first = _outcome(trial, attributes.OUTCOME)
    final = _outcome(trial, attributes.FINAL) if trial.state.is_finished() else None
    outcome = first
    if final is not None and first is not None:
        stage = 2
        outcome = final
        if final.state is State.FAILED:
            # It keeps its stage 1 result, is not retried, and no other trial is promoted instead: a resumed sweep must
            # end in the same table as an undisturbed one.
            outcome = replace(
                first, state=State.FAILED, reason=final.reason, cause=final.cause, error=final.error, more=False
            )
    elif outcome is not None and outcome.more and is_paused(trial):
        state = State.PRUNED  # unless it is promoted
    elif outcome is not None and outcome.more:
        outcome = replace(outcome, more=False)
    params = trial.params or trial.system_attrs.get("fixed_params", {})
    return Point(
        number=trial.number,
        params=dict(params),
        state=state,
        outcome=outcome,
        history=dict(trial.intermediate_values),
        copy_of=trial.user_attrs.get(attributes.COPY),
        stage=stage,
        first=first if first is not None and first.more else None,
    )


def _outcome(trial: FrozenTrial, mark: str) -> Outcome | None:
    data = trial.user_attrs.get(mark)
    return Outcome.from_dict(data)[0] if data else None
