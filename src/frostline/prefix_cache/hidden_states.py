"""Hidden states of all rows in one array, and its form."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
"""Little-endian, by the name that `runtime.cache.dtype` gives them."""


@dataclass(frozen=True, kw_only=True)
class FileShape:
    """The form of one file.

    Attributes:
        lengths: Vectors of each row, `[N]`: its tokens, or ones.
        width: Numbers of a vector.
        dtype: `float32` or `float16`.
    """

    lengths: np.ndarray[Any, np.dtype[np.int64]]
    width: int
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Size of one vector."""
        return self.width * int(NUMPY_DTYPES[self.dtype].itemsize)

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return int(self.lengths.sum()) * self.row_bytes

    def offsets(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Returns where each row begins, in vectors, `[N + 1]`."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def describe(self) -> dict[str, Any]:
        """Returns what has to be the same for a file to fit."""
        lengths = hashlib.sha256(np.ascontiguousarray(self.lengths, dtype="<i8").tobytes()).hexdigest()
        return {"num_rows": len(self.lengths), "lengths": lengths, "width": self.width, "dtype": self.dtype}


class HiddenStates:
    """Hidden states of every row, read from a mapped file.

    Args:
        data: All rows one behind the other, `[vectors, width]`.
        shape: Their form.
    """

    def __init__(self, data: np.ndarray[Any, Any], shape: FileShape) -> None:
        self._data = np.asarray(data)  # a view: np.memmap does much at each access
        offsets = shape.offsets()
        self._first, self._last = offsets[:-1], offsets[1:]
        self.shape = shape

    def select(self, places: np.ndarray[Any, np.dtype[np.int64]]) -> HiddenStates:
        """Returns some of the rows; nothing is copied."""
        part = HiddenStates(
            self._data, FileShape(lengths=self.shape.lengths[places], width=self.shape.width, dtype=self.shape.dtype)
        )
        part._first, part._last = self._first[places], self._last[places]
        return part

    def __len__(self) -> int:
        return len(self.shape.lengths)

    def __getitem__(self, row: int) -> np.ndarray[Any, Any]:
        """Returns a row's vectors, `[T, width]`."""
        return self._data[self._first[row] : self._last[row]]

    def padded(self, rows: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
        """Returns some rows' vectors, filled up with zeros, `[B, length, width]`, float32."""
        out = np.zeros((len(rows), length, self.shape.width), dtype=np.float32)
        for index, row in enumerate(rows.tolist()):
            first, last = self._first[row], self._last[row]
            out[index, : last - first] = self._data[first:last]
        return out

    def single(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Returns the vectors of rows that have one each, `[B, width]`, float32."""
        vectors: np.ndarray[Any, Any] = self._data[self._first[rows]]
        return np.asarray(vectors, dtype=np.float32)
