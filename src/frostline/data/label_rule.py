"""What a raw label means: a class, several classes, a number, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from frostline.data.label_sets import as_label
from frostline.data.label_values import (
    IGNORED_LABEL,
    MISSING_WORDS,
    as_bit,
    as_number,
    as_whole_number,
    class_name,
    is_missing,
    matching_name,
    members,
)
from frostline.errors import DataError, listing, nearest
from frostline.spec import MissingLabels


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
        """Returns what identifies tables that were made by this kind of rule."""
        return []


@dataclass(frozen=True, kw_only=True)
class NoRule(LabelRule):
    """Rows have no labels of their own."""


@dataclass(frozen=True, kw_only=True)
class NumberRule(LabelRule):
    """Labels are numbers."""

    def label(self, value: Any) -> float:
        """See `LabelRule`."""
        return as_number(value)

    def is_missing(self, value: Any) -> bool:
        """See `LabelRule`."""
        return is_missing(value) or (isinstance(value, str) and value.strip() in MISSING_WORDS)


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
        distance = as_number(value) - self.threshold
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
            known_id = self.classes.get(class_name(value))
            if known_id is not None:
                return known_id
            spelling = matching_name(value, self.names)
            if spelling is not None and (has_truths or not isinstance(value, bool)):
                return self.names.index(spelling)
            raise DataError(f"label {value!r}{nearest(str(value), self.names)} is none of {listing(self.names)}")
        return self.classes[value]


@dataclass(frozen=True, kw_only=True)
class SetRule(ClassRule):
    """Labels name any number of classes; see `frostline.data.label_sets`.

    Attributes:
        separator: Between class names in one text.
    """

    separator: str

    def label(self, value: Any) -> int | list[int]:
        """See `LabelRule`."""
        listed = members(value, self.separator)
        bits = 0
        for item in listed:
            bits |= 1 << int(ClassRule.label(self, item))
        if len(listed) > bits.bit_count() and all(as_whole_number(item) is not None for item in listed):
            raise DataError(f"{value!r} names a class twice; for a 0 or 1 per class, give lists of one length")
        return as_label(bits, len(self.names))

    def is_missing(self, value: Any) -> bool:
        """See `LabelRule`: nothing between separators is no label."""
        return is_missing(value) or (isinstance(value, str) and not value.strip(f"{self.separator} "))

    def without_label(self) -> int | list[int]:
        """See `LabelRule`."""
        return _no_class(self.missing, len(self.names))

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

    def label(self, value: Any) -> int | list[int]:
        """See `SetRule`."""
        # `[]` is a row of no class
        bits = [as_bit(item) for item in members(value, self.separator)] or [False] * len(self.names)
        if len(bits) != len(self.names) or None in bits:
            raise DataError(f"expected {len(self.names)} times 0 or 1, got {value!r}")
        return as_label(sum(1 << index for index, bit in enumerate(bits) if bit), len(self.names))

    def is_missing(self, value: Any) -> bool:
        """See `SetRule`."""
        return is_missing(value) or (isinstance(value, str) and not value.strip(f"{self.separator} "))

    def without_label(self) -> int | list[int]:
        """See `LabelRule`."""
        return _no_class(self.missing, len(self.names))

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
        return widths.pop() if all(as_bit(value) is not None for row in rows for value in row) else None


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
        if any(str(item) == IGNORED_LABEL for item in labels):
            raise DataError(
                f"the label {IGNORED_LABEL} marks words without a label, which are not taken: give each word one"
            )
        return [int(ClassRule.label(self, item)) for item in labels]

    def without_label(self) -> Any:
        """See `LabelRule`."""
        raise DataError("the labels are missing; dataset.missing_labels=drop leaves such rows out")

    def identity(self) -> list[str]:
        """See `LabelRule`."""
        return ["by word"]


def _no_class(missing: MissingLabels, num_classes: int) -> int | list[int]:
    if missing is MissingLabels.NO_CLASS:
        return as_label(0, num_classes)
    way = "no_class takes them for rows of no class"
    raise DataError(f"the label is missing; dataset.missing_labels=drop leaves such rows out, {way}")
