"""Owns: a `DatasetSpec` -> training and evaluation rows with labels, and the report on them. Must not know: tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from frostline.dataset.labels import LabelRule, label_rule, members
from frostline.dataset.raw import RawTable
from frostline.dataset.read import read_file, read_hub
from frostline.dataset.split import Indices, bytes_key, even, order, row_key, split
from frostline.errors import DataError, listing, nearest
from frostline.spec import Balance, DatasetSpec, Source, Task

_ROWS_VERSION = 1  # part of cache fingerprints: raise it when the same input would give other rows

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
        identities: Of images: sha256 of each part's contents and labels, in their order, by `train`, `eval`, `test`.
        report: Sizes, label counts, duplicates, overlap, dropped and empty rows.
        warnings: What the user should know of, a line each.
    """

    train: datasets.Dataset
    evaluation: datasets.Dataset
    test: datasets.Dataset | None
    label_names: tuple[str, ...]
    fingerprint: str
    identities: Mapping[str, str]
    report: dict[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A table with its labels and keys as arrays, and the rows of it that are used."""

    table: datasets.Dataset
    keys: Any
    labels: Any
    indices: Indices

    def used(self) -> tuple[Any, Any]:
        return self.keys[self.indices], self.labels[self.indices]

    def used_labels(self, rule: LabelRule) -> Any:
        """Returns the labels of the rows, or where each word has one, of all their words."""
        if not rule.by_word:
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
    rule = _rule(spec, raw)
    table = _labelled(raw, spec, rule)
    keys, labels = _arrays(table)
    train, held_out, aside = split(
        keys, labels, regression=spec.task is Task.REGRESSION, seed=spec.seed, whole=spec.task is Task.MULTI_LABEL,
        fraction=spec.eval_fraction if spec.eval_from is None else 0.0, test_fraction=spec.test_fraction or 0.0,
    )  # fmt: skip
    fingerprints = [raw.fingerprint, *_content(spec, keys)]

    def other(source: str, rows: int | None) -> _Part:
        raw = _read(spec, source, find_file, cache_dir)
        table = _labelled(raw, spec, rule)
        keys, labels = _arrays(table)
        fingerprints.extend([raw.fingerprint, *_content(spec, keys)])
        return _part(table, keys, labels, np.arange(len(keys)), spec, rows)

    parts = {"train": _part(table, keys, labels, train, spec, spec.train_rows, evenly=_wants_even(spec))}
    if spec.eval_from is None:
        parts["eval"] = _part(table, keys, labels, held_out, spec, spec.eval_rows)
    else:
        parts["eval"] = other(spec.eval_from, spec.eval_rows)
    if spec.test_from is not None:
        parts["test"] = other(spec.test_from, spec.test_rows)
    elif spec.test_fraction is not None:
        parts["test"] = _part(table, keys, labels, aside, spec, spec.test_rows)
    _check_enough(parts, rule, spec)
    report, warnings = _report(parts, rule, raw, table, spec.unit)
    chosen = {name: part.table.select(part.indices).remove_columns("key") for name, part in parts.items()}
    return Rows(
        train=chosen["train"],
        evaluation=chosen["eval"],
        test=chosen.get("test"),
        label_names=rule.names,
        fingerprint=_digest([_ROWS_VERSION, *fingerprints, *_meaning(spec, rule), *_choice(spec)]),
        identities={name: _identity(part) for name, part in parts.items()} if spec.is_image else {},
        report=report,
        warnings=warnings,
    )


def _identity(part: _Part) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in part.used())).hexdigest()


def keys_of(table: datasets.Dataset) -> Iterator[int]:
    """Yields the hash of each row of `Rows`: of its text and pair, or its image."""
    if "image" in table.column_names:
        for row in table.select_columns("image"):
            yield bytes_key(_image(row["image"], "", "image", None)[1])
        return
    for batch in table.iter(10_000):
        if "words" in batch:
            yield from (row_key(_BETWEEN_WORDS.join(words), None) for words in batch["words"])
            continue
        yield from map(row_key, batch["text"], batch.get("pair") or [None] * len(batch["text"]))


def _plain_labels(raw: RawTable, spec: DatasetSpec) -> RawTable:
    """Returns a table whose labels are names, where it brings names of its own: two tables may count them otherwise."""
    feature = raw.table.features.get(spec.label_column)
    inner = getattr(feature, "feature", feature)
    if not isinstance(inner, datasets.ClassLabel) or spec.task is Task.REGRESSION:
        return raw
    names = list(inner.names)
    known = dict(enumerate(names))

    def name(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [name(each) for each in value]
        return known.get(value, None if value is None else str(value))

    def convert(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {spec.label_column: [name(value) for value in batch[spec.label_column]]}

    plain: Any = datasets.Value("string")
    features = raw.table.features.copy()
    features[spec.label_column] = plain if inner is feature else datasets.Sequence(plain)
    labels = raw.table.select_columns([spec.label_column]).map(
        convert, batched=True, features=datasets.Features({spec.label_column: features[spec.label_column]}),
        new_fingerprint=_digest(["names", raw.fingerprint, spec.label_column, names])[:32], desc="names",
    )  # fmt: skip
    others = [column for column in raw.table.column_names if column != spec.label_column]
    table = datasets.concatenate_datasets([raw.table.select_columns(others), labels], axis=1) if others else labels
    return replace(raw, table=table, label_names=tuple(names))


def _read(spec: DatasetSpec, other: str | None, find_file: FindFile, cache_dir: Path) -> RawTable:
    """Returns the table of the spec's own file or split (None), or of another."""
    if spec.source is Source.HUB:
        return _plain_labels(read_hub(spec, other or spec.split, cache_dir), spec)
    return _plain_labels(read_file(find_file(other), spec, cache_dir), spec)


def _rule(spec: DatasetSpec, raw: RawTable) -> LabelRule:
    _check_columns(spec, raw)
    feature = raw.table.features[spec.label_column]
    if spec.task in {Task.MULTI_LABEL, Task.TOKEN_CLASSIFICATION}:
        return label_rule(spec, _members(raw, spec), raw.label_names, len(raw.table))
    needs_classes = spec.task is Task.CLASSIFICATION and spec.threshold is None
    try:
        unique = raw.table.unique(spec.label_column) if needs_classes else []
    except Exception as error:
        raise DataError(f"dataset.label_column={spec.label_column}: holds {feature}, not labels") from error
    return label_rule(spec, unique, raw.label_names, len(raw.table))


def _members(raw: RawTable, spec: DatasetSpec) -> list[Any]:
    """Returns the different classes of rows that may have several, in the order in which they come."""
    separator = spec.label_separator if spec.task is Task.MULTI_LABEL else None
    found: dict[Any, None] = {}
    for batch in raw.table.select_columns(spec.label_column).iter(10_000):
        for value in batch[spec.label_column]:
            if value is not None:
                try:
                    found.update(dict.fromkeys(members(value, separator)))
                except TypeError as error:
                    raise DataError(f"dataset.label_column={spec.label_column}: holds lists of lists") from error
    return [value for value in found if value is not None]


def _check_columns(spec: DatasetSpec, raw: RawTable) -> None:
    content = ("image_column",) if spec.is_image else ("text_column", "pair_column")
    for key in (*content, "label_column"):
        column = getattr(spec, key)
        if column is not None and column not in raw.table.column_names:
            known = raw.table.column_names
            raise DataError(
                f"dataset.{key}={column}: {raw.name} has no such column{nearest(column, known)}; "
                f"it has {listing(known)}"
            )


def _labelled(raw: RawTable, spec: DatasetSpec, rule: LabelRule) -> datasets.Dataset:
    """Returns columns text, pair, labels and key, dropped rows left out; converted once for the same input."""
    _check_columns(spec, raw)
    if spec.is_image:
        return _labelled_images(raw, spec, rule)
    if rule.by_word:
        return _labelled_words(raw, spec, rule)
    regression = spec.task is Task.REGRESSION

    def convert(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {"text": [], "labels": [], "key": []}
        if spec.pair_column is not None:
            out["pair"] = []
        for offset, index in enumerate(indices):
            where = f"{raw.name}, row {index + 1}"
            text = _text(batch[spec.text_column][offset], where, spec.text_column)
            pair = None
            if spec.pair_column is not None:
                pair = _text(batch[spec.pair_column][offset], where, spec.pair_column)
            label = _label(rule, batch[spec.label_column][offset], where, spec)
            if label is None:
                continue
            out["text"].append(text)
            out["labels"].append(label)
            out["key"].append(row_key(text, pair))
            if pair is not None:
                out["pair"].append(pair)
        return out

    features = {"text": "string", "labels": "float64" if regression else "int64", "key": "int64"}
    if spec.pair_column is not None:
        features["pair"] = "string"
    return raw.table.map(
        convert,
        batched=True,
        with_indices=True,
        remove_columns=raw.table.column_names,
        features=datasets.Features({name: datasets.Value(kind) for name, kind in features.items()}),
        new_fingerprint=_digest([_ROWS_VERSION, raw.fingerprint, *_meaning(spec, rule)])[:32],
        desc="labels",
    )


def _labelled_words(raw: RawTable, spec: DatasetSpec, rule: LabelRule) -> datasets.Dataset:
    """Returns columns words and labels (lists of one length) and key, rows without a word left out."""

    def convert(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {"words": [], "labels": [], "key": []}
        for offset, index in enumerate(indices):
            where = f"{raw.name}, row {index + 1}"
            words = _words(batch[spec.text_column][offset], where, spec.text_column)
            try:
                labels = rule.of_words(batch[spec.label_column][offset])
            except DataError as error:
                raise DataError(f"{where}: {error} (dataset.label_column={spec.label_column})") from error
            if len(words) != len(labels):
                raise DataError(f"{where}: has {len(words)} words and {len(labels)} labels")
            if words:
                out["words"].append(words)
                out["labels"].append(labels)
                out["key"].append(row_key(_BETWEEN_WORDS.join(words), None))
        return out

    features = {
        "words": datasets.Sequence(datasets.Value("string")),
        "labels": datasets.Sequence(datasets.Value("int64")),
        "key": datasets.Value("int64"),
    }
    return raw.table.map(
        convert, batched=True, with_indices=True, remove_columns=raw.table.column_names,
        features=datasets.Features(features),
        new_fingerprint=_digest([_ROWS_VERSION, raw.fingerprint, *_meaning(spec, rule)])[:32], desc="labels",
    )  # fmt: skip


_BETWEEN_WORDS = "\0"


def _words(value: Any, where: str, column: str) -> list[str]:
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, (list, tuple)) or not all(isinstance(word, str) for word in value):
        raise DataError(f"{where}: expected a list of words in column {column}, got {type(value).__name__}")
    return list(value)


def _labelled_images(raw: RawTable, spec: DatasetSpec, rule: LabelRule) -> datasets.Dataset:
    """Returns columns image (not decoded), labels and key, dropped rows left out."""
    column = spec.image_column
    assert column is not None
    table = raw.table
    if isinstance(table.features[column], datasets.Image):
        table = table.cast_column(column, datasets.Image(decode=False))
    is_in_table = isinstance(table.features[column], datasets.Image)
    out: dict[str, list[Any]] = {"labels": [], "key": []}
    used, paths = list[int](), list[dict[str, Any]]()
    for index, row in enumerate(table.select_columns([column, spec.label_column])):
        where = f"{raw.name}, row {index + 1}"
        label = _label(rule, row[spec.label_column], where, spec)
        if label is None:
            continue
        image, content = _image(row[column], where, column, raw.folder)
        used.append(index)
        if not is_in_table:
            paths.append(image)
        out["labels"].append(label)
        out["key"].append(bytes_key(content))
    kind = "float64" if spec.task is Task.REGRESSION else "int64"
    features = {"labels": datasets.Value(kind), "key": datasets.Value("int64")}
    labels = datasets.Dataset.from_dict(out, features=datasets.Features(features))
    if is_in_table:  # which may be large: it is not copied
        images = table.select_columns([column]).rename_columns({column: "image"} if column != "image" else {})
        images = images if len(used) == len(images) else images.select(used)
    else:
        named = datasets.Features({"image": datasets.Image(decode=False)})
        images = datasets.Dataset.from_dict({"image": paths}, features=named)
    return datasets.concatenate_datasets([images, labels], axis=1)


def _image(value: Any, where: str, column: str, folder: Path | None) -> tuple[dict[str, Any], bytes]:
    """Returns an image as `datasets.Image` keeps it, and the bytes of its file."""
    if isinstance(value, bytes):
        value = {"bytes": value, "path": None}
    if isinstance(value, str) and value and folder is not None:
        value = {"bytes": None, "path": str(folder / value)}
    if value is None or value == "":
        raise DataError(f"{where}: the image is missing (column {column})")
    if not isinstance(value, dict) or not ("bytes" in value or "path" in value):
        raise DataError(f"{where}: expected an image in column {column}, got {type(value).__name__}")
    if value.get("bytes") is not None:
        return {"bytes": value["bytes"], "path": None}, value["bytes"]
    try:
        return {"bytes": None, "path": value["path"]}, Path(value["path"]).read_bytes()
    except (OSError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{where}: the image can't be read: {value.get('path')}: {why}") from error


def _label(rule: LabelRule, value: Any, where: str, spec: DatasetSpec) -> float | int | None:
    try:
        return rule(value)
    except DataError as error:
        raise DataError(f"{where}: {error} (dataset.label_column={spec.label_column})") from error


def _text(value: Any, where: str, column: str) -> str:
    if value is None:
        raise DataError(f"{where}: the text is missing (column {column})")
    if not isinstance(value, str):
        raise DataError(f"{where}: expected text in column {column}, got {type(value).__name__}")
    return value


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
    return _Part(table=table, keys=keys, labels=labels, indices=chosen)


def _wants_even(spec: DatasetSpec) -> bool:
    return spec.balance is Balance.UNDERSAMPLE


def _content(spec: DatasetSpec, keys: Any) -> list[str]:
    """Returns a hash of images, whose files a table may only name."""
    return [hashlib.sha256(keys.tobytes()).hexdigest()] if spec.is_image else []


_PURPOSES = {"train": "train on", "eval": "evaluate on", "test": "test on"}


def _check_enough(parts: Mapping[str, _Part], rule: LabelRule, spec: DatasetSpec) -> None:
    for name, part in parts.items():
        if not len(part.indices):
            total = sum(len(other.indices) for other in parts.values())
            key = "dataset.test_fraction" if name == "test" else "dataset.eval_fraction"
            raise DataError(f"no rows to {_PURPOSES[name]}: there are {total} in all; change {key} or the data")
    _, labels = parts["train"].used()
    if rule.separator is not None and len(np.unique(labels)) < 2:
        raise DataError(f"the {len(labels)} training rows all have the same classes: there is nothing to learn")
    if rule.separator is None and rule.names and not rule.by_word and len(np.unique(labels)) < 2:
        only = rule.names[int(labels[0])]
        hint = f" of dataset.train_rows={spec.train_rows}" if spec.train_rows is not None else ""
        raise DataError(
            f"the {len(labels)} training rows{hint} hold one class only ({only}): there is nothing to learn"
        )


def _report(
    parts: Mapping[str, _Part], rule: LabelRule, raw: RawTable, table: datasets.Dataset, unit: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    used = {name: part.used() for name, part in parts.items()}
    train_keys = used["train"][0]
    empty = row_key("", None)
    overlap = {name: int(np.isin(keys, train_keys).sum()) for name, (keys, _) in used.items() if name != "train"}
    duplicates = {name: _duplicates(keys) for name, (keys, _) in used.items()}
    label_counts = {name: _label_counts(part.used_labels(rule), rule) for name, part in parts.items()}
    report = {
        "rows_read": len(raw.table),
        "rows_dropped": len(raw.table) - len(table),
        **{f"{name}_rows": len(keys) for name, (keys, _) in used.items()},
        "labels": label_counts,
        "duplicates": duplicates,
        "overlap": overlap["eval"],
        **({"test_overlap": overlap["test"]} if "test" in overlap else {}),
        "empty_texts": sum(int((keys == empty).sum()) for keys, _ in used.values()) if unit == "text" else 0,
    }
    warnings = list(raw.notes)
    for name in used:
        counts = label_counts[name]
        absent = [label for label in rule.names if not counts[label]]
        if absent:
            warnings.append(
                f"classes without a {'word' if rule.by_word else 'row'} to {_PURPOSES[name]}: {', '.join(absent)}"
            )
    for name, what in (("eval", "evaluation"), ("test", "test")):
        if overlap.get(name):
            warnings.append(f"{what} rows whose {unit} is trained on: {overlap[name]} of {len(used[name][0])}")
    if duplicates["train"]:
        warnings.append(f"training rows that repeat another's {unit}: {duplicates['train']}")
    if report["empty_texts"]:
        warnings.append(f"rows with an empty text: {report['empty_texts']}")
    return report, tuple(warnings)


def _label_counts(labels: Any, rule: LabelRule) -> dict[str, Any]:
    if rule.separator is not None:
        bits = labels.astype(np.int64)
        return {name: int((bits >> index & 1).sum()) for index, name in enumerate(rule.names)}
    if rule.names:
        counts = np.bincount(labels.astype(np.int64), minlength=len(rule.names))
        return {name: int(count) for name, count in zip(rule.names, counts, strict=True)}
    return {
        "mean": float(labels.mean()),
        "std": float(labels.std()),
        "min": float(labels.min()),
        "max": float(labels.max()),
    }


def _duplicates(keys: Any) -> int:
    return len(keys) - len(np.unique(keys))


def _meaning(spec: DatasetSpec, rule: LabelRule) -> list[Any]:
    """What turns raw columns into texts and labels."""
    columns = [spec.text_column, spec.pair_column, spec.label_column, spec.columns, spec.quoted]
    several = [rule.separator] if rule.separator is not None else ["by word"] if rule.by_word else []
    images = [spec.image_column] if spec.is_image else []
    return [*columns, *images, *several, spec.task.value, spec.threshold, spec.dead_zone, list(rule.names)]


def _choice(spec: DatasetSpec) -> list[Any]:
    """What decides which rows train and which evaluate."""
    test = [spec.test_from, spec.test_fraction, spec.test_rows] if spec.has_test else []
    evenly = [spec.balance.value] if _wants_even(spec) else []
    return [*evenly, spec.eval_from is None, spec.eval_fraction, spec.train_rows, spec.eval_rows, spec.seed, *test]


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
