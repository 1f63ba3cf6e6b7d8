"""Runs in the test's own process, from overrides alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from frostline.config import compose_job
from frostline.records.recorder import NullRecorder
from frostline.records.result import RunResult
from frostline.records.run_context import RunContext
from frostline.train.run import run


def train(overrides: Sequence[str], folder: Path) -> RunResult:
    """Trains one run in a new folder."""
    folder.mkdir()
    return run(compose_job(list(overrides)).run, RunContext(NullRecorder(), folder))


def stop_and_resume(overrides: Sequence[str], folder: Path, step: int) -> RunResult:
    """Stops a run after a step and resumes it from its last checkpoint."""
    spec = compose_job(list(overrides)).run
    folder.mkdir()
    run(spec, RunContext(NullRecorder(), folder, until_step=step))
    return run(spec, RunContext(NullRecorder(), folder, resume_from=folder))
