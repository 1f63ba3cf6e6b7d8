"""Trains the search's trials in warm workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace

from frostline.errors import UserError
from frostline.records.result import Cause
from frostline.records.trial import TrialOutcome, TrialState, label
from frostline.search import Key, TrialEnded, TrialEvent, TrialReported, TrialTask
from frostline.spec import PrunerName
from frostline.sweeps.lost import record_worker_death
from frostline.sweeps.read_config import Sweep
from frostline.sweeps.trial_job import Evaluated, TrialJob, TrialReply, WarningText
from frostline.sweeps.trial_runs import TrialRuns, sharing_of
from frostline.workers.pool import WorkerEvent, Workers
from frostline.workers.worker_main import EventKind

_POLL_S = 0.2
_CAUSES = {
    EventKind.DIED: Cause.WORKER_DIED,
    EventKind.TEMPLATE_DIED: Cause.TEMPLATE_DIED,
    EventKind.TIMEOUT: Cause.TIMED_OUT,
}
RELOCATE = "frostline.sweeps.trial:relocated"
RUN_TRIAL = "frostline.sweeps.trial:run_trial"
WARM = "frostline.sweeps.trial:warm"
TEMPLATE = "frostline.sweeps.worker_template"


class PoolExecutor:
    """Trains in warm workers; the next task begins when any slot is free.

    Args:
        pool: Started.
        sweep: What is swept.
        runs: Tasks -> runs.
        parent: MLflow run id of the sweep, known once it has started.
        warn: Called with a worker's warnings.
        threads: CPU threads of all slots together; None: each computes on its own.
        on_trial_end: Called with each trial that ended.
    """

    def __init__(
        self,
        pool: Workers,
        sweep: Sweep,
        runs: TrialRuns,
        parent: Callable[[], str | None],
        warn: Callable[[str], None],
        threads: int | None,
        on_trial_end: Callable[[Key, TrialJob], None] = lambda _key, _trial: None,
    ) -> None:
        self._pool = pool
        self._on_trial_end = on_trial_end
        self._sweep = sweep
        self._runs = runs
        self._parent = parent
        self._warn = warn
        self._trials: dict[Key, TrialJob] = {}
        self._retried: set[Key] = set()
        self._ready: list[TrialEvent] = []
        self._stopping = False
        self._sharing = sharing_of(sweep, threads)
        self.stop_signal = signal.SIGINT

    @property
    def free(self) -> int:
        """See `Executor`."""
        return 0 if self._stopping else self._pool.free

    def submit(self, task: TrialTask) -> None:
        """See `Executor`."""
        try:
            runs = self._runs.of(task)
        except UserError as error:
            self._ready.append(TrialEnded(number=task.number, outcome=None, fatal=str(error), seed=task.seed))
            return
        plan = self._sweep.plan
        job = TrialJob(
            number=task.number,
            name=label(task.params),
            runs=runs,
            ask=plan.pruner.name is not PrunerName.NONE,
            pauses=task.rung == 1 and plan.has_rungs,
            several=len(self._runs.seeds) > 1 or task.seed is not None,
            steps_per_run=self._runs.steps_per_run,
            parent=self._parent(),
            params=dict(task.params),
            sharing=self._sharing,
            replicate=task.seed,
        )
        self._trials[task.key] = job
        self._pool.submit(task.key, job)

    def wait(self) -> Sequence[TrialEvent]:
        """See `Executor`."""
        events, self._ready = self._ready, []
        for event in self._pool.poll(0.0 if events else _POLL_S):
            events += self._translate(event)
        return events

    def _translate(self, event: WorkerEvent) -> list[TrialEvent]:
        number, seed = event.key
        if event.kind is EventKind.MESSAGE:
            if isinstance(event.value, WarningText):
                self._warn(event.value.text)
                return []
            assert isinstance(event.value, Evaluated)
            return [TrialReported(number=number, step=event.value.step, value=event.value.value, seed=seed)]
        if event.kind is EventKind.DONE:
            assert isinstance(event.value, TrialReply)
            self._on_trial_end(event.key, self._trials[event.key])
            return [self._runs.checked(number, self._trials[event.key].params, event.value, seed)]
        died = event.kind in {EventKind.DIED, EventKind.TEMPLATE_DIED}
        if self._stopping and (died or event.kind is EventKind.MACHINE_DIED):  # the signal came between two runs
            return [TrialEnded(number=number, outcome=None, seed=seed)]
        reason = str(event.value)
        if event.kind is EventKind.MACHINE_DIED:  # says nothing of the trial: retry without limit
            self._retry(event.key, reason)
            return []
        if died and event.key not in self._retried:
            self._retried.add(event.key)
            self._retry(event.key, reason)
            return []
        cause = _CAUSES.get(event.kind, Cause.ERROR)
        record_worker_death(self._trials[event.key], reason, cause)
        self._on_trial_end(event.key, self._trials[event.key])
        outcome = TrialOutcome(state=TrialState.FAILED, reason=reason, cause=cause)
        return [TrialEnded(number=number, outcome=outcome, seed=seed)]

    def _retry(self, key: Key, reason: str) -> None:
        """Submits a trial whose process died again: it is resumed from its last checkpoint."""
        trial = self._trials[key] = replace(self._trials[key], note=f"{reason}: resumed from its last checkpoint")
        self._warn(f"warning: #{trial.number} {trial.name}: {trial.note}")
        self._pool.submit(key, trial)

    def answer(self, key: Key, prune: bool) -> None:
        """See `Executor`."""
        if self._sweep.plan.pruner.name is not PrunerName.NONE:
            self._pool.answer(key, prune)

    def stop(self) -> None:
        """See `Executor`."""
        self._stopping = True
        self._pool.signal_all(self.stop_signal)
