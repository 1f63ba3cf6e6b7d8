"""Several runs of one command."""

import re

import pytest

from frostline.cli.comparison import rows_of
from tests.e2e.cli.store_runs import OFF, interrupt_step_three, runs_of


@pytest.mark.slow
def test_a_multirun_runs_all_and_compares(frostline, in_tmp, tiny_overrides):
    code, out, err = frostline("run", "-m", *tiny_overrides, OFF, "freeze.depth=0,3", "seed=0,1")
    assert code == 0, err
    assert len(re.findall(r"^\[\d/4\] ", out, re.M)) == 4
    rows = rows_of(next((in_tmp / "runs" / "multirun").iterdir()))
    assert len(rows) == 4
    assert {(row.coordinates["freeze.depth"], row.coordinates["seed"]) for row in rows} == {
        (0, 0),
        (0, 1),
        (3, 0),
        (3, 1),
    }
    assert re.search(r"freeze.depth\s+seed\s+accuracy", out)
    best = max(row.result.objective.value for row in rows)
    assert f"accuracy {best:.4f}" in out.split("best: ")[1]
    assert out.splitlines()[-1].startswith("run_dir: ")


@pytest.mark.slow
def test_a_failing_run_lets_the_others_go_on(frostline, in_tmp, tiny_overrides, store):
    code, out, err = frostline("run", "-m", *tiny_overrides, "optimizer.lr=1e30,1e-3,1e25", "tracking.log_model=false")
    assert code == 1
    assert sorted(run.info.status for run in runs_of(store)) == ["FAILED", "FAILED", "FINISHED"]
    statuses = [row.result.status for row in rows_of(next((in_tmp / "runs" / "multirun").iterdir()))]
    assert sorted(statuses) == ["FAILED", "FAILED", "FINISHED"]
    assert out.count("diverged at step") >= 2
    assert "best: optimizer.lr=1e-03" in out
    assert "Traceback" not in err


@pytest.mark.slow
def test_bad_data_in_a_multirun_lets_the_others_go_on(frostline, in_tmp, tiny_overrides):
    code, out, err = frostline("run", "-m", *tiny_overrides, OFF, "dataset.text_column=text,words")
    assert code == 1
    assert err.count("no such column") >= 1
    results = [row.result for row in rows_of(next((in_tmp / "runs" / "multirun").iterdir()))]
    assert [result.status for result in results] == ["FINISHED", "FAILED"]
    assert "no such column" in results[1].reason


def test_one_bad_value_of_a_multirun_stops_it_before_the_first_run(frostline, in_tmp, tiny_overrides):
    code, _, err = frostline("run", "-m", *tiny_overrides, OFF, "freeze.depth=0,1,9", "seed=0,1")
    assert (code, err) == (2, "frostline: freeze.depth=9: tiny has 4 blocks, so give 0 to 4\n")
    assert not (in_tmp / "runs").exists()


def test_a_sweep_without_values(frostline, in_tmp, tiny_overrides):
    code, _, err = frostline("run", "-m", *tiny_overrides, OFF, "seed=range(0,0)")
    assert code == 2
    assert "seed=range(0,0): holds no values" in err
    assert not (in_tmp / "runs").exists()


@pytest.mark.slow
def test_an_earlier_commands_runs_stay_out_of_the_table(frostline, in_tmp, tiny_overrides):
    assert frostline("run", *tiny_overrides, OFF, "hydra.run.dir=runs/all/old", "freeze=none")[0] == 0
    code, out, err = frostline("run", "-m", *tiny_overrides, OFF, "hydra.sweep.dir=runs/all", "seed=0,1")
    assert code == 0, err
    assert "runs/all/old" not in out


@pytest.mark.slow
def test_an_interrupted_multirun_stops(frostline, in_tmp, tiny_overrides, monkeypatch):
    calls = interrupt_step_three(monkeypatch)
    code, out, _ = frostline("run", "-m", *tiny_overrides, OFF, "seed=0,1,2")
    assert code == 130
    assert len(calls) == 3
    assert "KILLED (stopped by SIGINT)" in out
