"""Whole sweeps on a tiny model: each shipped sweep, faults of trials, MLflow's side, resumption by the same command."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from transformers import BertConfig, BertModel

from frostline.provenance import num_cores
from frostline.records.result import RunResult
from frostline.records.trial import TrialState, ranked
from frostline.sweeps.slots import Slots, on_cores
from tests.conftest import tiny_config
from tests.e2e.sweeps.tiny_sweep import PLUGIN, pairs, small
from tests.support.sweep_tools import (
    TRIALS_ALONE,
    call,
    results,
    trials_in,
)

pytestmark = pytest.mark.slow


def test_a_trial_alone_gives_the_bits_that_it_gave_in_the_sweep(tmp_path, tiny):
    done = call("sweep", "lr_x_depth", *tiny, *small(6, "runtime.slots=2"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "lr_x_depth"
    paused = [p for p in trials_in(folder) if p.state is TrialState.COMPLETE]
    assert paused  # these were stopped after an epoch, and resumed
    chosen = ranked(paused, True)[0]
    command = next(line for line in done.stdout.splitlines() if line.startswith("run it again: "))
    assert re.fullmatch(r"run it again: frostline run --from runs/lr_x_depth/(\d{3}|baseline)", command)
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


def test_models_and_numbers_of_rows_are_axes_of_cost(tmp_path, tiny_model, quiet):
    conf = tmp_path / "conf" / "model"
    conf.mkdir(parents=True)
    wide = shutil.copytree(tiny_model, tmp_path / "wide")
    torch.manual_seed(0)
    BertModel(BertConfig(**{**tiny_config().to_dict(), "hidden_size": 64})).save_pretrained(wide)
    for name, folder in (("narrow", tiny_model), ("wide", wide)):
        lines = ["defaults: [_base/model@_here_, _self_]", f"name: {name}", "source: path", f"location: {folder}"]
        (conf / f"{name}.yaml").write_text("\n".join(lines) + "\n")
    fixed = [each for each in quiet if not each.startswith("model")]
    common = ["freeze.depth=1", "training.epochs=6", "sweep.settle=0", "sweep.sampler=tpe", "sweep.n_trials=4"]
    common.append("optimizer.lr=tag(log,interval(1e-3,1e-2))")
    models = [f"--config-dir={tmp_path / 'conf'}", "model=choice(wide,narrow)", "sweep.axis=model", "sweep.name=m"]
    done = call("sweep", "lr_only", *fixed, *common, *models, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = [line.split()[0] for line in done.stdout.splitlines() if line.split()[:1] in (["wide"], ["narrow"])]
    assert table == ["wide", "narrow"]  # the dearest first
    assert re.search(r": model=(wide|narrow), lr ", done.stdout), done.stdout
    again = call("report", "m", cwd=tmp_path)
    assert re.findall(r"^ *(wide|narrow) .*$", again.stdout, re.M) == ["wide", "narrow"]
    for shown in (done, again):
        [command] = re.findall(r"^run it again: frostline (.*)$", shown.stdout, re.M)
    alone = call(*command.split(), "hydra.run.dir=alone", cwd=tmp_path)  # the model is not of frostline's own configs
    assert alone.returncode == 0, alone.stderr
    ours = command.split()[-1]
    assert (tmp_path / "alone" / "metrics.jsonl").read_text() == (tmp_path / ours / "metrics.jsonl").read_text()
    rows = ["dataset.train_rows=choice(64,128)", "sweep.axis=dataset.train_rows", "sweep.name=r"]
    done = call("sweep", "lr_only", *quiet, *common, *rows, "sweep.sampler=frost", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r": dataset.train_rows=(64|128), lr ", done.stdout), done.stdout
    more = [each.replace("(64,128)", "(64,4000)") for each in rows]
    refused = call("sweep", "lr_only", *quiet, *common, *more, "sweep.name=r2", "sweep.sampler=frost", cwd=tmp_path)
    assert refused.returncode == 2, refused.stdout
    assert "sweep.axis=dataset.train_rows: 4000 rows are asked for, and there are 128" in refused.stderr


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
    again = call("report", "lr_x_depth", cwd=tmp_path)
    commands = {re.findall(r"^run it again: frostline (.*)$", each.stdout, re.M)[0] for each in (done, again)}
    assert len(commands) == 1
    alone = call(*commands.pop().split(), "hydra.run.dir=alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert json.loads((tmp_path / "alone" / "spec.json").read_text())["runtime"]["threads"] == threads


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


def test_eight_workers_start_together(tmp_path, tiny):
    arguments = ["runtime.slots=8", "sweep.n_trials=8", "training.epochs=1", "dataset.train_rows=32"]
    done = call("sweep", "lr_x_depth", *tiny, *arguments, cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr
    assert {p.state for p in trials_in(tmp_path / "runs" / "lr_x_depth")} == {TrialState.COMPLETE}
    _, children = pairs(tmp_path, "lr_x_depth")
    assert {run.info.status for run in children} == {"FINISHED"}


def test_a_plan_is_reported_before_anything_runs(tmp_path, tiny):
    home = {"FROSTLINE_HOME": str(tmp_path / "home")}
    done = call(
        "sweep", "lr_x_depth", "--plan", *tiny, *small(12), "runtime.slots=2", "--nodes", "3", cwd=tmp_path, **home
    )
    assert done.returncode == 0, done.stderr
    assert "12 trials, of which" in done.stdout
    assert "with 6 slots on 3 nodes" in done.stdout
    assert "limited by" in done.stdout
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "mlflow.db").exists()
    more = ["optimizer.lr=1e-3", "sweep.space.freeze.depth.low=1", "runtime.cache=require", "--json"]
    asked = call("sweep", "depth_only", "--plan", *tiny, *more, cwd=tmp_path, **home)
    assert asked.returncode == 0, asked.stderr
    found = json.loads(asked.stdout)
    assert set(found["by_depth"]) == {"1", "2", "3", "4"}
    assert found["wall_s"] > found["fill_s"] > 0
    assert found["cache_bytes"] > 0
    two = call("sweep", "depth_only", "--plan", *tiny, *more, "runtime.num_processes=2", cwd=tmp_path, **home)
    assert two.returncode == 0, two.stderr
    # Starting two processes takes longer than a whole trial of these in a process that is warm.
    assert json.loads(two.stdout)["longest_s"] > 2 * found["longest_s"]
    wrong = call("sweep", "lr_x_dept", "--plan", cwd=tmp_path)
    assert (wrong.returncode, "no such sweep" in wrong.stderr) == (2, True)
    assert call("sweep", "lr_x_depth", "--plan", "--nodes", "0", cwd=tmp_path).returncode == 2
