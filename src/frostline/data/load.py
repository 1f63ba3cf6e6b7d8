"""Loads a `DatasetSpec` as training, evaluation and test rows, with the report on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from frostline.data.build_rows import ROWS_VERSION, check_same_form, digest_of, labelled, rule_of, with_named_labels
from frostline.data.column_types import with_plain_columns
from frostline.data.label_rule import LabelRule
from frostline.data.raw_table import RawTable
from frostline.data.readers import read_file, read_hub
from frostline.data.row_parts import RowPart, content_sha256, row_part
from frostline.data.row_report import check_enough_rows, row_report
from frostline.data.split import Indices, deal, even, order, split
from frostline.errors import DataError
from frostline.spec import Balance, DatasetSpec, Source

FindFile = Callable[[str | None], Path]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows ready to be tokenized.

    Attributes:
        train: Columns `text`, `pair` (with a pair column), or `words`, or `image`, and `labels`, in the seeded order.
        evaluation: The same of the held-out rows.
        test: The same of the test rows; None: there are none.
        label_names: In the order of their ids; empty for regression.
        fingerprint: sha256 of what these rows are.
        identities: Of images: sha256 of each part's contents and labels, in their order, by `train`, `eval`, `test`,
            `pool`.
        report: Sizes, label counts, duplicates, overlap, dropped and empty rows.
        warnings: What the user should know of, a line each.
        pool: With folds, what was dealt; None without.
    """

    train: datasets.Dataset
    evaluation: datasets.Dataset
    test: datasets.Dataset | None
    label_names: tuple[str, ...]
    fingerprint: str
    identities: Mapping[str, str]
    report: dict[str, Any]
    warnings: tuple[str, ...]
    pool: FoldPool | None = None


@dataclass(frozen=True, kw_only=True)
class FoldPool:
    """Rows that were dealt into folds: the same ones, in the same order, whichever fold is held out.

    Attributes:
        rows: All of them.
        fingerprint: sha256 of what these rows are.
        train: Places of the training rows among them, ascending, in the order of `Rows.train`.
        evaluation: Places of the held-out rows, in the order of `Rows.evaluation`.
    """

    rows: datasets.Dataset
    fingerprint: str
    train: Indices
    evaluation: Indices


def load_rows(spec: DatasetSpec, find_file: FindFile, cache_dir: Path) -> Rows:
    """Reads, labels and splits a dataset.

    Args:
        spec: Which, and how.
        find_file: Returns the local path of the dataset's file (None) or of another that the spec names; not called for
            hub datasets.
        cache_dir: Where converted tables are kept, memory-mapped.

    Raises:
        DataError: The rows can't be used; one line that names the column or the row.
    """
    raw = _read(spec, None, find_file, cache_dir)
    rule = rule_of(spec, raw)
    table = labelled(raw, spec, rule)
    keys, labels = _arrays(table)
    train, held_out, aside = split(
        keys, labels, strata=spec.task.strata, seed=spec.seed,
        fraction=spec.eval_fraction if spec.eval_from is None else 0.0, test_fraction=spec.test_fraction or 0.0,
    )  # fmt: skip
    fingerprints = [content_sha256(table)]

    def other(source: str, rows: int | None) -> RowPart:
        raw = _read(spec, source, find_file, cache_dir)
        check_same_form(raw, spec, rule)
        table = labelled(raw, spec, rule)
        keys, labels = _arrays(table)
        fingerprints.append(content_sha256(table))
        return row_part(table, keys, labels, np.arange(len(keys)), spec, rows)

    is_even = _wants_even(spec) and spec.folds is None  # of folds those that train are, once they are dealt
    parts = {"train": row_part(table, keys, labels, train, spec, spec.train_rows, evenly=is_even)}
    if spec.eval_from is None:
        parts["eval"] = row_part(table, keys, labels, held_out, spec, spec.eval_rows)
    else:
        parts["eval"] = other(spec.eval_from, spec.eval_rows)
    if spec.test_from is not None:
        parts["test"] = other(spec.test_from, spec.test_rows)
    elif spec.test_fraction is not None:
        parts["test"] = row_part(table, keys, labels, aside, spec, spec.test_rows)
    pool: RowPart | None = None
    if spec.folds is not None:
        pool, parts["train"], parts["eval"] = _dealt(parts["train"], parts["eval"], rule, spec, spec.folds)
    check_enough_rows(parts, rule, spec)
    report, warnings = row_report(parts, rule, raw, table, spec)
    chosen = {name: part.table.select(part.indices).remove_columns("key") for name, part in parts.items()}
    content = [ROWS_VERSION, *fingerprints, spec.task.name, list(rule.names)]
    every = {**parts, **({"pool": pool} if pool is not None else {})}
    return Rows(
        train=chosen["train"], evaluation=chosen["eval"], test=chosen.get("test"),
        label_names=rule.names,
        fingerprint=digest_of([*content, *_choice(spec)]),
        identities={name: _identity(part) for name, part in every.items()} if spec.is_image else {},
        report=report,
        warnings=warnings,
        pool=None if pool is None else _fold_pool(pool, parts, [*content, "pool", *_choice(replace(spec, fold=0))]),
    )  # fmt: skip


