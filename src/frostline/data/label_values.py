"""Cells of a label column: missing values, numbers, class ids, lists of classes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from frostline.data.label_sets import as_bits
from frostline.data.lists import list_in, refuse_bare_list
from frostline.errors import DataError, listing, nearest

NULL_OF_DATABASES = r"\N"
"""What MySQL and PostgreSQL write for no value."""


_EXACT = 2**53
"""From here on two whole numbers may be one floating-point number."""


_LARGEST = 3.4028234e38


IGNORED_LABEL = "-100"
"""What PyTorch's cross entropy leaves out, and exports of tokenized data hold therefore."""


MISSING_WORDS = frozenset({"NA", "N/A", "n/a", "#N/A", "nan", "NaN", "<NA>", "None", "null", "NULL", "NaT"})
"""What R, pandas, databases and spreadsheets write for no value: to classes a name like any other."""


_TRUTHS = frozenset({"true", "false"})


def is_missing(value: Any) -> bool:
    r"""Returns whether a raw label is none: nothing, a text of blanks, a NaN, or `\N` as databases write it."""
    is_blank = isinstance(value, str) and value.strip() in {"", NULL_OF_DATABASES}
    return value is None or is_blank or (isinstance(value, float) and math.isnan(value))


def names_of(classes: Mapping[Any, int]) -> tuple[str, ...]:
    """Returns the names of classes that were found in a column, in the order of their ids."""
    by_id = {index: class_name(value) for value, index in classes.items()}
    if all(_is_truth(name) for name in by_id.values()):
        by_id = {index: name.capitalize() for index, name in by_id.items()}
    return tuple(by_id[index] for index in sorted(by_id))


def members(value: Any, separator: str | None) -> list[Any]:
    """Returns the classes of a row that may have several: the parts of a text, or the members of a list.

    Args:
        value: The raw label; a text may hold a list, as JSON or Python write it.
        separator: Between the parts of a text; None: spaces.

    Raises:
        DataError: The text starts and ends like a list, but is not one.
    """
    if isinstance(value, str):
        items = list_in(value)
        if items is not None:
            return items
        if separator is None:
            refuse_bare_list(value)
        return [part.strip() for part in value.split(separator) if part.strip()]
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]


def class_words(label: int | list[int], names: Sequence[str], separator: str | None) -> str:
    """Returns a label in words: its class, or where a row may have several, those whose bits are set."""
    if separator is None:
        assert isinstance(label, int), "a row has one class"
        return names[label]
    bits = as_bits(label)
    return separator.join(name for index, name in enumerate(names) if bits >> index & 1)


def as_bit(value: Any) -> bool | None:
    """Returns whether a member of a multi-hot row is 1 or true; None: it is neither 0 nor 1."""
    if isinstance(value, str) and _is_truth(value):
        return value.lower() == "true"
    number = as_whole_number(value)
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
    if names is not None and all(matching_name(value, names) for value in values):
        by_name: dict[Any, int] = {name: index for index, name in enumerate(names)}
        return by_name | {value: by_name[str(matching_name(value, names))] for value in values}
    if names is None and all(_is_truth(value) for value in values):
        truths = sorted({str(value).capitalize() for value in values})
        by_truth = {each: n for n, truth in enumerate(truths) for each in (truth == "True", *_spellings(truth))}
        return by_truth | {value: truths.index(str(value).capitalize()) for value in values}
    numbers = [as_whole_number(value) for value in values]
    if all(number is not None for number in numbers):
        if names is None:
            order = {number: index for index, number in enumerate(sorted({int(n) for n in numbers if n is not None}))}
            ordered = sorted(zip(values, numbers, strict=True), key=lambda pair: pair[1] or 0)
            return {value: order[int(number)] for value, number in ordered if number is not None}
        if all(as_whole_number(name) is not None for name in names):  # one missing class would turn names into ids
            odd = next(value for value in values if not matching_name(value, names))
            raise DataError(f"dataset.label_column={column}: label {class_name(odd)!r} is none of {listing(names)}")
        wrong = [n for n in numbers if n is not None and not 0 <= n < len(names)]
        if wrong:
            raise DataError(
                f"dataset.label_column={column}: label {wrong[0]} is out of range: {len(names)} classes have the "
                f"ids 0 to {len(names) - 1}"
            )
        by_number: dict[Any, int] = {str(index): index for index in range(len(names))}
        ids = {value: int(number) for value, number in zip(values, numbers, strict=True) if number is not None}
        return by_number | ids
    if all(_is_fraction(value) for value in values):
        fraction = next((value for value in values if as_whole_number(value) is None), values[0])
        raise DataError(
            f"dataset.label_column={column}: its values are fractions ({fraction}): give dataset.threshold to make "
            f"two classes of them, or dataset.task=regression"
        )
    if names is None:  # "1" and "1.0" are one class here, too
        texts = sorted({class_name(value) for value in values})
        return {value: texts.index(class_name(value)) for value in sorted(values, key=str)}
    wrong_names = sorted(str(value) for value in values if value not in names)
    raise DataError(
        f"dataset.label_column={column}: label {wrong_names[0]!r}{nearest(wrong_names[0], names)} is none of "
        f"{listing(names)}"
    )


def class_name(value: Any) -> str:
    """Returns the name of a class: a number as `1`, however it is written; a truth value as CSV files have it."""
    if isinstance(value, bool):
        return str(value)
    number = as_whole_number(value)
    return str(value if number is None else number)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in _TRUTHS)


def _spellings(name: str) -> tuple[str, ...]:
    """Returns a name, and if it is a truth value all ways in which files write it."""
    return (name, name.capitalize(), name.lower(), name.upper()) if name.lower() in _TRUTHS else (name,)


def matching_name(value: Any, names: Sequence[str]) -> str | None:
    """Returns which of the names a value is."""
    return next((name for name in _spellings(class_name(value)) if name in names), None)


def as_whole_number(value: Any) -> int | None:
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


def as_number(value: Any) -> float:
    """Returns a label as a number.

    Raises:
        DataError: It isn't finite, or too large for float32.
    """
    if isinstance(value, bool) or not is_number(value):
        raise DataError(f"the label {value!r} is not a finite number")
    if abs(float(value)) > _LARGEST:
        raise DataError(f"the label {value!r} is larger than what a model computes with (float32)")
    return float(value)
