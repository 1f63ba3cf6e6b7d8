"""What one model says of the held-out rows: how its probabilities are calibrated, what it confuses, its worst rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

NUM_BINS = 15
"""Of confidences, as Guo et al. 2017 take them."""

_LEAST, _MOST = 0.05, 20.0
"""Temperatures that are tried: beyond them probabilities are all alike, or one of them is 1."""

_MOST_CLASSES = 20
"""A larger confusion matrix can't be read."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far a classifier's probabilities are shares of right answers (Guo et al., ICML 2017).

    Attributes:
        error: Expected calibration error, 0 to 1: the mean distance of confidence and accuracy over bins of confidence.
        temperature: By which its logits would have to be divided for the least loss on these rows; above 1 it is too
            sure of itself.
        error_after: The error with that temperature, on the same rows.
    """

    error: float
    temperature: float
    error_after: float


@dataclass(frozen=True, kw_only=True)
class ModelRows:
    """What one model says of the held-out rows.

    Attributes:
        num_rows: How many rows.
        calibration: None where a row has not one class.
        names: Of the classes of the confusion matrix; empty if there is none.
        confusion: `[C][C]`: rows of the first class that were taken for the second.
        worst: The rows of largest loss, each with `row`, `label`, `predicted`, `loss` and `text`.
    """

    num_rows: int
    calibration: Calibration | None
    names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    worst: tuple[Mapping[str, Any], ...]


def model_rows(
    labels: Array,
    predicted: Array,
    probabilities: Array | None,
    names: Sequence[str],
    worst: Sequence[Mapping[str, Any]],
) -> ModelRows:
    """Returns what a model says of rows.

    Args:
        labels: `[N]`: class ids.
        predicted: `[N]`.
        probabilities: `[N, C]`; None where a row has not one class.
        names: Of the classes.
        worst: See `ModelRows`.
    """
    import numpy as np

    if probabilities is None or not len(labels):
        return ModelRows(num_rows=len(labels), calibration=None, names=(), confusion=(), worst=tuple(worst))
    confusion: tuple[tuple[int, ...], ...] = ()
    if len(names) <= _MOST_CLASSES:
        counts = np.bincount(labels * len(names) + predicted, minlength=len(names) ** 2)
        confusion = tuple(tuple(int(value) for value in row) for row in counts.reshape(len(names), len(names)))
    return ModelRows(
        num_rows=len(labels),
        calibration=calibrate(probabilities, labels),
        names=tuple(names) if confusion else (),
        confusion=confusion,
        worst=tuple(worst),
    )


def calibrate(probabilities: Array, labels: Array) -> Calibration:
    """Returns the calibration of a classifier.

    Args:
        probabilities: `[N, C]`.
        labels: `[N]`: class ids.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    logs = np.log(np.clip(probabilities.astype(np.float64), 1e-12, 1.0))

    def tempered(temperature: float) -> Array:
        scaled = logs / temperature
        scaled = np.exp(scaled - scaled.max(1, keepdims=True))
        result: Array = scaled / scaled.sum(1, keepdims=True)
        return result

    def loss(log_temperature: float) -> float:
        right = tempered(float(np.exp(log_temperature)))[np.arange(len(labels)), labels]
        return float(-np.log(np.clip(right, 1e-300, 1.0)).mean())

    bounds = (float(np.log(_LEAST)), float(np.log(_MOST)))
    temperature = float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))
    return Calibration(
        error=expected_calibration_error(probabilities, labels),
        temperature=temperature,
        error_after=expected_calibration_error(tempered(temperature), labels),
    )


def expected_calibration_error(probabilities: Array, labels: Array) -> float:
    """Returns the mean distance of confidence and accuracy over bins of confidence, weighted by their rows.

    Args:
        probabilities: `[N, C]`.
        labels: `[N]`: class ids.
    """
    import numpy as np

    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = [abs(confidence[bins == each].sum() - right[bins == each].sum()) for each in np.unique(bins)]
    return float(sum(gaps) / len(labels))


def calibration_line(rows: ModelRows | None) -> str | None:
    """Returns the calibration in words; None if it isn't known."""
    if rows is None or rows.calibration is None:
        return None
    own = rows.calibration
    error = f"expected calibration error {100 * own.error:.1f} points on {rows.num_rows:,} held-out rows"
    if not _LEAST * 1.01 < own.temperature < _MOST * 0.99:
        return f"{error}; no temperature mends its probabilities"
    sure = "too sure of itself" if own.temperature > 1 else "too unsure"
    return (
        f"{error}; {sure}: the temperature of least loss, {own.temperature:.2f}, makes it "
        f"{100 * own.error_after:.1f} (fitted on these rows)"
    )
