"""Metrics by name, and their computation from logits and labels.

Importing this package imports neither evaluate nor scikit-learn, so that a wrong name is found at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.errors import SpecError, UserError, as_user_error, first_line, listing, nearest
from frostline.registry import Registry
from frostline.spec import Direction, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from frostline.spec import TrainingSpec


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What is known of a metric before it is loaded.

    Attributes:
        direction: Whether more or less of it is better.
        task: Which task it is for.
        load: Returns an `evaluate.EvaluationModule`.
        scores: Whether it reads class probabilities instead of classes.
        binary_only: Whether it needs exactly two classes.
        also: Other tasks that it is for.
        spans: Whether it reads tags of sentences, for example `B-PER`, instead of classes.
    """

    direction: Direction
    task: str
    load: Callable[[], Any]
    scores: bool = False
    binary_only: bool = False
    also: tuple[str, ...] = ()
    spans: bool = False


METRICS: Registry[MetricInfo] = Registry("metric")
"""Names for `training.metrics`. Register your own in a plugin: see `metric`."""


def metric(
    name: str, *, direction: str, task: str = "classification", probabilities: bool = False
) -> Callable[[Callable[[Any, Any], float]], Callable[[Any, Any], float]]:
    """Returns a decorator that makes a function a metric: `@metric("recall_of_spam", direction="maximize")`.

    Args:
        name: For `training.metrics` and `training.objective`.
        direction: `maximize` or `minimize`.
        task: Which task it is for.
        probabilities: Whether the function is called with labels `[N]` and the classes' probabilities `[N, C]`; else
            with labels `[N]` and predictions `[N]`, class ids or numbers. All are numpy arrays.

    Raises:
        ValueError: The name is taken, or the direction is neither.
    """

    def register(function: Callable[[Any, Any], float]) -> Callable[[Any, Any], float]:
        info = MetricInfo(
            direction=Direction(direction), task=task, load=lambda: _FunctionMetric(name, function),
            scores=probabilities,
        )  # fmt: skip
        METRICS.register(name)(info)
        return function

    return register


class _FunctionMetric:
    """A function as a metric of `evaluate`."""

    def __init__(self, name: str, function: Callable[[Any, Any], float]) -> None:
        self._name = name
        self._function = function

    def compute_in_memory(
        self, references: Any, predictions: Any = None, prediction_scores: Any = None
    ) -> dict[str, float]:
        """See `evaluate.Metric.compute`.

        Raises:
            UserError: The function raises, or returns no number.
        """
        with as_user_error(lambda error: UserError(f"metric {self._name}: {type(error).__name__}: {error}")):
            value = self._function(references, predictions if prediction_scores is None else prediction_scores)
            return {self._name: float(value)}


def _offline(name: str) -> Callable[[], Any]:
    def load() -> Any:
        from frostline.metrics import offline

        return offline.METRIC_CLASSES[name]()

    return load


def _register(name: str, direction: Direction, task: str, **kwargs: Any) -> None:
    METRICS.register(name)(MetricInfo(direction=direction, task=task, load=_offline(name), **kwargs))


for _name in ("accuracy", "f1_macro", "f1_micro", "precision_macro", "recall_macro"):
    _register(_name, Direction.MAXIMIZE, "classification", also=("multi_label", "token_classification"))
for _name in ("entity_f1", "entity_precision", "entity_recall"):
    _register(_name, Direction.MAXIMIZE, "token_classification", spans=True)
for _name in ("balanced_accuracy", "matthews_correlation"):
    _register(_name, Direction.MAXIMIZE, "classification")
_register("hamming_loss", Direction.MINIMIZE, "multi_label")
for _name in ("f1", "precision", "recall"):
    _register(_name, Direction.MAXIMIZE, "classification", binary_only=True)
_register("roc_auc", Direction.MAXIMIZE, "classification", scores=True)
for _name in ("mse", "mae"):
    _register(_name, Direction.MINIMIZE, "regression")
_register("perplexity", Direction.MINIMIZE, "causal_lm")
_register("token_accuracy", Direction.MAXIMIZE, "causal_lm")
for _name in ("pearson", "spearman"):
    _register(_name, Direction.MAXIMIZE, "regression")

_LOSS = "loss"


