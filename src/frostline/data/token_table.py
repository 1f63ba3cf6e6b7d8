"""Tokenized rows as flat arrays, from which padded batches are cut without a Python object per token.

Must not know: labels' meaning, models, how rows are ordered.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_LABELS = "labels"
_MASK = "attention_mask"
DECODER_INPUTS = "decoder_input_ids"
"""Key of a batch: what a decoder beside an encoder is given."""

IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Padding:
    """How rows of different lengths become one batch: on the right.

    Attributes:
        values: What fills up each column that isn't all the tokenizer's padding id.
        default: That id.
        has_mask: Whether the tokenizer gives an attention mask and the model takes it.
        accepted: Which columns the model takes; None: all.
        multiple_of: Lengths are rounded up to it.
        decoder_start: What a decoder is given before its first target token; None: there is no decoder beside an
            encoder.
    """

    values: Mapping[str, int]
    default: int
    has_mask: bool
    accepted: frozenset[str] | None = None
    multiple_of: int = 1
    decoder_start: int | None = None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, model: Any = None, multiple_of: int = 1) -> Padding:
        """Returns a tokenizer's padding, as `DataCollatorWithPadding` does it.

        Args:
            tokenizer: The model's.
            model: Columns that its class's forward does not name are left out, as Trainer does; None: none are.
            multiple_of: Lengths are rounded up to it.
        """
        accepted = None if model is None else frozenset(inspect.signature(type(model).forward).parameters)
        values = {"token_type_ids": tokenizer.pad_token_type_id, "special_tokens_mask": 1, _MASK: 0}
        pad: Any = tokenizer.pad_token_id
        has_mask = _MASK in tokenizer.model_input_names and (accepted is None or _MASK in accepted)
        start = None
        if model is not None and getattr(model.config, "is_encoder_decoder", False):
            start = getattr(model.config, "decoder_start_token_id", None)
        return cls(
            values=values, default=int(pad), has_mask=has_mask, accepted=accepted, multiple_of=multiple_of,
            decoder_start=start,
        )  # fmt: skip

    def without_decoder(self) -> Padding:
        """Returns the padding of what an encoder alone is given, in float32's lengths."""
        return replace(self, multiple_of=1, decoder_start=None)

    def width_of(self, lengths: IntArray) -> int:
        """Returns how long rows of some lengths are when they are filled up; rows without tokens are padding."""
        return -(-max(1, int(lengths.max())) // self.multiple_of) * self.multiple_of


NO_PADDING = Padding(values={}, default=0, has_mask=False)
"""Of rows that are all of one size."""


NO_LABEL = -100
"""Stands for the label of a token that has none; that of cross entropy's `ignore_index`."""


class TokenTable:
    """Tokenized rows.

    Args:
        rows: Columns of the tokenizer (`input_ids`, `token_type_ids`, ...), each a list of a row's tokens, and
            `labels`: one number a row, one a token, or those of a text that a decoder writes.
    """

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows
        plain = rows.with_format("arrow")
        names = [name for name in rows.column_names if name not in {_LABELS, _MASK}]
        ragged = {name: _ragged(plain[name]) for name in names}
        self.lengths: IntArray = ragged["input_ids"][0]
        """Tokens of each row, `[N]`."""
        for name, (lengths, _) in ragged.items():
            assert np.array_equal(lengths, self.lengths), f"{name} has rows of other lengths than input_ids"
        self._values = {name: values for name, (_, values) in ragged.items()}
        self._starts = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])
        self.labels: torch.Tensor | None = None
        """`[N]`: class ids (int64) or numbers (float32); sets of many classes `[N, W]`; None if there are none, or each
        token has one."""
        self._token_labels: np.ndarray[Any, Any] | None = None
        self.label_lengths: IntArray = self.lengths
        """Labels of each row where each token has one, `[N]`; of what a decoder writes not as many as tokens."""
        self._label_starts = self._starts
        if _LABELS in rows.column_names:
            feature = rows.features[_LABELS]
            if isinstance(feature, datasets.Value) or feature.length > 0:
                self.labels = torch.from_numpy(labels_of(plain[_LABELS]))
            else:
                self.label_lengths, token_labels = _ragged(plain[_LABELS])
                self._label_starts = np.concatenate([[0], np.cumsum(self.label_lengths, dtype=np.int64)])
                self._token_labels = token_labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, places: IntArray) -> TokenTable:
        """Returns some of the rows."""
        return TokenTable(self.rows.select(places))

    @property
    def num_labels(self) -> int:
        """How many rows, or where each word has a label words, are labelled."""
        if self._token_labels is not None:
            return int((self._token_labels != NO_LABEL).sum())
        return len(self) if self.labels is not None else 0

    def all_labels(self) -> np.ndarray[Any, Any]:
        """Returns all labels, `[N]`, or where each token has one `[N, T]`, T the longest row's."""
        labels = self.labels_at(np.arange(len(self)), int(self.label_lengths.max()))
        assert labels is not None, "the rows have no labels"
        return labels.numpy()

    def labels_at(self, numbers: IntArray, width: int) -> torch.Tensor | None:
        """Returns labels of some rows, `[B]`, `[B, W]`, or where each token has one `[B, T]`; None if there are none.

        Args:
            numbers: Of the rows.
            width: T.
        """
        if self._token_labels is None:
            return None if self.labels is None else self.labels[torch.from_numpy(numbers)]
        is_token = np.arange(width) < self.label_lengths[numbers][:, None]
        filled = np.full(is_token.shape, NO_LABEL, dtype=np.int64)
        filled[is_token] = self._token_labels[(self._label_starts[numbers][:, None] + np.arange(width))[is_token]]
        return torch.from_numpy(filled)

    def _decoder_inputs(self, numbers: IntArray, padding: Padding) -> dict[str, torch.Tensor]:
        """Returns what a decoder is given: the labels moved by one position, `[B, T]`; nothing, if a row has one label.

        Args:
            numbers: Of the rows.
            padding: With the token that comes first.
        """
        if self._token_labels is None or padding.decoder_start is None:
            return {}
        labels = self.labels_at(numbers, padding.width_of(self.label_lengths[numbers]))
        assert labels is not None, "each token has a label"
        first = torch.full((len(numbers), 1), padding.decoder_start)
        shifted = torch.cat([first, labels[:, :-1]], dim=1)
        return {DECODER_INPUTS: shifted.masked_fill(shifted == NO_LABEL, padding.default)}

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows, a decoder's left out."""
        return int(self._starts[-1])

    @property
    def num_target_tokens(self) -> int:
        """Labels of all rows, where each token has one."""
        return int(self._label_starts[-1])

    @cached_property
    def sha256(self) -> str:
        """Hash of all that enters a model, but for the labels."""
        return rows_sha256({name: (self.lengths, values) for name, values in self._values.items()})

    views: int | None = 1
    """How many views there are of each row: texts are not augmented."""

    def view_of(self, epoch: IntArray) -> IntArray:
        """Returns which view of each row an epoch takes: the only one."""
        return np.zeros_like(epoch)

    def last_tokens(self) -> IntArray:
        """Returns the last token of each row, `[N]`."""
        last: IntArray = self._values["input_ids"][self._starts[1:] - 1].astype(np.int64)
        return last

    def inputs(self, numbers: Sequence[int] | IntArray, padding: Padding) -> dict[str, torch.Tensor]:
        """Returns a batch of some rows: the tokenizer's columns, `[B, T]`, T the longest row's.

        For a model with an encoder and a decoder also `decoder_input_ids`, `[B, T]` with T of the longest target.
        """
        numbers = np.asarray(numbers, dtype=np.int64)
        lengths = self.lengths[numbers]
        width = padding.width_of(lengths)
        is_token = np.arange(width) < lengths[:, None]
        positions = (self._starts[numbers][:, None] + np.arange(width))[is_token]
        return {**self._batch(positions, is_token, padding), **self._decoder_inputs(numbers, padding)}

    def inputs_at(self, numbers: Sequence[int] | IntArray, position: str, padding: Padding) -> dict[str, torch.Tensor]:
        """Returns a batch of the `first` or the `last` token of some rows, `[B, 1]`."""
        numbers = np.asarray(numbers, dtype=np.int64)
        positions = self._starts[numbers] if position == "first" else self._starts[numbers + 1] - 1
        return self._batch(positions, np.ones((len(numbers), 1), dtype=bool), padding)

    def _batch(
        self, positions: IntArray, is_token: np.ndarray[Any, np.dtype[np.bool_]], padding: Padding
    ) -> dict[str, torch.Tensor]:
        batch = {}
        for name, values in self._values.items():
            if padding.accepted is not None and name not in padding.accepted:
                continue
            filled = np.full(is_token.shape, padding.values.get(name, padding.default), dtype=np.int64)
            filled[is_token] = values[positions]
            batch[name] = torch.from_numpy(filled)
        if padding.has_mask:
            batch[_MASK] = torch.from_numpy(is_token.astype(np.int64))
        return batch


