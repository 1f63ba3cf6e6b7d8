"""A table of raw columns, as it was read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from frostline.errors import DataError, as_user_error


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A table as it was read, memory-mapped.

    Attributes:
        table: All columns; of CSV and TSV all as text, so that nothing is guessed.
        fingerprint: sha256 of the file, or the hub's identity of the split.
        name: For messages.
        notes: What the user should know of the file.
        label_names: Class names in the order of their ids, if the table brings any; its labels are these names then.
        folder: Where it lies, if it is a file: what paths in it are relative to.
    """

    table: datasets.Dataset
    fingerprint: str
    name: str
    notes: tuple[str, ...] = ()
    label_names: tuple[str, ...] | None = None
    folder: Path | None = None

    def unique(self, column: str) -> list[Any]:
        """Returns the different values of a column of labels.

        Raises:
            DataError: They are no labels.
        """

        def no_labels(error: BaseException) -> DataError:  # noqa: ARG001
            feature = self.table.features[column]
            lists = isinstance(feature, (datasets.Sequence, datasets.List))
            what = f"{feature}, not labels{'; rows of several classes are dataset.task=multi_label' if lists else ''}"
            if isinstance(feature, datasets.Json):
                what = 'values of several kinds ("1" beside 1): write all alike'
            return DataError(f"dataset.label_column={column}: holds {what}")

        with as_user_error(no_labels):
            return list(self.table.unique(column))
