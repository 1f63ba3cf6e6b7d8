"""What a run's held-out rows say of a metric: the noise that they contribute, a collapse, a constant prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from frostline.data.label_sets import indicators
from frostline.records.predictions import RowScores
from frostline.records.trial import TrialRecord, TrialState

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_MEANS = frozenset({"accuracy", "loss", "mse", "mae", "perplexity", "token_accuracy"})
"""Metrics that are means over rows, or follow from one."""


_OF_ENTITIES = frozenset({"entity_f1", "entity_precision", "entity_recall"})
"""Metrics that are 0 where every word gets the same tag, or none that begins an entity."""


_OF_SEVERAL = frozenset({"f1_macro", "f1_micro", "precision_macro", "recall_macro"})
"""Metrics that are known by row where a row may have several classes, beside the means."""


def is_mean_over_rows(metric: str) -> bool:
    """Returns whether a metric is the mean of something that each row has by itself."""
    return metric in _MEANS


_PASSES = 3
"""What a training row takes beside a held-out one: a forward pass, and a backward pass of about two."""


def rows_to_settle(rows: int, at_hand: int, trained: float, settle_rows: int | None) -> int:
    """Returns the held-out rows that further seeds are scored on.

    Args:
        rows: Of the search.
        at_hand: That there are.
        trained: Rows that a run trains on between two evaluations, each as often as it does.
        settle_rows: Asked for; None: all, as long as to score them takes no longer than to train.
    """
    return min(at_hand, max(rows, int(_PASSES * trained)) if settle_rows is None else settle_rows)


def race_rows(trials: Sequence[TrialRecord], settle_rows: int | None) -> tuple[int | None, float]:
    """Returns the held-out rows that further seeds are scored on, and what such a run costs beside one of the search.

    Args:
        trials: All of the sweep.
        settle_rows: See `rows_to_settle`.

    Returns:
        Rows, None if they are those of the search; and a factor.
    """
    costs = (trial.outcome.cost for trial in trials if trial.state is TrialState.COMPLETE and trial.outcome is not None)
    known = next((cost for cost in costs if "scored_rows" in cost), None)
    if known is None:
        return settle_rows, 1.0
    rows, training = int(known["scored_rows"]), known["trained_per_scoring"]
    chosen = rows_to_settle(rows, int(known["rows_at_hand"]), training, settle_rows)
    return (None if chosen == rows else chosen), (_PASSES * training + chosen) / (_PASSES * training + rows)


def learnt_nothing(metric: str, value: float) -> bool:
    """Returns whether a run's value alone says that it learnt nothing: NaN; no entity found in any sentence."""
    return not math.isfinite(value) or (metric in _OF_ENTITIES and value == 0)


def is_collapsed(rows: RowScores) -> bool:
    """Returns whether a run said the same of every row though their labels differ: it learnt nothing."""
    predicted, labels = rows.predicted, rows.labels
    if rows.counts_tokens:
        return False
    return bool(len(predicted) > 1 and (predicted == predicted[0]).all() and not (labels == labels[0]).all())


def row_vector(rows: RowScores, metric: str) -> Array | None:
    """Returns what the rows contribute to the noise of a run's value; None for a metric that they don't determine."""
    import numpy as np

    from frostline.decision.rows import of_bootstrap, of_mean

    if rows.counts_tokens:
        return _of_tokens(rows, metric)
    if metric == "accuracy":
        return of_mean((rows.predicted == rows.labels).reshape(len(rows.labels), -1).all(1))
    if metric in {"loss", "mse"}:
        return of_mean(-rows.losses.astype(np.float64))
    if metric == "mae":
        return of_mean(-np.abs(rows.predicted - rows.labels))
    compute = _by_rows(metric)
    if compute is None:
        return None
    if rows.num_classes is None:
        return of_bootstrap(compute, rows.labels, rows.predicted)
    if metric not in _OF_SEVERAL:
        return None
    labels, predicted = (indicators(each, rows.num_classes) for each in (rows.labels, rows.predicted))
    return of_bootstrap(compute, labels, predicted)


def _of_tokens(rows: RowScores, metric: str) -> Array | None:
    """Returns the same of a mean over tokens: a ratio of sums over rows, linear about its value.

    With s_i summed over the n_i tokens of row i, a value r = sum s / sum n moves with row i by (s_i - r n_i) / mean(n)
    (the linearized ratio estimator, Cochran 1977, section 6.3); exp(r) moves by exp(r) times that.
    """
    import numpy as np

    from frostline.decision.rows import of_mean

    tokens = rows.labels.astype(np.float64)
    if metric not in {"loss", "perplexity", "token_accuracy"}:
        return None
    sums = rows.predicted if metric == "token_accuracy" else rows.losses.astype(np.float64) * tokens
    ratio = sums.sum() / tokens.sum()
    moves = ratio + (sums - ratio * tokens) / tokens.mean()
    if metric == "token_accuracy":
        return of_mean(moves)
    return of_mean(-moves if metric == "loss" else -np.exp(ratio) * (1 + moves - ratio))


def _by_rows(metric: str) -> Callable[[Any, Any], float] | None:
    """Returns a metric as a function of labels and predictions; None if they don't determine it."""
    import warnings

    from scipy import stats
    from sklearn import metrics

    def averaged(function: Callable[..., float], average: str) -> Callable[[Any, Any], float]:
        return lambda labels, predicted: float(function(labels, predicted, average=average, zero_division=0))

    known: dict[str, Callable[[Any, Any], float]] = {
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "f1": averaged(metrics.f1_score, "binary"),
        "f1_macro": averaged(metrics.f1_score, "macro"),
        "f1_micro": averaged(metrics.f1_score, "micro"),
        "precision": averaged(metrics.precision_score, "binary"),
        "precision_macro": averaged(metrics.precision_score, "macro"),
        "recall": averaged(metrics.recall_score, "binary"),
        "recall_macro": averaged(metrics.recall_score, "macro"),
        "matthews_correlation": metrics.matthews_corrcoef,
        "pearson": lambda labels, predicted: float(stats.pearsonr(labels, predicted).statistic),
        "spearman": lambda labels, predicted: float(stats.spearmanr(labels, predicted).statistic),
    }
    compute = known.get(metric)
    if compute is None:
        return None

    def quiet(labels: Any, predicted: Any) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a resample without one of the classes
            return compute(labels, predicted)

    return quiet


def constant_prediction(rows: RowScores, metric: str) -> float:
    """Returns the score of the best constant prediction; NaN where that is not known."""
    import numpy as np

    labels = rows.labels
    if rows.counts_tokens:
        return math.nan
    if metric == "accuracy":
        return float(np.unique(labels, axis=0, return_counts=True)[1].max() / len(labels))
    if metric == "mse":
        return float(np.var(labels))
    if metric == "mae":
        return float(np.abs(labels - np.median(labels)).mean())
    if metric in {"matthews_correlation", "pearson", "spearman"}:
        return 0.0
    return math.nan
