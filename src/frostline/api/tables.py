"""Rows that a program holds in memory, kept as Parquet files under the hash of their content.

A run names its data by a file. Written under its content's hash, the same rows are the same file: a sweep resumes,
hidden states are found again, and a recorded run finds its rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.assets import home
from frostline.errors import DataError, as_user_error, first_line, listing
from frostline.files import written_whole

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "tables"
"""Below FROSTLINE_HOME."""

_HASH_DIGITS = 16

_PIECE = 1000
"""Rows that are hashed at once: a row may hold an image."""


@dataclass(frozen=True, kw_only=True)
class StoredTable:
    """A table on the disk.

    Attributes:
        path: Its Parquet file.
        columns: Names of its columns.
        class_names: Of columns of a `datasets.Dataset` that hold class ids: the names in the order of their ids. The
            file holds the names.
    """

    path: Path
    columns: tuple[str, ...]
    class_names: Mapping[str, tuple[str, ...]]


def store(rows: Any, argument: str) -> StoredTable:
    """Writes rows to a Parquet file below FROSTLINE_HOME, or finds the one that holds them.

    Args:
        rows: A pandas or polars data frame, a `datasets.Dataset`, an Arrow table, a list of dicts with a row each, or a
            dict with a list for each column.
        argument: What the caller calls them, for errors: `train`.

    Raises:
        DataError: Not a supported type of table, no rows, or values that Parquet can't hold: one line.
    """
    import pyarrow.parquet as pq

    table, names = _arrow(rows, argument)
    if not table.num_rows:
        raise DataError(f"{argument}: has no rows")
    digest = _digest(table)
    path = home() / FOLDER / f"{argument}-{digest[:_HASH_DIGITS]}.parquet"
    if not path.is_file():

        def refused(error: BaseException) -> DataError:
            return DataError(f"{argument}: can't be kept in {path}: {first_line(error)}")

        path.parent.mkdir(parents=True, exist_ok=True)
        with as_user_error(refused), written_whole(path) as temporary:
            pq.write_table(table, temporary)
    return StoredTable(path=path, columns=tuple(table.column_names), class_names=names)


def _arrow(rows: Any, argument: str) -> tuple[pa.Table, dict[str, tuple[str, ...]]]:
    """Returns rows as an Arrow table in a plain form, and the class names of columns that hold class ids."""
    import pyarrow as pa

    names: dict[str, tuple[str, ...]] = {}

    def refused(error: BaseException) -> DataError:
        words = "; ".join(str(part) for part in error.args) or first_line(error)
        return DataError(f"{argument}: is no table of plain values: {words}")

    kind = f"{type(rows).__module__.partition('.')[0]}.{type(rows).__name__}"
    with as_user_error(refused):
        if isinstance(rows, pa.Table):
            table = rows
        elif kind == "pandas.DataFrame":
            _refuse_repeated([str(name) for name in rows.columns], argument)
            table = pa.Table.from_pandas(rows, preserve_index=False)
        elif kind == "polars.DataFrame":
            table = rows.to_arrow()
        elif kind == "polars.LazyFrame":
            table = rows.collect().to_arrow()
        elif kind == "datasets.Dataset":
            table, names = _of_dataset(rows)
        elif isinstance(rows, Mapping) and all(isinstance(values, (list, tuple)) for values in rows.values()):
            table = pa.Table.from_pydict({str(name): list(values) for name, values in rows.items()})
        elif isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)):
            _refuse_others(rows, argument)
            table = pa.Table.from_pylist([dict(row) for row in rows])
        else:
            raise DataError(
                f"{argument}: a {type(rows).__name__} is no table; give a pandas or polars data frame, a "
                "datasets.Dataset, a list of dicts, or the path of a file"
            )
        _refuse_repeated(table.column_names, argument)
        return _plain(table), names


def _refuse_repeated(names: Sequence[str], argument: str) -> None:
    repeated = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
    if repeated:
        raise DataError(f"{argument}: has several columns of one name: {listing(repeated)}")


def _refuse_others(rows: Sequence[Any], argument: str) -> None:
    other = next((index for index, row in enumerate(rows) if not isinstance(row, Mapping)), None)
    if other is not None:
        raise DataError(f"{argument}: row {other + 1} is a {type(rows[other]).__name__}; give a dict for each row")


def _of_dataset(rows: Any) -> tuple[pa.Table, dict[str, tuple[str, ...]]]:
    """Returns the rows of a `datasets.Dataset` with class names in the place of class ids."""
    import pyarrow as pa
    from datasets import ClassLabel

    table = rows.with_format("arrow")[:]
    classes = {name: feature for name, feature in rows.features.items() if isinstance(feature, ClassLabel)}
    names = {}
    for name, feature in classes.items():
        names[name] = tuple(feature.names)
        # -1 stands for no label.
        values = [
            None if value is None or value < 0 else feature.names[value] for value in table.column(name).to_pylist()
        ]
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return table, names


def _plain(table: pa.Table) -> pa.Table:
    """Returns a table in which equal values have one form, whatever made them: pandas, polars, `datasets`."""
    import pyarrow as pa

    columns, fields = [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            kind = pa.string()
        values = column if kind == field.type else column.cast(kind)
        columns.append(values.combine_chunks() if values.num_chunks != 1 else values.chunk(0))
        fields.append(pa.field(field.name, kind))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _digest(table: pa.Table) -> str:
    """Returns the sha256 of a table's columns, names, types and values, whatever buffers hold them.

    Values are taken in Arrow's own form after a copy, so that a slice and a column with needless validity bits give
    what their values give.
    """
    import pyarrow as pa

    digest = hashlib.sha256()
    for field, column in zip(table.schema, table.columns, strict=True):
        digest.update(f"{field.name}\0{field.type}\0{len(column)}\0".encode())
        for start in range(0, len(column), _PIECE):
            copied = pa.array(column.slice(start, _PIECE).to_pylist(), field.type)
            sink = pa.BufferOutputStream()
            batch = pa.record_batch([copied], names=["values"])
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            digest.update(sink.getvalue())
    return digest.hexdigest()
