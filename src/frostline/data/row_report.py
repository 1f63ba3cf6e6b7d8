"""Counts of a run's rows, and whether there are enough of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from frostline.data.label_notes import shortened
from frostline.data.label_rule import LabelRule
from frostline.data.raw_table import RawTable
from frostline.data.row_parts import RowPart
from frostline.errors import DataError
from frostline.spec import Balance, DatasetSpec, MissingLabels

_PURPOSES = {"train": "train on", "eval": "evaluate on", "test": "test on"}


def check_enough_rows(parts: Mapping[str, RowPart], rule: LabelRule, spec: DatasetSpec) -> None:
    """Checks that there are rows, and rows of every class, for each purpose.

    Raises:
        DataError: There are too few.
    """
    for name, part in parts.items():
        if not len(part.indices):
            total = sum(len(other.indices) for other in parts.values())
            key = "dataset.test_fraction" if name == "test" else "dataset.eval_fraction"
            different = len(np.unique(part.keys))
            if different == 1 and len(part.keys) > 1:
                raise DataError(
                    f"no rows to {_PURPOSES[name]}: all {len(part.keys)} rows have the same {spec.unit}, and equal "
                    "ones stay on one side; is dataset.text_column the right column?"
                )
            if rule.names and different <= len(rule.names):
                raise DataError(
                    f"no rows to {_PURPOSES[name]}: {total} rows of {len(rule.names)} classes are too few to hold "
                    "any out; give others with dataset.eval_from"
                )
            raise DataError(f"no rows to {_PURPOSES[name]}: there are {total} in all; change {key} or the data")
    _, labels = parts["train"].used()
    if len(np.unique(labels)) >= 2 or not spec.task.has_classes or spec.task.labels_words:
        return
    if not spec.task.one_class_a_row:
        raise DataError(f"the {len(labels)} training rows all have the same classes: there is nothing to learn")
    if spec.task.one_class_a_row:
        only = rule.names[int(labels[0])]
        hint = f" of dataset.train_rows={spec.train_rows}" if spec.train_rows is not None else ""
        raise DataError(
            f"the {len(labels)} training rows{hint} hold one class only ({only}): there is nothing to learn"
        )


def row_report(
    parts: Mapping[str, RowPart], rule: LabelRule, raw: RawTable, table: datasets.Dataset, spec: DatasetSpec
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns counts of the rows by purpose, and notes for the user."""
    task, unit = spec.task, spec.unit
    used = {name: part.used() for name, part in parts.items()}
    train_keys = used["train"][0]
    overlap = {name: int(np.isin(keys, train_keys).sum()) for name, (keys, _) in used.items() if name != "train"}
    duplicates = {name: _duplicates(keys) for name, (keys, _) in used.items()}
    label_counts = {name: task.count_labels(part.used_labels(task), rule.names) for name, part in parts.items()}
    report = {
        "rows_read": len(raw.table),
        "rows_dropped": len(raw.table) - len(table),
        **{f"{name}_rows": len(keys) for name, (keys, _) in used.items()},
        "eval_rows_at_hand": parts["eval"].at_hand,
        "labels": label_counts,
        "duplicates": duplicates,
        "overlap": overlap["eval"],
        **({"test_overlap": overlap["test"]} if "test" in overlap else {}),
        "empty_texts": sum(map(_num_empty, parts.values())) if unit == "text" and not task.labels_words else 0,
    }
    warnings = [*raw.notes, *rule.notes]
    if task.labels_words and len(parts["train"].used_labels(task)) == len(used["train"][0]) > 1:
        warnings.append("every row has one word: words of a sentence belong into one row, with a list of labels")
    if "std" in label_counts["train"]:
        warnings += _rounded(label_counts["train"])
    if rule.missing is MissingLabels.DROP and report["rows_dropped"]:
        warnings.append(
            f"rows left out for want of a label, or by another rule of the dataset: {report['rows_dropped']}"
        )
    if spec.train_rows is not None and spec.train_rows > len(train_keys) and spec.balance is not Balance.UNDERSAMPLE:
        warnings.append(f"dataset.train_rows={spec.train_rows}: there are {len(train_keys)} rows to train on")
    for name in used:
        counts = label_counts[name]
        absent = [label for label in rule.names if not counts[label]]
        if absent:
            warnings.append(
                f"classes without a {'word' if task.labels_words else 'row'} to {_PURPOSES[name]}: {shortened(absent)}"
            )
    for name, what in (("eval", "evaluation"), ("test", "test")):
        if overlap.get(name):
            warnings.append(f"{what} rows whose {unit} is trained on: {overlap[name]} of {len(used[name][0])}")
    if duplicates["train"]:
        warnings.append(f"training rows that repeat another's {unit}: {duplicates['train']}")
    if report["empty_texts"]:
        warnings.append(f"rows with an empty text: {report['empty_texts']}")
    return report, tuple(warnings)


def _num_empty(part: RowPart) -> int:
    """Returns how many rows hold nothing but blanks."""
    columns = [name for name in ("text", "pair", "target") if name in part.table.column_names]
    if not columns:
        return 0
    table = part.table.select(part.indices).select_columns(columns).with_format("arrow")
    count = 0
    for batch in table.iter(10_000):
        is_empty = [pc.equal(pc.utf8_trim_whitespace(batch[name]), "") for name in columns]
        count += pc.sum(is_empty[0] if len(is_empty) == 1 else pc.and_(*is_empty)).as_py() or 0
    return count


def _rounded(labels: Mapping[str, float]) -> list[str]:
    """Returns a note where numbers of 32 bits, in which a model computes, blur differences between labels."""
    largest = max(abs(labels["min"]), abs(labels["max"]))
    step = float(np.spacing(np.float32(largest)))
    if labels["std"] == 0 or step < labels["std"] / 1000:
        return []
    return [
        f"labels of the size of {largest:.8g} are trained on to the nearest {step:g} (numbers of 32 bits), and their "
        f"standard deviation is {labels['std']:.3g}: subtract their mean"
    ]


def _duplicates(keys: Any) -> int:
    return len(keys) - len(np.unique(keys))
