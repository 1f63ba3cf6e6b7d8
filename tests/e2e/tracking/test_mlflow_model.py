"""The model of a run in MLflow: listed, loaded by MLflow's own loaders, the same answers as `frostline predict`."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from frostline.tracking import client

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")  # by importing mlflow.pyfunc

LONG = "the film was lovely " * 100  # beyond the 64 positions of the tiny model
TEXTS = ["the film was lovely", "the film was dreadful", LONG]


@pytest.fixture
def store(in_tmp):
    return client("sqlite:///mlflow.db")


def the_run(store):
    (experiment,) = [e for e in store.search_experiments() if e.name == "frostline"]
    (run,) = store.search_runs([experiment.experiment_id])
    return run


def predicted(frostline, run, texts, *options):
    code, out, err = frostline("predict", run, "--json", *options, *texts)
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def mlflow_here(store, in_tmp):
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{in_tmp / 'mlflow.db'}")
    yield mlflow
    mlflow.set_tracking_uri(before)


@pytest.mark.slow
def test_mlflow_loads_the_model_and_it_answers_as_predict_does(frostline, tiny_overrides, store, mlflow_here):
    code, _, err = frostline("run", *tiny_overrides, "training.epochs=3", "hydra.run.dir=one")
    assert (code, "does not answer" in err) == (0, False), Path("one/.mlflow-pending.json").read_text()
    run = the_run(store)
    (output,) = run.outputs.model_outputs
    model = store.get_logged_model(output.model_id)
    assert (model.name, model.status.value, model.source_run_id) == ("model", "READY", run.info.run_id)
    assert model.params == run.data.params
    assert f'mlflow.pyfunc.load_model("models:/{model.model_id}")' in model.tags["mlflow.note.content"]
    assert {m.dataset_name for m in model.metrics if m.key.startswith("eval/")} == {"moods"}
    assert {m.key: m.value for m in model.metrics}["best/accuracy"] == run.data.metrics["best/accuracy"]
    assert {m.key for m in model.metrics} >= {"eval/loss", "eval/accuracy", "cost/train_s"}
    for key, times in (("best/accuracy", 1), ("eval/accuracy", 3)):  # what is in the run is not logged twice
        assert len(store.get_metric_history(run.info.run_id, key)) == times

    wanted = predicted(frostline, "one", TEXTS)
    for uri in (f"models:/{model.model_id}", f"runs:/{run.info.run_id}/model"):
        loaded = mlflow_here.pyfunc.load_model(uri)
        answers = loaded.predict(TEXTS)
        assert list(answers["label"]) == [row["label"] for row in wanted]
        assert list(answers["score"]) == pytest.approx([row["score"] for row in wanted], abs=1e-6)
    assert loaded.metadata.signature.inputs.input_types()[0].name == "string"
    assert loaded.metadata.signature.outputs.input_names() == ["label", "score"]
    assert list(loaded.predict(loaded.input_example).columns) == ["label", "score"]
    pipeline = mlflow_here.transformers.load_model(f"models:/{model.model_id}")
    assert pipeline(TEXTS[0])[0]["label"] == wanted[0]["label"]
    # from the record alone
    Path("one").rename("away")
    assert predicted(frostline, run.info.run_id, TEXTS) == wanted


@pytest.mark.slow
def test_its_files_are_safe_and_name_what_it_needs(frostline, tiny_overrides, store, mlflow_here):
    assert frostline("run", *tiny_overrides, "dataset.train_rows=32")[0] == 0
    run = the_run(store)
    (output,) = run.outputs.model_outputs
    root = Path(mlflow_here.artifacts.download_artifacts(f"models:/{output.model_id}"))
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert {path.rpartition(".")[2] for path in files} <= {
        "json",
        "md",  # the card
        "safetensors",
        "txt",
        "yaml",
        "MLmodel",
        "registered_model_meta",
    }  # the last comes with downloading
    assert {"MLmodel", "input_example.json", "requirements.txt", "model/model.safetensors"} <= files
    assert sum(path.endswith(".safetensors") for path in files) == 1
    lines = (root / "requirements.txt").read_text().splitlines()
    assert "torch==2.13.0" in lines
    assert not [line for line in lines if "+" in line]
    for name in ("conda.yaml", "python_env.yaml", "MLmodel"):
        assert yaml.safe_load((root / name).read_text())
    recorded = (root / "input_example.json").read_text()
    assert "film" not in recorded  # no row of anybody's data
    assert mlflow_here.pyfunc.get_model_dependencies(f"models:/{output.model_id}").endswith("requirements.txt")


@pytest.mark.slow
def test_pairs_and_numbers(frostline, tiny_overrides, store, mlflow_here, tmp_path):
    rows = [{"a": f"word {n % 7}", "b": f"other {n % 5}", "y": "yes" if n % 7 > 3 else "no"} for n in range(80)]
    pd.DataFrame(rows).to_csv("pairs.csv", index=False)
    overrides = [o for o in tiny_overrides if not o.startswith("dataset.location=")]
    pair = ["dataset.location=pairs.csv", "dataset.text_column=a", "dataset.pair_column=b", "dataset.label_column=y"]
    code, _, err = frostline("run", *overrides, *pair, "hydra.run.dir=pair")
    assert code == 0, err
    loaded = mlflow_here.pyfunc.load_model(f"runs:/{the_run(store).info.run_id}/model")
    assert loaded.metadata.signature.inputs.input_names() == ["text", "text_pair"]
    (wanted,) = predicted(frostline, "pair", ["word 3"], "--pair", "other 2")
    answer = loaded.predict({"text": "word 3", "text_pair": "other 2"})
    assert answer["label"][0] == wanted["label"]
    assert answer["score"][0] == pytest.approx(wanted["score"], abs=1e-6)
    assert len(loaded.predict(loaded.input_example)) == 1
    store.delete_run(the_run(store).info.run_id)

    numbers = [{"a": f"word {n}", "y": float(n % 7) - 3.0} for n in range(80)]
    pd.DataFrame(numbers).to_csv("numbers.csv", index=False)
    number = ["dataset.location=numbers.csv", "dataset.text_column=a", "dataset.label_column=y"]
    number += ["dataset.task=regression", "training.objective=loss", "training.direction=minimize"]
    code, _, err = frostline("run", *overrides, *number, "training.metrics=[mse]", "hydra.run.dir=number")
    assert code == 0, err
    loaded = mlflow_here.pyfunc.load_model(f"runs:/{the_run(store).info.run_id}/model")
    wanted = predicted(frostline, "number", ["word 0", "word 6"])
    scores = list(loaded.predict(["word 0", "word 6"])["score"])
    assert scores == pytest.approx([row["score"] for row in wanted], abs=1e-5)


@pytest.mark.slow
def test_an_old_server_gets_it_as_an_artifact(frostline, tiny_overrides, store, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

    def unknown(self, *arguments, **settings):
        raise MlflowException("failed with error code 404 != 200", error_code=ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(MlflowClient, "create_logged_model", unknown)
    code, _, err = frostline("run", *tiny_overrides, "dataset.train_rows=32", "hydra.run.dir=one")
    assert (code, "does not answer" in err) == (0, False)
    run = the_run(store)
    assert run.info.status == "FINISHED"
    assert "model/model.safetensors" in {item.path for item in store.list_artifacts(run.info.run_id, "model")}
    wanted = predicted(frostline, "one", TEXTS)
    Path("one").rename("away")
    assert predicted(frostline, run.info.run_id, TEXTS) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("call", ["create_logged_model", "log_outputs", "log_model_artifacts", "finalize_logged_model"])
def test_a_model_that_was_cut_off_is_uploaded_again(frostline, tiny_overrides, store, monkeypatch, mlflow_here, call):
    from mlflow import MlflowClient

    def missing(self, *arguments, **settings):
        raise ConnectionError("lost")

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, call, missing)
        code, _, err = frostline("run", *tiny_overrides, "dataset.train_rows=32", "hydra.run.dir=runs/one")
    assert code == 0
    assert "frostline ui --sync records it later" in err
    code, _, err = frostline("ui", "--sync")
    assert code == 0, err
    run = the_run(store)
    (output,) = run.outputs.model_outputs
    model = store.get_logged_model(output.model_id)
    assert model.status.value == "READY"
    assert {metric.key for metric in model.metrics} >= {"best/accuracy", "eval/accuracy"}
    assert len([m for m in store.search_logged_models([run.info.experiment_id]) if m.status.value == "READY"]) == 1
    assert mlflow_here.pyfunc.load_model(f"runs:/{run.info.run_id}/model").predict(["a film"])["label"][0]
    for key in ("best/accuracy", "cost/train_s", "eval/accuracy"):
        assert len(store.get_metric_history(run.info.run_id, key)) == 1
