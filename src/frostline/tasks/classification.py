"""`dataset.task=classification`: each row has one class."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from frostline.data.label_notes import note_fractions_and_lists, note_lists, note_lookalikes
from frostline.data.label_rule import ClassRule, LabelRule, ThresholdRule
from frostline.data.label_values import class_ids, is_missing, names_of
from frostline.errors import DataError, SpecError
from frostline.spec import PLAIN_LOSS, TASKS, LossOptions, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

    from frostline.data.raw_table import RawTable
    from frostline.spec import DatasetSpec

    Array = np.ndarray[Any, Any]

_MAX_SHARE_OF_CLASSES = 0.5  # assumed: more classes than half the rows is an id or a measurement
_ALWAYS_FINE_CLASSES = 20


class Classification(Task):
    """One class for each row; a rating may be cut into two classes at a threshold."""

    name = "classification"
    smooths_labels = True

    def check_dataset(self, spec: DatasetSpec) -> None:
        """See `Task`."""
        if spec.threshold is not None and (spec.label_names is None or len(spec.label_names) != 2):
            raise SpecError("dataset.threshold makes two classes: give two dataset.label_names, lower first")

    def make_rule(self, spec: DatasetSpec, raw: RawTable) -> LabelRule:
        """See `Task`."""
        if spec.threshold is not None:
            assert spec.label_names is not None, "check_dataset comes first"
            return ThresholdRule(
                names=spec.label_names, threshold=spec.threshold, dead_zone=spec.dead_zone, missing=spec.missing_labels
            )
        values = [value for value in raw.unique(spec.label_column) if not is_missing(value)]
        where = f"dataset.label_column={spec.label_column}"
        if not values:
            raise DataError(f"{where}: all its values are missing")
        odd = next((value for value in values if not isinstance(value, (str, int, float))), None)
        if odd is not None:
            raise DataError(f"{where}: holds {type(odd).__name__}, neither text nor number")
        label_names = spec.label_names or raw.label_names
        classes = class_ids(values, label_names, spec.label_column)
        names = label_names or names_of(classes)
        num_rows = len(raw.table)
        if label_names is None and len(names) > max(_ALWAYS_FINE_CLASSES, _MAX_SHARE_OF_CLASSES * num_rows):
            raise DataError(
                f"{where}: {len(names)} different values in {num_rows} rows are no classes; for numbers use "
                "dataset.task=regression or dataset.threshold; if they are classes, name them in dataset.label_names"
            )
        notes = note_lookalikes(names, where) + note_lists(names, where, "dataset.task=multi_label")
        notes += note_fractions_and_lists(names, where, are_given=spec.label_names is not None)
        return ClassRule(names=tuple(names), classes=classes, missing=spec.missing_labels, notes=notes)

    def auto_class(self, config: Any) -> Any:
        """See `Task`."""
        from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

        from frostline.models.config_file import reads_images

        return AutoModelForImageClassification if reads_images(config) else AutoModelForSequenceClassification

    def summed_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, options: LossOptions = PLAIN_LOSS
    ) -> torch.Tensor:
        """See `Task`: cross entropy. A filler row has `NO_LABEL`."""
        from torch.nn import functional

        from frostline.data.token_table import NO_LABEL

        return functional.cross_entropy(
            logits, labels, options.class_weights, reduction="sum", ignore_index=NO_LABEL,
            label_smoothing=options.label_smoothing,
        )  # fmt: skip

    def probabilities(self, logits: Array) -> Array:
        """See `Task`."""
        import numpy as np

        shifted = np.exp(logits - logits.max(-1, keepdims=True))
        shares: Array = shifted / shifted.sum(-1, keepdims=True)
        return shares

    def losses_of(self, logits: Array, labels: Array) -> Array:
        """See `Task`."""
        return cross_entropies(logits, labels)


def cross_entropies(logits: Array, labels: Array) -> Array:
    """Returns the cross entropy of each row, `[N]`.

    Args:
        logits: `[N, C]`, in double precision.
        labels: `[N]`: class ids.
    """
    import numpy as np

    highest = logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits - highest).sum(-1)) + highest[:, 0]
    losses: Array = log_sum - logits[np.arange(len(labels)), labels]
    return losses


def is_span_tag(name: str) -> bool:
    """Returns whether a class is a tag of spans, for example `B-PER`."""
    return re.fullmatch(r"[BIESLU]-.+", name) is not None


TASKS.register(Classification.name)(Classification())
