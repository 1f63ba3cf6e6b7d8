"""Trains one job in this process, recorded in a folder and in MLflow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from frostline import variables
from frostline.config import Job, spec_from_json
from frostline.errors import SpecError, UserError
from frostline.preflight import check_resume
from frostline.records.recorder import Recorder
from frostline.records.result import Cause, RunResult, Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import SPEC_FILE, RunFolder
from frostline.signals import PREEMPTED, Interrupted, exit_code

if TYPE_CHECKING:
    from frostline.spec import RunSpec
    from frostline.tracking import ChildRun


def execute(job: Job, out_dir: Path, overrides: Sequence[str], *recorders: Recorder) -> tuple[RunResult, int]:
    """Trains a job in a folder, recorded there and in MLflow.

    Args:
        job: What to train.
        out_dir: The run's folder.
        overrides: What composes the job, for the record.
        *recorders: Further ones.

    Returns:
        The result, and the exit code if a signal asked to stop: of a run that it killed, or that was done already.

    Raises:
        UserError: Bad input; a name in the model registry without a model.
    """
    from frostline.launch import runner_of
    from frostline.tracking import recorders_of
    from frostline.train.checkpoint import CheckpointStore

    variables.ignore(os.environ)  # a launcher's job begins here, and not at the command line
    spec, tracking = job.run, job.tracking
    if tracking.register is not None and tracking.parent_run is None and not tracking.log_model:
        raise SpecError("tracking.register: needs the model in MLflow; set tracking.log_model=true")
    resume_from = check_resume(job) if job.resume is not None else None
    child, step = _child(job), _step_before_requeue(out_dir, spec)
    if step:
        resume_from = out_dir
    elif resume_from is not None and step is None and resume_from.resolve() == out_dir.resolve():
        step = CheckpointStore(out_dir).newest_step()  # the command named the folder, and is given once more
        if step is None:
            raise UserError(f"resume={job.resume}: {_why_none(out_dir)}")
    with RunFolder(out_dir, spec, overrides, resume_step=step, keep_diff=tracking.git_diff) as folder:
        reopen = child is not None or step is not None
        record = recorders_of(folder, spec, tracking, *recorders, child=child, reopen=reopen)
        try:
            result = runner_of(spec)(spec, RunContext(record, out_dir, overrides=overrides, resume_from=resume_from))
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
