"""Owns: texts -> token ids, cached on the disk. Must not know: labels' meaning, models."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from frostline.dataset.rows import Rows
from frostline.dataset.table import TokenTable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENS_VERSION = 1  # part of cache fingerprints: raise it when the same rows would give other tokens


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """Tokenized rows.

    Attributes:
        train: The training rows.
        evaluation: The same of the held-out rows.
        truncated: How many rows of each were cut to `max_tokens`.
    """

    train: TokenTable
    evaluation: TokenTable
    truncated: dict[str, int]


def tokenize(rows: Rows, tokenizer: PreTrainedTokenizerBase, tokenizer_sha256: str, max_tokens: int) -> Tokenized:
    """Tokenizes rows in batches, once for the same rows and tokenizer.

    Args:
        rows: From `load_rows`.
        tokenizer: A fast tokenizer.
        tokenizer_sha256: Identity of its files, part of the cache's key.
        max_tokens: Longer texts are cut, and counted.
    """
    identity = f"{_TOKENS_VERSION}:{rows.fingerprint}:{tokenizer_sha256}:{max_tokens}:{version('tokenizers')}"
    tables, truncated = {}, {}
    for name, table in (("train", rows.train), ("eval", rows.evaluation)):
        done = table.map(
            lambda batch: _encode(batch, tokenizer, max_tokens),
            batched=True,
            remove_columns=[column for column in table.column_names if column != "labels"],
            new_fingerprint=hashlib.sha256(f"{identity}:{name}".encode()).hexdigest()[:32],
            desc=f"tokens ({name})",
        )
        truncated[name] = sum(sum(batch["truncated"]) for batch in done.select_columns("truncated").iter(10_000))
        tables[name] = TokenTable(done.remove_columns("truncated"))
    return Tokenized(train=tables["train"], evaluation=tables["eval"], truncated=truncated)


def _encode(batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> dict[str, Any]:
    encoded = tokenizer(batch["text"], batch.get("pair"), truncation=True, max_length=max_tokens)
    out = dict(encoded)
    if encoded.encodings is not None:
        out["truncated"] = [bool(encoding.overflowing) for encoding in encoded.encodings]
    else:  # a slow tokenizer doesn't say: full length is the best sign
        out["truncated"] = [len(ids) >= max_tokens for ids in encoded["input_ids"]]
    return out
