"""Tokenizes texts, cached on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frostline.data.load import Rows
from frostline.data.pixel_table import ImageInput, PixelTable, pixel_tables
from frostline.data.split import Indices
from frostline.data.table_cache import map_cached
from frostline.data.token_table import NO_LABEL, TokenTable

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from frostline.spec.task import RowEncoder

_TOKENS_VERSION = 1  # part of cache fingerprints: raise it when the same rows would give other tokens


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """Rows as a model takes them: tokens, or pixels.

    Attributes:
        train: The training rows.
        evaluation: The same of the held-out rows.
        others: Rows that a run is scored on when it has ended, by the name that its numbers get.
        truncated: How many rows of each were cut to `max_tokens`.
        words_cut: Where each word has a class: how many words of each went with that.
        pool: With folds, all rows that were dealt, the same whichever fold is held out; None without.
        places: Of the training and of the held-out rows in the pool; None without.
    """

    train: TokenTable | PixelTable
    evaluation: TokenTable | PixelTable
    others: Mapping[str, TokenTable | PixelTable]
    truncated: dict[str, int]
    words_cut: Mapping[str, int] = field(default_factory=dict)
    pool: TokenTable | PixelTable | None = None
    places: tuple[Indices, Indices] | None = None

    @property
    def every(self) -> tuple[TokenTable | PixelTable, ...]:
        """All tables: training, held-out, the others."""
        return (self.train, self.evaluation, *self.others.values())


def tokenize(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_sha256: str,
    max_tokens: int,
    others: Mapping[str, tuple[Dataset, str]] | None = None,
    encode: RowEncoder | None = None,
) -> Tokenized:
    """Tokenizes rows in batches, once for the same rows and tokenizer.

    Args:
        rows: From `load_rows`.
        tokenizer: A fast tokenizer.
        tokenizer_sha256: Identity of its files, part of the cache's key.
        max_tokens: Longer texts are cut, and counted.
        others: More rows by name (none of them `train` or `eval`), each with what identifies them.
        encode: Makes tokens and their labels; None: texts are tokenized, their labels stay.

    Raises:
        DataError: A row can't be encoded.
    """
    parts = _parts(rows, others)
    tables, flags = dict[str, TokenTable | PixelTable](), dict[str, NDArray[np.bool_]]()
    for name, (table, fingerprint, part) in parts.items():
        identity = f"{_TOKENS_VERSION}:{fingerprint}:{tokenizer_sha256}:{max_tokens}:{version('tokenizers')}"
        identity += f":{encode.identity}" if encode is not None else ""
        key = hashlib.sha256(f"{identity}:{part}".encode()).hexdigest()[:32]
        about = f"tokens ({name})"
        tables[name], flags[name] = token_table(table, tokenizer, max_tokens, key, about, encode)
    texts = {name: table for name, (table, _, _) in parts.items()}
    pool = tables.pop("pool", None)
    if rows.pool is not None and pool is not None:
        is_cut = flags.pop("pool")
        for name, table, places in (
            ("train", rows.train, rows.pool.train), ("eval", rows.evaluation, rows.pool.evaluation),
        ):  # fmt: skip
            tables[name], flags[name], texts[name] = pool.select(places), is_cut[places], table
        del texts["pool"]
    words_cut = {
        name: num_words(table) - tables[name].num_labels
        for name, table in texts.items()
        if "words" in table.column_names
    }
    return Tokenized(
        train=tables.pop("train"), evaluation=tables.pop("eval"), others=tables,
        truncated={name: int(each.sum()) for name, each in flags.items()}, words_cut=words_cut, pool=pool,
        places=None if rows.pool is None else (rows.pool.train, rows.pool.evaluation),
    )  # fmt: skip


def num_words(rows: Dataset) -> int:
    """Returns how many words rows of `words` have."""
    return sum(len(words) for batch in rows.select_columns("words").iter(10_000) for words in batch["words"])


def pixelize(
    rows: Rows,
    images: ImageInput,
    folder: Path,
    others: Mapping[str, tuple[Dataset, str]] | None = None,
) -> Tokenized:
    """The same of images: decodes, resizes and crops them, once for the same images and processor.

    Args:
        rows: From `load_rows`.
        images: How the model takes them.
        folder: Where pixels are kept.
        others: As for `tokenize`.

    Raises:
        DataError: An image can't be read.
    """
    dealt = rows.pool
    if dealt is not None:
        named = {"pool": (dealt.rows, rows.identities["pool"])}
    else:
        named = {"train": (rows.train, rows.identities["train"]), "eval": (rows.evaluation, rows.identities["eval"])}
    named |= others or {}
    tables: dict[str, TokenTable | PixelTable] = dict(pixel_tables(named, images, folder))
    if dealt is not None:
        pool = tables.pop("pool")
        return Tokenized(
            train=pool.select(dealt.train), evaluation=pool.select(dealt.evaluation), others=tables, truncated={},
            pool=pool, places=(dealt.train, dealt.evaluation),
        )  # fmt: skip
    train, evaluation = tables.pop("train"), tables.pop("eval")
    return Tokenized(train=train, evaluation=evaluation, others=tables, truncated={})


def _parts(rows: Rows, others: Mapping[str, tuple[Dataset, str]] | None) -> dict[str, tuple[Dataset, str, str]]:
    """Returns tables by name, each with what identifies its rows, and which part of them it is.

    Rows that were dealt into folds are tokenized together, once for all folds.
    """
    if rows.pool is not None:
        parts = {"pool": (rows.pool.rows, rows.pool.fingerprint, "pool")}
    else:
        parts = {"train": (rows.train, rows.fingerprint, "train"), "eval": (rows.evaluation, rows.fingerprint, "eval")}
    return parts | {name: (table, identity, "other") for name, (table, identity) in (others or {}).items()}


def token_table(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    fingerprint: str | None = None,
    about: str = "tokens",
    own_encode: RowEncoder | None = None,
) -> tuple[TokenTable, NDArray[np.bool_]]:
    """Tokenizes rows, and returns which of them were cut to `max_tokens`, `[N]`.

    Args:
        rows: Columns `text`, `pair` (or not) and `labels`; or `words` and `labels`, lists: then the first token of each
            word has its label, the others `NO_LABEL`.
        tokenizer: A fast tokenizer.
        max_tokens: Longer texts are cut.
        fingerprint: What is kept on the disk is found again by it; None: nothing is kept.
        about: For the progress bar.
        own_encode: Makes tokens and their labels; None: as said of `rows`.
    """
    has_token_labels = own_encode is not None or "words" in rows.column_names
    columns = [column for column in rows.column_names if column != "labels" or has_token_labels]
    options: dict[str, Any] = {"batched": True, "remove_columns": columns, "desc": about}

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        return _encode(batch, tokenizer, max_tokens) if own_encode is None else own_encode(batch)

    if fingerprint is None:
        done = rows.map(encode, keep_in_memory=True, new_fingerprint="0" * 32, **options)
    else:
        done = map_cached(rows, encode, fingerprint, **options)
    flags = [flag for batch in done.select_columns("truncated").iter(10_000) for flag in batch["truncated"]]
    return TokenTable(done.remove_columns("truncated")), np.array(flags, dtype=bool)


def _encode(batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> dict[str, Any]:
    if "words" in batch:
        return _encode_words(batch, tokenizer, max_tokens)
    encoded = tokenizer(batch["text"], batch.get("pair"), truncation=True, max_length=max_tokens)
    return {**encoded, "truncated": were_cut(encoded, max_tokens)}


def were_cut(encoded: BatchEncoding, max_tokens: int) -> list[bool]:
    """Returns which texts of a batch a tokenizer cut.

    Args:
        encoded: What it returned.
        max_tokens: How many tokens of a text it keeps.
    """
    if encoded.encodings is not None:
        return [bool(encoding.overflowing) for encoding in encoded.encodings]
    # A slow tokenizer doesn't say: full length is the best sign.
    return [len(ids) >= max_tokens for ids in encoded["input_ids"]]


def _encode_words(batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> dict[str, Any]:
    encoded = tokenizer(batch["words"], is_split_into_words=True, truncation=True, max_length=max_tokens)
    out = dict(encoded)
    out["truncated"] = [bool(encoding.overflowing) for encoding in encoded.encodings or []]
    out["labels"] = [
        [
            NO_LABEL if word is None or word == before else labels[word]
            for before, word in pairwise([None, *encoded.word_ids(row)])
        ]
        for row, labels in enumerate(batch["labels"])
    ]
    return out
