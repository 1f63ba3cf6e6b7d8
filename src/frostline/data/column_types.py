"""Columns of dates, decimals and half-precision numbers as the texts and numbers that a CSV file would hold."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from frostline.data.raw_table import RawTable
from frostline.data.table_cache import map_cached
from frostline.errors import DataError
from frostline.spec import DatasetSpec

_VERSION = 1


def with_plain_columns(raw: RawTable, spec: DatasetSpec) -> RawTable:
    """Returns a table whose text and label columns hold texts and numbers alone, the others as they are.

    A date becomes `2024-01-31`, a time of a day `2024-01-31 12:00:00`; a decimal or half-precision number a number.

    Args:
        raw: As read.
        spec: Which columns are which.
    """
    wanted = set(spec.read_columns.values())
    arrow = raw.table.features.arrow_schema
    kinds = {name: kind for name in raw.table.column_names if name in wanted and (kind := _plain_kind(arrow, name))}
    if not kinds:
        return raw

    def convert(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {name: [_plain(value) for value in batch[name]] for name in kinds}

    features = raw.table.features.copy()
    for name, kind in kinds.items():
        features[name] = _feature(kind, is_list=_is_list(arrow.field(name).type))
    fingerprint = datasets.fingerprint.Hasher.hash(["plain", _VERSION, raw.fingerprint, sorted(kinds.items())])
    try:
        table = map_cached(raw.table, convert, fingerprint, batched=True, features=features, desc="plain")
    except (ValueError, OverflowError, LookupError, pa.ArrowException) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)[:150]
        raise DataError(
            f"{raw.name}: a value of {' or '.join(kinds)} can't be read ({why}): write it as text"
        ) from error
    return replace(raw, table=table)


def _feature(kind: str, *, is_list: bool) -> Any:
    value: Any = datasets.Value(kind)
    return datasets.Sequence(value) if is_list else value


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _plain_kind(schema: pa.Schema, name: str) -> str | None:
    kind = schema.field(name).type
    kind = kind.value_type if _is_list(kind) else kind
    if pa.types.is_temporal(kind):
        return "string"
    return "float64" if pa.types.is_decimal(kind) or pa.types.is_float16(kind) else None


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, datetime.datetime):
        is_day = value.tzinfo is None and value.time() == datetime.time()
        return value.date().isoformat() if is_day else value.isoformat(sep=" ")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return str(value)
    return None if value is None else float(value)


def _is_temporal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(kind.value_type if _is_list(kind) else kind))


def as_written(path: Path, table: datasets.Dataset) -> datasets.Dataset:
    """Returns the rows of a JSON file, its texts that look like dates as they stand there.

    Arrow's reader makes times of them, in one form whichever they had.

    Args:
        path: The file.
        table: As Arrow read it.
    """
    schema = table.features.arrow_schema
    names = [name for name in table.column_names if _is_temporal(schema.field(name).type)]
    if not names:
        return table
    columns: dict[str, list[Any]] = {name: [] for name in names}
    try:
        for row in _objects(path):
            for name in names:
                columns[name].append(row.get(name))
    except (ValueError, AttributeError):  # objects that go over several lines: Arrow alone reads those
        return table
    features = {name: _feature("string", is_list=_is_list(schema.field(name).type)) for name in names}
    texts = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    order = table.column_names
    others = [name for name in order if name not in names]
    if not others:
        return texts
    return datasets.concatenate_datasets([table.select_columns(others), texts], axis=1).select_columns(order)


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        first = file.read(1)
        while first.isspace():
            first = file.read(1)
        file.seek(0)
        if first == "[":
            yield from json.load(file)
            return
        text, decoder, at = file.read(), json.JSONDecoder(), 0
        while (at := _behind_blanks(text, at)) < len(text):  # an object may go over several lines
            value, at = decoder.raw_decode(text, at)
            yield value


def _behind_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def refuse_columns_of_json(path: Path, name: str, *, has_lists: bool) -> None:
    """Refuses a JSON file that holds one object of whole columns.

    Args:
        path: The file.
        name: What it is called in the message.
        has_lists: Whether a row is lists, as of words.

    Raises:
        DataError: It does.
    """
    with path.open(encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
        is_only = not any(line.strip() for line in file)
    try:
        record = json.loads(first if is_only else path.read_text(encoding="utf-8-sig")) if first[:1] == "{" else None
    except ValueError:  # an object a line, or what the reader reports
        return
    columns: tuple[type, ...] = (dict,) if has_lists else (list, dict)
    below = next((key for key, value in record.items() if _is_rows(value)), None) if isinstance(record, dict) else None
    if below is not None:
        raise DataError(f"{name}: is one object, whose rows are below {below!r}; write those alone, an object a line")
    if isinstance(record, dict) and record and all(isinstance(value, columns) for value in record.values()):
        raise DataError(
            f"{name}: is one object of columns, not an object a line; write it with df.to_json(path, "
            "orient='records', lines=True)"
        )
