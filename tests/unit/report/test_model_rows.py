"""Calibration, confusion and worst rows of one model."""

from __future__ import annotations

import numpy as np
import pytest

from frostline.report.model_rows import calibrate, calibration_line, expected_calibration_error, model_rows


def drawn(temperature: float, rows: int = 20_000):
    """Labels that are drawn from softmax(z), and probabilities softmax(z / temperature) that a model gives them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (rows, 3))

    def softmax(values):
        shares = np.exp(values - values.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    true = softmax(logits)
    labels = (true.cumsum(1) > rng.random((rows, 1))).argmax(1)
    return softmax(logits / temperature), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_of_a_model_is_found(temperature):
    probabilities, labels = drawn(temperature)
    own = calibrate(probabilities, labels)
    assert own.temperature == pytest.approx(1 / temperature, rel=0.04)
    assert own.error_after < 0.01
    assert (own.error > 0.05) == (temperature != 1.0)


def test_the_error_is_the_distance_of_confidence_and_accuracy():
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.35, 0.65]] * 10)
    labels = np.array([0] * 6 + [1] * 4 + [1] * 10)
    # 0.9 sure and right in 6 of 10; 0.65 sure and always right.
    assert expected_calibration_error(probabilities, labels) == pytest.approx((0.3 + 0.35) / 2)


def test_rows_of_a_class_that_were_taken_for_another():
    probabilities, labels = drawn(0.5, 60)
    predicted = probabilities.argmax(1)
    rows = model_rows(labels, predicted, probabilities, ("a", "b", "c"), [{"row": 3}])
    assert sum(map(sum, rows.confusion)) == rows.num_rows == 60
    assert rows.confusion[0][1] == int(((labels == 0) & (predicted == 1)).sum())
    line = calibration_line(rows)
    assert "on 60 held-out rows; too sure of itself: the temperature of least loss, " in line
    many = model_rows(labels, predicted, probabilities, tuple(map(str, range(21))), [])
    assert many.confusion == many.names == ()


def test_without_probabilities_there_are_the_worst_rows_alone():
    rows = model_rows(np.zeros(4), np.zeros(4), None, (), [{"row": 1}])
    assert (rows.calibration, rows.confusion, len(rows.worst)) == (None, (), 1)
    assert calibration_line(rows) is calibration_line(None) is None


def test_probabilities_that_no_temperature_mends():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([1.0, 1.0], 400)
    rows = model_rows(1 - shares.argmax(1), shares.argmax(1), shares, ("a", "b"), [])
    assert calibration_line(rows).endswith("held-out rows; no temperature mends its probabilities")
