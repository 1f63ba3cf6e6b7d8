"""Signals, kills and a clock that jumps."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from frostline.sweeps.folder import SweepFolder
from tests.e2e.sweeps.tiny_sweep import PLUGIN, small
from tests.support.sweep_tools import (
    answer_rows,
    call,
    interrupt,
    mlflow_runs,
    results,
    start,
    trials_in,
    wait_for,
    worker_pids,
)

pytestmark = pytest.mark.slow


def test_one_signal_finishes_the_step_and_the_same_command_resumes(tmp_path, tiny):
    """Ctrl-C in one trial; SIGTERM, when the same command has resumed, in another."""
    slow = ["plugins=[sweep_plugin]", "optimizer.name=slow", *small(5)]
    arguments = ["sweep", "lr_x_depth", *tiny, *slow]
    whole = tmp_path / "whole"
    whole.mkdir()
    assert call(*arguments, cwd=whole, SLOW_S="0", **PLUGIN).returncode == 0
    folder = tmp_path / "runs" / "lr_x_depth"
    for name, signum, code in (("001", signal.SIGINT, 130), ("002", signal.SIGTERM, 143)):
        process = start(*arguments, cwd=tmp_path, SLOW_S="0.3", **PLUGIN)
        metrics = folder / name / "metrics.jsonl"
        wait_for(lambda path=metrics: path.exists() and path.read_text().count("\n") >= 2)
        interrupt(process, signum)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        assert "stopping after the step" in err
        assert "resume with: frostline sweep lr_x_depth" in err
        assert "Traceback" not in err
        report = call("report", "lr_x_depth", cwd=tmp_path, **PLUGIN)
        assert (
            f"1 not finished; {next(line for line in err.splitlines() if line.startswith('resume'))}" in report.stdout
        )
        assert [each for each, result in results(folder).items() if result["status"] == "KILLED"] == [name]
        assert list((folder / name / "checkpoints").glob("step-*"))
        runs = mlflow_runs(tmp_path)
        assert not [run for run in runs if run.info.status == "RUNNING"]
        assert {run.data.tags["frostline.status"] for run in runs} == {"KILLED", "PRUNED"}
    again = call(*arguments, cwd=tmp_path, SLOW_S="0", **PLUGIN)
    assert again.returncode == 0, again.stderr
    assert answer_rows(folder) == answer_rows(whole / "runs" / "lr_x_depth")
    assert all(trials_in(folder)[number].outcome.resumed >= 1 for number in (1, 2))
    assert not [run for run in mlflow_runs(tmp_path) if run.info.status == "RUNNING"]


def test_two_signals_stop_at_once(tmp_path, tiny):
    slow = ["plugins=[sweep_plugin]", "optimizer.name=slow", *small(4)]
    in_a_step = tmp_path / "in-a-step"
    env = {"SLOW_S": "30", "SLOW_MARK": str(in_a_step), **PLUGIN}
    process = start("sweep", "lr_x_depth", *tiny, *slow, cwd=tmp_path, as_users_do=True, **env)
    # Before its first step a trial ends at the first signal, and the sweep with it.
    wait_for(in_a_step.exists)
    workers = worker_pids(process.pid)
    interrupt(process)
    time.sleep(1)
    interrupt(process)
    _, err = process.communicate(timeout=20)  # a step takes 30 s
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert workers
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists() and "Z" not in _state(pid)]
    assert not [run for run in mlflow_runs(tmp_path) if run.info.status == "RUNNING"]


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_run_that_was_killed_is_not_left_running_by_the_next_one(tmp_path, tiny_overrides):
    arguments = ["run", *tiny_overrides, "plugins=[sweep_plugin]", "optimizer.name=slow"]
    process = start(*arguments, "hydra.run.dir=first", cwd=tmp_path, SLOW_S="30", **PLUGIN)
    wait_for(lambda: any(run.info.status == "RUNNING" for run in mlflow_runs(tmp_path)), what="the run's start")
    process.kill()
    process.communicate()
    done = call(*arguments, "hydra.run.dir=second", "training.max_steps=1", "training.epochs=null", cwd=tmp_path,
                SLOW_S="0", **PLUGIN)  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = {Path(run.data.tags["frostline.run_dir"]).name: run for run in mlflow_runs(tmp_path)}
    assert runs["first"].info.status == "KILLED"
    assert runs["first"].data.tags["frostline.reason"] == "its process died"
    assert runs["second"].info.status == "FINISHED"


def test_a_clock_that_jumps_changes_nothing(tmp_path, quiet):
    """Nothing is ordered by wall time: files from the future are no trouble."""
    arguments = ["sweep", "depth_only", *quiet, "optimizer.lr=1e-3", "dataset.train_rows=64"]
    assert call(*arguments, "sweep.n_trials=3", cwd=tmp_path).returncode == 0
    folder = tmp_path / "runs" / "depth_only"
    for path in folder.rglob("*"):
        os.utime(path, (4e9, 4e9))
    done = call(*arguments, "sweep.n_trials=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [p.number for p in SweepFolder(folder).read_trials()] == [0, 1, 2, 3, 4]
