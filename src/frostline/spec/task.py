"""Tasks as a data set's config names them (`dataset.task`): what a label is, and all that follows from it.

The tasks themselves are in `frostline.tasks`, one module each. Methods that need torch import it themselves: the parent
process of a sweep decodes configs without it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from frostline.errors import SpecError, listing, nearest
from frostline.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

    from frostline.data.label_rule import LabelRule
    from frostline.data.raw_table import RawTable
    from frostline.spec.data import DatasetSpec
    from frostline.spec.training import TrainingSpec

    Array = np.ndarray[Any, Any]


class RowEncoder(Protocol):
    """Makes tokens of a batch of rows, and a label for each token."""

    @property
    def identity(self) -> str:
        """What its tokens depend on besides the rows, the tokenizer and the longest row; part of a cache's key."""

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Returns `input_ids`, `labels` and `truncated`.

        A label stands for the token at its place. Where the lengths differ, labels are what a decoder writes.

        Raises:
            DataError: A row can't be used.
        """


class Strata(Enum):
    """How rows are shared out between training, evaluation and test rows."""

    CLASSES = auto()  # within each class
    TENTHS = auto()  # within each tenth of the range of ranks
    NONE = auto()


class Stack(Enum):
    """A part of a model that has an encoder and a decoder."""

    ENCODER = auto()
    DECODER = auto()


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """How the losses of a batch are summed.

    Attributes:
        may_fill: Whether there may be filler rows.
        class_weights: `[C]`; None: all classes weigh alike.
        label_smoothing: Share of the target that is spread over the classes.
    """

    may_fill: bool = False
    class_weights: torch.Tensor | None = None
    label_smoothing: float = 0.0


PLAIN_LOSS = LossOptions()
"""That of an evaluation by one process."""


class Task:
    """One task: what a label is. A subclass with a name is registered in `TASKS`; there is one object of it.

    Shapes: N rows, C classes (1 for regression), T tokens of the longest row.
    """

    name: ClassVar[str]

    label_dtype: ClassVar[str] = "int64"
    """Of the column of labels."""

    has_classes: ClassVar[bool] = True
    """Whether a label is a class, or several."""

    one_class_a_row: ClassVar[bool] = True
    """Whether a row has just one class: what weighs, evens out or counts rows by class."""

    has_labels: ClassVar[bool] = True
    """Whether rows have a column of labels; else what is learned lies in their texts."""

    labels_tokens: ClassVar[bool] = False
    """Whether each token has a label of its own, `[N, T]`."""

    generates: ClassVar[bool] = False
    """Whether outputs are over the vocabulary: the head is the pretrained model's own, and a trained model writes."""

    packs_rows: ClassVar[bool] = False
    """Whether rows may stand one behind the other in a sequence (`training.packing`)."""

    smooths_labels: ClassVar[bool] = False
    """Whether `summed_loss` knows `LossOptions.label_smoothing`."""

    may_have_no_class: ClassVar[bool] = False
    """Whether a row may have no class at all."""

    labels_words: ClassVar[bool] = False
    """Whether each word of a row has a label; rows are then lists of words."""

    stacks: ClassVar[tuple[Stack, ...]] = (Stack.ENCODER, Stack.DECODER)
    """Which parts of a model that has both the task's head is put on."""

    strata: ClassVar[Strata] = Strata.CLASSES

    metrics_of: ClassVar[str | None] = None
    """Name of the task whose metrics fit; None: those that name this task."""

    rows_are_independent: ClassVar[bool] = True
    """Whether what a metric averages over are independent rows, so that an interval of it is known."""

    # -- config and rows --------------------------------------------------------------------------------------------

    def check_dataset(self, spec: DatasetSpec) -> None:
        """Checks the keys of a data set that depend on the task.

        Raises:
            SpecError: One contradicts it.
        """

    def make_rule(self, spec: DatasetSpec, raw: RawTable) -> LabelRule:
        """Returns what the labels of a table mean.

        Args:
            spec: Class names and the rule for ratings.
            raw: With the column of labels.

        Raises:
            DataError: The labels don't fit the task.
        """
        raise NotImplementedError

    def count_labels(self, labels: Array, names: Sequence[str]) -> dict[str, Any]:
        """Returns how often each class occurs, for the report on the rows.

        Args:
            labels: `[N]`, of all words where each has one.
            names: Of the classes.
        """
        import numpy as np

        counts = np.bincount(labels.astype(np.int64), minlength=len(names))
        return {name: int(count) for name, count in zip(names, counts, strict=True)}

    def row_encoder(self, tokenizer: PreTrainedTokenizerBase, training: TrainingSpec) -> RowEncoder | None:
        """Returns what makes tokens and a label for each of them; None: texts are tokenized, their labels stay.

        Args:
            tokenizer: The model's.
            training: Says where longer rows are cut.
        """
        del tokenizer, training
        return None

    # -- the model --------------------------------------------------------------------------------------------------

    def num_outputs(self, names: Sequence[str]) -> int:
        """Returns C, the width of the head."""
        return len(names)

    def head_config(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns what the model's config says of its head, in Transformers' keys."""
        return {
            "problem_type": "single_label_classification",
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
        }

    def auto_class(self, config: Any) -> Any:
        """Returns the `AutoModelFor...` of Transformers that puts the task's head on a model.

        Args:
            config: The model's.

        Raises:
            ModelError: Transformers has none for this model.
        """
        raise NotImplementedError

    # -- loss -------------------------------------------------------------------------------------------------------

    def summed_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, options: LossOptions = PLAIN_LOSS
    ) -> torch.Tensor:
        """Returns the sum of the losses of a batch (scalar), filler rows left out.

        Args:
            logits: `[N, C]`, or of each token `[N, T, C]`, in float32.
            labels: `[N]`, or `[N, T]`.
            options: Fillers and weights.
        """
        raise NotImplementedError

    def num_terms(self, labels: torch.Tensor) -> Any:
        """Returns how many terms `summed_loss` sums over, for their mean."""
        return len(labels)

    def reduce(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns what an evaluation keeps of a batch's logits, `[B, ...]`: all, unless the task needs less.

        What other methods take as `logits` in NumPy is this.

        Args:
            logits: `[B, C]`, or `[B, T, C]`.
            labels: `[B]`, or `[B, T]`.
        """
        del labels
        return logits

    def mean_loss(self, logits: Array, labels: Array) -> float:
        """Returns the mean loss over all terms of an evaluation.

        Args:
            logits: What `reduce` kept of all rows.
            labels: `[N]`, or `[N, T]`.
        """
        return float(self.losses_of(logits.astype("float64"), labels).mean())

    def losses_of(self, logits: Array, labels: Array) -> Array:
        """Returns each row's loss, `[N]`, in double precision: of a row of several words their mean."""
        raise NotImplementedError

    # -- metrics and predictions ------------------------------------------------------------------------------------

    def decide(self, logits: Array) -> Array:
        """Returns what logits `[..., C]` say, `[...]`."""
        classes: Array = logits.argmax(-1)
        return classes

    def for_metrics(self, logits: Array, labels: Array) -> tuple[Array, Array, Array]:
        """Returns logits `[M, C]`, predictions and references as `evaluate`'s metrics take them."""
        return logits, self.decide(logits), labels

    def example(self, num_outputs: int) -> tuple[Array, Array]:
        """Returns made-up logits and labels of four rows, to compute metrics on once."""
        import numpy as np

        labels = np.arange(4) % max(2, num_outputs)
        return np.eye(max(2, num_outputs))[labels][:, :num_outputs], labels

    def probabilities(self, logits: Array) -> Array | None:
        """Returns the probability of each class, `[N, C]`; None: logits are no such thing."""
        del logits
        return None

    def prediction_columns(self, logits: Array, labels: Array) -> dict[str, Any]:
        """Returns the columns of `predictions.parquet`: `label`, `predicted`, `loss`, and `probabilities` if any."""
        import numpy as np

        logits = logits.reshape(len(labels), -1)
        columns = {
            "label": labels,
            "predicted": self.decide(logits).astype(labels.dtype),
            "loss": self.losses_of(logits, labels).astype(np.float32),
        }
        probabilities = self.probabilities(logits)
        return columns if probabilities is None else {**columns, "probabilities": probabilities.astype(np.float32)}

    def describe_label(self, value: Any, names: Sequence[str]) -> str:
        """Returns a value of the columns `label` and `predicted`, for people."""
        return names[int(value)] if self.one_class_a_row and names else f"{value:g}"

    trainer_counts: ClassVar[bool] = True
    """Whether Trainer's own count of labels that are not -100 is the number of loss terms of a step."""

    @property
    def pipeline(self) -> Mapping[str, Any] | None:
        """Settings of MLflow's text classification pipeline for a saved model; None: it can't ask such a model."""
        return {}

    # -- one object for each task, wherever it is sent ----------------------------------------------------------------

    def __copy__(self) -> Task:
        return self

    def __deepcopy__(self, memo: Any) -> Task:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (type(self).__module__, self.name)

    def __repr__(self) -> str:
        return self.name

    @classmethod
    def decode_name(cls, value: Any, where: str) -> Task:
        """Returns the task of a name.

        Args:
            value: Of the config.
            where: Its key, for messages.

        Raises:
            SpecError: There is no such task.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, str) or value not in TASKS:
            raise SpecError(f"{where}={value}: no such choice{nearest(str(value), TASKS)}; one of {listing(TASKS)}")
        return TASKS.get(value)


def _unpickle(module: str, name: str) -> Task:
    """Returns the one object of a task, in a process that may not have imported its module yet."""
    importlib.import_module(module)
    return TASKS.get(name)


TASKS: Registry[Task] = Registry("task", "frostline.tasks")
"""Tasks by the name that a config gives them."""
