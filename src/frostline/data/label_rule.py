"""Owns: what a raw label means - a class, a number, or nothing. Must not know: where rows come from."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from frostline.data.lists import list_in, refuse_bare_list
from frostline.errors import DataError, listing, nearest
from frostline.spec import DatasetSpec, MissingLabels, Task

_MAX_SHARE_OF_CLASSES = 0.5  # assumed: more classes than half the rows is an id or a measurement
_ALWAYS_FINE_CLASSES = 20
_MOST_WORD_CLASSES = 100

MOST_CLASSES = 52
"""Of a row that may have several: their bits make one number, which a double holds exactly."""

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

_SEPARATORS = ",;|/"
_TRUTHS = frozenset({"true", "false"})


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """Maps raw labels to class ids or numbers.

    Attributes:
        names: Class names in the order of their ids; empty for regression.
        separator: Of several class names in one text; None: a row has one class.
        is_multi_hot: Whether a row's classes are a list with a 0 or a 1 for each of them.
        by_word: Whether each word has a class.
        classes: Raw value -> id, for labels that name a class; None for numbers.
        threshold: Makes two classes of a rating.
        dead_zone: Ratings nearer than this to the threshold are dropped.
        missing: What becomes of a row without a label.
        notes: What the user should know of, a line each.
    """

    names: tuple[str, ...]
    separator: str | None = None
    is_multi_hot: bool = False
    by_word: bool = False
    classes: Mapping[Any, int] | None
    threshold: float | None
    dead_zone: float
    missing: MissingLabels = MissingLabels.REFUSE
    notes: tuple[str, ...] = field(default=(), compare=False)

    def several(self, value: Any) -> int:
        """Returns a row's classes as one number, in which bit i stands for class i.

        Raises:
            DataError: It has a class that is none; the caller names the row.
        """
        assert self.separator is not None
        listed = members(value, self.separator)
        if self.is_multi_hot:
            bits = [_bit(each) for each in listed] or [False] * len(self.names)  # `[]` is a row of no class
            if len(bits) != len(self.names) or None in bits:
                raise DataError(f"expected {len(self.names)} times 0 or 1, got {value!r}")
            return sum(1 << index for index, bit in enumerate(bits) if bit)
        found = 0
        for each in listed:
            found |= 1 << int(self._class(each))
        if len(listed) > found.bit_count() and all(_whole(each) is not None for each in listed):
            raise DataError(
                f"{value!r} names a class twice; a 0 or a 1 for each class wants these alone, in lists of one length"
            )
        return found

    def of_words(self, values: Any) -> list[int] | None:
        """Returns the classes of a row's words, or None to drop the row.

        Args:
            values: A list, a text that is one, or a text that is cut at its spaces.

        Raises:
            DataError: A word has none; the caller names the row.
        """
        if is_missing(values):
            if self.missing is MissingLabels.DROP:
                return None
            raise DataError("the labels are missing; dataset.missing_labels=drop leaves such rows out")
        if isinstance(values, str):
            values = members(values, None)
        if not isinstance(values, (list, tuple)):
            raise DataError(f"expected a list of labels, got {type(values).__name__}")
        if any(each is None for each in values):
            raise DataError("a word has no label")
        if any(str(each) == _IGNORED for each in values):
            raise DataError(
                f"the label {_IGNORED} marks words without a label, which are not taken: give each word one"
            )
        return [int(self._class(value)) for value in values]

    def _class(self, value: Any) -> int:
        assert self.classes is not None
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
            known = _spelling(value, self.names)
            if known is not None and (has_truths or not isinstance(value, bool)):
                return self.names.index(known)
            raise DataError(f"label {value!r}{nearest(str(value), self.names)} is none of {listing(self.names)}")
        return self.classes[value]

    def __call__(self, value: Any) -> float | int | None:
        """Returns the label of a raw value, or None to drop the row.

        Raises:
            DataError: It has none; the caller names the row.
        """
        if self.separator is not None and isinstance(value, str) and not value.strip(f"{self.separator} "):
            value = None  # nothing stands between its separators
        if self.classes is None and isinstance(value, str) and value.strip() in _MISSING_WORDS:
            value = None
        if is_missing(value):
            if self.missing is MissingLabels.DROP:
                return None
            if self.missing is MissingLabels.NO_CLASS:
                return 0
            other = ", no_class takes them for rows of no class" if self.separator is not None else ""
            raise DataError(f"the label is missing; dataset.missing_labels=drop leaves such rows out{other}")
        if self.separator is not None:
            return self.several(value)
        if self.classes is not None:
            return self._class(value)
        number = _number(value)
        if self.threshold is None:
            return number
        distance = number - self.threshold
        return None if abs(distance) < self.dead_zone else int(distance > 0)


def label_rule(
    spec: DatasetSpec,
    unique: Sequence[Any],
    feature_names: Sequence[str] | None,
    num_rows: int,
    num_classes: int | None = None,
) -> LabelRule:
    """Finds out what the labels of a table mean.

    Args:
        spec: The task, class names and rating rule.
        unique: The different raw labels.
        feature_names: Class names that the table itself brings (a hub dataset's ClassLabel).
        num_rows: Rows of the table.
        num_classes: Of rows that are lists with a 0 or a 1 for each class: how many; None: they are none.

    Raises:
        DataError: The labels don't fit the task.
    """
    if spec.task is Task.MULTI_LABEL:
        if num_classes is not None:
            return _multi_hot(spec, num_classes, feature_names)
        return _several(spec, unique, feature_names)
    if spec.task is Task.TOKEN_CLASSIFICATION:
        return _by_word(spec, unique, feature_names, num_rows)
    if spec.task is Task.REGRESSION:
        return LabelRule(names=(), classes=None, threshold=None, dead_zone=0.0, missing=spec.missing_labels)
    if spec.threshold is not None:
        assert spec.label_names is not None, "DatasetSpec asks for them"
        return LabelRule(
            names=spec.label_names, classes=None, threshold=spec.threshold, dead_zone=spec.dead_zone,
            missing=spec.missing_labels,
        )  # fmt: skip
    values = [value for value in unique if not is_missing(value)]
    if not values:
        raise DataError(f"dataset.label_column={spec.label_column}: all its values are missing")
    odd = next((value for value in values if not isinstance(value, (str, int, float))), None)
    if odd is not None:
        raise DataError(
            f"dataset.label_column={spec.label_column}: holds {type(odd).__name__}, neither text nor number"
        )
    names = spec.label_names or (tuple(feature_names) if feature_names else None)
    classes = _classes(values, names, spec.label_column)
    found = names or _names_of(classes)
    if names is None and len(found) > max(_ALWAYS_FINE_CLASSES, _MAX_SHARE_OF_CLASSES * num_rows):
        raise DataError(
            f"dataset.label_column={spec.label_column}: {len(found)} different values in {num_rows} rows are no "
            f"classes; for numbers use dataset.task=regression or dataset.threshold; if they are classes, name them in "
            f"dataset.label_names"
        )
    return LabelRule(
        names=tuple(found), classes=classes, threshold=None, dead_zone=0.0, missing=spec.missing_labels,
        notes=_alike(found, spec.label_column) + _like_lists(found, spec) + _like_no_classes(found, spec),
    )  # fmt: skip


def is_missing(value: Any) -> bool:
    r"""Returns whether a raw label is none: nothing, a text of blanks, a NaN, or `\N` as databases write it."""
    is_blank = isinstance(value, str) and value.strip() in {"", NULL_OF_DATABASES}
    return value is None or is_blank or (isinstance(value, float) and math.isnan(value))


def _names_of(classes: Mapping[Any, int]) -> tuple[str, ...]:
    by_id = {index: _name(value) for value, index in classes.items()}
    if all(_is_truth(name) for name in by_id.values()):
        by_id = {index: name.capitalize() for index, name in by_id.items()}
    return tuple(by_id[index] for index in sorted(by_id))


def _alike(names: Sequence[str], column: str) -> tuple[str, ...]:
    """Returns a note on classes that a person may take for one."""
    seen: dict[str, str] = {}
    numbers: dict[int, str] = {}
    for name in names:
        number = re.fullmatch("[-+\u2212]?[0-9]+", name.strip("'\"\u201c\u201d"))
        if number:
            other = numbers.setdefault(int(number.group().replace("\u2212", "-")), name)
            if other != name:
                return (f"dataset.label_column={column}: two classes for one number: {other!r}, {name!r}",)
        plain = "".join(sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign) != "Cf")
        other = seen.setdefault(" ".join(plain.split()).casefold(), name)
        if other == name:
            continue
        if " ".join(other.split()).casefold() == " ".join(name.split()).casefold():
            what, pair = "blanks or case", f"{other!r}, {name!r}"
        else:  # they look the same: written so that one sees what differs
            what, pair = "how Unicode writes them", f"{other!a}, {name!a}"
        return (f"dataset.label_column={column}: classes that differ in {what} alone: {pair}",)
    return ()


def _like_lists(names: Sequence[str], spec: DatasetSpec) -> tuple[str, ...]:
    """Returns a note on classes that a person may have meant for lists of classes."""
    odd = next((name for name in names if name[:1] in "[{" or name[-1:] in "]}"), None)
    if odd is None:
        return ()
    way = '["a", "b"]' if spec.task is Task.MULTI_LABEL else "dataset.task=multi_label"
    return (f"dataset.label_column={spec.label_column}: {odd!r} is one class (if it is meant for a list: {way})",)


def _like_missing(names: Sequence[str], spec: DatasetSpec) -> tuple[str, ...]:
    """Returns a note on classes that a person may have meant for missing values."""
    missing = ", ".join(name for name in names if name in _MISSING_WORDS)
    where = f"dataset.label_column={spec.label_column}"
    return (f"{where}: {missing} is a class (if it stands for no value, leave the field empty)",) if missing else ()


def _like_no_classes(names: Sequence[str], spec: DatasetSpec) -> tuple[str, ...]:
    """Returns notes on classes that a person may have meant for missing values, numbers, or several classes."""
    where, notes = f"dataset.label_column={spec.label_column}", list(_like_missing(names, spec))
    fractions = [name for name in names if re.fullmatch(r"-?[0-9]+[.,][0-9]+", name)]
    if fractions and spec.label_names is None:
        notes.append(
            f"{where}: {shortened(fractions)} are classes (if they are numbers: a point, nothing else in the column, "
            "and dataset.threshold or dataset.task=regression)"
        )
    several = next((name for name in names if re.search("[^ ][;|][^ ]", name)), None)
    if several is not None and spec.label_names is None:
        notes.append(f"{where}: {several!r} is one class (if it is meant for several: dataset.task=multi_label)")
    return tuple(notes)


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


def multi_hot_width(values: Sequence[Any], separator: str) -> int | None:
    """Returns how many classes rows have that are a 0 or a 1 for each, in a list or a text; None: they are not.

    Args:
        values: The raw labels of all rows.
        separator: Between the parts of a text.
    """
    rows = [found for value in values if not is_missing(value) and (found := members(value, separator))]
    widths = {len(row) for row in rows}
    if len(widths) != 1 or min(widths) < 2:
        return None
    return widths.pop() if all(_bit(value) is not None for row in rows for value in row) else None


def _bit(value: Any) -> bool | None:
    """Returns whether a member of a multi-hot row is 1 or true; None: it is neither 0 nor 1."""
    if isinstance(value, str) and _is_truth(value):
        return value.lower() == "true"
    number = _whole(value)
    return bool(number) if number in {0, 1} else None


def _multi_hot(spec: DatasetSpec, width: int, feature_names: Sequence[str] | None) -> LabelRule:
    where = f"dataset.label_column={spec.label_column}"
    names = spec.label_names or tuple(feature_names or ()) or tuple(str(index) for index in range(width))
    if len(names) != width:
        raise DataError(f"{where}: its lists of 0 and 1 are of {width} classes, dataset.label_names names {len(names)}")
    if width > MOST_CLASSES:
        raise DataError(f"{where}: {width} different classes; dataset.task=multi_label takes 2 to {MOST_CLASSES}")
    return LabelRule(
        names=tuple(names), separator=spec.label_separator, is_multi_hot=True, classes=None, threshold=None,
        dead_zone=0.0, missing=spec.missing_labels,
    )  # fmt: skip


def _several(spec: DatasetSpec, unique: Sequence[Any], feature_names: Sequence[str] | None) -> LabelRule:
    where = f"dataset.label_column={spec.label_column}"
    odd = next((value for value in unique if not isinstance(value, (str, int, float))), None)
    if odd is not None:
        raise DataError(f"{where}: a class is {type(odd).__name__}, neither text nor number")
    if not unique:
        raise DataError(f"{where}: no row has a class")
    names = spec.label_names or (tuple(feature_names) if feature_names else None)
    classes = _classes(list(unique), names, spec.label_column)
    found = names or _names_of(classes)
    if not 2 <= len(found) <= MOST_CLASSES:
        raise DataError(
            f"{where}: {len(found)} different classes; dataset.task=multi_label takes 2 to {MOST_CLASSES}"
            + (f" (dataset.label_separator={spec.label_separator!r})" if len(found) < 2 else "")
        )
    separator = spec.label_separator
    notes = _alike(found, spec.label_column) + _like_lists(found, spec) + _like_missing(found, spec)
    other = next((name for name in found for sign in _SEPARATORS if sign in name), None)
    if other is not None:
        notes += (f"{where}: the class {other!r} is one: dataset.label_separator is {separator!r}, and parts texts",)
    return LabelRule(
        names=tuple(found), separator=separator, classes=classes, threshold=None, dead_zone=0.0,
        missing=spec.missing_labels, notes=notes,
    )  # fmt: skip


def _by_word(spec: DatasetSpec, unique: Sequence[Any], feature_names: Sequence[str] | None, num_rows: int) -> LabelRule:
    where = f"dataset.label_column={spec.label_column}"
    odd = next((value for value in unique if not isinstance(value, (str, int))), None)
    if odd is not None:
        raise DataError(f"{where}: a word's class is {type(odd).__name__}, neither text nor number")
    names = spec.label_names or (tuple(feature_names) if feature_names else None)
    classes = _classes(list(unique), names, spec.label_column)
    found = names or _names_of(classes)
    if len(found) < 2:
        raise DataError(f"{where}: the words have {len(found)} different classes: there is nothing to learn")
    if names is None and len(found) > max(_MOST_WORD_CLASSES, _MAX_SHARE_OF_CLASSES * num_rows):
        raise DataError(
            f"{where}: {len(found)} different values in {num_rows} rows are no classes of words (as {found[0]!r}); is "
            "it the right column? If they are classes, name them in dataset.label_names"
        )
    return LabelRule(
        names=tuple(found), by_word=True, classes=classes, threshold=None, dead_zone=0.0, missing=spec.missing_labels,
        notes=_alike(found, spec.label_column),
    )  # fmt: skip


def _classes(values: list[Any], names: Sequence[str] | None, column: str) -> dict[Any, int]:
    """Returns raw value -> id: by name, by number within the names, or by order."""
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
