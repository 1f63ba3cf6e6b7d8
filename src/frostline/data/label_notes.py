"""Notes for the user on class names that look odd."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from frostline.data.label_values import MISSING_WORDS, is_missing, members
from frostline.errors import DataError

if TYPE_CHECKING:
    from frostline.data.raw_table import RawTable


_FEW = 8
"""So many names stand in a note at most."""


def note_lookalikes(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Returns a note on classes that a person may take for one.

    Args:
        names: Of the classes.
        where: Key and column, for the note.
    """
    seen: dict[str, str] = {}
    numbers: dict[int, str] = {}
    for name in names:
        number = re.fullmatch("[-+\u2212]?[0-9]+", name.strip("'\"\u201c\u201d"))
        if number:
            other = numbers.setdefault(int(number.group().replace("\u2212", "-")), name)
            if other != name:
                return (f"{where}: two classes for one number: {other!r}, {name!r}",)
        plain = "".join(sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign) != "Cf")
        other = seen.setdefault(" ".join(plain.split()).casefold(), name)
        if other == name:
            continue
        if " ".join(other.split()).casefold() == " ".join(name.split()).casefold():
            what, pair = "blanks or case", f"{other!r}, {name!r}"
        else:  # they look the same: written so that one sees what differs
            what, pair = "how Unicode writes them", f"{other!a}, {name!a}"
        return (f"{where}: classes that differ in {what} alone: {pair}",)
    return ()


def note_lists(names: Sequence[str], where: str, way: str) -> tuple[str, ...]:
    """Returns a note on classes that a person may have meant for lists of classes.

    Args:
        names: Of the classes.
        where: Key and column.
        way: How lists are given.
    """
    odd = next((name for name in names if name[:1] in "[{" or name[-1:] in "]}"), None)
    return () if odd is None else (f"{where}: {odd!r} is one class (if it is meant for a list: {way})",)


def note_missing(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Returns a note on classes that a person may have meant for missing values."""
    missing = ", ".join(name for name in names if name in MISSING_WORDS)
    return (f"{where}: {missing} is a class (if it stands for no value, leave the field empty)",) if missing else ()


def note_fractions_and_lists(names: Sequence[str], where: str, *, are_given: bool) -> tuple[str, ...]:
    """Returns notes on classes that a person may have meant for missing values, numbers, or several classes.

    Args:
        names: Of the classes.
        where: Key and column.
        are_given: Whether the config names the classes.
    """
    notes = list(note_missing(names, where))
    fractions = [name for name in names if re.fullmatch(r"-?[0-9]+[.,][0-9]+", name)]
    if fractions and not are_given:
        notes.append(
            f"{where}: {shortened(fractions)} are classes (if they are numbers: a point, nothing else in the column, "
            "and dataset.threshold or dataset.task=regression)"
        )
    several = next((name for name in names if re.search("[^ ][;|][^ ]", name)), None)
    if several is not None and not are_given:
        notes.append(f"{where}: {several!r} is one class (if it is meant for several: dataset.task=multi_label)")
    return tuple(notes)


def unique_members(raw: RawTable, column: str, separator: str | None) -> list[Any]:
    """Returns the different classes of rows that may have several, in the order in which they come.

    Args:
        raw: The table.
        column: Of the labels.
        separator: Between the parts of a text; None: spaces.

    Raises:
        DataError: A label can't be read as several.
    """
    unique: dict[Any, None] = {}
    for batch in raw.table.select_columns(column).iter(10_000):
        for value in batch[column]:
            if not is_missing(value):
                try:
                    unique.update(dict.fromkeys(members(value, separator)))
                except TypeError as error:
                    raise DataError(f"dataset.label_column={column}: holds lists of lists") from error
                except DataError as error:
                    raise DataError(f"dataset.label_column={column}: {error}") from error
    return [value for value in unique if not is_missing(value)]


def shortened(names: Sequence[str]) -> str:
    """Returns names for a note, the first few of many."""
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more
