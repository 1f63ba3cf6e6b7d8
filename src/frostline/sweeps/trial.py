"""Trains one rung of a trial in a worker process.

Importing this module costs nothing: the parent pickles its dataclasses, and only a worker imports torch.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from frostline import assets
from frostline.console import configure_logging
from frostline.errors import MACHINE_WAY_OUT, MachineError, UserError, machine_trouble
from frostline.records.monitor import RunControl
from frostline.records.result import Cause, RunResult, Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import FOR_TERMINAL, RunFolder
from frostline.records.trial import TrialState
from frostline.registry import import_plugins
from frostline.signals import Interrupted
from frostline.spec import RunSpec
from frostline.sweeps.retries import adopt_retry, free_memory, gave_back_hidden_states, half_batch
from frostline.sweeps.trial_job import Evaluated, Measure, Retry, SeedRun, TrialJob, TrialReply, WarningText, kind_of
from frostline.sweeps.trial_outcome import is_whole, outcome_of

if TYPE_CHECKING:
    from frostline.tracking import ChildRun
    from frostline.train import Footprint
    from frostline.workers.worker_main import Channel

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """How one of a trial's runs went.

    Attributes:
        result: None if it was interrupted.
        resumed: Whether it began from a checkpoint.
        retry: The last retry that it took.
        note: The same for people.
    """

    result: RunResult | None
    resumed: bool
    retry: Retry | None
    note: str | None


def warm() -> None:
    """Imports what every trial needs, once for each worker."""
    import frostline.tracking
    import frostline.train

    frostline.tracking.preload()
    frostline.train.freeze_gc()
    frostline.train.reseed_fork()


class _ChannelMonitor:
    """Reports a run's progress to the parent, and asks whether to continue."""

    def __init__(self, channel: Channel, seed_run: SeedRun, ask: bool, offset: int) -> None:
        self._channel = channel
        self._seed_run = seed_run
        self._ask = ask
        self._offset = offset

    def heartbeat(self) -> None:
        """Sends a heartbeat now and then."""
        self._channel.heartbeat()

    def evaluated(self, epoch: float, value: float) -> RunControl:
        """Reports whole epochs; the pruner is asked before the end of the rung is checked."""
        step = round(epoch)
        if abs(epoch - step) > 1e-6 or step < 1:
            return RunControl.GO
        report = Evaluated(step=self._offset + step, value=value)
        if self._ask:
            if self._channel.ask(report):
                return RunControl.PRUNE
        else:
            self._channel.send(report)
        until = self._seed_run.until_epoch
        return RunControl.PAUSE if until is not None and step >= until else RunControl.GO


