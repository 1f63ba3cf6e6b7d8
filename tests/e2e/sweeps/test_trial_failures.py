"""Trials that fail in every way, each recorded, and the sweep continues."""

from __future__ import annotations

import json
import re

import pytest

from frostline.records.result import RunResult, Status
from frostline.records.trial import TrialState
from tests.e2e.sweeps.tiny_sweep import PLUGIN, pairs, small
from tests.support.sweep_tools import (
    call,
    results,
    trials_in,
)

pytestmark = pytest.mark.slow


def breaking(n, what, *more):
    values = ",".join(f"{value / 1000}" for value in what)
    return [
        "plugins=[sweep_plugin]", "optimizer.name=breaking", f"optimizer.weight_decay={values}", "freeze.depth=2",
        f"sweep.n_trials={n}", "sweep.sampler=grid", "training.epochs=1", "dataset.train_rows=64", "optimizer.lr=1e-3",
        *more,
    ]  # fmt: skip


def test_every_way_to_fail_is_recorded_and_the_sweep_continues(tmp_path, tiny):
    arguments = breaking(8, [0, 1, 2, 3, 4, 5, 6, 7], "sweep.trial_timeout_s=12", "runtime.slots=2")
    done = call("sweep", "depth_only", *tiny, *arguments, cwd=tmp_path, **PLUGIN)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "depth_only"
    found = {round(p.params["optimizer.weight_decay"] * 1000): p for p in trials_in(folder)}
    reasons = {key: p.outcome.reason for key, p in found.items() if p.state is TrialState.FAILED}
    assert set(reasons) == {1, 2, 3, 4, 5}
    assert reasons[1] == "ValueError: no such thing"
    assert reasons[2] == "SystemExit: 5"
    assert "killed by signal 9" in reasons[3]
    assert reasons[4].startswith("timeout")
    assert re.fullmatch(r"diverged at step \d+: the loss is not finite", reasons[5])
    assert all(found[key].state is TrialState.COMPLETE for key in (0, 6, 7))
    assert "Traceback" in (folder / f"{found[1].number:03d}" / "run.log").read_text()
    for key in reasons:
        assert RunResult.read(folder / f"{found[key].number:03d}").status is Status.FAILED
    # a worker that died or hung can't tell MLflow: the parent does
    _, children = pairs(tmp_path, "depth_only")
    assert not [run for run in children if run.info.status == "RUNNING"]
    by_point = {int(run.data.tags["frostline.trial"]): run for run in children}
    assert len(by_point) == len(children) == 8
    for trial in found.values():
        tags = by_point[trial.number].data.tags
        assert tags["frostline.status"] == ("FINISHED" if trial.state is TrialState.COMPLETE else "FAILED")
        assert tags.get("frostline.reason") == trial.outcome.reason


def test_all_fail_is_one_line_with_the_first_reason(tmp_path, tiny):
    done = call("sweep", "depth_only", *tiny, *breaking(2, [1, 2]), cwd=tmp_path, **PLUGIN)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    reason = "every trial failed; the first: ValueError: no such thing"
    assert last == f"frostline: {reason}; when that is mended, give the same command with sweep.retry_failed=true"
    parent, _ = pairs(tmp_path, "depth_only")
    assert parent.info.status == "FAILED"


def test_the_first_three_alike_stop_it(tmp_path, quiet):
    arguments = [
        "plugins=[sweep_plugin]", "optimizer.name=breaking", "optimizer.weight_decay=0.001", "sweep.n_trials=6",
        "training.epochs=1", "dataset.train_rows=64", "optimizer.lr=1e-3",
    ]  # fmt: skip
    done = call("sweep", "depth_only", *quiet, *arguments, cwd=tmp_path, **PLUGIN)
    assert done.returncode == 1
    assert "the first 3 trials failed for the same reason; the first: ValueError: no such thing" in done.stderr
    states = [p.state for p in trials_in(tmp_path / "runs" / "depth_only")]
    assert states == [TrialState.FAILED] * 3


