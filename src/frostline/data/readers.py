"""Owns: a file or a hub dataset -> one table of raw columns. Must not know: what the columns mean."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from frostline.data.column_types import as_written, refuse_columns_of_json
from frostline.data.compression import decompressed, is_compressed
from frostline.data.image_files import read_images, read_pixels
from frostline.data.label_rule import NULL_OF_DATABASES
from frostline.data.raw_table import RawTable
from frostline.data.table_cache import load_cached
from frostline.errors import DataError
from frostline.files import is_lfs_pointer
from frostline.hashes import file_sha256, hashes_of
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

_ESCAPE = r"'dataset.escape=\\'"
"""As it is typed in a shell."""

_SIGNATURES = {
    b"\x1f\x8b": "packed by gzip: let its name end in .gz",
    b"PK": "a zip archive or a spreadsheet: let an archive's name end in .zip; save a spreadsheet as CSV",
    b"\xff\xfe": "UTF-16, not UTF-8; convert it, as with iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8; convert it, as with iconv -f UTF-16 -t UTF-8",
}
"""First bytes of files that are no text, and what to do with them."""

_JSON_PIECE = 10 << 20
"""Bytes, as `datasets` has it."""

_COMMENT = re.compile(r"#\s*[\w ]+ = |#\s*new(doc|par)\b")
"""As CoNLL-U has them."""

_SPACED_QUOTE = re.compile(r'[ \t]+"')

_ESCAPED_QUOTE = re.compile(r'\\"(?=[^,;\t|\r\n"])')


def read_file(path: Path, spec: DatasetSpec, cache_dir: Path) -> RawTable:
    """Reads a local file into a memory-mapped table.

    Args:
        path: The file.
        spec: Its format, column names and quoting.
        cache_dir: Where the table is kept; the same content is converted once.

    Raises:
        DataError: It is empty, not UTF-8, holds NUL bytes, or isn't of its format; one line, with the line number.
    """
    if path.is_dir():
        if not spec.is_image or spec.format not in {Format.AUTO, Format.FOLDER}:
            raise DataError(f"{path}: is a folder, not a file; of images, take dataset=image_folder")
        return read_images(path)
    if spec.format is Format.PIXELS:
        return read_pixels(path)
    if spec.format is Format.FOLDER:
        raise DataError(
            f"{path}: is a file; dataset.format=folder wants a folder with a folder of images for each class"
        )
    given = path
    if path.stat().st_size and is_lfs_pointer(path):
        raise DataError(f"{path}: is a git-lfs pointer, not the file: git lfs pull fetches it")
    if is_compressed(path):
        if path.stat().st_size == 0:
            raise DataError(f"{path}: is empty")
        path = decompressed(path, cache_dir)
    form = _BY_EXTENSION.get(path.suffix.lower()) if spec.format is Format.AUTO else spec.format
    if form is None:
        known = ", ".join(sorted(_BY_EXTENSION))
        raise DataError(f"{path.name}: can't tell its format: give dataset.format, or an extension of {known}")
    if path.stat().st_size == 0:
        raise DataError(f"{given}: is empty")
    sha256 = file_sha256(path) if form is Format.PARQUET else _check_text(path)
    if form is Format.CONLL:
        return read_conll(path, sha256)
    if form is Format.JSONL:
        refuse_columns_of_json(path, given.name, has_lists=spec.task.labels_words)
    builder, options = _builder(path, form, spec)
    notes = _check_fields(path, options) if builder == "csv" else ()
    folder = cache_dir / sha256[:20]

    def load() -> datasets.Dataset:
        every: Any = options
        return datasets.load_dataset(builder, data_files=[str(path)], split="train", cache_dir=str(folder), **every)

    try:
        table = load_cached(folder, load)
    except Exception as error:
        if "corresponds to no data" in str(error) or _is_empty_parquet(path):  # the builder's words for no rows
            raise _no_rows(path, form) from error
        is_quoted = options.get("quoting", csv.QUOTE_NONE) != csv.QUOTE_NONE
        hint = "; if a stray quote stands in a text, use dataset.quoted=false" if is_quoted else ""
        raise DataError(f"{given.name}: can't be read as {form.value}: {_cause(error)}{hint}") from error
    if len(table) == 0:
        raise _no_rows(path, form)
    if form is Format.JSONL:
        table = as_written(path, table)
    return RawTable(table=table, fingerprint=sha256, name=given.name, notes=notes, folder=given.parent)


def read_conll(path: Path, sha256: str) -> RawTable:
    """Reads sentences of the CoNLL shared tasks' form: on each line a word, perhaps more, and last the word's tag.

    Fields stand between tabs, or if a line has none between blanks. `-DOCSTART-` lines are left out, and comments:
    lines before a sentence that begin with `#` and have another number of fields than those of words, or are like
    `# sent_id = 1`.

    Returns:
        Columns `words` and `tags`, lists.

    Raises:
        DataError: A line has no tag, or other fields than most; one line, with its number.
    """
    sentences: dict[str, list[list[str]]] = {"words": [], "tags": []}
    words, tags = list[str](), list[str]()

    def end() -> None:
        if words:
            sentences["words"].append(words.copy())
            sentences["tags"].append(tags.copy())
        words.clear()
        tags.clear()

    with path.open(encoding="utf-8-sig", newline="\n") as file:
        given = file.readlines()
    has_tabs = 2 * sum("\t" in line for line in given) > sum(bool(line.strip()) for line in given)
    lines = [_conll_fields(line, has_tabs) for line in given]
    unclear = 0  # the first line that may be a comment, or a word that is a number sign
    usual = Counter(len(fields) for fields in lines if fields and not fields[0].startswith("#")).most_common(1)
    width = usual[0][0] if usual else 0
    for number, fields in enumerate(lines, 1):
        if not fields or fields[0].startswith("-DOCSTART-"):
            end()
        elif not fields[0].startswith("#") or words or len(fields) == width:
            if len(fields) < 2:
                raise DataError(f"{path.name}, line {number}: has a word ({fields[0]!r}) and no tag")
            if len(fields) != width:
                raise DataError(f"{path.name}, line {number}: has {len(fields)} fields, most lines have {width}")
            if fields[0] == "#" and not words:
                unclear = unclear or number
            words.append(fields[0])
            tags.append(fields[-1])
    end()
    if not sentences["words"]:
        raise DataError(f"{path}: holds no sentences")
    texts = datasets.Sequence(datasets.Value("string"))
    table = datasets.Dataset.from_dict(sentences, features=datasets.Features({"words": texts, "tags": texts}))
    long = [words for words in sentences["words"] if len(words) > 1]
    if long and all(words == [str(number) for number in range(1, len(words) + 1)] for words in long):
        raise DataError(
            f"{path.name}: its first column counts the words: keep the words and their tags, as with cut -f 2,4"
        )
    if len(long) > 1 and all(len(set(words)) == 1 for words in long):
        raise DataError(
            f"{path.name}: its first column is the same in each sentence: keep the words and their tags alone"
        )
    note = f"{path.name}, line {unclear}: '#' is taken for a word, as the line has as many fields as the others"
    return RawTable(
        table=table, fingerprint=sha256, name=path.name, folder=path.parent, notes=(note,) if unclear else ()
    )


def _conll_fields(line: str, has_tabs: bool) -> list[str]:
    """Returns the fields of a line; no other blank than these parts them: one may stand within a word.

    Args:
        line: Of the file.
        has_tabs: Whether most lines have: one that begins with `#` and has none is a comment then.
    """
    line = line.strip(" \t\r\n")
    is_comment = line.startswith("#") and (has_tabs or _COMMENT.match(line))
    if is_comment and "\t" not in line:
        return [line]
    parts = line.split("\t") if "\t" in line else re.split(" +", line)
    return [part.strip(" ") for part in parts if part.strip(" ")]


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
    _refuse_line_of_excel(path)
    first, blanks = _first_line(path, delimiter=separator, quoting=quoting, escapechar=spec.escape)
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


def _check_fields(path: Path, options: dict[str, Any], stray: int | None = None) -> tuple[str, ...]:
    """Refuses rows that pandas would read as something else without a word.

    Args:
        path: The file.
        options: With which it is read.
        stray: The first line in which something stands behind the closing quote of a field; None: not yet known.

    Returns:
        Notes on what a person may have meant otherwise.

    Raises:
        DataError: A row has more or fewer fields than there are columns, or a field that is not what it looks like.
    """
    csv.field_size_limit(sys.maxsize)
    wanted, several_lines = len(options["column_names"]), 0
    odd = _odd_lines(options)
    like_header = list[str]()
    num_rows = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(
            _looked_through(file, odd), delimiter=options["sep"], quoting=options["quoting"],
            escapechar=options["escapechar"], strict=stray is None,
        )  # fmt: skip
        before = 0
        try:
            for fields in rows:
                where = f"{path.name}, line {before + 1}"
                is_spaced = odd["spaced"].lines[-1:] > [before] and any(_SPACED_QUOTE.match(each) for each in fields)
                if is_spaced:
                    raise DataError(
                        f"{where}: a blank stands between the separator and the quote of a field, so that both are "
                        f"part of the text: remove such blanks, or use dataset.quoted=false"
                    )
                if odd["null"].lines:
                    raise DataError(
                        f"{where}: holds {NULL_OF_DATABASES}, with which databases mean no value; with dataset.escape "
                        f"it would be the text N: leave the field empty"
                    )
                if fields and len(fields) != wanted:
                    hint = "; quote texts that hold a separator" if len(fields) > wanted else ""
                    hint = f'; if \\" is a quote there, use {_ESCAPE}' if odd["escaped"].lines else hint
                    if num_rows == 1 and len(fields) == wanted + 1 and fields[0] == "1":
                        hint = (
                            "; if the first is the number of the row, as R writes it, write without (row.names=FALSE)"
                        )
                    raise DataError(f"{where}: has {len(fields)} fields, there are {wanted} columns{hint}")
                if num_rows == 0 and options["skiprows"] == 0:
                    names = [name.casefold() for name in options["column_names"]]
                    like_header = [each for name, each in zip(names, fields, strict=False) if each.casefold() == name]
                is_rule = bool(fields) and all(re.fullmatch("-{2,}", each) for each in fields)
                if num_rows and (is_rule or fields == options["column_names"]):
                    raise DataError(f"{where}: is no row, but the header once more or a rule: remove the line")
                num_rows += bool(fields)
                several_lines += rows.line_num - before > 1
                before = rows.line_num
        except csv.Error as error:
            if stray is None:  # strictly read: is it read at all?
                return _check_fields(path, options, rows.line_num)
            is_quoted = options["quoting"] != csv.QUOTE_NONE
            hint = "; if a stray quote stands in a text, use dataset.quoted=false" if is_quoted else ""
            raise DataError(f"{path.name}, line {rows.line_num}: {error}{hint}") from error
    notes: tuple[str, ...] = ()
    if several_lines:
        notes += (
            f"rows that go over several lines: {several_lines} (if that is a stray quote, use dataset.quoted=false)",
        )
    if stray is not None:
        notes += (
            f"{path.name}, line {stray}: something stands behind the closing quote of a field, and these quotes are "
            "left out (if quotes are ordinary characters there, use dataset.quoted=false)",
        )
    if escaped := odd["escaped"].lines:
        notes += (
            f'{path.name}: {len(escaped)} lines hold \\", the first is line {escaped[0]} (if that is a quote within a '
            f"text, use {_ESCAPE})",
        )
    if letters := odd["letter"].lines:
        notes += (
            f"{path.name}: {len(letters)} lines hold \\n, \\r or \\t, the first is line {letters[0]}: dataset.escape "
            "makes the letters n, r and t of them; write line ends and tabs as such",
        )
    if like_header:
        notes += (
            f"{path.name}: its first line is a row, and holds {like_header[0]!r}, the name of a column (if that line "
            "names the columns, leave dataset.columns=null)",
        )
    return notes


@dataclass(frozen=True)
class _Odd:
    """A pattern, and the numbers of the lines in which it was found."""

    pattern: re.Pattern[str] | None
    lines: list[int] = field(default_factory=list)


def _odd_lines(options: dict[str, Any]) -> dict[str, _Odd]:
    """Returns what to look out for in the lines of a CSV file that is read so."""
    is_quoted, sep = options["quoting"] != csv.QUOTE_NONE, re.escape(options["sep"])
    escape = None if options["escapechar"] is None else re.escape(options["escapechar"])
    spaced = re.compile(rf'(?:^|{sep})[ \t]+"[^"{sep}\r\n]') if is_quoted else None
    return {
        "escaped": _Odd(_ESCAPED_QUOTE if is_quoted and escape is None else None),
        "spaced": _Odd(spaced),
        "null": _Odd(None if escape is None else re.compile(rf"(?:^|{sep}){escape}N(?:{sep}|[\r\n]|$)")),
        "letter": _Odd(None if escape is None else re.compile(rf"(?:^|[^{escape}])(?:{escape}{escape})*{escape}[nrt]")),
    }


def _looked_through(lines: Iterable[str], odd: dict[str, _Odd]) -> Iterator[str]:
    """Yields lines, and keeps the numbers of those that have something to look out for."""
    wanted = [each for each in odd.values() if each.pattern is not None]
    for number, line in enumerate(lines, 1):
        for each in wanted:
            assert each.pattern is not None
            if each.pattern.search(line):
                each.lines.append(number)
        yield line


def _refuse_line_of_excel(path: Path) -> None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = next((line for line in file if line.strip()), "")
    match = re.fullmatch("sep=(.)", line.strip("\r\n "), re.IGNORECASE)
    if match:
        raise DataError(
            f"{path.name}: its first line, sep={match.group(1)}, is for Excel alone: remove it, and give "
            f"'dataset.separator=\"{match.group(1)}\"'"
        )


def _first_line(path: Path, **form: Any) -> tuple[list[str], int]:
    """Returns the fields of the first line that has any, and how many blank ones stand before it."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            for blanks, fields in enumerate(csv.reader(file, **form)):
                if fields:
                    return fields, blanks
            return [], 0
        except csv.Error as error:
            raise DataError(f"{path.name}, line 1: {error}") from error


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
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
