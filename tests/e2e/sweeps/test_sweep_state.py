"""Launchers, storages, locks, and what changed under a sweep."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from frostline.records.result import RunResult
from frostline.records.trial import TrialState
from tests.conftest import sentences, write_csv
from tests.e2e.sweeps.tiny_sweep import PLUGIN, pairs, small
from tests.support.sweep_tools import (
    answer_rows,
    call,
    mlflow_runs,
    start,
    trials_in,
    wait_for,
)

pytestmark = pytest.mark.slow


def test_the_basic_launcher_trains_in_batches(tmp_path, tiny):
    arguments = ["hydra/launcher=basic", *small(4), "sweep.enqueue=none", "training.epochs=1"]
    arguments += ["runtime.cache=auto"]
    home = {"FROSTLINE_HOME": str(tmp_path / "home")}
    done = call("sweep", "lr_x_depth", *tiny, *arguments, cwd=tmp_path, **home)
    assert done.returncode == 0, done.stderr
    found = trials_in(tmp_path / "runs" / "lr_x_depth")
    assert [p.state for p in found] == [TrialState.COMPLETE] * 4
    for trial in found:  # one epoch alone would not pay: the jobs know of each other
        result = RunResult.read(tmp_path / "runs" / "lr_x_depth" / f"{trial.number:03d}")
        assert result.prefix_cache.startswith(f"depth {trial.depth}" if trial.depth else "off")
    parent, children = pairs(tmp_path, "lr_x_depth")
    assert len(children) == 4
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}


def test_a_killed_batch_is_trained_again_in_the_same_mlflow_runs(tmp_path, tiny):
    arguments = ["hydra/launcher=basic", *small(2), "sweep.enqueue=none", "training.epochs=1"]
    arguments += ["plugins=[sweep_plugin]", "optimizer.name=slow"]
    process = start("sweep", "lr_x_depth", *tiny, *arguments, cwd=tmp_path, SLOW_S="5", **PLUGIN)
    wait_for(lambda: any("frostline.trial" in run.data.tags for run in mlflow_runs(tmp_path)), what="the first run")
    process.kill()
    process.communicate()
    done = call("sweep", "lr_x_depth", *tiny, *arguments, cwd=tmp_path, SLOW_S="0", **PLUGIN)
    assert done.returncode == 0, done.stderr
    _, children = pairs(tmp_path, "lr_x_depth")
    assert {run.info.status for run in children} == {"FINISHED"}
    assert sorted(run.data.tags["frostline.trial"] for run in children) == ["0", "1"]


def test_sqlite_storage_takes_one_writer_and_a_folder_one_parent(tmp_path, quiet):
    slow = ["plugins=[sweep_plugin]", "optimizer.name=slow", *small(4), "training.epochs=1", "optimizer.lr=1e-3"]
    storage = f"sweep.storage=sqlite:///{tmp_path / 'optuna.db'}"
    first = start("sweep", "depth_only", *quiet, *slow, storage, cwd=tmp_path, SLOW_S="0.5", **PLUGIN)
    try:
        folder = tmp_path / "runs" / "depth_only"
        wait_for(lambda: list(folder.glob("000/metrics.jsonl")), what="the first run")
        second = call("sweep", "depth_only", *quiet, *slow, storage, cwd=tmp_path, **PLUGIN)
        assert second.returncode == 2
        assert f"another process works on this sweep (pid {first.pid} on " in second.stderr
        other = call("sweep", "depth_only", *quiet, *slow, storage, "sweep.name=other", cwd=tmp_path, **PLUGIN)
        assert other.returncode == 2
        assert "SQLite takes one writer" in other.stderr
    finally:
        first.kill()
        first.communicate()
    # the lock of a killed parent is taken over
    again = call("sweep", "depth_only", *quiet, *slow, storage, cwd=tmp_path, SLOW_S="0", **PLUGIN)
    assert again.returncode == 0, again.stderr
    with closing(sqlite3.connect(tmp_path / "optuna.db")) as base, base:
        assert base.execute("select count(*) from trials where state = 'COMPLETE'").fetchone() == (4,)


def test_a_journal_elsewhere_takes_one_parent(tmp_path, quiet):
    slow = ["plugins=[sweep_plugin]", "optimizer.name=slow", *small(4), "training.epochs=1", "optimizer.lr=1e-3"]
    common = ["sweep", "depth_only", *quiet, *slow, f"sweep.storage=journal:{tmp_path / 'shared.log'}"]
    first = start(*common, "hydra.sweep.dir=a/depth_only", cwd=tmp_path, SLOW_S="0.5", **PLUGIN)
    try:
        wait_for(lambda: list((tmp_path / "a").glob("depth_only/000/metrics.jsonl")), what="the first run")
        second = call(*common, "hydra.sweep.dir=b/depth_only", cwd=tmp_path, **PLUGIN)
        assert second.returncode == 2
        assert "another sweep writes to it, and one command at a time works on a sweep" in second.stderr
    finally:
        first.kill()
        first.communicate()
    again = call(*common, "hydra.sweep.dir=b/depth_only", cwd=tmp_path, SLOW_S="0", **PLUGIN)
    assert again.returncode == 0, again.stderr
    assert [trial.state for trial in trials_in(tmp_path / "b" / "depth_only")] == [TrialState.COMPLETE] * 4


def test_a_lost_or_broken_study_is_rebuilt_from_the_trials_files(tmp_path, quiet):
    arguments = ["sweep", "depth_only", *quiet, "optimizer.lr=1e-3", "dataset.train_rows=64"]
    assert call(*arguments, cwd=tmp_path).returncode == 0
    folder = tmp_path / "runs" / "depth_only"
    before = answer_rows(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    (folder / "journal.log").unlink()
    again = call(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "the study is missing: rebuilt from the files of 5 trials" in again.stderr
    lines = (folder / "journal.log").read_bytes().splitlines(keepends=True)
    lines[3] = b"\xff\xfe\n"
    (folder / "journal.log").write_bytes(b"".join(lines))
    again = call(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "put aside as journal.log.broken-1" in again.stderr
    assert "Traceback" not in again.stderr
    assert answer_rows(folder) == before
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")} == times


def test_new_begins_afresh_under_a_new_name_and_learns_from_the_old(tmp_path, quiet):
    arguments = ["sweep", "lr_x_depth", *quiet, *small(4), "sweep.promote_fraction=1.0", "sweep.enqueue=none"]
    assert call(*arguments, cwd=tmp_path).returncode == 0
    new = call(*arguments, "sweep.new=true", "sweep.warm_start=lr_x_depth", "optimizer.weight_decay=0.2", cwd=tmp_path)
    assert new.returncode == 0, new.stderr
    assert len(trials_in(tmp_path / "runs" / "lr_x_depth-2")) == 4
    loss = ["training.objective=loss", "training.direction=minimize", "sweep.warm_start=lr_x_depth", "sweep.name=loss"]
    other = call(*arguments, *loss, cwd=tmp_path)
    assert other.returncode == 2
    assert "its objective is accuracy (maximize), this sweep's is loss (minimize)" in other.stderr
    assert len(trials_in(tmp_path / "runs" / "lr_x_depth")) == 4


def test_what_changed_under_a_sweep_is_refused(tmp_path, tiny, tiny_csv, tiny_model):
    """A setting of a swept group, the data file's rows, the weights; but a first mistake doesn't keep the name."""
    own_csv, own_model = tmp_path / "own.csv", tmp_path / "own-model"
    shutil.copyfile(tiny_csv, own_csv)
    shutil.copytree(tiny_model, own_model)
    arguments = [
        "sweep", "models_x_depth", *tiny, "model=choice(path)", f"model.location={own_model}",
        f"dataset.location={own_csv}", "training.epochs=1", "dataset.train_rows=64", "tracking=off",
    ]  # fmt: skip
    bad = call(*arguments, "sweep.n_trials=2", "dataset.text_column=nope", cwd=tmp_path)
    assert bad.returncode == 2
    assert "dataset.text_column=nope" in bad.stderr
    assert call(*arguments, "sweep.n_trials=2", cwd=tmp_path).returncode == 0  # the name is free again
    other = call(*arguments, "sweep.n_trials=3", f"model.location={tiny_model}", cwd=tmp_path)
    assert other.returncode == 2
    assert f"path.model.location: {own_model} -> {tiny_model}" in other.stderr
    write_csv(own_csv, [*sentences(160)[:-1], ("a great film indeed", "positive")])
    changed = call(*arguments, "sweep.n_trials=3", cwd=tmp_path)
    assert changed.returncode == 2
    assert "dataset.location: another content" in changed.stderr
    folder = tmp_path / "runs" / "models_x_depth"
    assert [p.state for p in trials_in(folder)] == [TrialState.COMPLETE] * 2
    shutil.copyfile(tiny_csv, own_csv)
    assert call(*arguments, "sweep.n_trials=3", cwd=tmp_path).returncode == 0
    assert [p.state for p in trials_in(folder)] == [TrialState.COMPLETE] * 3


def test_a_shared_study_of_another_config_is_refused(tmp_path, quiet):
    common = ["sweep", "lr_x_depth", *quiet, *small(2), "training.epochs=1", "sweep.enqueue=none"]
    common.append(f"sweep.storage=journal:{tmp_path / 'shared.log'}")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert call(*common, cwd=tmp_path / "a").returncode == 0
    other = call(*common, "seed=5", cwd=tmp_path / "b")
    assert other.returncode == 2
    assert "its study lr_x_depth holds a sweep of another config (seed: 0 -> 5)" in other.stderr
    new = call(*common, "seed=5", "sweep.new=true", "sweep.timeout_s=0.001", cwd=tmp_path / "b")
    assert new.returncode == 0, new.stderr
    assert "resume with: frostline sweep lr_x_depth" in new.stderr
    assert new.stderr.splitlines()[-1].endswith("sweep.name=lr_x_depth-2")
    assert "sweep.new" not in new.stderr.splitlines()[-1]
    assert "sweep.timeout_s=0.001 is reached" in new.stdout


def test_no_password_reaches_the_report_or_the_terminal(tmp_path, tiny):
    uri = "tracking.uri=http://bob:hunter2@127.0.0.1:9"
    arguments = ["training.epochs=1", "dataset.train_rows=32", "optimizer.lr=1e-3", "sweep.n_trials=1"]
    done = call("sweep", "depth_only", *tiny, *arguments, uri, cwd=tmp_path, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.returncode == 0, done.stderr
    assert "run it again: " in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    for path in (tmp_path / "runs").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
