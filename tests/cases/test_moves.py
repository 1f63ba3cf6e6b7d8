"""A project folder that is moved, and commands given from other folders."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cases.damaged import FEW
from tests.support.sweep_tools import TRIALS_ALONE, call, mlflow_runs, trials_in

pytestmark = pytest.mark.slow

RECORDED = tuple(word for word in FEW if word != "tracking=off")


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_overrides, tiny_model, tiny_csv):
    """A folder with data and model in it, named by relative paths; a run, a sweep and a store."""
    home = tmp_path_factory.mktemp("project") / "here"
    home.mkdir()
    shutil.copytree(tiny_model, home / "model")
    shutil.copy(tiny_csv, home / "moods.csv")
    done = call("run", *words(tiny_overrides), "optimizer.lr=1e-3", "hydra.run.dir=runs/one", cwd=home, timeout=120)
    assert done.returncode == 0, done.stderr
    done = call("sweep", "lr_x_depth", *words(tiny_overrides), *FOUR, cwd=home, timeout=200)
    assert done.returncode == 0, done.stderr
    return home


FOUR = ("sweep.name=s", "sweep.n_trials=4", *TRIALS_ALONE)


def words(tiny_overrides):
    rest = [each for each in tiny_overrides[4:] if not each.startswith("optimizer.lr=")]
    return ["model=path", "model.location=model", "dataset=csv", "dataset.location=moods.csv", *rest, *RECORDED,
            "dataset.test_fraction=0.2"]  # fmt: skip


@pytest.fixture
def moved(project, tmp_path):
    """A copy whose former folder does not exist: the store names a place that nobody has."""
    there = tmp_path / "there"
    shutil.copytree(project, there)
    before, after = str(project), str(tmp_path / "missing")
    with closing(sqlite3.connect(there / "mlflow.db")) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("tags", "value"),
                              ("logged_models", "artifact_location")):  # fmt: skip
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (before, after))
    return there


def test_8_a_project_that_was_moved_works_as_before(moved, tiny_overrides, tmp_path):
    run_id = json.loads((moved / "runs/one/.mlflow.json").read_text())["run_id"]
    for command in (
        ("report", "s"), ("predict", "runs/one", "a text"), ("predict", run_id, "a text"), ("predict", "s", "a text"),
        ("show", "--test", "runs/one"), ("predict", "--vectors", "runs/one", "--out=x.parquet"),
        ("reproduce", "runs/one"), ("reproduce", run_id), ("sweep", "lr_x_depth", *words(tiny_overrides), *FOUR),
    ):  # fmt: skip
        done = call(*command, cwd=moved, timeout=100)
        assert done.returncode == 0, (command, done.stderr)
    done = call("run", *words(tiny_overrides), "hydra.run.dir=runs/two", cwd=moved, timeout=60)
    assert done.returncode == 0, done.stderr
    runs = mlflow_runs(moved)
    folders = [run.data.tags["frostline.run_dir"] for run in runs if run.data.tags.get("frostline.kind") == "single"]
    assert len({run.info.run_id for run in runs}) == len(runs)
    for run in runs:
        uri = run.info.artifact_uri.removeprefix("file://")
        assert uri.startswith(f"{moved}/mlruns/")
        assert Path(uri).is_dir()
        assert run.data.tags["frostline.run_dir"].startswith(f"{moved}/"), folders
    assert not (tmp_path / "missing").exists()


def test_8_a_copy_of_a_project_has_its_own_artifacts(project, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    done = call("reproduce", "runs/one", "--explain", cwd=copy, timeout=60)  # opens no store
    assert done.returncode == 0, done.stderr
    run_id = json.loads((copy / "runs/one/.mlflow.json").read_text())["run_id"]
    assert call("predict", run_id, "a text", cwd=copy, timeout=60).returncode == 0
    assert {Path(run.info.artifact_uri.removeprefix("file://")).parents[2] for run in mlflow_runs(copy)} == {copy}
    assert {Path(run.info.artifact_uri.removeprefix("file://")).parents[2] for run in mlflow_runs(project)} == {project}


def test_relative_paths_of_a_record_are_found_from_any_folder(project, tmp_path):
    run = str(project / "runs/one")
    for command in (
        ("predict", run, "a text"), ("show", "--test", run, "--again"),
        ("predict", "--vectors", run, "--out=x.parquet"),
    ):  # fmt: skip
        done = call(*command, cwd=tmp_path, timeout=60)
        assert done.returncode == 0, (command, done.stderr)
    done = call("reproduce", run, "tracking=off", cwd=tmp_path, timeout=60)
    assert "verdict: identical" in done.stdout, done.stdout + done.stderr
    (project / "notes").mkdir(exist_ok=True)
    assert call("report", "s", cwd=project / "notes", timeout=60).returncode == 0


def test_the_same_content_by_another_path_is_the_same_data(project, tmp_path, tiny_overrides):
    home = tmp_path / "home"
    shutil.copytree(project, home)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(home / "model", elsewhere / "model")
    shutil.copy(home / "moods.csv", elsewhere / "data.csv")
    given = [word.replace("=model", f"={elsewhere}/model") if word.startswith("model.location") else word
             for word in words(tiny_overrides)]  # fmt: skip
    given = [
        f"dataset.location={elsewhere}/data.csv" if word.startswith("dataset.location") else word for word in given
    ]
    before = [(p.params, p.by_seed) for p in trials_in(home / "runs/s")]
    more = ("sweep.name=s", "sweep.n_trials=5", *TRIALS_ALONE)
    done = call("sweep", "lr_x_depth", *given, *more, cwd=home, timeout=100)
    assert done.returncode == 0, done.stderr
    assert [(p.params, p.by_seed) for p in trials_in(home / "runs/s")][:4] == before
    text = (elsewhere / "data.csv").read_text()
    (elsewhere / "data.csv").write_text(text.replace("film", "movie", 1) + "a wonderful film again,positive\n")
    done = call("sweep", "lr_x_depth", *given, *more, cwd=home, timeout=100)
    assert done.returncode == 2
    assert "dataset.location: another content" in done.stderr
