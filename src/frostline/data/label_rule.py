"""What a raw label means: a class, several classes, a number, or nothing."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from frostline.data.lists import list_in, refuse_bare_list
from frostline.errors import DataError, listing, nearest
from frostline.spec import MissingLabels

if TYPE_CHECKING:
    from frostline.data.raw_table import RawTable

NULL_OF_DATABASES = r"\N"
"""What MySQL and PostgreSQL write for no value."""

_EXACT = 2**53
"""From here on two whole numbers may be one floating-point number."""

_LARGEST = 3.4028234e38

_IGNORED = "-100"
"""What PyTorch's cross entropy leaves out, and exports of tokenized data hold therefore."""

_MISSING_WORDS = frozenset({"NA", "N/A", "n/a", "#N/A", "nan", "NaN", "<NA>", "None", "null", "NULL", "NaT"})
"""What R, pandas, databases and spreadsheets write for no value: to classes a name like any other."""

_FEW = 8
"""So many names stand in a note at most."""

_TRUTHS = frozenset({"true", "false"})


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """Maps raw labels to class ids or numbers. A subclass is one kind of label.

    Attributes:
        names: Class names in the order of their ids; empty if labels are numbers.
        missing: What becomes of a row without a label.
        notes: What the user should know of, a line each.
    """

    names: tuple[str, ...]
    missing: MissingLabels = MissingLabels.REFUSE
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __call__(self, value: Any) -> Any:
        """Returns the label of a raw value, or None to drop the row.

        Raises:
            DataError: It has none; the caller names the row.
        """
        if not self.is_missing(value):
            return self.label(value)
        if self.missing is MissingLabels.DROP:
            return None
        return self.without_label()

    def label(self, value: Any) -> Any:
        """Returns the label of a raw value that is not missing.

        Raises:
            DataError: It has none.
        """
        raise NotImplementedError

    def is_missing(self, value: Any) -> bool:
        """Returns whether a raw value is no label."""
        return is_missing(value)

    def without_label(self) -> Any:
        """Returns the label of a row without one.

        Raises:
            DataError: Such rows are refused.
        """
        raise DataError("the label is missing; dataset.missing_labels=drop leaves such rows out")

    def check_same_form(self, values: Sequence[Any], name: str, column: str) -> None:
        """Checks that another file writes labels as the training rows do.

        Args:
            values: Its raw labels.
            name: Of the file.
            column: Of the labels.

        Raises:
            DataError: It doesn't.
        """

    def identity(self) -> list[str]:
        """Returns what tells tables that were made by this kind of rule from those of other kinds."""
        return []


@dataclass(frozen=True, kw_only=True)
class NumberRule(LabelRule):
    """Labels are numbers."""

    def label(self, value: Any) -> float:
        """See `LabelRule`."""
        return _number(value)

    def is_missing(self, value: Any) -> bool:
        """See `LabelRule`."""
        return is_missing(value) or (isinstance(value, str) and value.strip() in _MISSING_WORDS)


@dataclass(frozen=True, kw_only=True)
class ThresholdRule(NumberRule):
    """Labels are ratings, of which a threshold makes two classes.

    Attributes:
        threshold: Ratings above it are the second class.
        dead_zone: Ratings nearer than this to the threshold are dropped.
    """

    threshold: float
    dead_zone: float

    def label(self, value: Any) -> Any:
        """See `LabelRule`."""
        distance = _number(value) - self.threshold
        return None if abs(distance) < self.dead_zone else int(distance > 0)


@dataclass(frozen=True, kw_only=True)
class ClassRule(LabelRule):
    """Labels name a class.

    Attributes:
        classes: Raw value -> id.
    """

    classes: Mapping[Any, int]

    def label(self, value: Any) -> Any:
        """See `LabelRule`."""
        if not isinstance(value, (str, int, float)):
            raise DataError(f"expected a label, got {type(value).__name__}")
        if is_missing(value):
            raise DataError("a label of the list is blank")
        has_truths = any(isinstance(known, bool) for known in self.classes)
        # To Python, True is also 1. What names a class is known by its name, however another file writes it.
        if value not in self.classes or isinstance(value, bool) != has_truths:
            known_id = self.classes.get(_name(value))
            if known_id is not None:
                return known_id
            spelling = _spelling(value, self.names)
            if spelling is not None and (has_truths or not isinstance(value, bool)):
                return self.names.index(spelling)
            raise DataError(f"label {value!r}{nearest(str(value), self.names)} is none of {listing(self.names)}")
        return self.classes[value]


