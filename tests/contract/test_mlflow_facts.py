"""What frostline relies on in MLflow."""

import pytest

from frostline.tracking import absolute, client, metric_name


@pytest.fixture
def made(tmp_path):
    return client(f"sqlite:///{tmp_path / 'x.db'}")


@pytest.mark.parametrize("name", ["eval/accuracy", "best/f1_macro", "train/lr"])
def test_our_metric_names_are_accepted(made, name):
    experiment = made.create_experiment("e")
    run = made.create_run(experiment)
    made.log_metric(run.info.run_id, metric_name(name), 1.0)
    made.log_metric(run.info.run_id, metric_name("my metric (%) #1"), 2.0)
    assert made.get_run(run.info.run_id).data.metrics == {name: 1.0, "my metric ___ _1": 2.0}


def test_relative_stores_are_made_absolute(in_tmp):
    assert absolute("sqlite:///mlflow.db") == f"sqlite:///{in_tmp}/mlflow.db"
    assert absolute("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert absolute("http://host:5000") == "http://host:5000"
