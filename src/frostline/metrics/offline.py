"""Metrics over scikit-learn and scipy, as subclasses of `evaluate.Metric`.

`evaluate.load("accuracy")` fetches a script from the hub; these need no network and compose with `evaluate.combine`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sk

Compute = Callable[[Any, Any], float]


class _InMemory(evaluate.Metric):  # type: ignore[misc]
    """A metric that can do without the file or table that `compute` puts columns into."""

    def compute_in_memory(self, **columns: Any) -> dict[str, float]:
        """Returns what `compute` returns for whole columns."""
        features = self._info().features
        cast = {}
        for name, values in columns.items():
            feature = features[name]
            dtype = feature.feature.dtype if isinstance(feature, datasets.Sequence) else feature.dtype
            cast[name] = np.asarray(values).astype(dtype)
        result: dict[str, float] = self._compute(**cast)
        return result


class _Offline(_InMemory):
    """A metric of one number, computed from memory."""

    metric_name = ""
    description = ""
    label_type = "int64"
    compute_one: Compute

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {"predictions": datasets.Value(self.label_type), "references": datasets.Value(self.label_type)}
        )
        return evaluate.MetricInfo(description=self.description, citation="", features=features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        with warnings.catch_warnings():
            # One class only, or a constant: the value is NaN or 0 by definition, and that is what is returned.
            warnings.simplefilter("ignore")
            value = type(self).compute_one(np.asarray(predictions), np.asarray(references))
        return {self.metric_name: float(value)}


class RocAuc(_InMemory):
    """Area under the ROC curve from class probabilities `[N, C]`; one against the rest, averaged, for C > 2."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {
                "prediction_scores": datasets.Sequence(datasets.Value("float64")),
                "references": datasets.Value("int64"),
            }
        )
        return evaluate.MetricInfo(description="Area under the ROC curve.", citation="", features=features)

    def _compute(self, prediction_scores: Any, references: Any) -> dict[str, float]:
        scores, labels = np.asarray(prediction_scores), np.asarray(references)
        if len(np.unique(labels)) < 2:
            return {"roc_auc": float("nan")}  # undefined: there is only one class
        if scores.shape[1] == 2:
            return {"roc_auc": float(sk.roc_auc_score(labels, scores[:, 1]))}
        present = np.unique(labels)
        if len(present) < scores.shape[1]:
            return {"roc_auc": float(np.mean([sk.roc_auc_score(labels == c, scores[:, c]) for c in present]))}
        return {"roc_auc": float(sk.roc_auc_score(labels, scores, multi_class="ovr"))}


