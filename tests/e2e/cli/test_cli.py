"""The command as a user sees it: what it prints, its exit codes, its folders and its MLflow store."""

import json
from pathlib import Path

import pytest

from frostline.records.result import RunResult, Status
from tests.e2e.cli.store_runs import OFF, runs_of
from tests.support.sweep_tools import call


def test_a_run_ends_with_where_it_is(frostline, in_tmp, tiny_overrides):
    code, out, err = frostline("run", *tiny_overrides, OFF, "freeze.depth=1")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "d1-lr1e-03-s0-tiny-moods: FINISHED"
    assert lines[-1].startswith("run_dir: ")
    folder = Path(lines[-1].removeprefix("run_dir: "))
    assert RunResult.read(folder).status is Status.FINISHED
    assert "the embeddings and 1 of 4 blocks, unchanged" in out
    overrides = (folder / "overrides.yaml").read_text()
    assert "- freeze.depth=1\n" in overrides
    assert "training on cpu" in err
    assert "Traceback" not in err
    assert not (in_tmp / "mlflow.db").exists()


def test_mlflow_has_the_run_with_all_that_matters(frostline, in_tmp, tiny_overrides, store):
    code, out, err = frostline("run", *tiny_overrides, "freeze.depth=2", "+tracking.tags.team=nlp", "training.epochs=2")
    assert code == 0, err
    (run,) = runs_of(store)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "d2-lr1e-03-s0-tiny-moods"
    assert len(run.data.params) <= 25
    assert run.data.params["freeze.depth"] == "2"
    assert run.data.params["optimizer.lr"] == "0.001"
    assert run.data.params["optimizer.log10_lr"] == "-3.0"
    folder = Path(out.splitlines()[-1].removeprefix("run_dir: "))
    recorded = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name in ("train/loss", "train/grad_norm", "train/lr", "eval/loss", "eval/accuracy"):
        history = store.get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in history] == [(line["step"], line[name]) for line in recorded if name in line]
    result = RunResult.read(folder)
    assert run.data.metrics["best/accuracy"] == result.objective.value
    assert run.data.metrics["cost/num_trainable"] == result.params.num_trainable
    tags = run.data.tags
    assert tags["team"] == "nlp"
    assert tags["frostline.spec_digest"] == result.spec_digest
    assert tags["frostline.frozen_unchanged"] == "true"
    assert tags["frostline.version.torch"]
    assert "frostline run" in tags["mlflow.note.content"]
    assert f"Result: **accuracy {result.objective.value:.4f}**" in tags["mlflow.note.content"]
    (dataset,) = [item.dataset for item in run.inputs.dataset_inputs]
    assert (dataset.name, dataset.source_type) == ("moods", "path")
    assert result.provenance["data_fingerprint"].startswith(dataset.digest)
    assert json.loads(dataset.profile)["train_rows"] == 128
    experiment = store.get_experiment_by_name("frostline")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    artifacts = {item.path for item in store.list_artifacts(run.info.run_id)}
    files = {
        "spec.json",
        "overrides.yaml",
        "environment.json",
        "metrics.jsonl",
        "result.json",
        "run.log",
        "predictions.parquet",
        "worst_rows.jsonl",
    }
    assert artifacts - {"git.diff"} == files
    assert len(run.outputs.model_outputs) == 1  # tests/e2e/tracking/test_mlflow_model.py


def test_freeze_head_has_its_depth_as_a_number_and_the_model_may_stay_out(frostline, tiny_overrides, store):
    assert frostline("run", *tiny_overrides, "freeze=head", "tracking.log_model=false")[0] == 0
    (run,) = runs_of(store)
    assert (run.data.params["freeze.name"], run.data.params["freeze.depth"]) == ("head", "4")
    assert not run.outputs.model_outputs


@pytest.mark.slow
def test_a_users_own_optimizer_from_a_plugin(in_tmp, tiny_overrides):
    """In a process of its own: what a plugin registers stays registered."""
    (in_tmp / "my_parts.py").write_text(
        "import torch\n"
        "from frostline.models.optimizer import OPTIMIZERS\n"
        "@OPTIMIZERS.register('plain_sgd')\n"
        "def plain(groups, spec):\n"
        "    return torch.optim.SGD(groups, lr=spec.lr)\n"
    )
    own = (OFF, "plugins=[my_parts]", "optimizer.name=plain_sgd")
    done = call("run", *tiny_overrides, *own, cwd=in_tmp, PYTHONPATH=str(in_tmp))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_users_own_sweep_file(frostline, in_tmp, tiny_overrides):
    (in_tmp / "my_conf" / "sweep").mkdir(parents=True)
    (in_tmp / "my_conf" / "sweep" / "mine.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      freeze.depth: 0,4\n"
    )
    code, out, err = frostline("run", "--config-dir", "my_conf", "+sweep=mine", *tiny_overrides, OFF)
    assert code == 0, err
    assert "[2/2] d4-" in out
    code, _, err = frostline(
        "run", "--config-dir", "my_conf", "+sweep=mine", *tiny_overrides, OFF, "model.num_blocks=3"
    )
    assert (code, err) == (2, "frostline: freeze.depth=4: tiny has 3 blocks, so give 0 to 3\n")
