"""Rows of one purpose: train, evaluate, test."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from frostline.data.split import Indices, even, order
from frostline.data.token_table import labels_of
from frostline.spec import DatasetSpec, Task


@dataclass(frozen=True, kw_only=True)
class RowPart:
    """A table with its labels and keys as arrays, and the rows of it that are used, of so many that could be."""

    table: datasets.Dataset
    keys: Any
    labels: Any
    indices: Indices
    at_hand: int

    def used(self) -> tuple[Any, Any]:
        """Returns keys and labels of the rows that are used."""
        return self.keys[self.indices], self.labels[self.indices]

    def used_labels(self, task: Task) -> Any:
        """Returns the labels of the rows, or where each word has one, of all their words."""
        column = self.table.select(self.indices).with_format("arrow")["labels"]
        if isinstance(self.table.features["labels"], datasets.List) and not task.labels_words:
            return labels_of(column)  # of many classes several numbers a row
        if not task.labels_words:
            return self.labels[self.indices]
        return pc.list_flatten(column[:] if not hasattr(column, "combine_chunks") else column).to_numpy()


def row_part(
    table: datasets.Dataset,
    keys: Any,
    labels: Any,
    indices: Indices,
    spec: DatasetSpec,
    rows: int | None,
    evenly: bool = False,
) -> RowPart:
    """Returns the rows of one purpose in their seeded order, as many as are wanted.

    Args:
        table: All rows.
        keys: Theirs, `[N]`.
        labels: Theirs.
        indices: Of the purpose's rows.
        spec: The data set.
        rows: How many are wanted; None: all.
        evenly: Of each class as many.
    """
    ordered = order(indices, keys, labels, spec.seed)
    chosen = even(ordered, labels, rows) if evenly else ordered[:rows]
    return RowPart(table=table, keys=keys, labels=labels, indices=chosen, at_hand=len(indices))


def content_sha256(table: datasets.Dataset) -> str:
    """Returns a sha256 of rows and labels: the same whatever file they stood in, and in whatever format."""
    digest = hashlib.sha256()
    for batch in table.select_columns(["key", "labels"]).with_format("arrow").iter(10_000):
        digest.update(np.ascontiguousarray(batch["key"].to_numpy(), dtype="<i8").tobytes())
        labels = batch["labels"].combine_chunks() if hasattr(batch["labels"], "combine_chunks") else batch["labels"]
        if pa.types.is_fixed_size_list(labels.type):
            labels = pc.list_flatten(labels)
        elif pa.types.is_list(labels.type) or pa.types.is_large_list(labels.type):
            digest.update(np.ascontiguousarray(pc.list_value_length(labels).to_numpy(), dtype="<i8").tobytes())
            labels = pc.list_flatten(labels)
        kind = "<f8" if pa.types.is_floating(labels.type) else "<i8"
        digest.update(np.ascontiguousarray(labels.to_numpy(zero_copy_only=False), dtype=kind).tobytes())
    return digest.hexdigest()
