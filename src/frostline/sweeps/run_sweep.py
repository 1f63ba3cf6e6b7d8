"""Runs one sweep command, from its config to its exit code."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.cluster import ClusterPool
from frostline.errors import MACHINE_WAY_OUT, MachineError, RunFailedError, UserError, machine_trouble, visible
from frostline.preflight import preflight
from frostline.provenance import redact
from frostline.records.result import RESULT_FILE, Status
from frostline.records.run_folder import LOG_FILE, MODEL_FOLDER, has_whole_model
from frostline.records.trial import TrialOutcome, TrialRecord, TrialState
from frostline.search import (
    Executor,
    LockLostError,
    SearchLimits,
    SearchSummary,
    Study,
    TrialEnded,
    TrialTask,
    queue_of,
    search,
    storage_trouble,
)
from frostline.spec import Direction, KeepModels, Params
from frostline.sweeps.engines import EngineOpener, Training
from frostline.sweeps.finish import FinishedSweep, answer_for, conclude
from frostline.sweeps.folder import SweepFolder, describe
from frostline.sweeps.listeners import Listeners, MlflowListener, ProgressView
from frostline.sweeps.open_study import StudyOpener
from frostline.sweeps.pool_executor import PoolExecutor
from frostline.sweeps.predictions import evidence_in
from frostline.sweeps.progress_file import ProgressFile, SweepProgress
from frostline.sweeps.questions import SeedRace, advisors_of, the_advisor
from frostline.sweeps.read_config import Compose, Sweep, SweepView, read
from frostline.sweeps.start import for_batches, renamed, sweep_log, warm_start_trials_of
from frostline.sweeps.stop_signals import StopSignals
from frostline.sweeps.trial_files import TrialFiles
from frostline.sweeps.trial_runs import TrialRuns

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher
    from omegaconf import DictConfig

    from frostline.tracking import SweepRun

log = logging.getLogger(__name__)


def run_sweep(
    cfg: DictConfig,
    arguments: Sequence[str],
    compose: Compose,
    launcher: Launcher,
    command: str,
    view: SweepView | None = None,
) -> tuple[Path, int]:
    """Runs a sweep, or resumes it.

    Args:
        cfg: The composed config of the multirun.
        arguments: The overrides of the job, those that sweep included.
        compose: Composes a trial's config.
        launcher: Set up by Hydra. With warm workers (frostline_local) trials run in a pool, with another in batches.
        command: What the user typed, to be typed again.
        view: Who watches; None: the terminal, which also gets the answer.

    Returns:
        The sweep's folder, and the exit code: 0, or that of the signal that ended it.

    Raises:
        UserError: Bad input; one line.
        RunFailedError: Nothing was trained to its end, or the sweep itself failed.
    """
    sweep = replace(read(cfg, arguments, compose, preflight), command=command, view=view or SweepView())
    warm = bool(getattr(launcher, "warm_workers", False))
    if not warm:
        sweep = for_batches(sweep, type(launcher).__name__)
    if sweep.plan.new:
        sweep = renamed(sweep)
    queue = queue_of(sweep.plan, sweep.space, sweep.enqueue)
    warm_start_trials = warm_start_trials_of(sweep)
    with ExitStack() as stack:
        folder = stack.enter_context(SweepFolder(sweep.folder))
        description = describe(sweep, sweep.space.keys)
        is_resumed = folder.admit(description)
        stack.enter_context(sweep_log(folder.folder))
        course = SweepCommand(sweep, compose, folder, launcher if not warm else None, is_resumed, description, stack)
        try:
            code = course.go(queue, warm_start_trials)
        except (UserError, RunFailedError):
            raise
        except Exception as error:
            # The config was validated above, so this is a bug, not a user error.
            log.exception("the sweep failed")
            raise RunFailedError(
                f"{folder.folder}: the sweep failed ({type(error).__name__}: {redact(str(error))}); its trials are "
                f"kept, the traceback is in {folder.folder / f'sweep-{LOG_FILE}'}"
            ) from error
        if course.failure is not None:
            raise course.failure
        return folder.folder, code


class SweepCommand:
    """One command's sweep."""

    def __init__(
        self,
        sweep: Sweep,
        compose: Compose,
        folder: SweepFolder,
        launcher: Launcher | None,
        is_resumed: bool,
        description: Mapping[str, Any],
        stack: ExitStack,
    ) -> None:
        self._sweep = sweep
        self._compose = compose
        self._folder = folder
        self._launcher = launcher
        self._is_resumed = is_resumed
        self._stack = stack
        self._advisors = advisors_of(description, evidence_in(folder.folder, sweep.plan.seeds))
        self._advisor = the_advisor(self._advisors)
        self._metric = sweep.job.run.training.objective
        self._maximize = sweep.job.run.training.direction is Direction.MAXIMIZE
        self._signals = StopSignals()
        self._mlflow_run: SweepRun | None = None
        self._training: Training | None = None
        self._warned: set[str] = set()
        self.failure: UserError | RunFailedError | None = None
        """Why the command failed, once `go` has returned."""
        self._studies = StudyOpener(
            sweep=sweep, folder=folder, description=description, is_resumed=is_resumed, advisor=self._advisor,
            stack=stack,
        )  # fmt: skip

    def go(self, queue: Sequence[Params], warm_start_trials: Sequence[TrialRecord]) -> int:
        """Returns the exit code.

        Args:
            queue: Trials to try first.
            warm_start_trials: Trials of an earlier sweep.
        """
        from frostline.tracking import SweepRun

        sweep, plan = self._sweep, self._sweep.plan
        base_total = plan.n_trials if plan.n_trials is not None else len(queue)
        bar = self._sweep.wants_bar
        for notice in sweep.notices:
            print(f"note: {notice}", file=sys.stderr, flush=True)
        with self._signals.held():
            self._mlflow_run = SweepRun(sweep.job.tracking, plan.name, self._folder.folder, self._sweep.mlflow_params)
            training = self._training = EngineOpener(
                sweep=sweep, compose=self._compose, folder=self._folder, launcher=self._launcher,
                parent=lambda: None if self._mlflow_run is None else self._mlflow_run.run_id, warn=self._warn,
                num_recorded=lambda: len(self._studies.recorded()) if self._is_resumed else 0,
                is_stopping=lambda: self._signals.requested is not None, stack=self._stack,
            ).open()  # fmt: skip
            executor, runs = training.executor, training.runs
            try:
                study = self._studies.open(queue, warm_start_trials)
                total = base_total + study.num_extra
                progress = ProgressFile(
                    self._folder.folder, SweepProgress(total=total, settle=plan.settle), study.trials()
                )
                self._stack.callback(progress.close)
                view = ProgressView(self._metric, self._maximize, total, training.slots, bar)
                self._stack.callback(view.close)
                self._view = view
                if not self._is_resumed:
                    self._note_if_grid_takes_all_trials(total, queue, view)
                self._start_mlflow_run(study)
                files = TrialFiles(self._folder, plan, self._maximize, total, self._judged)
                self._take_up(study, view)
                mlflow = MlflowListener(self._mlflow_run, self._metric, self._maximize)
                summary = search(
                    plan, study, executor, Listeners([files, mlflow, view, progress, *sweep.view.listeners]),
                    SearchLimits(total=total, should_stop=lambda: self._should_stop(executor)),
                    race=self._race(runs), baseline=self._baseline,
                )  # fmt: skip
                view.close()
                return self._end(summary, runs, executor, files)
            except (KeyboardInterrupt, SystemExit) as stop:
                return self._broken_off(stop)
            except BaseException as error:
                self._close_pool()
                trouble = str(error) if isinstance(error, LockLostError) else storage_trouble(error)
                full = machine_trouble(error) if trouble is None else None
                self._end_mlflow_run(Status.FAILED, trouble or full or f"{type(error).__name__}: {error}")
                if full is not None:
                    raise MachineError(f"{self._folder.folder}: {full}; {MACHINE_WAY_OUT}") from error
                if trouble is None:
                    raise
                raise RunFailedError(
                    f"sweep.storage: {trouble}; what was trained is kept, and the same command resumes the sweep"
                ) from error

    # -- starting ----------------------------------------------------------------------------------------------------

    def _start_mlflow_run(self, study: Study) -> None:
        assert self._mlflow_run is not None
        self._mlflow_run.start(study.mlflow_run)
        if self._mlflow_run.run_id is not None and study.mlflow_run != self._mlflow_run.run_id:
            study.note_mlflow_run(self._mlflow_run.run_id)

    def _judged(self, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Returns the trials that levels are judged by, of all models and sizes."""
        judged: list[TrialRecord] = []
        for group, advisor in self._advisors.items():
            judged += advisor.judged([each for each in trials if each.group(advisor.question.axis_key) == group])
        return judged

    @property
    def _is_decided_here(self) -> bool:
        """Whether one question is asked, of an axis of cost."""
        return self._advisor is not None and self._advisor.question.is_raced

    def _baseline(self, trials: Sequence[TrialRecord]) -> Params | None:
        """Returns the parameters of full fine-tuning; None where it is not asked for, or its rate can't be chosen."""
        if not self._sweep.plan.baseline or not self._is_decided_here or self._advisor is None:
            return None
        return self._advisor.baseline(trials)

    def _race(self, runs: TrialRuns) -> SeedRace | None:
        """Returns what gives further seeds; None if there are none."""
        plan = self._sweep.plan
        if not self._is_decided_here or plan.settle == 0:
            return None
        assert self._advisor is not None
        return SeedRace(self._advisor, plan.settle, runs.seeds)

    def _take_up(self, study: Study, view: ProgressView) -> None:
        trials = study.with_baseline()
        stored = {trial.number: trial for trial in self._folder.read_trials()}
        for trial in trials:  # a kill may have come between telling the study and writing the file
            if trial.outcome is not None and stored.get(trial.number) != trial:
                self._folder.write_trial(trial)
        view.resume(study.trials())

    def _note_if_grid_takes_all_trials(self, total: int, queue: Sequence[Any], view: ProgressView) -> None:
        if self._sweep.enqueue is None and len(queue) == total and self._sweep.plan.sampler.value not in {"grid"}:
            view.say(f"note: the coarse grid takes all {total} trials, the sampler none: raise sweep.n_trials for more")

    # -- under way ---------------------------------------------------------------------------------------------------

    def _should_stop(self, executor: Executor) -> bool:
        self._studies.check_lock()
        if self._signals.requested is not None and isinstance(executor, PoolExecutor):
            executor.stop_signal = signal.Signals(self._signals.requested)
        return self._signals.requested is not None

    def _warn(self, text: str) -> None:
        was_shown = self._mlflow_run is not None and text == f"warning: {self._mlflow_run.warning}"
        if text not in self._warned and not was_shown:  # every trial would repeat it
            self._warned.add(text)
            self._view.say(text)

    # -- ending ------------------------------------------------------------------------------------------------------

    def _end(self, summary: SearchSummary, runs: TrialRuns, executor: Executor, files: TrialFiles) -> int:
        assert self._mlflow_run is not None
        answer = answer_for(self._sweep, self._folder, summary.trials)
        if summary.complete and answer.recommended is not None:
            self._keep_model(answer.recommended, runs, executor)
            files.keep_only(answer.recommended, summary.trials)
        # A signal that came when the last trial was done interrupted nothing.
        signum = None if summary.complete else self._signals.requested
        self._close_pool()
        finished = FinishedSweep(
            sweep=self._sweep, folder=self._folder, runs=runs, summary=summary, answer=answer,
            interrupted=signum is not None,
        )  # fmt: skip
        failed = conclude(finished, self._mlflow_run)
        if signum is not None:
            self._say_how_to_go_on()
            return 128 + signum
        if summary.fatal is not None:
            self.failure = UserError(summary.fatal)
        elif failed is not None:
            self.failure = RunFailedError(failed)
        if self.failure is None and summary.stopped is not None:  # by its time limit
            self._say_how_to_go_on()
        return 0

    def _keep_model(self, trial: TrialRecord, runs: TrialRuns, executor: Executor) -> None:
        """Trains the recommended trial once more if its model was not kept: the same spec gives the same weights.

        While a sweep is under way it keeps the models of the trials that levels are judged by; a later run can bring
        back one that had been given up.
        """
        folder = runs.folder_of(trial.number, runs.seeds[0])
        is_wanted = self._sweep.plan.keep_models is KeepModels.RECOMMENDED
        pool = None if self._training is None else self._training.pool
        if is_wanted and isinstance(pool, ClusterPool) and not has_whole_model(folder):
            below = (folder / MODEL_FOLDER).relative_to(self._folder.trial_folder(trial.number))
            pool.bring((trial.number, None), below.as_posix())
        is_kept = not is_wanted or has_whole_model(folder)
        if is_kept or trial.copy_of is not None:
            return
        why = "is damaged" if (folder / MODEL_FOLDER).is_dir() else "was not kept here"
        self._view.say(f"training #{trial.number} {trial.label()} again: its model {why}")
        record = folder / RESULT_FILE
        before = record.read_bytes() if record.is_file() else None
        record.unlink(missing_ok=True)  # else the worker would take it for what was asked for
        executor.submit(
            TrialTask(number=trial.number, params=trial.params, rung=2 if self._sweep.plan.has_rungs else 1)
        )
        outcome: TrialOutcome | None = None
        is_over = False
        while not is_over:
            for event in executor.wait():
                if isinstance(event, TrialEnded):
                    outcome, is_over = event.outcome, True
            if self._should_stop(executor):
                executor.stop()
        if (outcome is None or outcome.state is not TrialState.COMPLETE) and before is not None:
            record.write_bytes(before)  # the trial itself has ended well
            self._view.say("warning: its model could not be trained again; give the same command once more")

    def _broken_off(self, stop: BaseException) -> int:
        """A second signal, or a launcher's job that was stopped by one."""
        self._close_pool(at_once=True)
        self._end_mlflow_run(Status.KILLED, "stopped by a signal")
        self._say_how_to_go_on()
        if isinstance(stop, SystemExit) and isinstance(stop.code, int):
            return stop.code
        return 128 + (self._signals.requested or signal.SIGINT)

    def _close_pool(self, *, at_once: bool = False) -> None:
        if self._training is not None and self._training.pool is not None:
            if at_once:
                self._training.pool.kill()
            self._training.pool.close()

    def _end_mlflow_run(self, status: Status, reason: str) -> None:
        if self._mlflow_run is not None:
            self._mlflow_run.finish(status, {"frostline.reason": reason}, [])

    def _say_how_to_go_on(self) -> None:
        print(f"resume with: {visible(self._sweep.resume_command)}", file=sys.stderr, flush=True)