@dataclass(frozen=True, kw_only=True)
class SetRule(ClassRule):
    """Labels name any number of classes; a label is a whole number in which bit i stands for class i.

    Attributes:
        separator: Between class names in one text.
    """

    separator: str

    def label(self, value: Any) -> int:
        """See `LabelRule`."""
        listed = members(value, self.separator)
        bits = 0
        for item in listed:
            bits |= 1 << int(ClassRule.label(self, item))
        if len(listed) > bits.bit_count() and all(_whole(item) is not None for item in listed):
            raise DataError(
                f"{value!r} names a class twice; a 0 or a 1 for each class wants these alone, in lists of one length"
            )
        return bits

    def is_missing(self, value: Any) -> bool:
        """See `LabelRule`: nothing between separators is no label."""
        return is_missing(value) or (isinstance(value, str) and not value.strip(f"{self.separator} "))

    def without_label(self) -> int:
        """See `LabelRule`."""
        return _no_class(self.missing)

    def check_same_form(self, values: Sequence[Any], name: str, column: str) -> None:
        """See `LabelRule`: `[0, 1]` would be taken for the classes of these names."""
        try:
            width = MultiHotRule.width(values, self.separator)
        except DataError:  # said again with its row, when that is labelled
            return
        if width == len(self.names):
            raise DataError(
                f"{name}: its labels are a 0 or a 1 for each class, those of the training rows name their classes: "
                f"write both alike (dataset.label_column={column})"
            )

    def identity(self) -> list[str]:
        """See `LabelRule`."""
        return [self.separator]


@dataclass(frozen=True, kw_only=True)
class MultiHotRule(LabelRule):
    """Labels are a 0 or a 1 for each class, in a list or a text.

    Attributes:
        separator: Between the parts of a text.
    """

    separator: str

    def label(self, value: Any) -> int:
        """See `SetRule`."""
        # `[]` is a row of no class
        bits = [_bit(item) for item in members(value, self.separator)] or [False] * len(self.names)
        if len(bits) != len(self.names) or None in bits:
            raise DataError(f"expected {len(self.names)} times 0 or 1, got {value!r}")
        return sum(1 << index for index, bit in enumerate(bits) if bit)

    def is_missing(self, value: Any) -> bool:
        """See `SetRule`."""
        return is_missing(value) or (isinstance(value, str) and not value.strip(f"{self.separator} "))

    def without_label(self) -> int:
        """See `LabelRule`."""
        return _no_class(self.missing)

    def identity(self) -> list[str]:
        """See `LabelRule`."""
        return [self.separator]

    @staticmethod
    def width(values: Sequence[Any], separator: str) -> int | None:
        """Returns how many classes rows have that are a 0 or a 1 for each; None if they are not.

        Args:
            values: The raw labels of all rows.
            separator: Between the parts of a text.
        """
        rows = [row for value in values if not is_missing(value) and (row := members(value, separator))]
        widths = {len(row) for row in rows}
        if len(widths) != 1 or min(widths) < 2:
            return None
        return widths.pop() if all(_bit(value) is not None for row in rows for value in row) else None


@dataclass(frozen=True, kw_only=True)
class WordRule(ClassRule):
    """Labels are lists, with the class of each word."""

    def label(self, value: Any) -> list[int]:
        """See `LabelRule`.

        Args:
            value: A list, a text that is one, or a text that is cut at its spaces.
        """
        labels = members(value, None) if isinstance(value, str) else value
        if not isinstance(labels, (list, tuple)):
            raise DataError(f"expected a list of labels, got {type(labels).__name__}")
        if any(item is None for item in labels):
            raise DataError("a word has no label")
        if any(str(item) == _IGNORED for item in labels):
            raise DataError(
                f"the label {_IGNORED} marks words without a label, which are not taken: give each word one"
            )
        return [int(ClassRule.label(self, item)) for item in labels]

    def without_label(self) -> Any:
        """See `LabelRule`."""
        raise DataError("the labels are missing; dataset.missing_labels=drop leaves such rows out")

    def identity(self) -> list[str]:
        """See `LabelRule`."""
        return ["by word"]


def _no_class(missing: MissingLabels) -> int:
    if missing is MissingLabels.NO_CLASS:
        return 0
    way = "no_class takes them for rows of no class"
    raise DataError(f"the label is missing; dataset.missing_labels=drop leaves such rows out, {way}")


def is_missing(value: Any) -> bool:
    r"""Returns whether a raw label is none: nothing, a text of blanks, a NaN, or `\N` as databases write it."""
    is_blank = isinstance(value, str) and value.strip() in {"", NULL_OF_DATABASES}
    return value is None or is_blank or (isinstance(value, float) and math.isnan(value))


def names_of(classes: Mapping[Any, int]) -> tuple[str, ...]:
    """Returns the names of classes that were found in a column, in the order of their ids."""
    by_id = {index: _name(value) for value, index in classes.items()}
    if all(_is_truth(name) for name in by_id.values()):
        by_id = {index: name.capitalize() for index, name in by_id.items()}
    return tuple(by_id[index] for index in sorted(by_id))


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
    missing = ", ".join(name for name in names if name in _MISSING_WORDS)
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


def members(value: Any, separator: str | None) -> list[Any]:
    """Returns the classes of a row that may have several: the parts of a text, or the members of a list.

    Args:
        value: The raw label; a text may hold a list, as JSON or Python write it.
        separator: Between the parts of a text; None: spaces.

    Raises:
        DataError: The text starts and ends like a list, but is not one.
    """
    if isinstance(value, str):
        found = list_in(value)
        if found is not None:
            return found
        if separator is None:
            refuse_bare_list(value)
        return [part.strip() for part in value.split(separator) if part.strip()]
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]