def _fold_pool(pool: RowPart, parts: Mapping[str, RowPart], content: list[Any]) -> FoldPool:
    """Returns all rows that are dealt out to folds, and which of them train and evaluate in this one."""
    return FoldPool(
        rows=pool.table.select(pool.indices).remove_columns("key"),
        fingerprint=digest_of(content),
        train=np.flatnonzero(np.isin(pool.indices, parts["train"].indices)),
        evaluation=np.flatnonzero(np.isin(pool.indices, parts["eval"].indices)),
    )


def _dealt(
    train: RowPart, held_out: RowPart, rule: LabelRule, spec: DatasetSpec, folds: int
) -> tuple[RowPart, RowPart, RowPart]:
    """Returns the rows of both parts as one, in the seeded order; and those that train and evaluate in `spec.fold`."""
    keys, labels = train.keys, train.labels
    every = order(np.concatenate([train.indices, held_out.indices]), keys, labels, spec.seed)
    if spec.task.one_class_a_row:
        own = labels[every].astype(np.int64)
        counts = {name: len(np.unique(keys[every[own == index]])) for index, name in enumerate(rule.names)}
        rarest = min(counts, key=lambda name: counts[name])
        number = counts[rarest]
        if number < folds:
            way = f"take {number} folds or fewer" if number > 1 else "folds need 2 or more of every class"
            raise DataError(
                f"dataset.folds={folds}: the class {rarest} has {number} different {spec.unit}"
                f"{'' if number == 1 else 's'}, too few to have one in each fold; {way}"
            )
    dealt = deal(
        keys[every], labels[every], strata=spec.task.strata, folds=folds, seed=spec.seed,
    )  # fmt: skip
    rest = every[dealt != spec.fold]
    chosen = even(rest, labels, spec.train_rows) if _wants_even(spec) else rest
    pool, trained, evaluated = (
        replace(train, indices=each, at_hand=len(each)) for each in (every, chosen, every[dealt == spec.fold])
    )
    return pool, trained, evaluated


def _identity(part: RowPart) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in part.used())).hexdigest()


def _read(spec: DatasetSpec, other: str | None, find_file: FindFile, cache_dir: Path) -> RawTable:
    """Returns the table of the spec's own file or split (None), or of another."""
    if spec.source is Source.HUB:
        raw = read_hub(spec, other or spec.split, cache_dir)
    else:
        raw = read_file(find_file(other), spec, cache_dir)
    return with_named_labels(with_plain_columns(raw, spec), spec)


def _arrays(table: datasets.Dataset) -> tuple[Any, Any]:
    if len(table) == 0:
        why = "no row has a word" if "words" in table.column_names else "every rating lies within dataset.dead_zone"
        raise DataError(f"no rows are left: {why}")
    keys = np.concatenate(
        [np.asarray(batch["key"], dtype=np.uint64) for batch in table.select_columns("key").iter(10_000)]
    )
    if "words" in table.column_names:  # a row has no one class to be shared out evenly by
        return keys, np.zeros(len(keys))
    labels = np.concatenate(
        [np.asarray(b["labels"], dtype=np.float64) for b in table.select_columns("labels").iter(10_000)]
    )
    if labels.ndim > 1:  # sets of many classes: each set is one label
        labels = np.unique(labels, axis=0, return_inverse=True)[1].astype(np.float64)
    return keys, labels


def _wants_even(spec: DatasetSpec) -> bool:
    return spec.balance is Balance.UNDERSAMPLE


def _choice(spec: DatasetSpec) -> list[Any]:
    """What decides which rows train and which evaluate."""
    test = [spec.test_from is None, spec.test_fraction, spec.test_rows] if spec.has_test else []
    evenly = [spec.balance.value] if _wants_even(spec) else []
    folds = ["folds", spec.folds, spec.fold] if spec.folds is not None else []
    return [
        *evenly,
        *folds,
        spec.eval_from is None,
        spec.eval_fraction,
        spec.train_rows,
        spec.eval_rows,
        spec.seed,
        *test,
    ]
