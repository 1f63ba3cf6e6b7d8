"""Trials through a Hydra launcher, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from frostline.errors import MACHINE_WAY_OUT, UserError, origin
from frostline.records.result import Cause, RunResult, Status
from frostline.records.trial import TrialOutcome, TrialState, label
from frostline.search import Key, TrialEnded, TrialEvent, TrialTask
from frostline.sweeps.read_config import Sweep
from frostline.sweeps.trial_job import TrialReply, kind_of
from frostline.sweeps.trial_outcome import is_whole, outcome_of
from frostline.sweeps.trial_runs import TrialRuns, clear_attempt, sharing_of

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher


class BatchExecutor:
    """Trains batches through any Hydra launcher: basic, joblib, submitit, Ray.

    A batch begins when it is full or nothing more is to be had, and is over when its last run is.

    Args:
        launcher: Set up by Hydra, with frostline's task function.
        size: Trials in a batch.
        sweep: What is swept.
        runs: Tasks -> runs.
        parent: MLflow run id of the sweep.
    """

    def __init__(
        self, launcher: Launcher, size: int, sweep: Sweep, runs: TrialRuns, parent: Callable[[], str | None]
    ) -> None:
        self._launcher = launcher
        self._size = size
        self._sweep = sweep
        self._runs = runs
        self._parent = parent
        self._batch: list[TrialTask] = []
        self._stopping = False
        self._sharing = sharing_of(sweep, None)  # jobs may lie on several machines: each computes on its own threads

    @property
    def free(self) -> int:
        """See `Executor`."""
        return 0 if self._stopping else self._size - len(self._batch)

    def submit(self, task: TrialTask) -> None:
        """See `Executor`."""
        self._batch.append(task)

    def wait(self) -> Sequence[TrialEvent]:
        """See `Executor`."""
        batch, self._batch = self._batch, []
        events: list[TrialEvent] = []
        todo: list[tuple[TrialTask, int, list[str]]] = []
        for task in batch:
            todo += [(task, seed, overrides) for seed, overrides in self._missing(task)]
        returns: dict[tuple[int, int], Any] = {}
        if todo:
            first = max(0, min(task.number for task, _, _ in todo))
            jobs = self._launcher.launch([overrides for _, _, overrides in todo], initial_job_idx=first)
            returns = {(task.number, seed): job for (task, seed, _), job in zip(todo, jobs, strict=True)}
        for task in batch:
            events.append(self._end_of(task, returns))
        return events

    def _missing(self, task: TrialTask) -> list[tuple[int, list[str]]]:
        rows = []
        for seed_run in self._runs.of(task):
            folder, spec = seed_run.folder, seed_run.job.run
            with suppress(UserError):
                result = RunResult.read(folder)
                is_done = result.status is Status.FINISHED and result.spec_digest == spec.digest()
                if is_done and is_whole(folder, result):
                    continue
            clear_attempt(folder)  # of a killed command: a launcher's job can't resume it
            several = len(self._runs.seeds) > 1 or task.seed is not None
            name = label(task.params) + (f" s{spec.seed}" if several else "")
            tags = {
                **self._sweep.job.tracking.tags,
                "frostline.trial": str(task.number),
                "frostline.kind": kind_of(task.number, task.seed),
            }
            parent = self._parent()
            where = [
                f"hydra.sweep.dir={_quoted(str(folder.parent))}",
                f"hydra.sweep.subdir={_quoted(folder.name)}",
                f"tracking.parent_run={'null' if parent is None else _quoted(parent)}",
                f"tracking.run_name={_quoted(name)}",
                f"tracking.params=[{','.join(task.params)}]",
                f"++tracking.tags={{{','.join(f'{key}:{_quoted(value)}' for key, value in tags.items())}}}",
                f"runtime.num_runs={self._sharing.num_runs}",
            ]
            rows.append((spec.seed, [*self._runs.overrides(task.params, spec.seed), *where]))
        return rows

    def _end_of(self, task: TrialTask, returns: Mapping[tuple[int, int], Any]) -> TrialEnded:
        results: list[tuple[int, RunResult]] = []
        own = task.seed
        for seed in self._runs.seeds if own is None else (own,):
            folder = self._runs.folder_of(task.number, seed)
            try:
                result = RunResult.read(folder)
            except UserError:
                error = getattr(returns.get((task.number, seed)), "_return_value", None)
                if isinstance(error, UserError):
                    return TrialEnded(number=task.number, outcome=None, fatal=str(error), seed=own)
                if isinstance(error, BaseException):
                    reason, where = f"{type(error).__name__}: {error}", origin(error)
                else:
                    reason, where = "left no result", None
                failed = TrialOutcome(state=TrialState.FAILED, reason=reason, cause=Cause.ERROR, error=where)
                return TrialEnded(number=task.number, outcome=failed, seed=own)
            error = getattr(returns.get((task.number, seed)), "_return_value", None)
            if isinstance(error, UserError):
                return TrialEnded(number=task.number, outcome=None, fatal=str(error), seed=own)
            results.append((seed, result))
            if result.status is Status.KILLED:
                return TrialEnded(number=task.number, outcome=None, seed=own)
            if result.cause is Cause.MACHINE:
                fatal = f"{folder}: {result.reason}; {MACHINE_WAY_OUT}"
                return TrialEnded(number=task.number, outcome=None, fatal=fatal, machine=True, seed=own)
            if result.status is not Status.FINISHED:
                return TrialEnded(
                    number=task.number, outcome=outcome_of(results, TrialState.FAILED, paused=False), seed=own
                )
        end = TrialReply(outcome=outcome_of(results, TrialState.COMPLETE, paused=False))
        return self._runs.checked(task.number, task.params, end, own)

    def answer(self, key: Key, prune: bool) -> None:
        """A batch is not asked."""

    def stop(self) -> None:
        """See `Executor`."""
        self._stopping = True


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"
