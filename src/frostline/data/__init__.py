"""Owns: rows -> split, labelled, tokenized tables, and a report of what they hold. Must not know: models, training."""

from frostline.data.load import Rows, load_rows
from frostline.data.pixel_table import ImageInput, PixelTable
from frostline.data.split import Indices
from frostline.data.token_table import NO_LABEL, NO_PADDING, Padding, TokenTable, rows_sha256
from frostline.data.tokenize import Tokenized, pixelize, token_table, tokenize

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
