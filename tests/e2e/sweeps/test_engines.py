"""Sweeps in batches through submitit, as on Slurm, with its local executor."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from frostline.records.result import RunResult, Status
from frostline.records.trial import TrialState
from tests.support import PLUGINS
from tests.support.services import installed
from tests.support.sweep_tools import TRIALS_ALONE, mlflow_runs, start, trials_in, wait_for

pytestmark = pytest.mark.slow


def with_packages(folder: str) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([PLUGINS, folder])}


@pytest.fixture(scope="module")
def submitit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submitit")
    return installed(folder, "hydra-submitit-launcher==1.2.0", "submitit==1.5.4")


def job_of(folder: Path) -> int | None:
    """The process of a submitit job that trains in a folder."""
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            line = (environ.parent / "cmdline").read_bytes()
            if b"submitit.core._submit" in line and str(folder).encode() in line + environ.read_bytes():
                return int(environ.parent.name)
        except OSError:
            continue
    return None


@pytest.mark.timeout(600)
def test_a_preempted_job_checkpoints_is_queued_again_and_resumes(tmp_path, tiny_overrides, submitit):
    arguments = ["hydra/launcher=submitit_local", "plugins=[sweep_plugin]", "optimizer.name=slow", "freeze.depth=1"]
    arguments += ["dataset.train_rows=64", "training.epochs=2", "sweep.n_trials=2", "sweep.enqueue=none", *TRIALS_ALONE]
    fixed = [o for o in tiny_overrides if not o.startswith("optimizer.lr=")]
    env = {**with_packages(submitit), "SLOW_S": "0.5"}
    process = start("sweep", "lr_only", *fixed, *arguments, "runtime.slots=1", cwd=tmp_path, **env)
    folder = tmp_path / "runs" / "lr_only"
    metrics = folder / "000" / "metrics.jsonl"
    try:
        wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2, limit_s=120)
        pid = wait_for(lambda: job_of(tmp_path), what="the job's process")
        os.kill(pid, signal.SIGUSR2)
        os.kill(pid, signal.SIGTERM)  # a scheduler sends both
        _, err = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, err
    log = (folder / "000" / "run.log").read_text()
    assert "resuming from" in log
    assert log.count("training on cpu") == 2
    found = trials_in(folder)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 2
    result = RunResult.read(folder / "000")
    assert result.status is Status.FINISHED
    steps = [line for line in metrics.read_text().splitlines() if "train/loss" in line]
    assert len(steps) == result.cost.steps  # each once
    children = [run for run in mlflow_runs(tmp_path) if run.data.tags.get("frostline.kind") == "trial"]
    assert [run.info.status for run in children] == ["FINISHED"] * 2  # the same run, resumed
