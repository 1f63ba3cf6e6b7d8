"""Runs one composed config and records it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from frostline.api.execute import execute
from frostline.config import decode_job
from frostline.console import report_error
from frostline.errors import RunFailedError, UserError, visible
from frostline.files import write_atomically
from frostline.provenance import redact
from frostline.records.result import RunResult, Status
from frostline.report import one_line, summary

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from frostline.sweeps.plan import SweepPlan


_PLACE_IN_SWEEP = (
    "tracking.parent_run=", "tracking.run_name=", "tracking.params=", "++tracking.tags=", "runtime.num_runs=",
)  # fmt: skip
"""Overrides that a sweep adds to those that train the run."""


@dataclass
class RunTask:
    """Hydra's task function: trains what was composed. There is one for each command.

    Attributes:
        command: What the user typed, to be typed again.
        plan_nodes: Forecast the sweep on so many nodes instead of running it; None: run it.
        plan: The forecast.
        num_jobs: How many runs a multirun has, if that is known.
        folders: Of the runs that were started in this process.
        exit_code: Of a sweep; None before its end.
    """

    command: str
    plan_nodes: int | None = None
    plan: SweepPlan | None = None
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
            show(result, out_dir)
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


def show(result: RunResult, out_dir: Path) -> None:
    """Prints a summary of a run, and how an interrupted one is resumed."""
    print(visible(summary(result, out_dir)), flush=True)
    if result.status is Status.KILLED and any((out_dir / "checkpoints").glob("step-*")):
        print(f"resume it with the same command and {shlex.quote(f'resume={out_dir}')}", file=sys.stderr)


def _redact_file(path: Path) -> None:
    """Takes passwords out of the copy of the config that Hydra's sweeper leaves in the sweep's folder."""
    if path.is_file() and redact(text := path.read_text(encoding="utf-8")) != text:
        write_atomically(path, redact(text))
