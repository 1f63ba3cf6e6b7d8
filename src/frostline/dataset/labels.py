"""Owns: what a raw label means - a class, a number, or nothing. Must not know: where rows come from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frostline.errors import DataError, listing, nearest
from frostline.spec import DatasetSpec, Task

_MAX_SHARE_OF_CLASSES = 0.5  # assumed: more classes than half the rows is an id or a measurement
_ALWAYS_FINE_CLASSES = 20

MOST_CLASSES = 52
"""Of a row that may have several: their bits make one number, which a double holds exactly."""


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """Maps raw labels to class ids or numbers.

    Attributes:
        names: Class names in the order of their ids; empty for regression.
        separator: Of several class names in one text; None: a row has one class.
        by_word: Whether each word has a class.
        classes: Raw value -> id, for labels that name a class; None for numbers.
        threshold: Makes two classes of a rating.
        dead_zone: Ratings nearer than this to the threshold are dropped.
    """

    names: tuple[str, ...]
    separator: str | None = None
    by_word: bool = False
    classes: Mapping[Any, int] | None
    threshold: float | None
    dead_zone: float

    def several(self, value: Any) -> int:
        """Returns a row's classes as one number, in which bit i stands for class i.

        Raises:
            DataError: It has a class that is none; the caller names the row.
        """
        assert self.separator is not None
        found = 0
        for each in members(value, self.separator):
            found |= 1 << int(self._class(each))
        return found

    def of_words(self, values: Any) -> list[int]:
        """Returns the classes of a row's words.

        Args:
            values: A list, or a text that is cut at its spaces.

        Raises:
            DataError: A word has none; the caller names the row.
        """
        if isinstance(values, str):
            values = values.split()
        if not isinstance(values, (list, tuple)):
            raise DataError(f"expected a list of labels, got {type(values).__name__}")
        return [int(self._class(value)) for value in values]

    def _class(self, value: Any) -> int:
        assert self.classes is not None
        if not isinstance(value, (str, int, float)):
            raise DataError(f"expected a label, got {type(value).__name__}")
        if value not in self.classes:
            known = self.classes.get(str(_plain(value)))  # a class that the first table has no row of
            if known is not None:
                return known
            raise DataError(f"label {value!r}{nearest(str(value), self.names)} is none of {listing(self.names)}")
        return self.classes[value]

    def __call__(self, value: Any) -> float | int | None:
        """Returns the label of a raw value, or None to drop the row.

        Raises:
            DataError: It has none; the caller names the row.
        """
        if self.separator is not None and value is not None:
            return self.several(value)
        if value is None or value == "":
            raise DataError("the label is missing")
        if self.classes is not None:
            return self._class(value)
        number = _number(value)
        if self.threshold is None:
            return number
        distance = number - self.threshold
        return None if abs(distance) < self.dead_zone else int(distance > 0)


def label_rule(
    spec: DatasetSpec, unique: Sequence[Any], feature_names: Sequence[str] | None, num_rows: int
) -> LabelRule:
    """Finds out what the labels of a table mean.

    Args:
        spec: The task, class names and rating rule.
        unique: The different raw labels.
        feature_names: Class names that the table itself brings (a hub dataset's ClassLabel).
        num_rows: Rows of the table.

    Raises:
        DataError: The labels don't fit the task.
    """
    if spec.task is Task.MULTI_LABEL:
        return _several(spec, unique, feature_names)
    if spec.task is Task.TOKEN_CLASSIFICATION:
        return _by_word(spec, unique, feature_names)
    if spec.task is Task.REGRESSION:
        return LabelRule(names=(), classes=None, threshold=None, dead_zone=0.0)
    if spec.threshold is not None:
        assert spec.label_names is not None, "DatasetSpec asks for them"
        return LabelRule(names=spec.label_names, classes=None, threshold=spec.threshold, dead_zone=spec.dead_zone)
    values = [value for value in unique if value is not None and value != ""]
    if not values:
        raise DataError(f"dataset.label_column={spec.label_column}: all its values are missing")
    odd = next((value for value in values if not isinstance(value, (str, int, float))), None)
    if odd is not None:
        raise DataError(
            f"dataset.label_column={spec.label_column}: holds {type(odd).__name__}, neither text nor number"
        )
    names = spec.label_names or (tuple(feature_names) if feature_names else None)
    classes = _classes(values, names, spec.label_column)
    by_id = {index: str(_plain(value)) for value, index in classes.items()}  # "1" and "1.0" are one class
    found = names or tuple(by_id[index] for index in sorted(by_id))
    if len(found) > max(_ALWAYS_FINE_CLASSES, _MAX_SHARE_OF_CLASSES * num_rows):
        raise DataError(
            f"dataset.label_column={spec.label_column}: {len(found)} different values in {num_rows} rows are no "
            f"classes; for numbers use dataset.task=regression or dataset.threshold"
        )
    return LabelRule(names=tuple(found), classes=classes, threshold=None, dead_zone=0.0)


def members(value: Any, separator: str | None) -> list[Any]:
    """Returns the classes of a row that may have several: the parts of a text, or the members of a list.

    Args:
        value: The raw label.
        separator: Between the parts of a text; None: spaces.
    """
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator) if part.strip()]
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]


def class_words(label: int, names: Sequence[str], separator: str | None) -> str:
    """Returns a label in words: its class, or where a row may have several, those whose bits are set."""
    if separator is None:
        return names[label]
    return separator.join(name for index, name in enumerate(names) if label >> index & 1)


def _several(spec: DatasetSpec, unique: Sequence[Any], feature_names: Sequence[str] | None) -> LabelRule:
    where = f"dataset.label_column={spec.label_column}"
    odd = next((value for value in unique if not isinstance(value, (str, int, float))), None)
    if odd is not None:
        raise DataError(f"{where}: a class is {type(odd).__name__}, neither text nor number")
    if not unique:
        raise DataError(f"{where}: no row has a class")
    names = spec.label_names or (tuple(feature_names) if feature_names else None)
    classes = _classes(list(unique), names, spec.label_column)
    found = names or tuple(name for _, name in sorted({index: str(_plain(v)) for v, index in classes.items()}.items()))
    if not 2 <= len(found) <= MOST_CLASSES:
        raise DataError(
            f"{where}: {len(found)} different classes; dataset.task=multi_label takes 2 to {MOST_CLASSES}"
            + (f" (dataset.label_separator={spec.label_separator!r})" if len(found) < 2 else "")
        )
    separator = spec.label_separator
    return LabelRule(names=tuple(found), separator=separator, classes=classes, threshold=None, dead_zone=0.0)


def _by_word(spec: DatasetSpec, unique: Sequence[Any], feature_names: Sequence[str] | None) -> LabelRule:
    where = f"dataset.label_column={spec.label_column}"
    odd = next((value for value in unique if not isinstance(value, (str, int))), None)
    if odd is not None:
        raise DataError(f"{where}: a word's class is {type(odd).__name__}, neither text nor number")
    names = spec.label_names or (tuple(feature_names) if feature_names else None)
    classes = _classes(list(unique), names, spec.label_column)
    found = names or tuple(name for _, name in sorted({index: str(_plain(v)) for v, index in classes.items()}.items()))
    if len(found) < 2:
        raise DataError(f"{where}: the words have {len(found)} different classes: there is nothing to learn")
    return LabelRule(names=tuple(found), by_word=True, classes=classes, threshold=None, dead_zone=0.0)


def _classes(values: list[Any], names: Sequence[str] | None, column: str) -> dict[Any, int]:
    """Returns raw value -> id: by name, by number within the names, or by order."""
    if names is not None and all(str(_plain(value)) in names for value in values):
        by_name = {name: index for index, name in enumerate(names)}
        return by_name | {value: by_name[str(_plain(value))] for value in values}
    numbers = [_whole(value) for value in values]
    if all(number is not None for number in numbers):
        if names is None:
            order = {number: index for index, number in enumerate(sorted({int(n) for n in numbers if n is not None}))}
            ordered = sorted(zip(values, numbers, strict=True), key=lambda pair: pair[1] or 0)
            return {value: order[int(number)] for value, number in ordered if number is not None}
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
    if names is None:
        texts = sorted(str(value) for value in values)
        return {value: texts.index(str(value)) for value in sorted(values, key=str)}
    wrong_names = sorted(str(value) for value in values if value not in names)
    raise DataError(
        f"dataset.label_column={column}: label {wrong_names[0]!r}{nearest(wrong_names[0], names)} is none of "
        f"{listing(names)}"
    )


def _plain(value: Any) -> Any:
    whole = _whole(value)
    return whole if whole is not None else value


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
        re.fullmatch(r"-?(?:0|[1-9][0-9]*)?(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", str(value))
    )


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _number(value: Any) -> float:
    if not _is_number(value):
        raise DataError(f"the label {value!r} is not a finite number")
    return float(value)
