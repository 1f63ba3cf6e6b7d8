"""Runs one composed config and records it."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from frostline import variables
from frostline.config import Job, decode_job, spec_from_json
from frostline.console import report_error
from frostline.errors import RunFailedError, UserError, visible
from frostline.files import write_atomically
from frostline.preflight import check_resume
from frostline.provenance import redact
from frostline.records.result import Cause, RunResult, Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import SPEC_FILE, RunFolder
from frostline.report import one_line, summary
from frostline.signals import PREEMPTED, Interrupted, exit_code

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from frostline.spec import RunSpec
    from frostline.sweeps.plan import PlanRequest
    from frostline.tracking import ChildRun


_PLACE_IN_SWEEP = (
    "tracking.parent_run=", "tracking.run_name=", "tracking.params=", "++tracking.tags=", "runtime.num_runs=",
)  # fmt: skip
"""Overrides that a sweep adds to those that train the run."""


@dataclass
class RunTask:
    """Hydra's task function: trains what was composed. There is one for each command.

    Attributes:
        command: What the user typed, to be typed again.
        plan: Forecast the sweep instead of running it; None: run it.
        num_jobs: How many runs a multirun has, if that is known.
        folders: Of the runs that were started in this process.
        exit_code: Of a sweep; None before its end.
    """

    command: str
    plan: PlanRequest | None = None
    num_jobs: int | None = None
    folders: list[Path] = field(default_factory=list)
    exit_code: int | None = None

    def __call__(self, cfg: DictConfig) -> float | None:
        """Trains what was composed.

        Returns:
            The objective, which any Hydra sweeper can optimize.

        Raises:
            UserError, RunFailedError: In a multirun, so that Hydra counts the job as failed and continues.
            SystemExit: In a single run, with the exit code; and after a signal.
        """
        settings = HydraConfig.get()
        single = settings.mode == RunMode.RUN
        out_dir = Path(settings.runtime.output_dir)
        if not single:
            self.folders.append(out_dir)
            _redact_file(Path(settings.sweep.dir) / "multirun.yaml")
        try:
            job = decode_job(cfg)
            own = [word for word in settings.overrides.task if not word.startswith(_PLACE_IN_SWEEP)]
            result, stopped = execute(job, out_dir, [redact(override) for override in own])
        except UserError as error:
            code = report_error(error)
            if single:
                sys.exit(code)
            raise
        if single:
            _show(result, out_dir)
        else:
            total = f"/{self.num_jobs}" if self.num_jobs else ""
            print(f"[{settings.job.num + 1}{total}] {visible(one_line(result))}", flush=True)
        if stopped:
            sys.exit(stopped)
        if result.status is not Status.FINISHED:
            if single:
                sys.exit(report_error(RunFailedError(f"{result.name}: {result.reason}"), 1))
            raise RunFailedError(f"{result.name}: {result.reason}")
        return result.objective.value if result.objective else None


def execute(job: Job, out_dir: Path, overrides: list[str]) -> tuple[RunResult, int]:
    """Trains a job in a folder, recorded there and in MLflow.

    Returns:
        The result, and the exit code if a signal asked to stop: of a run that it killed, or that was done already.

    Raises:
        UserError: Bad input.
    """
    from frostline.launch import runner_of
    from frostline.tracking import recorders_of
    from frostline.train.checkpoint import CheckpointStore

    variables.ignore(os.environ)  # a launcher's job begins here, and not at the command line
    spec = job.run
    resume_from = check_resume(job) if job.resume is not None else None
    child, step = _child(job), _step_before_requeue(out_dir, spec)
    if step:
        resume_from = out_dir
    elif resume_from is not None and step is None and resume_from.resolve() == out_dir.resolve():
        step = CheckpointStore(out_dir).newest_step()  # the command named the folder, and is given once more
        if step is None:
            raise UserError(f"resume={job.resume}: {_why_none(out_dir)}")
    with RunFolder(out_dir, spec, overrides, resume_step=step, keep_diff=job.tracking.git_diff) as folder:
        reopen = child is not None or step is not None
        recorders = recorders_of(folder, spec, job.tracking, child=child, reopen=reopen)
        try:
            result = runner_of(spec)(spec, RunContext(recorders, out_dir, overrides=overrides, resume_from=resume_from))
        except Interrupted as stop:
            # Finished is finished: a job that has nothing left to do is not put into a queue again.
            return RunResult.read(out_dir), 0 if stop.signum == PREEMPTED else stop.exit_code
    if result.cause is Cause.PREEMPTED:
        os.kill(os.getpid(), PREEMPTED)  # to the scheduler that requeues the job, now that all is written
    return result, exit_code(result.cause) if result.status is Status.KILLED else 0


def _step_before_requeue(folder: Path, spec: RunSpec) -> int | None:
    """Returns the step to resume at if a cluster has started this job before: 0 if there is no checkpoint.

    None: it begins for the first time, or ran to its end.
    """
    if not any(name in os.environ for name in ("SUBMITIT_EXECUTOR", "SLURM_RESTART_COUNT")):
        return None
    from frostline.train.checkpoint import CheckpointStore

    try:
        is_same = spec_from_json((folder / SPEC_FILE).read_text(encoding="utf-8")).digest() == spec.digest()
    except (OSError, UserError):
        return None
    with suppress(UserError):
        if RunResult.read(folder).status is not Status.KILLED:
            return None
    return (CheckpointStore(folder).newest_step() or 0) if is_same else None


def _why_none(folder: Path) -> str:
    """Returns why a run without a whole checkpoint can't be resumed."""
    with suppress(UserError):
        if RunResult.read(folder).status is Status.FINISHED:
            return "that run is FINISHED; give another folder for a new one, for example hydra.run.dir=runs/NEW"
    return "no whole checkpoint there; start the run anew, in another folder, for example hydra.run.dir=runs/NEW"


def _child(job: Job) -> ChildRun | None:
    """Returns the run's place in a sweep, if the config says that it has one."""
    from frostline.tracking import ChildRun

    tracking = job.tracking
    if tracking.parent_run is None and tracking.run_name is None:
        return None
    flat = job.run.flat()
    params = {key: flat.get(key) for key in tracking.params}
    return ChildRun(parent=tracking.parent_run, name=tracking.run_name or job.run.name(), params=params, tags={})


def _show(result: RunResult, out_dir: Path) -> None:
    """Prints a summary of a run, and how an interrupted one is resumed."""
    print(visible(summary(result, out_dir)), flush=True)
    if result.status is Status.KILLED and any((out_dir / "checkpoints").glob("step-*")):
        print(f"resume it with the same command and {shlex.quote(f'resume={out_dir}')}", file=sys.stderr)


def _redact_file(path: Path) -> None:
    """Takes passwords out of the copy of the config that Hydra's sweeper leaves in the sweep's folder."""
    if path.is_file() and redact(text := path.read_text(encoding="utf-8")) != text:
        write_atomically(path, redact(text))