def class_words(label: int, names: Sequence[str], separator: str | None) -> str:
    """Returns a label in words: its class, or where a row may have several, those whose bits are set."""
    if separator is None:
        return names[label]
    return separator.join(name for index, name in enumerate(names) if label >> index & 1)


def _bit(value: Any) -> bool | None:
    """Returns whether a member of a multi-hot row is 1 or true; None: it is neither 0 nor 1."""
    if isinstance(value, str) and _is_truth(value):
        return value.lower() == "true"
    number = _whole(value)
    return bool(number) if number in {0, 1} else None


def class_ids(values: Sequence[Any], names: Sequence[str] | None, column: str) -> dict[Any, int]:
    """Returns raw value -> id: by name, by number within the names, or by order.

    Args:
        values: The different raw labels.
        names: Of the classes; None derives them.
        column: Of the labels, for messages.

    Raises:
        DataError: A label is none of the names, or labels are no classes.
    """
    vague = next((value for value in values if isinstance(value, float) and abs(value) >= _EXACT), None)
    if vague is not None:
        raise DataError(
            f"dataset.label_column={column}: the label {vague:.0f} is a floating-point number, which from 2**53 on may "
            "stand for several whole ones: write such labels as text"
        )
    if names is not None and all(_spelling(value, names) for value in values):
        by_name: dict[Any, int] = {name: index for index, name in enumerate(names)}
        return by_name | {value: by_name[str(_spelling(value, names))] for value in values}
    if names is None and all(_is_truth(value) for value in values):
        truths = sorted({str(value).capitalize() for value in values})
        by_truth = {each: n for n, truth in enumerate(truths) for each in (truth == "True", *_spellings(truth))}
        return by_truth | {value: truths.index(str(value).capitalize()) for value in values}
    numbers = [_whole(value) for value in values]
    if all(number is not None for number in numbers):
        if names is None:
            order = {number: index for index, number in enumerate(sorted({int(n) for n in numbers if n is not None}))}
            ordered = sorted(zip(values, numbers, strict=True), key=lambda pair: pair[1] or 0)
            return {value: order[int(number)] for value, number in ordered if number is not None}
        if all(_whole(name) is not None for name in names):  # one missing class would turn names into ids
            odd = next(value for value in values if not _spelling(value, names))
            raise DataError(f"dataset.label_column={column}: label {_name(odd)!r} is none of {listing(names)}")
        wrong = [n for n in numbers if n is not None and not 0 <= n < len(names)]
        if wrong:
            raise DataError(
                f"dataset.label_column={column}: label {wrong[0]} is out of range: {len(names)} classes have the "
                f"ids 0 to {len(names) - 1}"
            )
        by_number: dict[Any, int] = {str(index): index for index in range(len(names))}
        found = {value: int(number) for value, number in zip(values, numbers, strict=True) if number is not None}
        return by_number | found
    if all(_is_fraction(value) for value in values):
        raise DataError(
            f"dataset.label_column={column}: its values are fractions ({values[0]}): give dataset.threshold to make "
            f"two classes of them, or dataset.task=regression"
        )
    if names is None:  # "1" and "1.0" are one class here, too
        texts = sorted({_name(value) for value in values})
        return {value: texts.index(_name(value)) for value in sorted(values, key=str)}
    wrong_names = sorted(str(value) for value in values if value not in names)
    raise DataError(
        f"dataset.label_column={column}: label {wrong_names[0]!r}{nearest(wrong_names[0], names)} is none of "
        f"{listing(names)}"
    )


def _name(value: Any) -> str:
    """Returns the name of a class: a number as `1`, however it is written; a truth value as CSV files have it."""
    if isinstance(value, bool):
        return str(value)
    whole = _whole(value)
    return str(value if whole is None else whole)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in _TRUTHS)


def _spellings(name: str) -> tuple[str, ...]:
    """Returns a name, and if it is a truth value all ways in which files write it."""
    return (name, name.capitalize(), name.lower(), name.upper()) if name.lower() in _TRUTHS else (name,)


def _spelling(value: Any, names: Sequence[str]) -> str | None:
    """Returns which of the names a value is."""
    return next((name for name in _spellings(_name(value)) if name in names), None)


def _whole(value: Any) -> int | None:
    """Returns the whole number that a value is; a text like `007` or `1e3` is a text."""
    if isinstance(value, str):
        match = re.fullmatch(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?", value.strip())
        return int(match.group(1)) if match else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(value) if isinstance(value, int) else None


def _is_fraction(value: Any) -> bool:
    return isinstance(value, float) or bool(
        re.fullmatch(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", str(value))
    )


def is_number(value: Any) -> bool:
    """Returns whether a raw label is a finite number, as files write them."""
    if isinstance(value, str) and not re.fullmatch(
        r"\s*[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\s*", value
    ):
        return False  # Python reads 1_001 as a number, too
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _number(value: Any) -> float:
    if isinstance(value, bool) or not is_number(value):
        raise DataError(f"the label {value!r} is not a finite number")
    if abs(float(value)) > _LARGEST:
        raise DataError(f"the label {value!r} is larger than what a model computes with (float32)")
    return float(value)
