"""`frostline show --test`: the final number, computed once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from frostline.tracking import client, recorded_run


def read(path):
    return json.loads(Path(path).read_text())


@pytest.fixture
def run(frostline, tiny_overrides, in_tmp):
    def call(*overrides, folder="r"):
        code, _, err = frostline("run", *tiny_overrides, "optimizer.lr=1e-2", f"hydra.run.dir={folder}", *overrides)
        assert code == 0, err

    return call


@pytest.mark.slow
def test_the_first_look_is_recorded_and_shown_again(run, frostline):
    aside = ["dataset.test_fraction=0.25", "tracking=off"]
    run(*aside)
    run(*aside, "dataset.test_at_end=true", folder="scored")  # the same run but for the look at its end
    wanted = read("scored/result.json")["metrics"]
    code, out, err = frostline("show", "--test", "r")
    assert code == 0, err
    reported = read("r/test.json")
    assert (reported["rows"], reported["looks"]) == (40, 1)
    for name, value in reported["metrics"].items():
        assert value == pytest.approx(wanted[f"test/{name}"], abs=1e-5)
    assert "(40 rows)" in out
    assert "what the choice was made by" in out
    Path("r/model/config.json").write_text("")  # it is not asked any more
    code, again, _ = frostline("show", "--test", "r")
    assert code == 0
    assert f"shown before ({reported['first']})" in again
    assert out.splitlines()[1] == again.splitlines()[1]
    code, _, err = frostline("show", "--test", "r", "--again")
    assert code == 2
    assert "model/config.json: differs from the run's record" in err
    code, out, _ = frostline("show", "--test", "scored")
    assert code == 0
    assert "shown before (when the run ended)" in out
    assert not Path("scored/test.json").exists()
    assert frostline("show", "--test", "scored", "--again")[0] == 0
    assert read("scored/test.json")["looks"] == 2


@pytest.mark.slow
def test_it_is_a_metric_of_the_run_in_mlflow(run, frostline, in_tmp):
    run("dataset.test_fraction=0.25", "tracking.log_model=false")
    assert frostline("show", "--test", "r")[0] == 0
    store = client("sqlite:///mlflow.db")
    there = store.get_run(recorded_run(in_tmp / "r", "sqlite:///mlflow.db"))
    reported = read("r/test.json")
    assert there.data.metrics["test/accuracy"] == reported["metrics"]["accuracy"]
    assert there.data.tags["frostline.test_looks"] == "1"
    assert there.info.status == "FINISHED"


@pytest.mark.slow
def test_rows_of_now_that_were_trained_on_then_are_no_test_rows(run, frostline, in_tmp, tiny_csv):
    lines = tiny_csv.read_text().splitlines(keepends=True)
    own = in_tmp / "own.csv"
    own.write_text("".join(lines))
    run("tracking=off", "dataset.test_fraction=0.2", f"dataset.location={own}")
    own.write_text("".join(lines[:81]))  # half of it: another split
    code, out, err = frostline("show", "--test", "r")
    assert (code, out) == (2, "")
    assert "own: its rows are not those that the run was trained on" in err
    assert not Path("r/test.json").exists()
    own.write_text("".join(lines))
    assert frostline("show", "--test", "r")[0] == 0


def test_a_run_that_did_not_finish_has_no_final_number(frostline, tiny_overrides, in_tmp):
    aside = ["dataset.test_fraction=0.25", "dataset.test_at_end=true", "tracking=off", "hydra.run.dir=r"]
    assert frostline("run", *tiny_overrides, *aside, "optimizer=sgd", "optimizer.lr=1e30")[0] == 1
    code, _, err = frostline("show", "--test", "r")
    assert code == 2
    assert "has no final number: it is FAILED (diverged" in err


@pytest.mark.slow
def test_a_run_without_test_rows_and_a_damaged_record(run, frostline, in_tmp):
    run("tracking=off")
    code, out, err = frostline("show", "--test", "r")
    assert (code, out) == (2, "")
    assert err.strip() == (
        "frostline: r: was trained without test rows; set some aside with dataset.test_fraction or test_from"
    )
    run("tracking=off", "dataset.test_fraction=0.25", folder="q")
    (in_tmp / "q" / "test.json").write_text('{"metrics": 3}')
    code, _, err = frostline("show", "--test", "q")
    assert code == 2
    assert "q/test.json: is damaged" in err
    code, _, err = frostline("show", "--test", "nowhere/run")
    assert code == 2
    assert "nowhere/run: no run's folder" in err


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_of_a_sweep_it_is_the_recommended_runs(frostline, tiny_overrides, in_tmp):
    from tests.support.sweep_tools import call

    tiny = [each for each in tiny_overrides if "optimizer.lr" not in each]
    done = call(
        "sweep", "depth_only", *tiny, "dataset.test_fraction=0.25", "sweep.name=st", "sweep.n_trials=2",
        "sweep.space.freeze.depth.high=4", "training.epochs=1", "tracking=off", cwd=in_tmp,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code, _, err = frostline("show", "--test", "st")
    assert code == 0
    shown = json.loads((in_tmp / "runs" / "st" / "report" / "recommended.json").read_text())["trial"]
    assert err.startswith(("st: its recommended run, ", "st: its best guess, "))
    assert f"runs/st/{shown:03d}" in err
    assert [path.parent.name for path in (in_tmp / "runs").rglob("test.json")] == [f"{shown:03d}"]
