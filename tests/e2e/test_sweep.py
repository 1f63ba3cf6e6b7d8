"""Whole sweeps on a tiny model: each shipped sweep, faults of trials, MLflow's side, resumption by the same command."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import sqlite3
import time
import zlib
from pathlib import Path

import pytest

from frostline.provenance import num_cores
from frostline.records.result import RunResult, Status
from frostline.records.trial import TrialState, ranked
from frostline.sweep.folder import SweepFolder
from frostline.sweep.slots import Slots, on_cores
from tests.conftest import sentences, write_csv
from tests.e2e.sweep_tools import (
    RUNG,
    TRIALS_ALONE,
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

PLUGIN = {"PYTHONPATH": str(Path(__file__).parent)}


@pytest.fixture
def tiny(tiny_overrides):
    """Without a fixed learning rate, which would not be swept; the trials alone, which `test_race.py` goes beyond."""
    return [*(o for o in tiny_overrides if not o.startswith("optimizer.lr=")), *TRIALS_ALONE]


@pytest.fixture
def quiet(tiny):
    """Without MLflow, for tests that look at files alone: it costs each command some four seconds."""
    return [*tiny, "tracking=off"]


def small(n, *more):
    return [f"sweep.n_trials={n}", "training.epochs=2", "dataset.train_rows=64", *RUNG, *more]


def pairs(folder, name):
    runs = mlflow_runs(folder)
    parent = next(run for run in runs if run.data.tags.get("frostline.kind") == "sweep" and run.info.run_name == name)
    return parent, [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]


def test_lr_x_depth_from_the_grid_to_the_report(tmp_path, tiny):
    learns = ["training.epochs=4", "dataset.train_rows=null", "sweep.space.optimizer.lr.high=1e-2"]
    done = call("sweep", "lr_x_depth", *tiny, *small(14, *learns), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "lr_x_depth"
    found = trials_in(folder)
    assert len(found) == 14
    assert {p.depth for p in found[:12]} == {0, 1, 3, 4}
    finished = [p for p in found if p.state is TrialState.COMPLETE]
    assert len(finished) >= 4
    assert {p.depth for p in finished} == {p.depth for p in found}
    words = r"(recommended|best guess): (nothing was learnt: )?freeze .*, lr \S+: accuracy 0\.\d{3} \(95 %: "
    assert re.search(words, done.stdout)
    assert "report: runs/lr_x_depth/report/report.html" in done.stdout
    assert len([line for line in done.stderr.splitlines() if line.startswith("[")]) == 14 + len(finished)
    names = {path.name for path in (folder / "report").iterdir()}
    assert names >= {
        "report.html",
        "trials.csv",
        "answer.png",
        "history.png",
        "quality_vs_cost.png",
    }
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert 'src="data:image/png;base64,' in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained
    # models: of the recommended one alone; checkpoints: of none, after the end of those that were promoted
    best = ranked(found, True)[0]
    recommended = json.loads((folder / "report" / "recommended.json").read_text())
    assert [path.parent.name for path in folder.glob("*/model")] == [f"{recommended['trial']:03d}"]
    # every frozen tensor was hashed, in both rungs
    for result in results(folder).values():
        assert result["audit"]["frozen_unchanged"]
        assert result["audit"]["absent_from_optimizer"]

    parent, children = pairs(tmp_path, "lr_x_depth")
    assert parent.info.status == "FINISHED"
    assert len(children) == 14
    assert {run.info.status for run in children} == {"FINISHED", "KILLED"}
    states = [run.data.tags["frostline.status"] for run in children]
    assert states.count("PRUNED") == len([p for p in found if p.state is TrialState.PRUNED])
    assert states.count("FINISHED") == len(finished)
    assert all(re.match(r"d\d lr", run.info.run_name) for run in children)
    assert all(len(run.data.params) <= 10 and "freeze.depth" in run.data.params for run in children)
    assert parent.data.tags["frostline.best"] == best.label()
    assert parent.data.metrics["best/accuracy"] == best.quality
    from frostline.tracking import client

    made = client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    by_depth = made.get_metric_history(parent.info.run_id, "by_depth/accuracy")
    steps = {metric.step for metric in by_depth}
    assert steps
    assert steps <= {p.depth for p in finished}  # a depth whose runs learnt nothing has no number
    # a ready-made view of the page, and a link to it
    link = re.search(r"frostline ui, then http://127.0.0.1:5000(/#/experiments/(\d+)/runs\?\S+)", done.stdout)
    key = link.group(1).rpartition("viewStateShareKey=")[2]
    packed = made.get_experiment(link.group(2)).tags[f"mlflow.sharedViewState.{key}"]
    state = json.loads(zlib.decompress(base64.b64decode(packed.removeprefix("deflate;"))))
    assert state["searchFilter"] == f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    assert len(made.search_runs([link.group(2)], state["searchFilter"])) == 14
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best/accuracy`", False)
    assert "params.`freeze.depth`" in state["selectedColumns"]
    known = {f"params.`{name}`" for run in children for name in run.data.params}
    known |= {f"metrics.`{name}`" for run in children for name in run.data.metrics}
    assert {column for column in state["selectedColumns"] if not column.startswith("tags.")} <= known
    assert link.group(1) in parent.data.tags["mlflow.note.content"]
    artifacts = {item.path for item in made.list_artifacts(parent.info.run_id)}
    assert artifacts >= {"report.html", "trials.csv", "journal.log", "sweep.json", "answer.png"}

    # the same command again trains nothing and says the same
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    again = call("sweep", "lr_x_depth", *tiny, *small(14, *learns), cwd=tmp_path)
    assert again.returncode == 0
    assert "resuming: 14 of 14 trials are done" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")} == before
    assert again.stdout == done.stdout
    # and the report alone, from the files
    report = call("report", "lr_x_depth", cwd=tmp_path)
    assert report.returncode == 0
    assert report.stdout.splitlines()[:12] == done.stdout.splitlines()[:12]

    # a changed config is refused with the difference, and nothing is lost
    refused = call("sweep", "lr_x_depth", *tiny, *small(14), "optimizer.weight_decay=0.3", cwd=tmp_path)
    assert refused.returncode == 2
    assert "optimizer.weight_decay: 0.01 -> 0.3" in refused.stderr
    assert "sweep.new=true" in refused.stderr
    for change, words in (
        ("sweep.pruner.patience=9", "sweep.pruner.patience: 1 -> 9"),
        ("sweep.enqueue=[{freeze.depth: 1, optimizer.lr: 1e-3}]", "sweep.enqueue: coarse -> "),
        ("sweep.space.optimizer.lr.coarse=2", "optimizer.lr.coarse: 3 -> 2"),
    ):
        refused = call("sweep", "lr_x_depth", *tiny, *small(14), change, cwd=tmp_path)
        assert refused.returncode == 2
        assert words in refused.stderr
    assert answer_rows(folder)
    # a sweep of another schema is not resumed
    description = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps({**description, "schema": 99}))
    refused = call("sweep", "lr_x_depth", *tiny, *small(14), cwd=tmp_path)
    assert refused.returncode == 2
    assert "schema 99" in refused.stderr


def test_a_trial_alone_gives_the_bits_that_it_gave_in_the_sweep(tmp_path, tiny):
    done = call("sweep", "lr_x_depth", *tiny, *small(6, "runtime.slots=2"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "lr_x_depth"
    paused = [p for p in trials_in(folder) if p.state is TrialState.COMPLETE]
    assert paused  # these were stopped after an epoch, and resumed
    chosen = ranked(paused, True)[0]
    command = next(line for line in done.stdout.splitlines() if line.startswith("run it again: "))
    assert "freeze.depth=" in command
    overrides = [*tiny, *small(6), f"freeze.depth={chosen.depth}", f"optimizer.lr={chosen.lr!r}"]
    alone = call("run", "+sweep=lr_x_depth", *overrides, "hydra.run.dir=alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    in_sweep = folder / f"{chosen.number:03d}"
    assert (tmp_path / "alone" / "metrics.jsonl").read_text() == (in_sweep / "metrics.jsonl").read_text()
    left, right = RunResult.read(tmp_path / "alone"), RunResult.read(in_sweep)
    assert left.spec_digest == right.spec_digest
    assert left.metrics == right.metrics
    assert left.drift == right.drift
    weights = "model/model.safetensors"
    assert (tmp_path / "alone" / weights).read_bytes() == (in_sweep / weights).read_bytes()


def test_depth_only_lr_only_and_range(tmp_path, quiet):
    done = call("sweep", "depth_only", *quiet, "optimizer.lr=1e-3", "dataset.train_rows=64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [p.depth for p in trials_in(tmp_path / "runs" / "depth_only")] == [4, 3, 2, 1, 0]
    rows = ["freeze.depth=3", "optimizer.lr=tag(log,interval(1e-4,1e-2))", "optimizer.weight_decay=0,0,0.1"]
    done = call("sweep", "lr_only", *quiet, *small(6), *rows, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "optimizer.weight_decay: 0 stands there more than once" in done.stderr
    found = trials_in(tmp_path / "runs" / "lr_only")
    assert {p.params["optimizer.weight_decay"] for p in found} <= {0, 0.1}
    assert all(1e-4 <= p.lr <= 1e-2 for p in found)
    # duplicates of a grid are one
    done = call("sweep", "depth_only", *quiet, "sweep.name=dups", "freeze.depth=range(0,2)", "dataset.train_rows=64",
                "optimizer.lr=1e-3", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(p.depth for p in trials_in(tmp_path / "runs" / "dups")) == [0, 1]


def test_the_axis_of_cost_may_be_any_numeric_key(tmp_path, quiet):
    axis = ["training.max_tokens=choice(8,16)", "sweep.axis=training.max_tokens", "training.epochs=4"]
    more = ["freeze.depth=1", "optimizer.lr=tag(log,interval(1e-3,1e-2))", "sweep.n_trials=6", "sweep.settle=0"]
    done = call("sweep", "lr_only", *quiet, *axis, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"max_tokens +lr +accuracy", done.stdout)
    assert re.search(r"(recommended|best guess): training.max_tokens=(8|16), lr ", done.stdout)
    refused = call("sweep", "lr_only", *quiet, *axis, *more, "sweep.axis=null", cwd=tmp_path)
    assert (refused.returncode, "axis" in refused.stderr) == (2, True), refused.stderr


def test_pareto(tmp_path, quiet):
    done = call(
        "sweep",
        "pareto",
        *quiet,
        *small(8, "sweep.promote_fraction=1", "sweep.pruner.name=median", "sweep.pruner.startup_trials=1"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = trials_in(tmp_path / "runs" / "pareto")
    assert len(found) == 8
    done_ones = [p for p in found if p.state is TrialState.COMPLETE]
    assert all(p.outcome.cost["num_trainable"] > 0 and p.outcome.cost["flops"] > 0 for p in done_ones)
    deep, shallow = min(done_ones, key=lambda p: -p.depth), min(done_ones, key=lambda p: p.depth)
    assert deep.outcome.cost["flops"] < shallow.outcome.cost["flops"]


def test_seeds(tmp_path, tiny):
    name = ["sweep.name=seeds", "sweep.seeds=[0,1,2]"]
    done = call("sweep", "lr_x_depth", *tiny, *small(6, "training.epochs=1"), *name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = trials_in(tmp_path / "runs" / "seeds")
    finished = [p for p in found if p.state is TrialState.COMPLETE]
    assert all(sorted(p.outcome.by_seed) == [0, 1, 2] for p in finished)
    assert all(sorted(p.outcome.by_seed) == [0] for p in found if p.state is TrialState.PRUNED)
    assert all(p.quality == pytest.approx(sum(p.outcome.by_seed.values()) / 3) for p in finished)
    assert "posterior mean of all " in done.stdout
    runs = results(tmp_path / "runs" / "seeds")
    assert {name.split("/")[1] for name in runs} == {"s0", "s1", "s2"}
    _, children = pairs(tmp_path, "seeds")
    assert len(children) == len(runs)
    assert all(re.search(r" s\d$", run.info.run_name) for run in children)
    first = {run.data.tags["frostline.trial"]: run for run in children if run.info.run_name.endswith(" s0")}
    assert {run.info.status for run in first.values()} == {"FINISHED"}  # they are; the trials of some are not
    assert {n: run.data.tags["frostline.trial_state"] for n, run in first.items()} == {
        str(p.number): p.state.value for p in found
    }


def test_models_x_depth_with_bounds_that_follow_the_model(tmp_path, quiet, tiny_model):
    """A user's own model configs, one of them cut to two blocks."""
    from safetensors.torch import load_file, save_file

    two = tmp_path / "two"
    shutil.copytree(tiny_model, two)
    config = json.loads((two / "config.json").read_text())
    (two / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    weights = {
        k: v for k, v in load_file(two / "model.safetensors").items() if "layer.2." not in k and "layer.3." not in k
    }
    save_file(weights, two / "model.safetensors", metadata={"format": "pt"})
    own = tmp_path / "own" / "model"
    own.mkdir(parents=True)
    for name, folder in (("four", tiny_model), ("two", two)):
        (own / f"{name}.yaml").write_text(f"defaults:\n  - path@_here_\n  - _self_\nname: {name}\nlocation: {folder}\n")
    rest = [o for o in quiet if not o.startswith("model")]
    done = call(
        "sweep", "models_x_depth", "--config-dir", str(tmp_path / "own"), *rest, *small(12, "model=two"),
        "model=four,two", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = trials_in(tmp_path / "runs" / "models_x_depth")
    depths = {name: {p.depth for p in found if p.params["model"] == name} for name in ("two", "four")}
    assert max(depths["two"]) == 2
    assert max(depths["four"]) == 4


def test_by_default_as_many_trials_as_cores_are_trained_side_by_side_and_the_command_has_their_threads(tmp_path, tiny):
    own = [word for word in tiny if not word.startswith(("runtime.threads", "runtime.slots"))]
    arguments = ["sweep", "lr_x_depth", *own, "sweep.n_trials=6", "training.epochs=1", *TRIALS_ALONE]
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    count = on_cores(num_cores(), 1, 6 // 3, False)
    threads = num_cores() // count
    assert f"note: {Slots(count=count, threads=threads, gpus=())}; runtime.slots=N changes that" in done.stderr
    specs = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "lr_x_depth").glob("[0-9]*/spec.json")]
    assert {spec["runtime"]["threads"] for spec in specs} == {threads}
    assert f" runtime.threads={threads}\n" in done.stdout
    again = call("report", "lr_x_depth", cwd=tmp_path)
    assert f" runtime.threads={threads}\n" in again.stdout, again.stdout


def test_a_gpu_that_torch_can_not_use_is_measured_in_vain_and_the_sweep_continues(tmp_path, tiny):
    own = [word for word in tiny if not word.startswith(("runtime.device", "runtime.slots"))]
    arguments = ["sweep", "lr_x_depth", *own, "sweep.n_trials=6", "training.epochs=1", *TRIALS_ALONE]
    done = call(*arguments, "plugins=[sweep_plugin]", "optimizer.name=slow", cwd=tmp_path, CUDA_VISIBLE_DEVICES="0",
                SLOW_S="0", **PLUGIN)  # fmt: skip
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert notes[-2:] == [
        "note: measuring what a trial takes of the GPU ...",
        "note: one trial at a time, 1 thread; runtime.slots=N changes that",
    ]
    assert len(trials_in(tmp_path / "runs" / "lr_x_depth")) == 6


# -- faults of trials --


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
    assert last == "frostline: every trial failed; the first: ValueError: no such thing"
    parent, _ = pairs(tmp_path, "depth_only")
    assert parent.info.status == "FAILED"


def test_the_first_three_alike_stop_it(tmp_path, quiet):
    arguments = [
        "plugins=[sweep_plugin]", "optimizer.name=breaking", "optimizer.weight_decay=0.001", "sweep.n_trials=6",
        "training.epochs=1", "dataset.train_rows=64", "optimizer.lr=1e-3",
    ]  # fmt: skip
    done = call("sweep", "depth_only", *quiet, *arguments, cwd=tmp_path, **PLUGIN)
    assert done.returncode == 1
    assert "the first 3 trials failed alike; the first: ValueError: no such thing" in done.stderr
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


# -- launchers, storages, locks --


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
    with sqlite3.connect(tmp_path / "optuna.db") as base:
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


def test_a_lost_or_broken_study_is_rebuilt_from_the_points_files(tmp_path, quiet):
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
    assert "sweep.timeout_s=0.001 is over" in new.stdout


def test_no_password_reaches_the_report_or_the_terminal(tmp_path, tiny):
    uri = "tracking.uri=http://bob:hunter2@127.0.0.1:9"
    arguments = ["training.epochs=1", "dataset.train_rows=32", "optimizer.lr=1e-3", "sweep.n_trials=1"]
    done = call("sweep", "depth_only", *tiny, *arguments, uri, cwd=tmp_path, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.returncode == 0, done.stderr
    assert "run it again: " in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    for path in (tmp_path / "runs").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


def test_eight_workers_start_together(tmp_path, tiny):
    arguments = ["runtime.slots=8", "sweep.n_trials=8", "training.epochs=1", "dataset.train_rows=32"]
    done = call("sweep", "lr_x_depth", *tiny, *arguments, cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr
    assert {p.state for p in trials_in(tmp_path / "runs" / "lr_x_depth")} == {TrialState.COMPLETE}
    _, children = pairs(tmp_path, "lr_x_depth")
    assert {run.info.status for run in children} == {"FINISHED"}


# -- signals --


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


def test_a_plan_is_reported_before_anything_runs(tmp_path, tiny):
    home = {"FROSTLINE_HOME": str(tmp_path / "home")}
    done = call("plan", "lr_x_depth", *tiny, *small(12), "runtime.slots=2", "--nodes", "3", cwd=tmp_path, **home)
    assert done.returncode == 0, done.stderr
    assert "12 trials, of which" in done.stdout
    assert "with 6 slots on 3 nodes" in done.stdout
    assert "limited by" in done.stdout
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "mlflow.db").exists()
    more = ["optimizer.lr=1e-3", "sweep.space.freeze.depth.low=1", "runtime.cache=require", "--json"]
    asked = call("plan", "depth_only", *tiny, *more, cwd=tmp_path, **home)
    assert asked.returncode == 0, asked.stderr
    found = json.loads(asked.stdout)
    assert set(found["by_depth"]) == {"1", "2", "3", "4"}
    assert found["wall_s"] > found["fill_s"] > 0
    assert found["cache_bytes"] > 0
    two = call("plan", "depth_only", *tiny, *more, "runtime.num_processes=2", cwd=tmp_path, **home)
    assert two.returncode == 0, two.stderr
    # Starting two processes takes longer than a whole trial of these in a process that is warm.
    assert json.loads(two.stdout)["longest_s"] > 2 * found["longest_s"]
    wrong = call("plan", "lr_x_dept", cwd=tmp_path)
    assert (wrong.returncode, "no such sweep" in wrong.stderr) == (2, True)
    assert call("plan", "lr_x_depth", "--nodes", "0", cwd=tmp_path).returncode == 2
