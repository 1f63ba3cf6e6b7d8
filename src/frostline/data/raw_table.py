"""Owns: what a table of raw columns is. Must not know: where it was read, what the columns mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import datasets


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A table as it was read, memory-mapped.

    Attributes:
        table: All columns; of CSV and TSV all as text, so that nothing is guessed.
        fingerprint: sha256 of the file, or the hub's identity of the split.
        name: For messages.
        notes: What the user should know of the file.
        label_names: Class names in the order of their ids, if the table brings any; its labels are these names then.
        folder: Where it lies, if it is a file: what paths in it are relative to.
    """

    table: datasets.Dataset
    fingerprint: str
    name: str
    notes: tuple[str, ...] = ()
    label_names: tuple[str, ...] | None = None
    folder: Path | None = None
