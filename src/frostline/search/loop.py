"""The ask/tell loop of a sweep over an injected executor.

`tests/unit/search/test_loop.py` drives it with a fake executor.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from frostline.decision import RaceEnd
from frostline.records.result import Cause
from frostline.records.trial import BASELINE_NUMBER, TrialOutcome, TrialRecord, TrialState
from frostline.search.events import Executor, Listener, Race, SearchSummary, TrialEnded, TrialReported
from frostline.search.promotion import Key, TrialTask, promotable, promoted
from frostline.search.study import Study
from frostline.spec import Params, SweepSpec

log = logging.getLogger(__name__)

_ALIKE = 3
"""So many first trials that fail for the same reason stop the sweep: the cause is not in the trial."""


@dataclass(frozen=True, kw_only=True)
class SearchLimits:
    """When a search ends.

    Attributes:
        total: Trials in all, those of earlier commands included.
        should_stop: Asked now and then; true ends the sweep as an interruption.
        clock: Seconds, for `sweep.timeout_s`; never the wall clock, which may jump.
    """

    total: int
    should_stop: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic


def search(
    plan: SweepSpec,
    study: Study,
    executor: Executor,
    listener: Listener,
    limits: SearchLimits,
    *,
    race: Race | None = None,
    baseline: Callable[[Sequence[TrialRecord]], Params | None] = lambda _trials: None,
) -> SearchSummary:
    """Trains trials until the study has its total, then takes the best ones to the end.

    Args:
        plan: The sweep.
        study: Filled.
        executor: Who trains.
        listener: Who watches.
        limits: When the search ends.
        race: Gives further seeds to finished trials when the search is over; None: no further seeds.
        baseline: All trials -> parameters of full fine-tuning, trained when the search is over; None: not trained.
    """
    course = SearchLoop(plan, study, executor, listener, limits)
    course.drain(course.next_trial)
    if course.stopped is None:
        course.promote()
        course.drain(course.next_promoted)
    if course.stopped is None:
        course.drain(lambda: course.next_baseline(baseline) or course.next_replicate(race))
    return SearchSummary(
        trials=study.with_baseline(), complete=course.stopped is None, stopped=course.stopped, fatal=course.fatal,
        too_many_failed=course.too_many_failed, race=course.race_end if course.stopped is None else None,
    )  # fmt: skip


class SearchLoop:
    """One command's way through a study."""

    def __init__(
        self,
        plan: SweepSpec,
        study: Study,
        executor: Executor,
        listener: Listener,
        limits: SearchLimits,
    ) -> None:
        self._promoted: list[TrialTask] = []
        self._plan = plan
        self._study = study
        self._executor = executor
        self._listener = listener
        self._limits = limits
        self._deadline = math.inf if plan.timeout_s is None else limits.clock() + plan.timeout_s
        self._running: dict[Key, TrialTask] = {}
        self.race_end: RaceEnd | None = None
        self._retried = False
        self._failures = 0
        self.stopped: str | None = None
        self.too_many_failed = False
        self.fatal: str | None = None

    def next_trial(self) -> TrialTask | None:
        """Promotes a trial that is among the best already, else begins the study's next one.

        Like trials that are done already are not trained again.
        """
        if self._plan.has_rungs:
            best = promotable(self._study.trials(), self._plan, self._study.maximize)
            promoted = [task for task in best if task.key not in self._running]
            if promoted:
                return promoted[0]
        while True:
            started = self._study.begin(self._limits.total)
            if started is None:
                return None
            number, params = started
            trials = self._study.trials(fresh=False)
            twin = next((p for p in trials if p.number != number and p.params == params and _is_reusable(p)), None)
            if twin is None:
                return TrialTask(number=number, params=params, rung=1)
            assert twin.outcome is not None
            for step, value in sorted(twin.history.items()):
                self._study.report(number, step, value)
            outcome = twin.outcome
            if outcome.paused:  # only the original can be promoted
                outcome = replace(
                    outcome, paused=False, state=TrialState.PRUNED, reason=f"same parameters as #{twin.number}"
                )
            self._study.tell(number, outcome, copy_of=twin.number)
            self._tell_listener(number)

    def promote(self) -> None:
        """Chooses what is promoted to rung 2; the others are pruned."""
        trials = self._study.trials()
        self._promoted = promoted(trials, self._plan, self._study.maximize)
        going = {task.number for task in self._promoted}
        for trial in trials:
            if trial.is_paused and trial.number not in going:
                self._study.prune(trial.number)
                now = self._study.trials()
                self._listener.pruned(next(each for each in now if each.number == trial.number), now)

    def next_promoted(self) -> TrialTask | None:
        """Returns the best trial that waits."""
        return self._promoted.pop(0) if self._promoted else None

    def next_baseline(self, baseline: Callable[[Sequence[TrialRecord]], Params | None]) -> TrialTask | None:
        """Returns the task of full fine-tuning; None if it ended or is running.

        A FAILED one is returned once more with `sweep.retry_failed`.
        """
        done = self._study.baseline()
        is_retry = (
            done is not None and done.state is TrialState.FAILED and self._plan.retry_failed and not self._retried
        )
        if (BASELINE_NUMBER, None) in self._running or (done is not None and not is_retry):
            return None
        self._retried = True
        params = baseline(self._study.trials())
        return None if params is None else TrialTask(number=BASELINE_NUMBER, params=params, rung=2)

    def next_replicate(self, race: Race | None) -> TrialTask | None:
        """Returns a further seed of a finished trial, if the race has one to give."""
        if race is None:
            return None
        further = [key for key in self._running if key[1] is not None]
        replicate = race.next(self._study.with_baseline(), further)
        if isinstance(replicate, RaceEnd):
            self.race_end = replicate
            return None
        trial, seed = replicate
        return TrialTask(number=trial.number, params=trial.params, rung=3, seed=seed)

    def drain(self, next_task: Callable[[], TrialTask | None]) -> None:
        """Keeps the executor busy until there is nothing left to begin and nothing runs."""
        while True:
            self._look_at_limits()
            while self.stopped is None and self._executor.free > 0:
                task = next_task()
                if task is None:
                    break
                self._running[task.key] = task
                self._listener.started(task)
                self._executor.submit(task)
            if not self._running:
                return
            for event in self._executor.wait():
                if isinstance(event, TrialReported):
                    self._on_report(event)
                else:
                    self._on_end(event)

    def _look_at_limits(self) -> None:
        if self.stopped is None and self._limits.should_stop():
            self._stop("interrupted")
        elif self.stopped is None and self._limits.clock() >= self._deadline:
            # What runs may finish: a time limit is no reason to throw an epoch away.
            self.stopped = f"sweep.timeout_s={self._plan.timeout_s:g} is reached; a larger one continues"

    def _stop(self, reason: str, *, too_many_failed: bool = False) -> None:
        if self.stopped is None:
            self.stopped, self.too_many_failed = reason, too_many_failed
        self._executor.stop()

    def _on_report(self, event: TrialReported) -> None:
        if event.seed is not None or event.number == BASELINE_NUMBER:  # no trial: no pruner is asked
            self._executor.answer((event.number, event.seed), False)
            return
        self._listener.reported(event.number, event.step, event.value)
        prune = math.isfinite(event.value) and self._study.report(event.number, event.step, event.value)
        self._executor.answer((event.number, None), prune)

    def _on_end(self, event: TrialEnded) -> None:
        task = self._running.pop((event.number, event.seed))
        if task.seed is not None:
            self._on_replicate(task, task.seed, event)
            return
        if task.number == BASELINE_NUMBER and event.fatal is not None and not event.machine:
            # Fixed settings of the sweep may not suit full fine-tuning, for example runtime.cache.mode=require: it is
            # FAILED, and the sweep continues.
            refused = TrialOutcome(state=TrialState.FAILED, reason=event.fatal, cause=Cause.ERROR)
            event = replace(event, fatal=None, outcome=refused)
        if event.fatal is not None:
            self.fatal = self.fatal or event.fatal
            self._study.release(event.number)
            self._listener.released(event.number)
            self._stop(event.fatal)
            return
        if event.outcome is None:
            self._study.release(event.number)
            self._listener.released(event.number)
            return
        outcome = checked(event.outcome)
        if task.number == BASELINE_NUMBER:
            self._study.tell_baseline(task.params, outcome)
        elif task.rung == 2:
            self._study.tell_final(task.number, outcome)
        else:
            if outcome.paused:
                assert outcome.quality is not None
                self._study.set_rung_value(task.number, outcome.quality)
            self._study.tell(task.number, outcome)
        self._tell_listener(task.number)
        if outcome.state is TrialState.FAILED and task.number != BASELINE_NUMBER:
            self._count_failure()

    def _on_replicate(self, task: TrialTask, seed: int, event: TrialEnded) -> None:
        if event.fatal is not None:
            self.fatal = self.fatal or event.fatal
            self._stop(event.fatal)
        if event.outcome is None:
            self._listener.released(task.number)
            return
        outcome = checked(event.outcome)
        self._study.tell_replicate(task.number, seed, outcome)
        trial = next(trial for trial in self._study.with_baseline() if trial.number == task.number)
        self._listener.replicated(trial, seed)
        if outcome.state is TrialState.FAILED:
            self._count_failure()

    def _tell_listener(self, number: int) -> None:
        trials = self._study.with_baseline()
        # One that has just ended is mostly among the last ones.
        self._listener.ended(next(trial for trial in reversed(trials) if trial.number == number), trials)

    def _count_failure(self) -> None:
        self._failures += 1
        limit = self._plan.max_failures
        if limit is not None and self._failures >= limit:
            self._stop(f"sweep.max_failures={limit} trials failed", too_many_failed=True)
            return
        ended = sorted(
            (p for p in self._study.trials() if p.state not in {TrialState.WAITING, TrialState.RUNNING}),
            key=lambda p: p.number,
        )[:_ALIKE]
        kinds = {(p.outcome.cause, p.outcome.error) for p in ended if p.state is TrialState.FAILED and p.outcome}
        succeeded = any(p.state in {TrialState.COMPLETE, TrialState.PRUNED} for p in self._study.trials())
        if {cause for cause, _ in kinds} == {Cause.TEMPLATE_DIED}:  # that says nothing of the trials
            return
        if (
            len(ended) == _ALIKE
            and all(p.state is TrialState.FAILED for p in ended)
            and len(kinds) == 1
            and not succeeded
        ):
            self._stop(f"the first {_ALIKE} trials failed for the same reason", too_many_failed=True)