def rows_sha256(columns: Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> str:
    """Returns a sha256 over columns of whole numbers, ragged; names and row borders count.

    Args:
        columns: Lengths `[N]` and all values one behind the other, by name, for example `input_ids`.
    """
    digest = hashlib.sha256()
    for name, (lengths, values) in sorted(columns.items()):
        digest.update(f"{name} {len(lengths)} {len(values)} ".encode())
        digest.update(np.ascontiguousarray(lengths, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(values, dtype="<i8").tobytes())
    return digest.hexdigest()


def _ragged(column: Any) -> tuple[IntArray, np.ndarray[Any, Any]]:
    """Returns lengths and values of a column of lists."""
    chunks = column[:] if not hasattr(column, "combine_chunks") else column
    return pc.list_value_length(chunks).to_numpy().astype(np.int64), pc.list_flatten(chunks).to_numpy()


def labels_of(column: Any) -> np.ndarray[Any, Any]:
    """Returns a column of labels, `[N]` or `[N, W]`: int64, or float32 where they are numbers."""
    chunks = column[:] if not hasattr(column, "combine_chunks") else column
    if pa.types.is_fixed_size_list(chunks.type):
        flat: np.ndarray[Any, Any] = pc.list_flatten(chunks).to_numpy()
        return flat.astype(np.int64).reshape(len(chunks), -1)
    values: np.ndarray[Any, Any] = chunks.to_numpy()
    return values.astype(np.int64 if np.issubdtype(values.dtype, np.integer) else np.float32)
