"""What frostline relies on in MLflow."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from frostline.tracking import absolute, client
from frostline.tracking.names import MAX_NAME, Sanitizer, clean_name


@pytest.fixture
def made(tmp_path):
    return client(f"sqlite:///{tmp_path / 'x.db'}")


@pytest.mark.parametrize("name", ["eval/accuracy", "best/f1_macro", "train/lr"])
def test_our_metric_names_are_accepted(made, name):
    experiment = made.create_experiment("e")
    run = made.create_run(experiment)
    made.log_metric(run.info.run_id, clean_name(name), 1.0)
    made.log_metric(run.info.run_id, clean_name("my metric (%) #1"), 2.0)
    assert made.get_run(run.info.run_id).data.metrics == {name: 1.0, "my metric ___ _1": 2.0}


@settings(max_examples=60)
@given(st.text(max_size=400))
@example("")
@example(".")
@example("..")
@example("..x")
@example("/etc/passwd")
@example("a//b/./../c/")
@example("x" * 251)
@example("\ud800")
def test_a_cleaned_name_passes_mlflows_own_checks(name):
    from mlflow.utils.validation import _validate_length_limit, _validate_metric_name, _validate_param_name

    clean = clean_name(name)
    _validate_metric_name(clean)
    _validate_param_name(clean)
    _validate_length_limit("name", MAX_NAME, clean)
    assert clean_name(clean) == clean


@settings(max_examples=60)
@given(st.lists(st.text(alphabet="a()#./", max_size=4), unique=True, max_size=30))
def test_names_that_would_become_one_are_kept_apart(names):
    cleaner = Sanitizer()
    clean = [cleaner.name("metric", name) for name in names]
    assert len(set(clean)) == len(names)
    assert clean == [cleaner.name("metric", name) for name in names]
    changed = [name for name, new in zip(names, clean, strict=True) if name != new]
    assert bool(cleaner.record) == bool(changed)


def test_trap_infinity_is_stored_as_a_finite_number_and_nan_as_itself(made):
    run = made.create_run(made.create_experiment("e"))
    made.log_metric(run.info.run_id, "inf", math.inf)
    made.log_metric(run.info.run_id, "nan", math.nan)
    metrics = made.get_run(run.info.run_id).data.metrics
    assert metrics["inf"] == pytest.approx(1.797e308, rel=1e-3)
    assert math.isnan(metrics["nan"])


def test_relative_stores_are_made_absolute(in_tmp):
    assert absolute("sqlite:///mlflow.db") == f"sqlite:///{in_tmp}/mlflow.db"
    assert absolute("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert absolute("http://host:5000") == "http://host:5000"
