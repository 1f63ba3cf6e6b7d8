"""Owns: the course of one sweep's command, from its config to its exit code. Must not know: how a run trains."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from frostline.cluster import ClusterPool
from frostline.console import report_error
from frostline.errors import (
    MACHINE_WAY_OUT,
    MachineError,
    RunFailedError,
    SpecError,
    UserError,
    machine_trouble,
    visible,
)
from frostline.preflight import preflight
from frostline.provenance import redact
from frostline.records.result import RESULT_FILE, RunResult, Status
from frostline.records.run_folder import LOG_FILE, MODEL_FOLDER, check_files
from frostline.records.trial import TrialOutcome, TrialRecord, TrialState
from frostline.search import (
    CorruptStudyError,
    Executor,
    Journal,
    LockLostError,
    SearchLimits,
    SearchSummary,
    Study,
    TrialEnded,
    TrialTask,
    open_locked,
    queue_of,
    search,
    storage_trouble,
)
from frostline.spec import Direction, KeepModels, Params, Progress, SamplerName
from frostline.sweep.engines import EngineOpener, Training
from frostline.sweep.finish import FinishedSweep, answer_for, conclude
from frostline.sweep.folder import (
    JOURNAL_FILE,
    SweepFolder,
    describe,
    differences,
    read_description,
    refusal,
)
from frostline.sweep.listeners import Listeners, MlflowListener, ProgressView
from frostline.sweep.pool_executor import PoolExecutor
from frostline.sweep.predictions import evidence_in
from frostline.sweep.questions import SeedRace, advisors_of, the_advisor
from frostline.sweep.read_config import Compose, Sweep, read
from frostline.sweep.recovery import behind, merged, notes_of, recover
from frostline.sweep.start import for_batches, renamed, sweep_log, warm_start_trials_of
from frostline.sweep.trial_files import TrialFiles
from frostline.sweep.trial_runs import TrialRuns

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher
    from omegaconf import DictConfig

    from frostline.tracking import SweepRun

log = logging.getLogger(__name__)


def run_sweep(cfg: DictConfig, arguments: Sequence[str], compose: Compose, launcher: Launcher, command: str) -> int:
    """Runs a sweep, or resumes it.

    Args:
        cfg: The composed config of the multirun.
        arguments: The overrides of the job, those that sweep included.
        compose: Composes a trial's config.
        launcher: Set up by Hydra. With warm workers (frostline_local) trials run in a pool, with another in batches.
        command: What the user typed, to be typed again.

    Returns:
        The exit code.

    Raises:
        UserError: Bad input; one line.
    """
    sweep = replace(read(cfg, arguments, compose, preflight), command=command)
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
        goes_on = folder.admit(description)
        stack.enter_context(sweep_log(folder.folder))
        course = SweepCommand(sweep, compose, folder, launcher if not warm else None, goes_on, description, stack)
        try:
            return course.go(queue, warm_start_trials)
        except UserError:
            raise
        except Exception as error:
            # What composes was composed before: this is no config error, and must not be told as one.
            log.exception("the sweep failed")
            raise RunFailedError(
                f"{folder.folder}: the sweep failed ({type(error).__name__}: {redact(str(error))}); its trials are "
                f"kept, the traceback is in {folder.folder / f'sweep-{LOG_FILE}'}"
            ) from error


def _has_whole_model(folder: Path) -> bool:
    try:
        check_files(folder, RunResult.read(folder), MODEL_FOLDER)
    except UserError:
        return False
    return (folder / MODEL_FOLDER).is_dir()


@dataclass
class _Signals:
    """What the person asked for with Ctrl-C, or the system with SIGTERM."""

    requested: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signum
        print("stopping after the step; once more stops at once", file=sys.stderr, flush=True)


class SweepCommand:
    """One command's sweep."""

    def __init__(
        self,
        sweep: Sweep,
        compose: Compose,
        folder: SweepFolder,
        launcher: Launcher | None,
        goes_on: bool,
        description: Mapping[str, Any],
        stack: ExitStack,
    ) -> None:
        self._sweep = sweep
        self._compose = compose
        self._folder = folder
        self._launcher = launcher
        self._goes_on = goes_on
        self._description = description
        self._stack = stack
        self._advisors = advisors_of(description, evidence_in(folder.folder, sweep.plan.seeds))
        self._advisor = the_advisor(self._advisors)
        training = sweep.job.run.training
        self._metric = training.objective
        self._maximize = training.direction is Direction.MAXIMIZE
        self._signals = _Signals()
        self._run: SweepRun | None = None
        self._training: Training | None = None
        self._warned: set[str] = set()
        self._check_lock: Callable[[], None] = lambda: None

    def go(self, queue: Sequence[Params], warm_start_trials: Sequence[TrialRecord]) -> int:
        """Returns the exit code.

        Args:
            queue: Trials to try first.
            warm_start_trials: Trials of an earlier sweep.
        """
        from frostline.tracking import SweepRun

        sweep, plan = self._sweep, self._sweep.plan
        base_total = plan.n_trials if plan.n_trials is not None else len(queue)
        bar = self._wants_bar()
        for notice in sweep.notices:
            print(f"note: {notice}", file=sys.stderr, flush=True)
        with self._signals.held():
            self._run = SweepRun(sweep.job.tracking, plan.name, self._folder.folder, self._params())
            training = self._training = EngineOpener(
                sweep=sweep, compose=self._compose, folder=self._folder, launcher=self._launcher,
                parent=lambda: None if self._run is None else self._run.run_id, warn=self._warn,
                num_recorded=lambda: len(self._recorded()) if self._goes_on else 0,
                is_stopping=lambda: self._signals.requested is not None, stack=self._stack,
            ).open()  # fmt: skip
            executor, runs = training.executor, training.runs
            try:
                study = self._open_study(queue, warm_start_trials)
                total = base_total + study.num_extra
                view = ProgressView(self._metric, self._maximize, total, training.slots, bar)
                self._stack.callback(view.close)
                self._view = view
                if not self._goes_on:
                    self._warn_of_batch(total, queue, view)
                self._start_run(study)
                files = TrialFiles(self._folder, plan, self._maximize, total, self._judged)
                self._take_up(study, view)
                mlflow = MlflowListener(self._run, self._metric, self._maximize)
                summary = search(
                    plan, study, executor, Listeners([files, mlflow, view]),
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
                self._end_run(Status.FAILED, trouble or full or f"{type(error).__name__}: {error}")
                if full is not None:
                    raise MachineError(f"{self._folder.folder}: {full}; {MACHINE_WAY_OUT}") from error
                if trouble is None:
                    raise
                raise RunFailedError(
                    f"sweep.storage: {trouble}; what was trained is kept, and the same command goes on with it"
                ) from error

    # -- starting ----------------------------------------------------------------------------------------------------

    def _open_study(self, queue: Sequence[Params], warm_start_trials: Sequence[TrialRecord]) -> Study:
        plan = self._sweep.plan
        journal = Journal(self._folder.folder / JOURNAL_FILE)
        recorded = self._recorded() if self._goes_on else []
        try:
            study = self._study(journal.open() if plan.storage is None else self._locked(plan.storage))
        except CorruptStudyError as error:
            aside = journal.put_aside()
            log.warning("%s; put aside as %s", error, aside.name)
            study = self._study(journal.open())
        trials = [trial for trial in recorded if not trial.is_baseline]
        if study.is_empty and trials:
            log.warning(
                "the study is gone: rebuilt from the files of %d trials in %s", len(trials), self._folder.folder
            )
            study.rebuild(recorded, warm_start_trials)
        elif plan.storage is None and (late := behind(study.with_baseline(), recorded)):
            everything = merged(study.with_baseline(), recorded)
            aside = journal.put_aside()
            log.warning(
                "%s lacks what %d trials' own records hold: put aside as %s, and the study is rebuilt from them",
                journal.path, len(late), aside.name,
            )  # fmt: skip
            study = self._study(journal.open())
            study.rebuild(everything, warm_start_trials)
        self._admit(study)
        study.fill(queue, warm_start_trials)
        if plan.sampler is SamplerName.GRID:
            study.extend(queue, (plan.n_trials or len(queue)) + study.num_extra)
        if plan.retry_failed and self._goes_on:
            study.retry_failed()
        return study

    def _start_run(self, study: Study) -> None:
        assert self._run is not None
        self._run.start(study.mlflow_run)
        if self._run.run_id is not None and study.mlflow_run != self._run.run_id:
            study.note_mlflow_run(self._run.run_id)

    def _locked(self, url: str) -> Any:
        storage, self._check_lock = self._stack.enter_context(open_locked(url, self._sweep.plan.name))
        return storage

    def _recorded(self) -> Sequence[TrialRecord]:
        """Returns the trials from their own records; logs a warning for each damaged one."""
        recovery = recover(self._folder, read_description(self._folder.folder))
        for note in notes_of(recovery):
            log.warning("%s", note)
        return recovery.trials

    def _admit(self, study: Study) -> None:
        """A storage may hold a study of this name that somebody made of another config."""
        there = study.description
        if there is None:
            study.describe(self._description)
            return
        difference = differences(there, self._description)
        if difference and study.is_untouched:
            study.reset()
            study.describe(self._description)
        elif difference:
            raise SpecError(f"sweep.storage: its study {self._sweep.plan.name} {refusal(difference)}")

    def _study(self, storage: Any) -> Study:
        plan = self._sweep.plan
        seeds = len(plan.seeds) if plan.seeds else 1
        epochs = self._sweep.job.run.training.epochs
        steps = None if epochs is None else max(1, round(epochs)) * seeds
        return Study(
            storage, plan.name, plan, self._sweep.space,
            maximize=self._maximize, max_steps=steps, propose=self._proposer(),
        )  # fmt: skip

    def _proposer(self) -> Callable[[Sequence[TrialRecord], int], Params] | None:
        advisor, plan = self._advisor, self._sweep.plan
        if advisor is None or plan.sampler is not SamplerName.FROST:
            return None
        return lambda trials, number: advisor.propose(trials, number, plan.n_trials or 1, plan.seed)

    def _judged(self, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Returns the trials that levels are judged by, of all models and sizes."""
        found: list[TrialRecord] = []
        for group, advisor in self._advisors.items():
            found += advisor.judged([trial for trial in trials if trial.group == group])
        return found

    @property
    def _is_decided_here(self) -> bool:
        """Whether one question is asked, of an axis of cost."""
        return self._advisor is not None and self._advisor.question.is_raced

    def _baseline(self, trials: Sequence[TrialRecord]) -> Params | None:
        """Returns the parameters of full fine-tuning; None where it is not asked for, or nothing tells its rate."""
        if not self._sweep.plan.baseline or not self._is_decided_here or self._advisor is None:
            return None
        return self._advisor.baseline(trials)

    def _race(self, runs: TrialRuns) -> SeedRace | None:
        """Returns who gives further seeds; None where nobody does."""
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

    def _warn_of_batch(self, total: int, queue: Sequence[Any], view: ProgressView) -> None:
        if self._sweep.enqueue is None and len(queue) == total and self._sweep.plan.sampler.value not in {"grid"}:
            view.say(f"note: the coarse grid takes all {total} trials, the sampler none: raise sweep.n_trials for more")

    def _params(self) -> dict[str, Any]:
        sweep, plan = self._sweep, self._sweep.plan
        return {
            "sweep": plan.name,
            "sampler": plan.sampler.value,
            "pruner": plan.pruner.name.value,
            "seeds": ",".join(map(str, plan.seeds or (sweep.job.run.seed,))),
            "space": ", ".join(sweep.space.keys),
            "model.name": "swept" if "model" in sweep.space.keys else sweep.job.run.model_name,
            "dataset.name": "swept" if "dataset" in sweep.space.keys else sweep.job.run.dataset_name,
            "training.epochs": sweep.job.run.training.epochs,
        }

    def _wants_bar(self) -> bool:
        choice = self._sweep.job.run.runtime.progress
        return choice is Progress.ON or (choice is Progress.AUTO and sys.stderr.isatty())

    # -- under way ---------------------------------------------------------------------------------------------------

    def _should_stop(self, executor: Executor) -> bool:
        self._check_lock()
        if self._signals.requested is not None and isinstance(executor, PoolExecutor):
            executor.stop_signal = signal.Signals(self._signals.requested)
        return self._signals.requested is not None

    def _warn(self, text: str) -> None:
        told = self._run is not None and text == f"warning: {self._run.warning}"
        if text not in self._warned and not told:  # every trial would tell it again
            self._warned.add(text)
            self._view.say(text)

    # -- ending ------------------------------------------------------------------------------------------------------

    def _end(self, summary: SearchSummary, runs: TrialRuns, executor: Executor, files: TrialFiles) -> int:
        assert self._run is not None
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
        failed = conclude(finished, self._run)
        if signum is not None:
            self._say_how_to_go_on()
            return 128 + signum
        if summary.fatal is not None:
            return report_error(UserError(summary.fatal))
        if failed is not None:
            return report_error(RunFailedError(failed), 1)
        if summary.stopped is not None:  # by its time limit
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
        if is_wanted and isinstance(pool, ClusterPool) and not _has_whole_model(folder):
            below = (folder / MODEL_FOLDER).relative_to(self._folder.trial_folder(trial.number))
            pool.bring((trial.number, None), below.as_posix())
        is_kept = not is_wanted or _has_whole_model(folder)
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
            self._view.say("warning: it did not come to its end; the same command tries again")

    def _broken_off(self, stop: BaseException) -> int:
        """A second signal, or a launcher's job that was stopped by one."""
        self._close_pool(at_once=True)
        self._end_run(Status.KILLED, "stopped by a signal")
        self._say_how_to_go_on()
        if isinstance(stop, SystemExit) and isinstance(stop.code, int):
            return stop.code
        return 128 + (self._signals.requested or signal.SIGINT)

    def _close_pool(self, *, at_once: bool = False) -> None:
        if self._training is not None and self._training.pool is not None:
            if at_once:
                self._training.pool.kill()
            self._training.pool.close()

    def _end_run(self, status: Status, reason: str) -> None:
        if self._run is not None:
            self._run.finish(status, {"frostline.reason": reason}, [])

    def _say_how_to_go_on(self) -> None:
        command = self._sweep.command
        if self._sweep.plan.new:  # typed again it would begin once more
            words = [word for word in shlex.split(command) if not word.startswith(("sweep.new=", "sweep.name="))]
            command = shlex.join([*words, f"sweep.name={self._sweep.plan.name}"])
        print(f"go on with: {visible(command)}", file=sys.stderr, flush=True)
