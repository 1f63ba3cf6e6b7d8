"""Owns: rows -> split, labelled, tokenized tables, and a report of what they hold. Must not know: models, training."""

from frostline.dataset.pixels import ImageInput, PixelTable
from frostline.dataset.rows import Rows, load_rows
from frostline.dataset.split import Indices
from frostline.dataset.table import NO_LABEL, NO_PADDING, Padding, TokenTable, rows_sha256
from frostline.dataset.tokens import Tokenized, pixelize, token_table, tokenize

RowTable = TokenTable | PixelTable
"""Rows as a model takes them."""

__all__ = [
    "NO_LABEL",
    "NO_PADDING",
    "ImageInput",
    "Indices",
    "Padding",
    "PixelTable",
    "RowTable",
    "Rows",
    "TokenTable",
    "Tokenized",
    "load_rows",
    "pixelize",
    "rows_sha256",
    "token_table",
    "tokenize",
]