def check(spec: TrainingSpec, task: Task) -> None:
    """Checks metric names, objective and direction, without loading anything.

    A name that is not frostline's own may be one of `evaluate.load`'s, or a path to a metric script: those are only
    known once loaded.

    Raises:
        SpecError: An objective that isn't computed, a direction that contradicts it, a metric of the other task.
    """
    for name in spec.metrics:
        if name in METRICS and not _is_for(name, task):
            fitting = listing(known for known in METRICS if _is_for(known, task))
            fitting += f": training={task.name} takes some of them" if task.name != "classification" else ""
            raise SpecError(f"training.metrics: {name} is not for {task.name}; for it there are {fitting}")
    known = Direction.MINIMIZE if spec.objective == _LOSS else None
    if spec.objective in spec.metrics and spec.objective in METRICS:
        known = METRICS.get(spec.objective).direction
    if known is not None and spec.direction is not known:
        raise SpecError(
            f"training.direction={spec.direction.value} contradicts training.objective={spec.objective}, "
            f"which is to {known.value}: set training.direction={known.value}"
        )
    foreign = [name for name in spec.metrics if name not in METRICS]
    if spec.objective not in {*spec.metrics, _LOSS} and not foreign:
        choices = [*spec.metrics, _LOSS]
        raise SpecError(
            f"training.objective={spec.objective}: is not computed{nearest(spec.objective, choices)}; "
            f"training.metrics gives {listing(choices)}"
        )


def _is_for(name: str, task: Task) -> bool:
    info = METRICS.get(name)
    return (task.metrics_of or task.name) in {info.task, *info.also}


class ComputeMetrics:
    """Turns logits and labels into named numbers: Trainer's `compute_metrics`.

    Args:
        names: What to compute: frostline's own metrics, `evaluate.load` names or paths.
        task: Says what logits mean.
        num_labels: Number of classes (1 for regression).
        names_of_labels: The classes' names.

    Raises:
        UserError: A metric is not known, can't be loaded, or doesn't fit the number of classes.
    """

    def __init__(self, names: Sequence[str], task: Task, num_labels: int, names_of_labels: Sequence[str] = ()) -> None:
        self._tags = tuple(names_of_labels)
        self._task = task
        self._num_labels = num_labels
        self._metrics = [(name, *_load(name)) for name in names]
        for name, _, info in self._metrics:
            if info is not None and info.binary_only and num_labels != 2:
                raise SpecError(
                    f"training.metrics: {name} is for two classes, here are {num_labels}: take {name}_macro"
                )
            if info is not None and info.spans and not any(re.fullmatch(r"[BIESLU]-.+", tag) for tag in self._tags):
                raise SpecError(
                    f"training.metrics: {name} is for tags of spans, for example B-PER and I-PER; here are "
                    f"{listing(self._tags)}: take training.metrics=[accuracy,f1_macro] training.objective=accuracy"
                )

    def __call__(self, logits: Any, labels: Any) -> dict[str, float]:
        """Computes all metrics.

        Args:
            logits: `[N, C]`; for regression `[N, 1]` or `[N]`; where each word has a class `[N, T, C]`.
            labels: `[N]`; as bits, where a row may have several classes; where each word has one `[N, T]`, a negative
                number where a token has none.

        Returns:
            One number per name; a metric that gives several gives each under its own name.
        """
        import numpy as np

        logits = np.asarray(logits, dtype=np.float64)
        labels = np.asarray(labels)
        tagged: tuple[Any, Any] = ((), ())
        if any(info is not None and info.spans for _, _, info in self._metrics):
            has_label = labels >= 0
            tagged = _tags(self._task.decide(logits), has_label, self._tags), _tags(labels, has_label, self._tags)
        logits, predictions, labels = self._task.for_metrics(logits, labels)
        values: dict[str, float] = {}
        for name, metric, info in self._metrics:
            # Of frostline's own nothing is gathered over batches: `compute` would only take it through Arrow and back.
            compute = metric.compute if not hasattr(metric, "compute_in_memory") else metric.compute_in_memory
            if info is not None and info.scores:
                result = compute(prediction_scores=_softmax(logits), references=labels)
            elif info is not None and info.spans:
                result = metric.compute(predictions=tagged[0], references=tagged[1])
            else:
                result = compute(predictions=predictions, references=labels)
            for key, value in (result or {}).items():
                if isinstance(value, (int, float, np.number)):
                    values[name if len(result) == 1 else key] = float(value)
        return values


def _tags(classes: Any, mask: Any, names: Sequence[str]) -> list[list[str]]:
    """Returns the tags of each sentence's words."""
    return [[names[each] for each in row[own]] for row, own in zip(classes, mask, strict=True)]


def _softmax(logits: Any) -> Any:
    import numpy as np

    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def _load(name: str) -> tuple[Any, MetricInfo | None]:
    if name in METRICS:
        info = METRICS.get(name)
        return info.load(), info
    import evaluate

    def unknown(error: BaseException) -> UserError:
        if Path(name).suffix == ".py":
            return UserError(f"training.metrics: {name} can't be loaded: {first_line(error)}")
        return UserError(
            f"training.metrics: {name!r} is not known{nearest(name, METRICS)}, nor to evaluate.load "
            f"(offline, or no such metric: {type(error).__name__}); known: {listing(METRICS)}"
        )

    with as_user_error(unknown):
        return evaluate.load(name), None
