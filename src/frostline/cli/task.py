"""Owns: one composed config -> one recorded run. Must not know: argv, how Hydra launches it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from frostline import variables
from frostline.cli import session
from frostline.cli.main import report_error
from frostline.cli.preflight import check_resume
from frostline.config import Job, decode_job, spec_from_json
from frostline.errors import RunFailedError, UserError, visible
from frostline.files import write_atomically
from frostline.provenance import redact
from frostline.record import CHILD_FILE, SPEC_FILE, Recorder, Recorders, RunFolder, Sharing
from frostline.registry import import_plugins
from frostline.report import one_line, summary
from frostline.result import Cause, RunResult, Status
from frostline.signals import PREEMPTED, Interrupted, exit_code

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from frostline.spec import RunSpec
    from frostline.tracking import Child


def task(cfg: DictConfig) -> float | None:
    """Hydra's task function: trains what was composed.

    Returns:
        The objective, which any Hydra sweeper can optimize.

    Raises:
        UserError, RunFailedError: In a multirun, so that Hydra counts the job as failed and goes on.
        SystemExit: In a single run, with the exit code; and after a signal.
    """
    settings = HydraConfig.get()
    single = settings.mode == RunMode.RUN
    out_dir = Path(settings.runtime.output_dir)
    if not single:
        session.current.folders.append(out_dir)
        _redact_file(Path(settings.sweep.dir) / "multirun.yaml")
    try:
        job = decode_job(cfg)
        import_plugins(job.plugins)
        result, stopped = execute(job, out_dir, [redact(override) for override in settings.overrides.task])
    except UserError as error:
        code = report_error(error)
        if single:
            sys.exit(code)
        raise
    show(result, out_dir, None if single else settings.job.num)
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
    from frostline.launch import run
    from frostline.tracking import MlflowRecorder
    from frostline.train.checkpoint import CheckpointStore

    variables.ignore(os.environ)  # a launcher's job begins here, and not at the command line
    spec = job.run
    resume_from = check_resume(job) if job.resume is not None else None
    child, step = _child(out_dir), _step_before_requeue(out_dir, spec)
    if step:
        resume_from = out_dir
    elif resume_from is not None and step is None and resume_from.resolve() == out_dir.resolve():
        step = CheckpointStore(out_dir).newest_step()  # the command named the folder, and is given once more
        if step is None:
            raise UserError(f"resume={job.resume}: {_why_none(out_dir)}")
    with RunFolder(out_dir, spec, overrides, go_on_from=step, keep_diff=job.tracking.git_diff) as folder:
        recorders: list[Recorder] = [folder]
        if job.tracking.enabled:
            again = child is not None or step is not None
            recorders.append(MlflowRecorder(job.tracking, spec, out_dir, child=child, reopen=again))
        try:
            result = run(
                spec, Recorders(recorders), out_dir, overrides=overrides, resume_from=resume_from,
                sharing=_sharing(out_dir),
            )  # fmt: skip
        except Interrupted as stop:
            # Finished is finished: a job that has nothing left to do is not put into a queue again.
            return RunResult.read(out_dir), 0 if stop.signum == PREEMPTED else stop.exit_code
    if result.cause is Cause.PREEMPTED:
        os.kill(os.getpid(), PREEMPTED)  # to whoever puts the job into the queue again, now that all is written
    return result, exit_code(result.cause) if result.status is Status.KILLED else 0


def _step_before_requeue(folder: Path, spec: RunSpec) -> int | None:
    """Returns the step to go on from if a cluster has begun this job before: 0 if there is no checkpoint.

    None: it begins for the first time, or ran to its end.
    """
    if not any(name in os.environ for name in ("SUBMITIT_EXECUTOR", "SLURM_RESTART_COUNT")):
        return None
    from frostline.train.checkpoint import CheckpointStore

    try:
        same = spec_from_json((folder / SPEC_FILE).read_text(encoding="utf-8")).digest() == spec.digest()
    except (OSError, UserError):
        return None
    with suppress(UserError):
        if RunResult.read(folder).status is not Status.KILLED:
            return None
    return (CheckpointStore(folder).newest_step() or 0) if same else None


def _why_none(folder: Path) -> str:
    """Returns why a run without a whole checkpoint can't be resumed."""
    with suppress(UserError):
        if RunResult.read(folder).status is Status.FINISHED:
            return "that run is FINISHED; give another folder for a new one, as hydra.run.dir=runs/NEW"
    return "no whole checkpoint there; start the run anew, in another folder, as hydra.run.dir=runs/NEW"


def _child(folder: Path) -> Child | None:
    """Returns the run's place in a sweep, if a sweep's parent left a note of it in the folder."""
    from frostline.tracking import Child

    try:
        data = json.loads((folder / CHILD_FILE).read_text(encoding="utf-8"))
        return Child(parent=data["parent"], name=data["name"], params=data["params"], tags=data["tags"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sharing(folder: Path) -> Sharing:
    """Returns who else will want what this run's frozen blocks compute, if a sweep's parent left a note of it."""
    try:
        data = json.loads((folder / CHILD_FILE).read_text(encoding="utf-8"))["sharing"]
        return Sharing(num_runs=int(data["num_runs"]), depths=tuple(map(int, data["depths"])))
    except (OSError, ValueError, KeyError, TypeError):
        return Sharing()


def show(result: RunResult, out_dir: Path, job_num: int | None) -> None:
    """Prints what a run came to: a summary, or one line of a multirun."""
    if job_num is None:
        print(visible(summary(result, out_dir)), flush=True)
        if result.status is Status.KILLED and any((out_dir / "checkpoints").glob("step-*")):
            print(f"it goes on with the same command and {shlex.quote(f'resume={out_dir}')}", file=sys.stderr)
    else:
        total = session.current.num_jobs
        print(f"[{job_num + 1}{f'/{total}' if total else ''}] {visible(one_line(result))}", flush=True)


def _redact_file(path: Path) -> None:
    """Takes passwords out of the copy of the config that Hydra's sweeper leaves in the sweep's folder."""
    if path.is_file() and redact(text := path.read_text(encoding="utf-8")) != text:
        write_atomically(path, redact(text))
