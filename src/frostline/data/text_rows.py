"""Rows of tasks whose labels lie in their texts: a text, a prompt and what is to be written, or a conversation."""

from __future__ import annotations

import json
from typing import Any

import datasets

from frostline.data.label_values import NULL_OF_DATABASES
from frostline.data.raw_table import RawTable
from frostline.data.split import row_key
from frostline.data.table_cache import map_cached
from frostline.errors import DataError
from frostline.spec import DatasetSpec

ASSISTANT = "assistant"
"""Role of the turns that are learned, in Transformers' chat templates."""


def text_rows(raw: RawTable, spec: DatasetSpec, fingerprint: str) -> datasets.Dataset:
    """Returns columns text (and target), or messages as JSON, a key of what is read and a hash of what is learned.

    Rows of the same prompt have the same key: they stay on one side of a split.

    Args:
        raw: As read.
        spec: Which columns are which.
        fingerprint: What the table is found again by.

    Raises:
        DataError: A text is missing, or a conversation is none; one line with the row.
    """

    def convert(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {name: [] for name in features}
        for offset, index in enumerate(indices):
            where = f"{raw.name}, row {index + 1}"
            if spec.messages_column is not None:
                text, target = messages_of(batch[spec.messages_column][offset], where, spec.messages_column), None
                out["messages"].append(text)
            else:
                text = text_of(batch[spec.text_column][offset], where, spec.text_column)
                out["text"].append(text)
                target = None
                if spec.target_column is not None:
                    target = text_of(batch[spec.target_column][offset], where, spec.target_column)
                    out["target"].append(target)
            out["key"].append(row_key(text, None))
            out["labels"].append(0 if target is None else row_key(target, None))
        return out

    names = ["messages"] if spec.messages_column is not None else ["text"]
    names += ["target"] if spec.target_column is not None and spec.messages_column is None else []
    features = {**dict.fromkeys(names, "string"), "labels": "int64", "key": "int64"}
    return map_cached(
        raw.table, convert, fingerprint, batched=True, with_indices=True, remove_columns=raw.table.column_names,
        features=datasets.Features({name: datasets.Value(kind) for name, kind in features.items()}), desc="texts",
    )  # fmt: skip


def text_of(value: Any, where: str, column: str) -> str:
    """Returns a text of a row.

    Args:
        value: As read.
        where: The row, for messages.
        column: Its column, for messages.

    Raises:
        DataError: It is missing, or no text.
    """
    if value is None or value == NULL_OF_DATABASES:
        raise DataError(f"{where}: the text is missing (column {column}): fill it or remove the row")
    if not isinstance(value, str):
        raise DataError(f"{where}: expected text in column {column}, got {type(value).__name__}")
    return value


def messages_of(value: Any, where: str, column: str) -> str:
    """Returns a conversation as JSON: a list of objects with `role` and `content`.

    Args:
        value: Such a list, or a text that holds it.
        where: The row, for messages.
        column: Its column, for messages.

    Raises:
        DataError: It is none, or the assistant says nothing in it.
    """
    wanted = f"expected a list of messages with role and content in column {column}"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"{where}: {wanted}, got a text that is no JSON") from error
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{where}: {wanted}, got {type(value).__name__ if not isinstance(value, list) else 'no message'}"
        )
    messages = []
    for message in value:
        known = message if isinstance(message, dict) else {}
        if not isinstance(known.get("role"), str) or not isinstance(known.get("content"), str):
            raise DataError(f"{where}: {wanted}, got {str(message)[:80]}")
        messages.append({"role": known["role"], "content": known["content"]})
    if not any(message["role"] == ASSISTANT for message in messages):
        raise DataError(f"{where}: no message is the assistant's: there is nothing to learn (column {column})")
    return json.dumps(messages, ensure_ascii=False)
