"""`dataset.task=regression`: each row has a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from frostline.data.label_rule import LabelRule, NumberRule
from frostline.spec import PLAIN_LOSS, TASKS, LossOptions, Task
from frostline.spec.task import Strata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import torch

    from frostline.data.raw_table import RawTable
    from frostline.spec import DatasetSpec

    Array = np.ndarray[Any, Any]


class Regression(Task):
    """A number for each row."""

    name = "regression"
    label_dtype = "float64"
    has_classes = False
    one_class_a_row = False
    strata = Strata.TENTHS
    trainer_counts = False

    def make_rule(self, spec: DatasetSpec, raw: RawTable) -> LabelRule:
        """See `Task`."""
        del raw
        return NumberRule(names=(), missing=spec.missing_labels)

    def count_labels(self, labels: Array, names: Sequence[str]) -> dict[str, Any]:
        """See `Task`: the spread of the numbers."""
        del names
        return {
            "mean": float(labels.mean()),
            "std": float(labels.std()),
            "min": float(labels.min()),
            "max": float(labels.max()),
        }

    def num_outputs(self, names: Sequence[str]) -> int:
        """See `Task`."""
        del names
        return 1

    def head_config(self, names: Sequence[str]) -> dict[str, Any]:
        """See `Task`."""
        del names
        return {"num_labels": 1, "problem_type": "regression", "id2label": {0: "score"}, "label2id": {"score": 0}}

    def auto_class(self, config: Any) -> Any:
        """See `Task`."""
        return TASKS.get("classification").auto_class(config)

    def summed_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, options: LossOptions = PLAIN_LOSS
    ) -> torch.Tensor:
        """See `Task`: squared error."""
        from torch.nn import functional

        from frostline.data.fillers import is_row

        targets, outputs = labels.float(), logits.squeeze(-1)
        if options.may_fill:
            rows = is_row(targets)
            targets, outputs = targets[rows], outputs[rows]
        return functional.mse_loss(outputs, targets, reduction="sum")

    def losses_of(self, logits: Array, labels: Array) -> Array:
        """See `Task`."""
        squared: Array = (logits[:, 0] - labels) ** 2
        return squared

    def decide(self, logits: Array) -> Array:
        """See `Task`."""
        return logits.reshape(-1)

    def example(self, num_outputs: int) -> tuple[Array, Array]:
        """See `Task`."""
        import numpy as np

        del num_outputs
        labels = np.arange(4) % 2
        return np.eye(2)[labels][:, :1], labels

    @property
    def pipeline(self) -> Mapping[str, Any] | None:
        """See `Task`."""
        return {"function_to_apply": "none"}  # a number is not squashed


TASKS.register(Regression.name)(Regression())
