"""Checks of CSV and TSV files that `datasets` would read silently wrong."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frostline.data.label_values import NULL_OF_DATABASES
from frostline.errors import DataError

_ESCAPE = r"'dataset.escape=\\'"
"""As it is typed in a shell."""


_SPACED_QUOTE = re.compile(r'[ \t]+"')


_ESCAPED_QUOTE = re.compile(r'\\"(?=[^,;\t|\r\n"])')


def check_fields(path: Path, options: dict[str, Any], stray: int | None = None) -> tuple[str, ...]:
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
    check = _FieldCheck(path, options)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(
            _looked_through(file, check.odd), delimiter=options["sep"], quoting=options["quoting"],
            escapechar=options["escapechar"], strict=stray is None,
        )  # fmt: skip
        before = 0
        try:
            for fields in rows:
                check.row(fields, before)
                check.num_long += rows.line_num - before > 1
                before = rows.line_num
        except csv.Error as error:
            if stray is None:  # strictly read: is it read at all?
                return check_fields(path, options, rows.line_num)
            is_quoted = options["quoting"] != csv.QUOTE_NONE
            hint = "; if a stray quote stands in a text, use dataset.quoted=false" if is_quoted else ""
            raise DataError(f"{path.name}, line {rows.line_num}: {error}{hint}") from error
    return check.notes(stray)


class _FieldCheck:
    """The rows of a CSV file, checked one after the other.

    Args:
        path: The file.
        options: With which it is read.
    """

    def __init__(self, path: Path, options: dict[str, Any]) -> None:
        self._name, self._options = path.name, options
        self._num_columns = len(options["column_names"])
        self._num_rows = 0
        self._like_header: list[str] = []
        self.odd = _odd_lines(options)
        self.num_long = 0
        """Rows that go over several lines."""

    def row(self, fields: list[str], lines_before: int) -> None:
        """Checks one row.

        Raises:
            DataError: It has more or fewer fields than there are columns, or a field that is not what it looks like.
        """
        where, options = f"{self._name}, line {lines_before + 1}", self._options
        is_spaced = self.odd["spaced"].lines[-1:] > [lines_before] and any(map(_SPACED_QUOTE.match, fields))
        if is_spaced:
            raise DataError(
                f"{where}: a blank stands between the separator and the quote of a field, so that both are part of the "
                f"text: remove such blanks, or use dataset.quoted=false"
            )
        if self.odd["null"].lines:
            raise DataError(
                f"{where}: holds {NULL_OF_DATABASES}, with which databases mean no value; with dataset.escape it would "
                f"be the text N: leave the field empty"
            )
        if fields and len(fields) != self._num_columns:
            raise DataError(
                f"{where}: has {len(fields)} fields, there are {self._num_columns} columns{self._hint(fields)}"
            )
        if self._num_rows == 0 and options["skiprows"] == 0:
            names = [name.casefold() for name in options["column_names"]]
            self._like_header = [each for name, each in zip(names, fields, strict=False) if each.casefold() == name]
        is_rule = bool(fields) and all(re.fullmatch("-{2,}", each) for each in fields)
        if self._num_rows and (is_rule or fields == options["column_names"]):
            raise DataError(f"{where}: is no row, but the header once more or a rule: remove the line")
        self._num_rows += bool(fields)

    def _hint(self, fields: list[str]) -> str:
        """Returns why a row may have another number of fields."""
        if self._num_rows == 1 and len(fields) == self._num_columns + 1 and fields[0] == "1":
            return "; if the first is the number of the row, as R writes it, write without (row.names=FALSE)"
        if self.odd["escaped"].lines:
            return f'; if \\" is a quote there, use {_ESCAPE}'
        sign = next((sign for sign in ";\t|" if sign in "".join(self._options["column_names"])), None)
        if self._num_columns == 1 and sign is not None:
            way = "dataset.format=tsv" if sign == "\t" else f"'dataset.separator=\"{sign}\"'"
            return f"; if {sign!r} stands between its columns, give {way}"
        return "; quote texts that hold a separator" if len(fields) > self._num_columns else ""

    def notes(self, stray: int | None) -> tuple[str, ...]:
        """Returns what a person may have meant otherwise."""
        name, notes = self._name, list[str]()
        if self.num_long:
            notes.append(
                f"rows that go over several lines: {self.num_long} (if that is a stray quote, use dataset.quoted=false)"
            )
        if stray is not None:
            notes.append(
                f"{name}, line {stray}: something stands behind the closing quote of a field, and these quotes are "
                "left out (if quotes are ordinary characters there, use dataset.quoted=false)"
            )
        if escaped := self.odd["escaped"].lines:
            notes.append(
                f'{name}: {len(escaped)} lines hold \\", the first is line {escaped[0]} (if that is a quote within a '
                f"text, use {_ESCAPE})"
            )
        if letters := self.odd["letter"].lines:
            notes.append(
                f"{name}: {len(letters)} lines hold \\n, \\r or \\t, the first is line {letters[0]}: dataset.escape "
                "makes the letters n, r and t of them; write line ends and tabs as such"
            )
        if self._like_header:
            notes.append(
                f"{name}: its first line is a row, and holds {self._like_header[0]!r}, the name of a column (if that "
                "line names the columns, leave dataset.columns=null)"
            )
        return tuple(notes)


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


def refuse_excel_line(path: Path) -> None:
    """Refuses a file whose first line names the separator, for Excel alone.

    Raises:
        DataError: It does.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = next((line for line in file if line.strip()), "")
    match = re.fullmatch("sep=(.)", line.strip("\r\n "), re.IGNORECASE)
    if match:
        raise DataError(
            f"{path.name}: its first line, sep={match.group(1)}, is for Excel alone: remove it, and give "
            f"'dataset.separator=\"{match.group(1)}\"'"
        )


def first_row(path: Path, **form: Any) -> tuple[list[str], int]:
    """Returns the fields of the first line that has any, and how many blank ones stand before it."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            for blanks, fields in enumerate(csv.reader(file, **form)):
                if fields:
                    return fields, blanks
            return [], 0
        except csv.Error as error:
            raise DataError(f"{path.name}, line 1: {error}") from error
