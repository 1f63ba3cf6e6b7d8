"""Owns: rows -> split, labelled, tokenized tables, and a report of what they hold. Must not know: models, training."""

from frostline.dataset.rows import Rows, load_rows
from frostline.dataset.table import Padding, TokenTable, rows_sha256
from frostline.dataset.tokens import Tokenized, token_table, tokenize

__all__ = ["Padding", "Rows", "TokenTable", "Tokenized", "load_rows", "rows_sha256", "token_table", "tokenize"]
