"""`frostline reproduce`: runs of every kind come back in the same bits, and what is not as it was is named."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.records.trial import TrialState
from frostline.tracking import client
from tests.conftest import rewrite, sentences, write_csv
from tests.support.sweep_tools import RUNG, call, mlflow_runs, trials_in

OTHER = "5.20.0"
"""A transformers that is not the one of constraints.txt."""


@pytest.fixture
def own(tiny_overrides, tiny_csv, tiny_model, tmp_path):
    """Overrides on copies of data and weights that a test may change."""
    csv, model = tmp_path / "own.csv", tmp_path / "own-model"
    shutil.copyfile(tiny_csv, csv)
    shutil.copytree(tiny_model, model)
    small = ["dataset.train_rows=64", f"dataset.location={csv}", f"model.location={model}"]
    return [*tiny_overrides, *small]


@pytest.fixture
def recorded(frostline, in_tmp, own):
    code, _, err = frostline("run", *own, "tracking=off", "freeze.depth=1", "hydra.run.dir=runs/one")
    assert code == 0, err
    return Path("runs/one")


@pytest.mark.slow
def test_a_run_comes_back_identical_and_what_differs_is_named(frostline, in_tmp, own, recorded):
    code, out, err = frostline("reproduce", "runs/one", "tracking=off")
    assert code == 0, err
    assert "verdict: identical: every number is bit-equal, the trained weights too" in out
    assert "differs here" not in err
    # conf/ plays no part: the record alone is re-run, whatever the defaults are now
    code, out, err = frostline("reproduce", "runs/one", "tracking=off", "--at", "2", "--json")
    assert code == 0, err
    said = json.loads(out.splitlines()[-1])
    assert (said["conclusion"], said["first"], said["weights"]) == ("identical", None, None)

    code, out, err = frostline("reproduce", "runs/one", "tracking=off", "runtime.threads=2")
    assert code == 0, err
    assert "differs here: threads: 1 -> 2 (may change bits)" in err
    assert "verdict: identical" in out or "verdict: equivalent: within 0.01; not bit-equal because of threads" in out

    code, out, err = frostline("reproduce", "runs/one", "tracking=off", "optimizer.weight_decay=0.5")
    assert code == 1
    assert "verdict: different: because of optimizer.weight_decay: 0.01 -> 0.5" in out

    rows = [(text + " indeed" if index == 7 else text, label) for index, (text, label) in enumerate(sentences(160))]
    write_csv(Path("own.csv"), rows)
    code, out, err = frostline("reproduce", "runs/one", "tracking=off", "--explain")
    assert code == 0, err
    assert "data" in out
    assert "another computation" in out
    code, out, _ = frostline("reproduce", "runs/one", "tracking=off")
    assert code == 1
    assert "verdict: different: because of data: " in out


@pytest.mark.slow
def test_other_weights_and_another_version_are_named(frostline, in_tmp, own, recorded):
    from safetensors.torch import load_file, save_file

    rewrite(recorded / "result.json", lambda data: data["provenance"]["versions"].update(transformers="5.0.0"))
    code, out, err = frostline("reproduce", "runs/one", "tracking=off", "--explain")
    assert code == 0, err
    assert "transformers" in out
    weights = Path("own-model/model.safetensors")
    tensors = load_file(weights)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 1e-3
    save_file(tensors, weights, metadata={"format": "pt"})
    code, out, _ = frostline("reproduce", "runs/one", "tracking=off")
    assert code == 1
    assert "verdict: different: because of model weights: " in out
    shutil.rmtree("own-model")
    code, _, err = frostline("reproduce", "runs/one", "tracking=off")
    assert code == 2
    assert "model.location" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_another_transformers_is_named_and_nothing_else(in_tmp, own):
    arguments = [*own, "tracking=off", "freeze.depth=1", "hydra.run.dir=runs/one"]
    done = call("run", *arguments, cwd=in_tmp)
    assert done.returncode == 0, done.stderr
    here = importlib.metadata.version("transformers")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", "other", f"transformers=={OTHER}"]
    installed = subprocess.run(command, cwd=in_tmp, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    again = call("reproduce", "runs/one", "tracking=off", cwd=in_tmp, PYTHONPATH=str(in_tmp / "other"))
    assert again.returncode == 0, again.stderr
    reported = [line for line in again.stderr.splitlines() if "differs here" in line]
    assert reported == [f"differs here: transformers: {here} -> {OTHER} (may change bits)"]
    equivalent = f"verdict: equivalent: within 0.01; not bit-equal because of transformers: {here} -> {OTHER}"
    assert "verdict: identical: " in again.stdout or equivalent in again.stdout


@pytest.mark.slow
def test_a_record_in_mlflow_is_enough(frostline, in_tmp, own):
    code, _, err = frostline("run", *own, "freeze.depth=2", "hydra.run.dir=runs/one", "seed=3")
    assert code == 0, err
    (run,) = mlflow_runs(in_tmp)
    shutil.rmtree("runs")
    code, out, err = frostline("reproduce", run.info.run_id)
    assert code == 0, err
    assert "verdict: identical" in out
    (again,) = [r for r in mlflow_runs(in_tmp) if r.info.run_id != run.info.run_id]
    tags = again.data.tags
    assert (again.info.status, tags["frostline.verdict"]) == ("FINISHED", "identical")
    assert tags["frostline.reproduces"] == tags["mlflow.parentRunId"] == run.info.run_id
    assert tags["frostline.kind"] == "reproduction"
    artifacts = {item.path for item in client(f"sqlite:///{in_tmp / 'mlflow.db'}").list_artifacts(run.info.run_id)}
    assert artifacts >= {"spec.json", "result.json", "metrics.jsonl", "environment.json"}


def test_a_record_cant_have_code_run(frostline, in_tmp, own, recorded):
    script = Path("metric.py")
    script.write_text("open('canary', 'w').write('ran')\n")
    path = recorded / "spec.json"
    spec = json.loads(path.read_text())
    spec["training"]["metrics"] = ["accuracy", str(script.absolute())]
    path.write_text(json.dumps(spec))
    code, _, err = frostline("reproduce", "runs/one", "tracking=off")
    assert code == 2
    assert "which may be a script; if you trust it, give --metric" in err
    spec["training"]["metrics"] = ["accuracy"]
    spec["optimizer"]["_target_"] = "os.system"
    path.write_text(json.dumps(spec))
    code, _, err = frostline("reproduce", "runs/one", "tracking=off")
    assert code == 2
    assert "_target_" in err
    assert not Path("canary").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no run's folder, no sweep in runs/, and no MLflow run id"),
        (["0" * 32], "there is no sqlite:///mlflow.db to look it up in"),
        (["runs/one", "optimizer.learing_rate=1"], "did you mean"),
        (["runs/one", "--at", "0"], "give an optimizer step, 1 or more"),
        (["runs/one", "--at", "999"], "the record ends at step"),
        (["runs/one", "--tolerance", "-1"], "give a number of 0 or more"),
        (["runs/one", "--tolerance", "inf"], "give a number of 0 or more"),
        (["runs/one", "freeze.depth=9"], "has 4 blocks"),
        ([], "RUN"),
    ],
)
def test_bad_input_is_one_line(frostline, in_tmp, tiny_overrides, arguments, words):
    from frostline.config import compose_run
    from tests.unit.reproduction.test_compare import write_record

    write_record(Path("runs/one"), compose_run(tiny_overrides))
    code, _, err = frostline("reproduce", *arguments)
    assert code == 2, err
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_of_a_sweep_come_back_identical_from_mlflow_alone(frostline, in_tmp, own):
    """Paused, pruned, resumed, and trained in two slots."""
    own = [o for o in own if not o.startswith("optimizer.lr=")]
    arguments = ["sweep.n_trials=8", "training.epochs=3", "sweep.rung_epochs=2", "runtime.slots=2", *RUNG]
    arguments += ["sweep.pruner.name=halving", "sweep.pruner.reduction_factor=2"]
    arguments += ["training.objective=loss", "training.direction=minimize"]
    done = call("sweep", "lr_x_depth", *own, *arguments, cwd=in_tmp)
    assert done.returncode == 0, done.stderr
    found = trials_in(in_tmp / "runs" / "lr_x_depth")
    assert {p.state for p in found} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert any((p.outcome.reason or "").startswith("pruned") for p in found)
    assert any(p.outcome.resumed for p in found)
    code, out, err = frostline("reproduce", "lr_x_depth", "tracking=off")  # its best
    assert code == 0, err
    assert "verdict: identical" in out
    shutil.rmtree("runs")
    runs = mlflow_runs(in_tmp)
    parent = next(run for run in runs if run.data.tags["frostline.kind"] == "sweep")
    trials = [run for run in runs if run.data.tags["frostline.kind"] == "trial"]
    assert len(trials) == 8
    for run in trials:
        code, out, err = frostline(
            "reproduce", run.info.run_id, "tracking=off", f"--tracking-uri=sqlite:///{in_tmp}/mlflow.db"
        )
        assert code == 0, (run.info.run_name, out, err)
        assert "verdict: identical" in out
    fresh = call(
        "reproduce", parent.info.run_id, "tracking=off", "--tracking-uri", f"sqlite:///{in_tmp}/mlflow.db", cwd=in_tmp
    )
    assert fresh.returncode == 0, fresh.stderr
    assert "verdict: identical" in fresh.stdout
