"""`dataset.task=multi_label`: each row has any number of classes, or none.

A label is one whole number in which bit i stands for class i, or of many classes several numbers, from the file to the
loss (`frostline.data.label_sets`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from frostline.data.label_notes import note_lists, note_lookalikes, note_missing, unique_members
from frostline.data.label_rule import LabelRule, MultiHotRule, SetRule
from frostline.data.label_sets import CLASSES_PER_NUMBER, as_labels, indicators, tensor_indicators
from frostline.data.label_values import class_ids, class_words, names_of
from frostline.errors import DataError
from frostline.spec import PLAIN_LOSS, TASKS, LossOptions, Task
from frostline.spec.task import Strata

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from frostline.data.raw_table import RawTable
    from frostline.spec import DatasetSpec

    Array = np.ndarray[Any, Any]

MAX_CLASSES = 1000

_MAX_SHARE_OF_CLASSES = 0.5  # assumed: more classes than half the rows, beyond some dozens, are texts or ids

_SEPARATORS = ",;|/"


class MultiLabel(Task):
    """Any number of classes for each row."""

    name = "multi_label"
    one_class_a_row = False
    may_have_no_class = True
    trainer_counts = False  # a row may have several numbers
    strata = Strata.NONE  # labels are combinations of classes, most of them rare

    def make_rule(self, spec: DatasetSpec, raw: RawTable) -> LabelRule:
        """See `Task`."""
        where = f"dataset.label_column={spec.label_column}"
        separator, missing = spec.label_separator, spec.missing_labels
        try:
            width = MultiHotRule.width(raw.table[spec.label_column][:], separator)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if width is not None:
            names = spec.label_names or raw.label_names or tuple(str(index) for index in range(width))
            if len(names) != width:
                raise DataError(
                    f"{where}: its lists of 0 and 1 are of {width} classes, dataset.label_names names {len(names)}"
                )
            if width > MAX_CLASSES:
                raise DataError(
                    f"{where}: {width} different classes; dataset.task=multi_label takes 2 to {MAX_CLASSES}"
                )
            return MultiHotRule(names=tuple(names), separator=separator, missing=missing)
        return self._rule_of_names(spec, raw, where)

    def _rule_of_names(self, spec: DatasetSpec, raw: RawTable, where: str) -> LabelRule:
        separator = spec.label_separator
        unique = unique_members(raw, spec.label_column, separator)
        odd = next((value for value in unique if not isinstance(value, (str, int, float))), None)
        if odd is not None:
            raise DataError(f"{where}: a class is {type(odd).__name__}, neither text nor number")
        if not unique:
            raise DataError(f"{where}: no row has a class")
        label_names = spec.label_names or raw.label_names
        classes = class_ids(unique, label_names, spec.label_column)
        names = label_names or names_of(classes)
        if not 2 <= len(names) <= MAX_CLASSES:
            hint = f" (dataset.label_separator={separator!r})" if len(names) < 2 else ""
            raise DataError(
                f"{where}: {len(names)} different classes; dataset.task=multi_label takes 2 to {MAX_CLASSES}{hint}"
            )
        num_rows = len(raw.table)
        if label_names is None and len(names) > max(CLASSES_PER_NUMBER, _MAX_SHARE_OF_CLASSES * num_rows):
            raise DataError(
                f"{where}: {len(names)} different values in {num_rows} rows are no classes; if they are, name them in "
                "dataset.label_names"
            )
        notes = note_lookalikes(names, where) + note_lists(names, where, '["a", "b"]') + note_missing(names, where)
        other = next((name for name in names for sign in _SEPARATORS if sign in name), None)
        if other is not None:
            parts = f"dataset.label_separator is {separator!r}, and parts texts"
            notes += (f"{where}: the class {other!r} is one: {parts}",)
        return SetRule(
            names=tuple(names), classes=classes, separator=separator, missing=spec.missing_labels, notes=notes
        )

    def count_labels(self, labels: Array, names: Sequence[str]) -> dict[str, Any]:
        """See `Task`."""
        counts = indicators(labels, len(names)).sum(0)
        return {name: int(count) for name, count in zip(names, counts, strict=True)}

    def head_config(self, names: Sequence[str]) -> dict[str, Any]:
        """See `Task`."""
        return {**super().head_config(names), "problem_type": "multi_label_classification"}

    def auto_class(self, config: Any) -> Any:
        """See `Task`."""
        return TASKS.get("classification").auto_class(config)

    def summed_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, options: LossOptions = PLAIN_LOSS
    ) -> torch.Tensor:
        """See `Task`: the mean over the classes of the binary cross entropy."""
        from torch.nn import functional

        from frostline.data.fillers import is_row

        rows = is_row(labels.reshape(len(labels), -1)[:, 0])
        bits = tensor_indicators(labels, logits.shape[1])
        losses = functional.binary_cross_entropy_with_logits(logits, bits.float(), reduction="none").mean(-1)
        return losses[rows].sum() if options.may_fill else losses.sum()

    def probabilities(self, logits: Array) -> Array:
        """See `Task`: of each class by itself."""
        import numpy as np

        shares: Array = np.exp(-np.logaddexp(0.0, -logits))
        return shares

    def describe_label(self, value: Any, names: Sequence[str]) -> str:
        """See `Task`."""
        return class_words(value, names, ", ") or "-"

    def losses_of(self, logits: Array, labels: Array) -> Array:
        """See `Task`."""
        import numpy as np

        bits = indicators(labels, logits.shape[1])
        losses: Array = (np.logaddexp(0.0, logits) - logits * bits).mean(-1)
        return losses

    def decide(self, logits: Array) -> Array:
        """See `Task`."""
        return as_labels(logits > 0)

    def for_metrics(self, logits: Array, labels: Array) -> tuple[Array, Array, Array]:
        """See `Task`: predictions and references are `[N, C]` of 0 and 1, as scikit-learn takes them."""
        import numpy as np

        return logits, (logits > 0).astype(np.int64), indicators(labels, logits.shape[1])

    def example(self, num_outputs: int) -> tuple[Array, Array]:
        """See `Task`."""
        import numpy as np

        logits, labels = super().example(num_outputs)
        return logits, as_labels(np.eye(max(2, num_outputs), dtype=np.int64)[labels][:, :num_outputs])


TASKS.register(MultiLabel.name)(MultiLabel())