@pytest.mark.slow
def test_out_of_memory_is_first_answered_by_taking_hidden_states_off_the_device(tmp_path, tiny):
    (tmp_path / "hungry.txt").write_text("hungry")
    arguments = ["plugins=[sweep_plugin]", "optimizer.name=hungry", "optimizer.lr=1e-3", "dataset.train_rows=64"]
    arguments += ["sweep.n_trials=3", "runtime.cache=require", "sweep.space.freeze.depth={low: 1, high: 3}"]
    env = {"PIDS": str(tmp_path / "pids"), "RESIDENT": "1", "FROSTLINE_HOME": str(tmp_path / "home"), **PLUGIN}
    done = call("sweep", "depth_only", *tiny, *arguments, cwd=tmp_path, **env)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "depth_only"
    found = trials_in(folder)
    assert {p.state for p in found} == {TrialState.COMPLETE}
    off = "out of memory: retried with the prefix cache's hidden states off the GPU"
    assert [p.outcome.note for p in found] == [off, None, None]
    _, children = pairs(tmp_path, "depth_only")
    assert [run.data.tags["frostline.retried"] for run in children if "frostline.retried" in run.data.tags] == [off]
    assert json.loads((folder / "000" / "spec.json").read_text())["training"]["batch_size"] == 16
    assert len(set((tmp_path / "pids").read_text().split())) == 1  # the worker continues, and keeps none there any more
    assert list((tmp_path / "home" / "prefix").rglob("depth-001.bin"))  # from files, since


def test_out_of_memory_is_retried_once_with_half_the_batch(tmp_path, tiny):
    (tmp_path / "hungry.txt").write_text("hungry")
    arguments = ["plugins=[sweep_plugin]", "optimizer.name=hungry", "optimizer.lr=1e-3", "dataset.train_rows=64"]
    done = call("sweep", "depth_only", *tiny, *arguments, cwd=tmp_path, PIDS=str(tmp_path / "pids"), **PLUGIN)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "depth_only"
    found = trials_in(folder)
    assert {p.state for p in found} == {TrialState.COMPLETE}
    assert [bool(p.outcome.note) for p in found] == [True, False, False, False, False]
    spec = json.loads((folder / "000" / "spec.json").read_text())
    assert (spec["training"]["batch_size"], spec["training"]["accumulation_steps"]) == (8, 2)
    assert "training.batch_size=8" in (folder / "000" / "overrides.yaml").read_text()
    assert json.loads((folder / "001" / "spec.json").read_text())["training"]["batch_size"] == 16
    workers = (tmp_path / "pids").read_text().split()
    assert len(workers) == 6
    assert workers[0] == workers[1] != workers[2]  # the worker is replaced after it
    assert len(set(workers[2:])) == 1
    _, children = pairs(tmp_path, "depth_only")
    retried = [run for run in children if "frostline.retried" in run.data.tags]
    assert len(retried) == 1
    assert len(children) == 6  # the attempt that failed is to be seen, too


def test_a_metric_that_is_not_produced_stops_the_sweep_with_one_line(tmp_path, quiet):
    script = tmp_path / "odd.py"
    script.write_text(
        "import datasets\nimport evaluate\n"
        "class Odd(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        f = datasets.Features({'predictions': datasets.Value('int64'), "
        "'references': datasets.Value('int64')})\n"
        "        return evaluate.MetricInfo(description='', citation='', features=f)\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'odd_score': 0.5}\n"
    )
    arguments = [f"training.metrics=[accuracy,{script}]", "training.objective=odd", "dataset.train_rows=64"]
    done = call("sweep", "depth_only", *quiet, *arguments, "optimizer.lr=1e-3", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "training.objective=odd: is not computed" in last
    assert "accuracy" in last
    assert "odd.py" in last
    assert not results(tmp_path / "runs" / "depth_only") or all(
        result["status"] == "FAILED" for result in results(tmp_path / "runs" / "depth_only").values()
    )


def test_pruned_is_pruned_in_optuna_and_in_mlflow(tmp_path, tiny):
    arguments = [
        "sweep.promote_fraction=1.0", "sweep.pruner.name=percentile", "sweep.pruner.startup_trials=2",
        "sweep.pruner.percentile=10.0", "freeze.depth=0", "training.objective=loss", "training.direction=minimize",
    ]  # fmt: skip
    done = call("sweep", "lr_only", *tiny, *small(8), *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = trials_in(tmp_path / "runs" / "lr_only")
    pruned = [p for p in found if p.state is TrialState.PRUNED]
    assert pruned
    assert all(p.outcome.reason == "pruned after epoch 1" for p in pruned)
    _, children = pairs(tmp_path, "lr_only")
    tagged = {run.data.tags["frostline.trial"] for run in children if run.data.tags["frostline.status"] == "PRUNED"}
    assert tagged == {str(p.number) for p in pruned}
    text = (tmp_path / "runs" / "lr_only" / "journal.log").read_text()
    assert text.count('"state":2') >= len(pruned)  # TrialState.PRUNED
