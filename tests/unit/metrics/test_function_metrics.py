"""A metric is a plain function of labels and predictions, or probabilities."""

import numpy as np
import pytest

from frostline.config import compose_run
from frostline.errors import SpecError, UserError
from frostline.metrics import ComputeMetrics, check, metric
from frostline.registry import Registry
from frostline.spec import TASKS


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """What a test registers, no other one has."""
    monkeypatch.setattr("frostline.metrics.METRICS", Registry("metric"))


LOGITS = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
LABELS = np.array([0, 0, 1])


def compute(*names):
    return ComputeMetrics(names, TASKS.get("classification"), 2)(LOGITS, LABELS)


def test_a_function_of_labels_and_predictions():
    @metric("errors", direction="minimize")
    def errors(labels, predictions):
        assert isinstance(labels, np.ndarray)
        return (labels != predictions).sum()

    assert compute("errors") == {"errors": 2.0}


def test_a_function_of_probabilities():
    @metric("mean_first", direction="maximize", probabilities=True)
    def mean_first(labels, probabilities):
        assert np.allclose(probabilities.sum(axis=1), 1)
        return probabilities[:, 0].mean()

    expected = np.mean([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(1)), 1 / (1 + np.exp(-3))])
    assert compute("mean_first")["mean_first"] == pytest.approx(expected)


def test_its_direction_is_checked():
    metric("errors", direction="minimize")(lambda labels, predictions: 0.0)
    words = ["training.metrics=[errors]", "training.objective=errors"]
    with pytest.raises(SpecError, match="is to minimize"):
        check(compose_run(words).training, TASKS.get("classification"))
    check(compose_run([*words, "training.direction=minimize"]).training, TASKS.get("classification"))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda labels, predictions: 1 / 0, "metric mine: ZeroDivisionError: division by zero"),
        (lambda labels, predictions: [1, 2], "metric mine: TypeError"),
        (lambda labels: 1.0, "metric mine: TypeError"),
    ],
)
def test_what_it_raises_gets_one_line(function, words):
    metric("mine", direction="maximize")(function)
    with pytest.raises(UserError) as caught:
        compute("mine")
    assert words in str(caught.value)


def test_a_wrong_direction_and_a_name_that_is_taken():
    with pytest.raises(ValueError, match="up"):
        metric("mine", direction="up")(lambda labels, predictions: 0.0)
    metric("mine", direction="maximize")(lambda labels, predictions: 0.0)
    with pytest.raises(ValueError, match="registered already"):
        metric("mine", direction="maximize")(lambda labels, predictions: 0.0)