class _ToParent(logging.Handler):
    """Sends warnings to the parent, and what the run decided on the prefix cache."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(logging.INFO)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            if record.exc_info is None:  # an exception's reason comes with the outcome
                self._channel.send(WarningText(text=f"warning: {record.getMessage()}"))
        elif getattr(record, FOR_TERMINAL, False):
            self._channel.send(WarningText(text=record.getMessage()))


def run_trial(trial: TrialJob | Measure, channel: Channel) -> TrialReply | Footprint | None:
    """Trains a trial's runs one after the other; runs that finished earlier are not trained again.

    Args:
        trial: What to train, or to measure.
        channel: To the parent.
    """
    if isinstance(trial, Measure):
        from frostline.train import footprint

        channel.restart_after_job()  # what it allocated on the GPU is not the trials'
        import_plugins(trial.plugins)
        return footprint(trial.specs, trial.sharing)
    configure_logging()
    places = trial.places or {}
    assets.set_places(places)
    sys.path += [str(Path(place).parent) for name, place in places.items() if name.startswith("plugin:")]
    handler = _ToParent(channel)
    logging.getLogger("frostline").addHandler(handler)
    try:
        return _run_all(trial, channel)
    except UserError as error:
        if isinstance(error, MachineError):
            return TrialReply(outcome=None, fatal=f"{error}; {MACHINE_WAY_OUT}", machine=True)
        return TrialReply(outcome=None, fatal=str(error))
    except Exception as error:
        trouble = machine_trouble(error)
        if trouble is None:
            raise
        return TrialReply(outcome=None, fatal=f"{trouble}; {MACHINE_WAY_OUT}", machine=True)
    finally:
        logging.getLogger("frostline").removeHandler(handler)


def relocated(trial: TrialJob, cwd: Path, here: Path, elsewhere: Path, places: Mapping[str, str]) -> TrialJob:
    """Returns a trial as it is to be trained on a machine that does not see this one's files.

    A store of MLflow on this machine is out of reach there: the parent records the trial when it has ended.

    Args:
        trial: As the parent has it.
        cwd: The parent's current folder.
        here: The sweep's folder on the parent's machine.
        elsewhere: Its counterpart on the other one.
        places: Where local files lie there, by the path in the config.
    """

    def moved(run: SeedRun) -> SeedRun:
        tracking = run.job.tracking
        if tracking.enabled and not is_reached_from_elsewhere(tracking.uri):
            tracking = replace(tracking, enabled=False)
        folder = elsewhere / (cwd / run.folder).relative_to(here)
        return replace(run, folder=folder, job=replace(run.job, tracking=tracking))

    return replace(trial, runs=tuple(map(moved, trial.runs)), places=places)


def is_reached_from_elsewhere(uri: str) -> bool:
    """Returns whether a tracking URI names a server, not files of this machine."""
    return "://" in uri and not uri.startswith(("sqlite:", "file:"))


def publish(trial: TrialJob) -> None:
    """Records the runs of a trial in MLflow, from their folders: where they were trained the store is out of reach."""
    from frostline.tracking import publish_run

    for seed_run in trial.runs:
        if seed_run.job.tracking.enabled:
            spec, retry = adopt_retry(seed_run)
            with suppress(UserError):  # it was not trained, as its sweep was stopped
                result = RunResult.read(seed_run.folder)
                child = child_of(trial, spec.seed, retried=retry.value if retry else None)
                publish_run(seed_run.job.tracking, spec, seed_run.folder, result, child)


def _run_all(trial: TrialJob, channel: Channel) -> TrialReply:
    results: list[tuple[int, RunResult]] = []
    resumed = 0
    note = trial.note

    def reply(state: TrialState) -> TrialReply:
        return TrialReply(outcome=outcome_of(results, state, paused=trial.pauses, resumed=resumed, note=note))

    for index, seed_run in enumerate(trial.runs):
        monitor = _ChannelMonitor(channel, seed_run, trial.ask, index * trial.steps_per_run)
        channel.heartbeat()
        trained = _one_run(trial, seed_run, monitor)
        result, resumed = trained.result, resumed + trained.resumed
        note = trained.note or note
        if trained.retry is Retry.HALF_BATCH or (result is not None and result.cause is Cause.OUT_OF_MEMORY):
            channel.restart_after_job()  # what it left in the device's memory must not be the next trial's trouble
        if result is None or result.status is Status.KILLED:
            return TrialReply(outcome=None)
        if result.cause is Cause.MACHINE:
            return TrialReply(
                outcome=None, fatal=f"{seed_run.folder}: {result.reason}; {MACHINE_WAY_OUT}", machine=True
            )
        results.append((seed_run.job.run.seed, result))
        if result.status is Status.FAILED:
            return reply(TrialState.FAILED)
        if result.status is Status.PRUNED and result.cause is not Cause.PAUSED:
            return reply(TrialState.PRUNED)
        last = index == len(trial.runs) - 1
        if len(trial.runs) > 1 and not last and result.objective is not None and trial.ask:
            step = (index + 1) * trial.steps_per_run
            if channel.ask(Evaluated(step=step, value=result.objective.value)):
                return reply(TrialState.PRUNED)
    return reply(TrialState.COMPLETE)


def _one_run(trial: TrialJob, seed_run: SeedRun, monitor: _ChannelMonitor) -> _Trained:
    """Trains a run, again where that helps."""
    spec, retry = adopt_retry(seed_run)
    done = finished_result(seed_run, spec)
    if done is not None:
        close_run(trial, seed_run, spec, done)  # it may have been killed between its last file and the store
        return _Trained(result=done, resumed=False, retry=retry, note=retry.value if retry else None)
    cause = ""
    result, resumed = _train(trial, seed_run, spec, monitor)
    if result is not None and result.cause is Cause.PROCESS_KILLED:
        retry, cause = Retry.FROM_CHECKPOINT, f"{result.reason}: "
        log.warning("%s: %s%s", trial.name, cause, retry.value)
        result, resumed = _train(trial, seed_run, spec, monitor)
    if result is not None and result.cause is Cause.OUT_OF_MEMORY and gave_back_hidden_states():
        retry = Retry.OFF_GPU
        log.warning("%s: %s", trial.name, retry.value)
        free_memory()
        result, _ = _train(trial, seed_run, spec, monitor, retried=retry.value)
    if result is not None and result.cause is Cause.OUT_OF_MEMORY and (smaller := half_batch(spec)) is not None:
        retry = Retry.HALF_BATCH
        log.warning("%s: %s", trial.name, retry.value)
        free_memory()
        result, _ = _train(trial, seed_run, smaller, monitor, retried=retry.value)
    note = None if retry is None else (cause if retry is Retry.FROM_CHECKPOINT else "") + retry.value
    return _Trained(result=result, resumed=resumed, retry=retry, note=note)


def _train(
    trial: TrialJob, seed_run: SeedRun, spec: RunSpec, monitor: _ChannelMonitor, *, retried: str | None = None
) -> tuple[RunResult | None, bool]:
    from frostline.launch import runner_of
    from frostline.tracking import recorders_of
    from frostline.train.checkpoint import CheckpointStore

    job, folder = seed_run.job, seed_run.folder
    import_plugins(job.plugins)
    store = CheckpointStore(folder)
    if retried is not None:
        store.remove()
    step = store.newest_step()
    overrides = list(seed_run.overrides)
    if spec.training.batch_size != job.run.training.batch_size:
        training = spec.training
        overrides += [
            f"training.batch_size={training.batch_size}",
            f"training.accumulation_steps={training.accumulation_steps}",
        ]
    with RunFolder(folder, spec, overrides, resume_step=step or 0, keep_diff=job.tracking.git_diff) as run_folder:
        child = child_of(trial, spec.seed, retried=retried)
        recorders = recorders_of(run_folder, spec, job.tracking, child=child, reopen=retried is None)
        resume_from = folder if step is not None else None
        try:
            context = RunContext(
                recorders,
                folder,
                overrides=overrides,
                resume_from=resume_from,
                monitor=monitor,
                sharing=trial.sharing,
            )
            result = runner_of(spec)(spec, context)
        except Interrupted:  # it came when the run was done
            result = RunResult.read(folder)
    return result, step is not None


def child_of(trial: TrialJob, seed: int, *, retried: str | None = None) -> ChildRun:
    """Returns what one of a trial's runs is in MLflow.

    Args:
        trial: The trial.
        seed: Of the run.
        retried: What is done otherwise in this attempt, after one that ran out of memory; None: it is the first.
    """
    from frostline.tracking import ChildRun

    tags = {"frostline.trial": str(trial.number), "frostline.kind": kind_of(trial.number, trial.replicate)}
    if retried is not None:
        tags["frostline.retried"] = retried
    name = f"{trial.name} s{seed}" if trial.several else trial.name
    return ChildRun(parent=trial.parent, name=name, params=trial.params, tags=tags)


def close_run(trial: TrialJob, seed_run: SeedRun, spec: RunSpec, result: RunResult) -> None:
    """Records in MLflow how a run ended whose process did not; does nothing if it is recorded."""
    if not seed_run.job.tracking.enabled:
        return
    from frostline.tracking import MlflowRecorder

    child = child_of(trial, spec.seed)
    MlflowRecorder(seed_run.job.tracking, spec, seed_run.folder, child=child, reopen=True).close_run(result)


def finished_result(seed_run: SeedRun, spec: RunSpec) -> RunResult | None:
    """Returns the recorded result if the folder holds the very run, to its end: it is never trained again."""
    try:
        result = RunResult.read(seed_run.folder)
    except UserError:
        return None
    # Stopped by a pruner, and the parent was killed before it knew: it would be stopped once more.
    paused = result.cause is Cause.PAUSED and seed_run.until_epoch is not None
    is_over = result.status is Status.FINISHED or paused or result.cause is Cause.PRUNED
    if result.spec_digest != spec.digest() or not is_over:
        return None
    return result if is_whole(seed_run.folder, result) else None