class _Entities(evaluate.Metric):  # type: ignore[misc]
    """A share of spans: those that are found whole, with the right ends and the right type (Tjong Kim Sang 2002)."""

    which = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        features = datasets.Features({"predictions": tags, "references": tags})
        return evaluate.MetricInfo(description=f"{self.which} of spans.", citation="", features=features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        predicted, wanted = (
            {(row, *span) for row, tags in enumerate(each) for span in spans_of(tags)}
            for each in (predictions, references)
        )
        right = len(predicted & wanted)
        precision, recall = right / max(1, len(predicted)), right / max(1, len(wanted))
        both = 2 * precision * recall / (precision + recall) if right else 0.0
        return {f"entity_{self.which}": {"precision": precision, "recall": recall, "f1": both}[self.which]}


class _OfTokens(_InMemory):
    """A metric of a language model.

    Predictions are sums of losses and numbers of right tokens, `[N, 2]`, references the rows' target tokens, `[N]`.
    """

    which = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("float64")}
        )
        return evaluate.MetricInfo(description=f"{self.which} over all target tokens.", citation="", features=features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        (losses, right), tokens = np.asarray(predictions).sum(0), np.asarray(references).sum()
        value = np.exp(losses / tokens) if self.which == "perplexity" else right / tokens
        return {self.which: float(value)}


def _token_metric(which: str) -> type[evaluate.Metric]:
    return type(which.title().replace("_", ""), (_OfTokens,), {"which": which, "__module__": __name__})


def spans_of(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Returns the spans of a sentence: type, first word, one past the last.

    Tags are `O`, or a letter and a type: `B-` begins a span, `I-` continues one of its type, and begins one where
    there is none (as the CoNLL-2000 evaluation takes it); of the other schemes `S-` and `U-` are a span of one word,
    `E-` and `L-` the last of one.
    """
    spans: list[tuple[str, int, int]] = []
    open_span: tuple[str, int] | None = None
    for index, tag in enumerate([*tags, "O"]):
        letter, _, kind = tag.partition("-")
        continues = open_span is not None and letter in {"I", "E", "L"} and kind == open_span[0]
        if open_span is not None and not continues:
            spans.append((open_span[0], open_span[1], index))
            open_span = None
        if open_span is None and kind:
            open_span = (kind, index)
        if open_span is not None and letter in {"E", "L", "S", "U"}:
            spans.append((open_span[0], open_span[1], index + 1))
            open_span = None
    return spans


def _entity_metric(which: str) -> type[evaluate.Metric]:
    name = f"entity_{which}"
    return type(name.title().replace("_", ""), (_Entities,), {"which": which, "__module__": __name__})


def _spearman(predictions: Any, references: Any) -> float:
    if len(predictions) < 2:
        return float("nan")  # a correlation of one trial is undefined
    return float(stats.spearmanr(predictions, references).statistic)


def _pearson(predictions: Any, references: Any) -> float:
    if len(predictions) < 2:
        return float("nan")
    return float(stats.pearsonr(predictions, references).statistic)


def _averaged(function: Callable[..., float], average: str) -> Compute:
    def compute(predictions: Any, references: Any) -> float:
        return function(references, predictions, average=average, zero_division=0)

    return compute


def _plain(function: Callable[..., float]) -> Compute:
    def compute(predictions: Any, references: Any) -> float:
        return function(references, predictions)  # scikit-learn wants the truth first

    return compute


def _metric(name: str, description: str, compute: Compute, label_type: str = "int64") -> type[_Offline]:
    attributes = {
        "metric_name": name,
        "description": description,
        "label_type": label_type,
        "compute_one": staticmethod(compute),
        "__doc__": description,
        "__module__": __name__,
    }
    return type(name.title().replace("_", ""), (_Offline,), attributes)


METRIC_CLASSES: dict[str, type[evaluate.Metric]] = {
    "accuracy": _metric("accuracy", "Share of rows whose class is right.", _plain(sk.accuracy_score)),
    "balanced_accuracy": _metric("balanced_accuracy", "Mean recall over classes.", _plain(sk.balanced_accuracy_score)),
    "f1": _metric("f1", "F1 of class 1 of two.", _averaged(sk.f1_score, "binary")),
    "f1_macro": _metric("f1_macro", "Mean F1 over classes.", _averaged(sk.f1_score, "macro")),
    "f1_micro": _metric("f1_micro", "F1 over all decisions.", _averaged(sk.f1_score, "micro")),
    "hamming_loss": _metric("hamming_loss", "Share of wrong decisions.", _plain(sk.hamming_loss)),
    "precision": _metric("precision", "Precision of class 1 of two.", _averaged(sk.precision_score, "binary")),
    "precision_macro": _metric(
        "precision_macro", "Mean precision over classes.", _averaged(sk.precision_score, "macro")
    ),
    "recall": _metric("recall", "Recall of class 1 of two.", _averaged(sk.recall_score, "binary")),
    "recall_macro": _metric("recall_macro", "Mean recall over classes.", _averaged(sk.recall_score, "macro")),
    "matthews_correlation": _metric(
        "matthews_correlation",
        "Correlation of predicted and true classes, -1 to 1.",
        _plain(sk.matthews_corrcoef),
    ),
    "roc_auc": RocAuc,
    "entity_f1": _entity_metric("f1"),
    "entity_precision": _entity_metric("precision"),
    "entity_recall": _entity_metric("recall"),
    "perplexity": _token_metric("perplexity"),
    "token_accuracy": _token_metric("token_accuracy"),
    "mse": _metric("mse", "Mean squared error.", _plain(sk.mean_squared_error), "float64"),
    "mae": _metric("mae", "Mean absolute error.", _plain(sk.mean_absolute_error), "float64"),
    "pearson": _metric("pearson", "Pearson correlation.", _pearson, "float64"),
    "spearman": _metric("spearman", "Spearman rank correlation.", _spearman, "float64"),
}
