"""What a run records in a real MLflow store, whatever names and values it has; what the store has of a killed one."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import pytest
from mlflow.entities import Dataset, DatasetInput

from frostline.records.recorder import RunStart
from frostline.records.result import Frozen, RunResult, Status
from frostline.spec import TrackingSpec
from frostline.tracking import ChildRun, MlflowRecorder, client
from frostline.tracking.names import Sanitizer
from frostline.tracking.stored_run import PROCESS_TAG, StoredRun, process_tags
from tests.support import PLUGINS
from tests.support.sweep_tools import call, mlflow_runs, start, wait_for

ODD = {
    "f1(macro)": 0.25,
    "f1[macro]": 0.5,
    "50 % #1": 0.75,
    "../up": 1.0,
    "x" * 300: 2.0,
    "inf": math.inf,
    "nan": math.nan,
}


def tracking(folder, **tags):
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return TrackingSpec(
        parent_run=None,
        run_name=None,
        params=(),
        enabled=True,
        uri=uri,
        experiment="odd",
        log_model=False,
        system_metrics=False,
        tags=tags,
        git_diff=True,
    )


def test_params_beyond_mlflows_limits_are_cut_with_a_record(tmp_path):
    params = {f"extra.{n}": n for n in range(248)} | {"long": "y" * 7000, "odd (key)": "z"}
    store = client(tracking(tmp_path).uri)
    stored = StoredRun.create(store, store.create_experiment("odd"), name="d0", tags={}, cleaner=Sanitizer())
    stored.send_params(params)
    stored.end(Status.FINISHED, {})
    (run,) = mlflow_runs(tmp_path)
    assert len(run.data.params) == 250
    assert run.data.params["long"] == "y" * 6000
    assert run.data.params["odd _key_"] == "z"
    assert run.data.tags["frostline.cleaned"].splitlines() == [
        "param long: the first 6000 of 7000 characters",
        "param odd (key) is recorded as odd _key_",
    ]


def test_odd_names_long_values_and_no_numbers_are_cleaned_with_a_record(tmp_path, make_spec, caplog):
    spec = make_spec()
    child = ChildRun(parent=None, name="d0", params={}, tags={"t" * 300: "v" * 9000})
    recorder = MlflowRecorder(tracking(tmp_path, team="nlp"), spec, tmp_path / "run", child=child)
    recorder.log(ODD, 1)
    recorder.log({"inf": -math.inf, "f1(macro)": 0.3}, 2)
    result = RunResult(name=spec.name(), status=Status.FAILED, reason="r" * 20_000, spec_digest=spec.digest())
    recorder.finish(result)
    assert "does not answer" not in caplog.text
    (run,) = mlflow_runs(tmp_path)
    metrics = run.data.metrics
    assert {"f1_macro_", "50 _ _1", "__/up", "inf", "nan"} <= metrics.keys()
    assert sorted(value for key, value in metrics.items() if key.startswith("f1_macro_")) == [0.3, 0.5]
    assert math.isnan(metrics["inf"])
    assert math.isnan(metrics["nan"])
    record = run.data.tags["frostline.cleaned"].splitlines()
    assert "metric f1(macro) is recorded as f1_macro_" in record
    assert "metric inf: inf is recorded as NaN" in record
    assert "metric inf: -inf is recorded as NaN" in record
    assert [line for line in record if line.startswith("metric xxx")]
    assert [line for line in record if line.startswith("tag frostline.reason: the first 8000 of ")]
    assert run.info.status == "FAILED"
    assert run.data.tags["team"] == "nlp"


def test_a_run_that_is_resumed_is_not_taken_for_dead(tmp_path, monkeypatch):
    from frostline.tracking import orphans

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    made = client(uri)
    experiment = made.create_experiment("e")
    (host,) = {value.split("/")[0] for value in process_tags().values()}
    runs = [made.create_run(experiment, tags={PROCESS_TAG: f"{host}/999999/1"}).info.run_id for _ in range(2)]

    def resumed_meanwhile(pid):
        StoredRun.resume(made, made.get_run(runs[0]), Sanitizer())
        return "2"

    monkeypatch.setattr(orphans, "process_start", resumed_meanwhile)
    assert orphans.end_dead_runs(uri, experiment) == 1
    assert [made.get_run(run_id).info.status for run_id in runs] == ["RUNNING", "KILLED"]
    assert "frostline.reason" not in made.get_run(runs[0]).data.tags


@pytest.mark.parametrize(
    ("choice", "params"),
    [
        (["freeze=bias_only"], {"freeze.name": "bias_only"}),
        (["freeze=blocks", "freeze.blocks=[1,3]"], {"freeze.name": "blocks", "freeze.blocks": "1,3"}),
        (["freeze=none"], {"freeze.name": "none"}),
        (["freeze.depth=2"], {"freeze.depth": 2}),
    ],
)
def test_a_sweeps_child_says_how_it_was_frozen(make_spec, choice, params):
    from frostline.tracking.content import ChildRun, params_of

    spec = make_spec(*choice)
    child = ChildRun(parent=None, name="x", params={"freeze": "?"}, tags={})
    found = params_of(spec, None, child)
    own = {key: value for key, value in found.items() if key.startswith("freeze.") and key != "freeze.embeddings"}
    assert own == params
    assert found["freeze"] == spec.freeze.label()


def test_a_long_command_leaves_room_for_the_outcome(tmp_path, make_spec):
    from frostline.tracking.content import note_of

    spec = make_spec()
    frozen = Frozen(name="depth", depth=1, num_blocks=4, words="the embeddings and 1 of 4 blocks")
    start = RunStart(
        spec=spec, folder=tmp_path, overrides=("x" * 9000,), freeze=frozen,
        data={"train_rows": 1, "eval_rows": 1}, provenance={},
    )  # fmt: skip
    note = note_of(start, "frostline run")
    assert len(note) < 5000
    assert "the embeddings and 1 of 4 blocks" in note


@pytest.mark.slow
def test_a_killed_run_has_all_its_numbers_after_the_next_start(tmp_path, tiny_overrides):
    slow = {"PYTHONPATH": PLUGINS, "SLOW_S": "0.05"}
    arguments = [*tiny_overrides, "plugins=[sweep_plugin]", "optimizer.name=slow", "training.epochs=20"]
    process = start("run", *arguments, "hydra.run.dir=runs/one", cwd=tmp_path, **slow)
    metrics = tmp_path / "runs" / "one" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 20, what="the run's twentieth step")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    rows = [json.loads(line) for line in metrics.read_text().splitlines() if line.endswith("}")]
    losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    made = client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = [run for run in mlflow_runs(tmp_path) if run.info.status == "RUNNING"]
    assert len(made.get_metric_history(run.info.run_id, "train/loss")) < len(losses)  # those of the last seconds
    assert call("run", *tiny_overrides, "dataset.train_rows=16", "hydra.run.dir=runs/two", cwd=tmp_path).returncode == 0
    run = made.get_run(run.info.run_id)
    assert (run.info.status, run.data.tags["frostline.reason"]) == ("KILLED", "its process died")
    history = made.get_metric_history(run.info.run_id, "train/loss")
    assert {metric.step: metric.value for metric in history} == losses
    assert len(history) == len(losses)


@pytest.mark.slow
def test_mlflow_watches_the_machine_when_asked(tmp_path, tiny_overrides):
    slow = {"PYTHONPATH": PLUGINS, "SLOW_S": "0.1", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.5"}
    arguments = [*tiny_overrides, "plugins=[sweep_plugin]", "optimizer.name=slow", "training.epochs=5"]
    for on in (True, False):
        done = call(
            "run", *arguments, f"tracking.system_metrics={on}", f"hydra.run.dir=runs/{on}", cwd=tmp_path, **slow
        )
        assert done.returncode == 0, done.stderr
        assert "MLflow" not in done.stderr
    watched = {Path(run.data.tags["frostline.run_dir"]).name: run.data.metrics for run in mlflow_runs(tmp_path)}
    assert watched["True"]["system/system_memory_usage_megabytes"] > 1
    assert not [key for key in watched["False"] if key.startswith("system/")]


@pytest.mark.slow
def test_no_token_of_the_environment_reaches_a_file_or_the_store(tmp_path, tiny_overrides):
    names = (
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "PGPASSWORD",
        "WANDB_API_KEY",
        "MY_PASSWORD",
    )
    secrets = {name: f"hunter2-{name}" for name in names}
    done = call("run", *tiny_overrides, "dataset.train_rows=32", "hydra.run.dir=runs/one", cwd=tmp_path, **secrets)
    assert done.returncode == 0, done.stderr
    again = call("reproduce", "runs/one", cwd=tmp_path, **secrets)
    assert "verdict: identical" in again.stdout, again.stderr
    assert "hunter2" not in done.stdout + done.stderr + again.stdout + again.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"mlflow.db", "environment.json", "MLmodel"} <= {path.name for path in files}
    assert not [path for path in files if b"hunter2" in path.read_bytes()]


def test_runs_that_record_the_same_data_at_the_same_moment_are_all_recorded(tmp_path, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    real, refused = MlflowClient.log_inputs, []

    def race(self, run_id, *arguments, **options):
        if len(refused) < 2:  # as PostgreSQL has said it, through a server
            refused.append(run_id)
            raise MlflowException(
                '(psycopg.errors.UniqueViolation) duplicate key value violates unique constraint "dataset_pk" '
                "DETAIL: Key (experiment_id, name, digest)=(1, movie_reviews, cb9f) already exists."
            )
        return real(self, run_id, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "log_inputs", race)
    made = client(tracking(tmp_path).uri)
    run_id = made.create_run(made.create_experiment("odd")).info.run_id
    dataset = Dataset(name="moods", digest="abc", source_type="local", source="{}")
    stored = StoredRun(made, run_id, Sanitizer())
    stored.send_inputs([DatasetInput(dataset=dataset, tags=[])])
    assert len(refused) == 2
    assert [one.dataset.name for one in made.get_run(run_id).inputs.dataset_inputs] == ["moods"]

    def broken(self, run_id, *arguments, **options):
        raise MlflowException("the disk is full")

    monkeypatch.setattr(MlflowClient, "log_inputs", broken)
    with pytest.raises(MlflowException, match="the disk is full"):
        stored.send_inputs([])
