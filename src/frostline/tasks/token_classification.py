"""`dataset.task=token_classification`: each word of a row has a class; the first token of a word has its label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from frostline.data.label_notes import note_lookalikes, unique_members
from frostline.data.label_rule import LabelRule, WordRule
from frostline.data.label_values import class_ids, names_of
from frostline.errors import DataError, ModelError
from frostline.spec import PLAIN_LOSS, TASKS, LossOptions, Task
from frostline.spec.task import Stack, Strata
from frostline.tasks.classification import cross_entropies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import torch

    from frostline.data.raw_table import RawTable
    from frostline.spec import DatasetSpec

    Array = np.ndarray[Any, Any]

_MAX_CLASSES = 100
_MAX_SHARE_OF_CLASSES = 0.5  # assumed: more classes than half the rows are no classes of words


class TokenClassification(Task):
    """A class for each word."""

    name = "token_classification"
    one_class_a_row = False
    labels_words = True
    labels_tokens = True
    smooths_labels = True
    trainer_counts = False
    stacks = (Stack.ENCODER,)
    strata = Strata.CLASSES  # rows have no class of their own: all are in one stratum
    rows_are_independent = False  # words of a sentence are not

    def make_rule(self, spec: DatasetSpec, raw: RawTable) -> LabelRule:
        """See `Task`."""
        where, num_rows = f"dataset.label_column={spec.label_column}", len(raw.table)
        unique = unique_members(raw, spec.label_column, None)
        odd = next((value for value in unique if not isinstance(value, (str, int))), None)
        if odd is not None:
            raise DataError(f"{where}: a word's class is {type(odd).__name__}, neither text nor number")
        label_names = spec.label_names or raw.label_names
        classes = class_ids(unique, label_names, spec.label_column)
        names = label_names or names_of(classes)
        if len(names) < 2:
            raise DataError(f"{where}: the words have {len(names)} different classes: there is nothing to learn")
        if label_names is None and len(names) > max(_MAX_CLASSES, _MAX_SHARE_OF_CLASSES * num_rows):
            raise DataError(
                f"{where}: {len(names)} different values in {num_rows} rows are no classes of words (for example "
                f"{names[0]!r}); is it the right column? If they are classes, name them in dataset.label_names"
            )
        notes = note_lookalikes(names, where)
        return WordRule(names=tuple(names), classes=classes, missing=spec.missing_labels, notes=notes)

    def head_config(self, names: Sequence[str]) -> dict[str, Any]:
        """See `Task`."""
        return {**super().head_config(names), "problem_type": None}

    def auto_class(self, config: Any) -> Any:
        """See `Task`."""
        from transformers import AutoModelForTokenClassification
        from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING

        if type(config) not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
            raise ModelError(f"transformers has no head of a class for each word for this model ({config.model_type})")
        return AutoModelForTokenClassification

    def summed_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, options: LossOptions = PLAIN_LOSS
    ) -> torch.Tensor:
        """See `Task`: cross entropy over all words."""
        flat = logits.flatten(0, 1), labels.flatten()
        return TASKS.get("classification").summed_loss(*flat, options)

    def num_terms(self, labels: torch.Tensor) -> Any:
        """See `Task`: words."""
        from frostline.data.fillers import is_row

        return is_row(labels).sum().clamp(min=1)

    def losses_of(self, logits: Array, labels: Array) -> Array:
        """See `Task`."""
        import numpy as np

        has_label = _has_label(labels)
        losses = np.zeros(labels.shape)
        losses[has_label] = cross_entropies(logits[has_label], labels[has_label])
        by_row: Array = losses.sum(-1) / np.maximum(has_label.sum(-1), 1)
        return by_row

    def mean_loss(self, logits: Array, labels: Array) -> float:
        """See `Task`: over all words."""
        has_label = _has_label(labels)
        return float(cross_entropies(logits[has_label].astype("float64"), labels[has_label]).mean())

    def for_metrics(self, logits: Array, labels: Array) -> tuple[Array, Array, Array]:
        """See `Task`: of all words."""
        has_label = _has_label(labels)
        return logits[has_label], self.decide(logits)[has_label], labels[has_label]

    def example(self, num_outputs: int) -> tuple[Array, Array]:
        """See `Task`."""
        logits, labels = super().example(num_outputs)
        return logits[None], labels[None]

    def prediction_columns(self, logits: Array, labels: Array) -> dict[str, Any]:
        """See `Task`: `label` and `predicted` are lists."""
        import numpy as np
        import pyarrow as pa

        logits = logits[:, : labels.shape[1]]
        has_label = _has_label(labels)
        predicted, gold = (
            pa.array([row[: len(own)][own] for row, own in zip(rows, has_label, strict=True)])
            for rows in (self.decide(logits), labels)
        )
        return {"label": gold, "predicted": predicted, "loss": self.losses_of(logits, labels).astype(np.float32)}

    def describe_label(self, value: Any, names: Sequence[str]) -> str:
        """See `Task`."""
        return " ".join(names[int(each)] for each in value)

    @property
    def pipeline(self) -> Mapping[str, Any] | None:
        """See `Task`."""
        return None  # MLflow's pipeline of tokens finds words of its own


def _has_label(labels: Array) -> Array:
    has_label: Array = labels >= 0
    return has_label


TASKS.register(TokenClassification.name)(TokenClassification())