def checked(outcome: TrialOutcome) -> TrialOutcome:
    """Returns the outcome, FAILED if a value of it is no finite number."""
    if outcome.state is TrialState.FAILED:
        return outcome
    failed = replace(outcome, state=TrialState.FAILED, by_seed={}, paused=False, cause=Cause.NO_OBJECTIVE)
    by_seed = {}
    for seed, value in outcome.by_seed.items():
        try:
            by_seed[seed] = _number(value)
        except ValueError as error:
            return replace(failed, reason=str(error), error=f"objective {value!r:.40}")
    if not by_seed:
        return replace(failed, reason="the run reported no objective value")
    return replace(outcome, by_seed=by_seed)


def _number(value: object) -> float:
    """Returns a metric's value as a finite float: numbers, and tensors or arrays of one element."""
    if isinstance(value, (str, bytes, bool)) or value is None:
        raise ValueError(f"the objective is {value!r}, not a number")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ValueError(f"the objective is {type(value).__name__}, not a number") from error
    if not math.isfinite(number):
        raise ValueError(f"the objective is {number}")
    return number


def _is_reusable(trial: TrialRecord) -> bool:
    ended = trial.state is TrialState.COMPLETE or trial.state is TrialState.PRUNED
    return ended and trial.outcome is not None and trial.copy_of is None
