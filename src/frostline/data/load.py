"""Owns: a `DatasetSpec` -> training and evaluation rows with labels, and the report on them. Must not know: tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from frostline.data.build_rows import ROWS_VERSION, check_same_form, digest_of, labelled, rule_of, with_named_labels
from frostline.data.column_types import with_plain_columns
from frostline.data.label_rule import LabelRule, shortened
from frostline.data.raw_table import RawTable
from frostline.data.readers import read_file, read_hub
from frostline.data.split import Indices, deal, even, order, split
from frostline.errors import DataError
from frostline.spec import Balance, DatasetSpec, MissingLabels, Source, Task

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


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A table with its labels and keys as arrays, and the rows of it that are used, of so many that could be."""

    table: datasets.Dataset
    keys: Any
    labels: Any
    indices: Indices
    at_hand: int

    def used(self) -> tuple[Any, Any]:
        return self.keys[self.indices], self.labels[self.indices]

    def used_labels(self, task: Task) -> Any:
        """Returns the labels of the rows, or where each word has one, of all their words."""
        if not task.labels_words:
            return self.labels[self.indices]
        column = self.table.select(self.indices).with_format("arrow")["labels"]
        return pc.list_flatten(column[:] if not hasattr(column, "combine_chunks") else column).to_numpy()


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
    fingerprints = [_content(table)]

    def other(source: str, rows: int | None) -> _Part:
        raw = _read(spec, source, find_file, cache_dir)
        check_same_form(raw, spec, rule)
        table = labelled(raw, spec, rule)
        keys, labels = _arrays(table)
        fingerprints.append(_content(table))
        return _part(table, keys, labels, np.arange(len(keys)), spec, rows)

    is_even = _wants_even(spec) and spec.folds is None  # of folds those that train are, once they are dealt
    parts = {"train": _part(table, keys, labels, train, spec, spec.train_rows, evenly=is_even)}
    if spec.eval_from is None:
        parts["eval"] = _part(table, keys, labels, held_out, spec, spec.eval_rows)
    else:
        parts["eval"] = other(spec.eval_from, spec.eval_rows)
    if spec.test_from is not None:
        parts["test"] = other(spec.test_from, spec.test_rows)
    elif spec.test_fraction is not None:
        parts["test"] = _part(table, keys, labels, aside, spec, spec.test_rows)
    pool = None
    if spec.folds is not None:
        pool, parts["train"], parts["eval"] = _dealt(parts["train"], parts["eval"], rule, spec, spec.folds)
    _check_enough(parts, rule, spec)
    report, warnings = _report(parts, rule, raw, table, spec)
    chosen = {name: part.table.select(part.indices).remove_columns("key") for name, part in parts.items()}
    content = [ROWS_VERSION, *fingerprints, spec.task.name, list(rule.names)]
    every = parts if pool is None else {**parts, "pool": pool}
    return Rows(
        train=chosen["train"],
        evaluation=chosen["eval"],
        test=chosen.get("test"),
        label_names=rule.names,
        fingerprint=digest_of([*content, *_choice(spec)]),
        identities={name: _identity(part) for name, part in every.items()} if spec.is_image else {},
        report=report,
        warnings=warnings,
        pool=None
        if pool is None
        else FoldPool(
            rows=table.select(pool.indices).remove_columns("key"),
            fingerprint=digest_of([*content, "pool", *_choice(replace(spec, fold=0))]),
            train=np.flatnonzero(np.isin(pool.indices, parts["train"].indices)),
            evaluation=np.flatnonzero(np.isin(pool.indices, parts["eval"].indices)),
        ),
    )


def _dealt(train: _Part, held_out: _Part, rule: LabelRule, spec: DatasetSpec, folds: int) -> tuple[_Part, _Part, _Part]:
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
    kept = even(rest, labels, spec.train_rows) if _wants_even(spec) else rest
    pool, trained, evaluated = (
        replace(train, indices=each, at_hand=len(each)) for each in (every, kept, every[dealt == spec.fold])
    )
    return pool, trained, evaluated


def _identity(part: _Part) -> str:
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
    return keys, labels


def _part(
    table: datasets.Dataset,
    keys: Any,
    labels: Any,
    indices: Indices,
    spec: DatasetSpec,
    rows: int | None,
    evenly: bool = False,
) -> _Part:
    ordered = order(indices, keys, labels, spec.seed)
    chosen = even(ordered, labels, rows) if evenly else ordered[:rows]
    return _Part(table=table, keys=keys, labels=labels, indices=chosen, at_hand=len(indices))


def _wants_even(spec: DatasetSpec) -> bool:
    return spec.balance is Balance.UNDERSAMPLE


def _content(table: datasets.Dataset) -> str:
    """Returns a sha256 of rows and labels: the same whatever file they stood in, and in whatever format."""
    digest = hashlib.sha256()
    for batch in table.select_columns(["key", "labels"]).with_format("arrow").iter(10_000):
        digest.update(np.ascontiguousarray(batch["key"].to_numpy(), dtype="<i8").tobytes())
        labels = batch["labels"].combine_chunks() if hasattr(batch["labels"], "combine_chunks") else batch["labels"]
        if pa.types.is_list(labels.type) or pa.types.is_large_list(labels.type):
            digest.update(np.ascontiguousarray(pc.list_value_length(labels).to_numpy(), dtype="<i8").tobytes())
            labels = pc.list_flatten(labels)
        kind = "<f8" if pa.types.is_floating(labels.type) else "<i8"
        digest.update(np.ascontiguousarray(labels.to_numpy(zero_copy_only=False), dtype=kind).tobytes())
    return digest.hexdigest()


_PURPOSES = {"train": "train on", "eval": "evaluate on", "test": "test on"}


def _check_enough(parts: Mapping[str, _Part], rule: LabelRule, spec: DatasetSpec) -> None:
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


def _report(
    parts: Mapping[str, _Part], rule: LabelRule, raw: RawTable, table: datasets.Dataset, spec: DatasetSpec
) -> tuple[dict[str, Any], tuple[str, ...]]:
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
    if not task.has_classes:
        warnings += _rounded(label_counts["train"])
    if rule.missing is MissingLabels.DROP and report["rows_dropped"]:
        warnings.append(f"rows left out, most of them for want of a label: {report['rows_dropped']}")
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


def _num_empty(part: _Part) -> int:
    """Returns how many rows hold nothing but blanks."""
    columns = [name for name in ("text", "pair") if name in part.table.column_names]
    table = part.table.select(part.indices).select_columns(columns).with_format("arrow")
    count = 0
    for batch in table.iter(10_000):
        is_empty = [pc.equal(pc.utf8_trim_whitespace(batch[name]), "") for name in columns]
        count += pc.sum(is_empty[0] if len(is_empty) == 1 else pc.and_(*is_empty)).as_py() or 0
    return count


def _rounded(labels: Mapping[str, float]) -> list[str]:
    """Returns a note where numbers of 32 bits, in which a model computes, blur what tells labels apart."""
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
