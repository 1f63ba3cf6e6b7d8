"""Builds labelled rows with a hash each from raw columns of texts, words or images."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets

from frostline.data.label_rule import LabelRule
from frostline.data.label_sets import numbers_per_row
from frostline.data.label_values import is_number
from frostline.data.lists import list_in
from frostline.data.raw_table import RawTable
from frostline.data.split import bytes_key, row_key
from frostline.data.table_cache import map_cached
from frostline.data.text_rows import text_of, text_rows
from frostline.errors import DataError, listing, nearest
from frostline.spec import DatasetSpec, MissingLabels

ROWS_VERSION = 2  # part of cache fingerprints: raise it when the same input would give other rows

_BETWEEN_WORDS = "\0"


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
        if "messages" in batch:
            yield from (row_key(text, None) for text in batch["messages"])
            continue
        yield from map(row_key, batch["text"], batch.get("pair") or [None] * len(batch["text"]))


def with_named_labels(raw: RawTable, spec: DatasetSpec) -> RawTable:
    """Returns a table whose labels are names, where it brings names of its own: two tables may count them otherwise."""
    feature = raw.table.features.get(spec.label_column) if spec.task.has_labels else None
    inner = getattr(feature, "feature", feature)
    if not isinstance(inner, datasets.ClassLabel):
        return raw
    names = list(inner.names)
    if not spec.task.has_classes and (odd := next((name for name in names if not is_number(name)), None)) is not None:
        raise DataError(
            f"dataset.label_column={spec.label_column}: its classes are names (for example {odd!r}), not numbers; "
            "give dataset.task=classification"
        )
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
    labels = map_cached(
        raw.table.select_columns([spec.label_column]), convert,
        digest_of(["names", raw.fingerprint, spec.label_column, names])[:32], batched=True,
        features=datasets.Features({spec.label_column: features[spec.label_column]}), desc="names",
    )  # fmt: skip
    others = [column for column in raw.table.column_names if column != spec.label_column]
    table = datasets.concatenate_datasets([raw.table.select_columns(others), labels], axis=1) if others else labels
    return replace(raw, table=table, label_names=tuple(names))


def rule_of(spec: DatasetSpec, raw: RawTable) -> LabelRule:
    """Returns what the labels of a table mean.

    Raises:
        DataError: It lacks a column, or its labels don't fit the task.
    """
    _check_columns(spec, raw)
    return spec.task.make_rule(spec, raw)


def check_same_form(raw: RawTable, spec: DatasetSpec, rule: LabelRule) -> None:
    """Checks that another file writes labels as the training rows do.

    Raises:
        DataError: It lacks a column, or writes them otherwise.
    """
    _check_columns(spec, raw)
    if spec.task.has_labels:
        rule.check_same_form(raw.table[spec.label_column][:], raw.name, spec.label_column)


def _check_columns(spec: DatasetSpec, raw: RawTable) -> None:
    for key, column in spec.read_columns.items():
        if column not in raw.table.column_names:
            known = raw.table.column_names
            hint = ""
            if len(known) == 1 and spec.separator is None:  # a hint, and no guess: a text may hold any sign
                sign = next((sign for sign in ";\t|" if column in known[0].split(sign)), None)
                way = "dataset.format=tsv" if sign == "\t" else f"'dataset.separator=\"{sign}\"'"
                hint = f"; if {sign!r} stands between its columns, give {way}" if sign else ""
            raise DataError(
                f"dataset.{key}={column}: {raw.name} has no such column{nearest(column, known)}; "
                f"it has {listing(known)}{hint}"
            )


def labelled(raw: RawTable, spec: DatasetSpec, rule: LabelRule) -> datasets.Dataset:
    """Returns the content (text and pair, words, or image), labels and key, without rows that the rule drops."""
    _check_columns(spec, raw)
    if spec.is_image:
        return _labelled_images(raw, spec, rule)
    if spec.task.labels_words:
        return _labelled_words(raw, spec, rule)
    if not spec.task.has_labels:
        return text_rows(raw, spec, digest_of([ROWS_VERSION, raw.fingerprint, *label_settings(spec, rule)])[:32])

    def convert(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {"text": [], "labels": [], "key": []}
        if spec.pair_column is not None:
            out["pair"] = []
        for offset, index in enumerate(indices):
            where = f"{raw.name}, row {index + 1}"
            label = _label(rule, batch[spec.label_column][offset], where, spec)
            if label is None:
                continue
            text = text_of(batch[spec.text_column][offset], where, spec.text_column)
            pair = None
            if spec.pair_column is not None:
                pair = text_of(batch[spec.pair_column][offset], where, spec.pair_column)
            out["text"].append(text)
            out["labels"].append(label)
            out["key"].append(row_key(text, pair))
            if pair is not None:
                out["pair"].append(pair)
        return out

    features = {name: datasets.Value(kind) for name, kind in (("text", "string"), ("key", "int64"))}
    features["labels"] = _label_feature(spec, rule)
    if spec.pair_column is not None:
        features["pair"] = datasets.Value("string")
    return map_cached(
        raw.table, convert, _cache_fingerprint(raw, spec, rule), batched=True, with_indices=True,
        remove_columns=raw.table.column_names, features=datasets.Features(features), desc="labels",
    )  # fmt: skip


def _label_feature(spec: DatasetSpec, rule: LabelRule) -> Any:
    """Returns the type of the column of labels: one number a row, or several of rows of many classes."""
    count = numbers_per_row(len(rule.names)) if spec.task.may_have_no_class else 1
    number = datasets.Value(spec.task.label_dtype)
    return number if count == 1 else datasets.List(number, length=count)


def _labelled_words(raw: RawTable, spec: DatasetSpec, rule: LabelRule) -> datasets.Dataset:
    """Returns columns words and labels (lists of one length) and key, rows without a word left out."""

    def convert(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {"words": [], "labels": [], "key": []}
        for offset, index in enumerate(indices):
            where = f"{raw.name}, row {index + 1}"
            labels = _label(rule, batch[spec.label_column][offset], where, spec)
            if labels is None:
                continue
            words = _words(batch[spec.text_column][offset], where, spec.text_column)
            if len(words) != len(labels):
                raise DataError(
                    f"{where}: has {len(words)} words in {spec.text_column} and {len(labels)} labels in "
                    f"{spec.label_column}; give each word one label"
                )
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
    return map_cached(
        raw.table, convert, _cache_fingerprint(raw, spec, rule), batched=True, with_indices=True,
        remove_columns=raw.table.column_names, features=datasets.Features(features), desc="labels",
    )  # fmt: skip


def _words(value: Any, where: str, column: str) -> list[str]:
    if isinstance(value, str):
        try:
            items = list_in(value) if re.match(r"\s*[\[(]\s*['\"]", value) else None  # else a text in brackets
        except DataError as error:
            raise DataError(f"{where}: {error} (column {column})") from error
        value = value.split() if items is None else items
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
    features = {"labels": _label_feature(spec, rule), "key": datasets.Value("int64")}
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
        raise DataError(f"{where}: the image is missing (column {column}): fill it or remove the row")
    if not isinstance(value, dict) or not ("bytes" in value or "path" in value):
        raise DataError(f"{where}: expected an image in column {column}, got {type(value).__name__}")
    if value.get("bytes") is not None:
        _refuse_16_bit(value["bytes"], where)
        return {"bytes": value["bytes"], "path": None}, value["bytes"]
    try:
        content = Path(value["path"]).read_bytes()
    except (OSError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{where}: the image can't be read: {str(value.get('path'))[:150]}: {why}") from error
    _refuse_16_bit(content, str(value["path"]))
    return {"bytes": None, "path": value["path"]}, content


def _refuse_16_bit(content: bytes, where: str) -> None:
    """Refuses a PNG of colours with 16 bits a channel, of which Pillow keeps 8 without a word.

    Bytes 24 and 25 of its header are the bits and the kind of its channels (PNG specification, 11.2.2).
    """
    if content[:8] == b"\x89PNG\r\n\x1a\n" and content[24:25] == b"\x10" and content[25:26] != b"\0":
        raise DataError(f"{where}: has more than 8 bits a channel: save it with 8")


def _label(rule: LabelRule, value: Any, where: str, spec: DatasetSpec) -> Any:
    try:
        return rule(value)
    except DataError as error:
        raise DataError(f"{where}: {error} (dataset.label_column={spec.label_column})") from error


def label_settings(spec: DatasetSpec, rule: LabelRule) -> list[Any]:
    """Returns the settings that decide texts and labels, for a fingerprint."""
    columns = [spec.text_column, spec.pair_column, spec.label_column, spec.columns, spec.quoted]
    columns += [sign for sign in (spec.separator, spec.escape) if sign is not None]
    images = [spec.image_column] if spec.is_image else []
    images += [f"{key}: {column}" for key, column in spec.content_columns.items() if spec.task.generates]
    images += [] if rule.missing is MissingLabels.REFUSE else [f"missing labels: {rule.missing.value}"]
    return [*columns, *images, *rule.identity(), spec.task.name, spec.threshold, spec.dead_zone, list(rule.names)]


def _cache_fingerprint(raw: RawTable, spec: DatasetSpec, rule: LabelRule) -> str:
    """Returns what a labelled table is found again by; tables kept before names counted are not taken for it."""
    names = [list(raw.label_names)] if raw.label_names is not None else []
    return digest_of([ROWS_VERSION, raw.fingerprint, *label_settings(spec, rule), *names])[:32]


def digest_of(parts: list[Any]) -> str:
    """Returns a sha256 of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
