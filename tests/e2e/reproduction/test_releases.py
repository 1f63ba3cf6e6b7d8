"""The records of every release, made by tests/assets/make.py then, opened by this version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from frostline.records.result import RunResult, Status
from tests.assets.make import STOPPED, SWEEP
from tests.support.sweep_tools import call, mlflow_runs, trials_in

ASSETS = Path(__file__).parents[2] / "assets"
RELEASES = sorted(path.name for path in ASSETS.iterdir() if (path / "mlflow.db").is_file())


@pytest.fixture(params=RELEASES)
def home(request, tmp_path, monkeypatch):
    """A copy of a release's records, as if its project folder had been moved here."""
    copy = tmp_path / "home"
    shutil.copytree(ASSETS / request.param, copy)
    monkeypatch.setenv("FROSTLINE_HOME", str(copy / "cache"))
    return copy


def done(*words, cwd, **env):
    result = call(*words, cwd=cwd, timeout=120, **env)
    assert result.returncode == 0, result.stderr
    return result


def test_there_are_records():
    assert RELEASES


@pytest.mark.slow
def test_a_sweep_is_reported(home):
    table = done("report", "s", cwd=home).stdout
    assert "6 trials: 3 to the end, 3 stopped early" in table


@pytest.mark.slow
def test_a_sweep_is_resumed(home):
    before = {trial.number: (trial.params, trial.by_seed, trial.state) for trial in trials_in(home / "runs/s")}
    words = [word.replace("sweep.n_trials=6", "sweep.n_trials=7") for word in SWEEP]
    done("sweep", *words, cwd=home)
    after = {trial.number: (trial.params, trial.by_seed, trial.state) for trial in trials_in(home / "runs/s")}
    assert len(after) == 7
    assert {number: after[number] for number, (_, _, state) in before.items() if state == "COMPLETE"} == {
        number: record for number, record in before.items() if record[2] == "COMPLETE"
    }
    assert len({run.data.tags.get("mlflow.parentRunId") for run in mlflow_runs(home)} - {None}) == 1


@pytest.mark.slow
def test_a_stopped_run_is_resumed(home):
    parts = ("plugins=[stop_plugin]", "optimizer.name=stops", "resume=runs/stopped")
    done("run", *STOPPED, *parts, cwd=home, PYTHONPATH=str(ASSETS), FINISH="1")
    assert RunResult.read(home / "runs/stopped").status is Status.FINISHED


@pytest.mark.slow
def test_a_run_is_predicted_with_and_explained(home):
    assert "positive" in done("predict", "s", "a lovely film", cwd=home).stdout
    explained = done("reproduce", "s", "--explain", cwd=home).stdout
    assert "digest" not in explained
    (model,) = (home / "runs/s").glob("*/model")
    run_id = json.loads((model.parent / ".mlflow.json").read_text())["run_id"]
    assert "positive" in done("predict", run_id, "a lovely film", cwd=home).stdout


@pytest.mark.slow
def test_a_cache_entry_is_listed(home):
    listed = done("list", "cache", cwd=home).stdout
    assert "moods" in listed
