"""Reads a file or a hub data set into one table of raw columns."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from frostline.data.column_types import as_written, refuse_columns_of_json
from frostline.data.compression import decompressed, is_compressed
from frostline.data.conll import read_conll
from frostline.data.delimited import check_fields, first_row, refuse_excel_line
from frostline.data.image_files import read_images, read_pixels
from frostline.data.raw_table import RawTable
from frostline.data.table_cache import load_cached
from frostline.errors import DataError, as_user_error, first_line
from frostline.files import is_lfs_pointer
from frostline.hashes import file_sha256, hashes_of
from frostline.registry import Registry
from frostline.spec import DatasetSpec, Format, Source

_BY_EXTENSION = {
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".tab": Format.TSV,
    ".jsonl": Format.JSONL,
    ".json": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".conll": Format.CONLL,
    ".bio": Format.CONLL,
    ".iob": Format.CONLL,
    ".iob2": Format.CONLL,
    ".parquet": Format.PARQUET,
}


logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)  # it raises what it logs


_SIGNATURES = {
    b"\x1f\x8b": "packed by gzip: let its name end in .gz",
    b"PK": "a zip archive or a spreadsheet: let an archive's name end in .zip; save a spreadsheet as CSV",
    b"\xff\xfe": "UTF-16, not UTF-8; convert it, for example with iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8; convert it, for example with iconv -f UTF-16 -t UTF-8",
}
"""First bytes of files that are no text, and what to do with them."""

_JSON_PIECE = 10 << 20
"""Bytes, as `datasets` has it."""


READERS: Registry[Callable[[Path, DatasetSpec], Mapping[str, Sequence[Any]]]] = Registry("file format")
"""Readers of further file formats by extension, without its dot: path, spec -> columns by name, all of one length.
Register your own in a plugin: `@READERS.register("arff")`."""


def read_file(path: Path, spec: DatasetSpec, cache_dir: Path) -> RawTable:
    """Reads a local file into a memory-mapped table.

    Args:
        path: The file.
        spec: Its format, column names and quoting.
        cache_dir: Where the table is kept; the same content is converted once.

    Raises:
        DataError: It is empty, not UTF-8, holds NUL bytes, or isn't of its format; one line, with the line number.
    """
    if path.is_dir() or spec.format in {Format.PIXELS, Format.FOLDER}:
        return _read_images(path, spec)
    extension = path.suffix.lower().removeprefix(".")
    if spec.format is Format.AUTO and path.suffix.lower() not in _BY_EXTENSION and extension in READERS:
        table = datasets.Dataset.from_dict(dict(READERS.get(extension)(path, spec)))
        if len(table) == 0:
            raise DataError(f"{path}: holds no rows")
        return RawTable(table=table, fingerprint=file_sha256(path), name=path.name, folder=path.parent)
    original = path
    path, form = _prepared(path, spec, cache_dir)
    sha256 = file_sha256(path) if form is Format.PARQUET else _check_text(path)
    if form is Format.CONLL:
        return read_conll(path, sha256)
    if form is Format.JSONL:
        refuse_columns_of_json(
            path, original.name, has_lists=spec.task.labels_words or spec.messages_column is not None
        )
    builder, options = _builder(path, form, spec)
    notes = check_fields(path, options) if builder == "csv" else ()
    folder = cache_dir / sha256[:20]

    def load() -> datasets.Dataset:
        every: Any = options
        return datasets.load_dataset(builder, data_files=[str(path)], split="train", cache_dir=str(folder), **every)

    def unreadable(error: BaseException) -> DataError:
        if "corresponds to no data" in str(error) or _is_empty_parquet(path):  # the builder's words for no rows
            return _no_rows(path, form)
        is_quoted = options.get("quoting", csv.QUOTE_NONE) != csv.QUOTE_NONE
        hint = "; if a stray quote stands in a text, use dataset.quoted=false" if is_quoted else ""
        return DataError(f"{original.name}: can't be read as {form.value}: {_cause(error)}{hint}")

    with as_user_error(unreadable):
        table = load_cached(folder, load)
    if len(table) == 0:
        raise _no_rows(path, form)
    if form is Format.JSONL:
        table = as_written(path, table)
    return RawTable(table=table, fingerprint=sha256, name=original.name, notes=notes, folder=original.parent)


def _read_images(path: Path, spec: DatasetSpec) -> RawTable:
    if path.is_dir():
        if not spec.is_image or spec.format not in {Format.AUTO, Format.FOLDER}:
            raise DataError(f"{path}: is a folder, not a file; of images, take dataset=image_folder")
        return read_images(path)
    if spec.format is Format.FOLDER:
        raise DataError(
            f"{path}: is a file; dataset.format=folder wants a folder with a folder of images for each class"
        )
    return read_pixels(path)


def _prepared(path: Path, spec: DatasetSpec, cache_dir: Path) -> tuple[Path, Format]:
    """Returns a file, decompressed, and its format."""
    original = path
    if path.stat().st_size and is_lfs_pointer(path):
        raise DataError(f"{path}: is a git-lfs pointer, not the file: git lfs pull fetches it")
    if is_compressed(path):
        if path.stat().st_size == 0:
            raise DataError(f"{path}: is empty")
        path = decompressed(path, cache_dir)
    form = _BY_EXTENSION.get(path.suffix.lower()) if spec.format is Format.AUTO else spec.format
    if form is None:
        known = ", ".join(sorted(_BY_EXTENSION))
        raise DataError(f"{path.name}: unknown format: give dataset.format, or an extension of {known}")
    if path.stat().st_size == 0:
        raise DataError(f"{original}: is empty")
    return path, form


def read_hub(spec: DatasetSpec, split: str, cache_dir: Path) -> RawTable:
    """Reads one split of a hub dataset, or of a local folder in the layout of one.

    Raises:
        DataError: There is no such split or subset.
        Exception: Whatever the hub raises; the caller names it.
    """
    assert spec.source is Source.HUB
    folder = cache_dir / f"hub-{hashlib.sha256(spec.location.encode()).hexdigest()[:20]}"

    def load() -> datasets.Dataset:
        return datasets.load_dataset(
            spec.location, spec.subset, split=split, revision=spec.revision, cache_dir=str(folder)
        )

    try:
        table = load_cached(folder, load, again=False)
    except ValueError as error:
        raise DataError(f"dataset.location={spec.location}: {_cause(error)}") from error
    if len(table) == 0:
        raise DataError(f"{spec.location}: split {split} holds no rows")
    identity = f"{spec.location}:{spec.subset}:{split}:{table._fingerprint}"
    if Path(spec.location).is_dir():  # by its content, wherever it lies
        identity = f"{_content(Path(spec.location))}:{spec.subset}:{split}"
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()
    return RawTable(table=table, fingerprint=fingerprint, name=f"{spec.location} ({split})")


def _content(folder: Path) -> str:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(json.dumps(hashes_of(folder, names)).encode()).hexdigest()


def image_names(path: Path, spec: DatasetSpec, cache_dir: Path) -> list[str]:
    """Returns the files that a table of images names, as it names them; none if the images lie in it.

    Raises:
        DataError: It can't be read.
    """
    raw = read_file(path, spec, cache_dir)
    column = spec.image_column
    if column is None or column not in raw.table.column_names or isinstance(raw.table.features[column], datasets.Image):
        return []
    return sorted({value for value in raw.table[column] if isinstance(value, str) and value})


def _is_empty_parquet(path: Path) -> bool:
    try:
        return bool(pq.ParquetFile(path).metadata.num_rows == 0)
    except (OSError, pa.ArrowException):
        return False


def _no_rows(path: Path, form: Format) -> DataError:
    return DataError(f"{path}: holds {'a header line and ' if form in {Format.CSV, Format.TSV} else ''}no rows")


def _builder(path: Path, form: Format, spec: DatasetSpec) -> tuple[str, dict[str, Any]]:
    if form is Format.PARQUET:
        return "parquet", {}
    if form is Format.JSONL:
        # In one piece: the kind of a column is found for each piece apart, and texts of another kind would be encoded.
        return "json", {"chunksize": max(_JSON_PIECE, path.stat().st_size + 1)}
    assert form is not Format.CONLL, "read by read_conll"
    separator = spec.separator or ("\t" if form is Format.TSV else ",")
    quoting = csv.QUOTE_MINIMAL if spec.quoted else csv.QUOTE_NONE
    refuse_excel_line(path)
    first, blanks = first_row(path, delimiter=separator, quoting=quoting, escapechar=spec.escape)
    if spec.columns is None:
        columns = first
        if not any(name.strip() for name in columns):
            raise DataError(
                f"{path.name}: its first line holds no column names; without a header line give dataset.columns"
            )
    else:
        columns = list(spec.columns)
        if [name.strip().casefold() for name in first] == [name.casefold() for name in columns]:
            raise DataError(
                f"{path.name}: its first line holds the names in dataset.columns, and would be a row: leave "
                "dataset.columns=null"
            )
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated and not repeated[0].strip():
        raise DataError(
            f"{path.name}: {columns.count(repeated[0])} columns of its first line have no name: remove the separators "
            "at the ends of its lines, or if that line is a title, the line"
        )
    if repeated:
        raise DataError(f"{path.name}: column {repeated[0]!r} stands in its header more than once")
    return "csv", {
        "sep": separator,
        "column_names": columns,
        "header": None,
        "skiprows": 0 if spec.columns is not None else 1 + blanks,
        "quoting": quoting,
        "escapechar": spec.escape,
        # Everything is text until its meaning is known: no "NA" that becomes null, no "007" that becomes 7.
        "features": datasets.Features({name: datasets.Value("string") for name in columns}),
        "keep_default_na": False,
        "encoding": "utf-8-sig",
    }


def _check_text(path: Path) -> str:
    """Returns the sha256 of a text file, read line by line; refuses what the readers would mangle."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            digest.update(line)
            kind = _SIGNATURES.get(line[:2]) if number == 1 else None
            if kind is not None:
                raise DataError(f"{path.name}: is {kind}")
            if b"\0" in line:
                raise DataError(f"{path.name}, line {number}: holds a NUL byte: is it a text file in UTF-8?")
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path.name}, line {number}: is not UTF-8 (byte {error.start + 1}); convert it, as with "
                    f"iconv -f LATIN1 -t UTF-8"
                ) from error
    return digest.hexdigest()


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
