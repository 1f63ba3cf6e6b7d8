"""Owns: rows -> split, labelled, tokenized tables, and a report of what they hold. Must not know: models, training."""

from frostline.dataset.rows import Rows, load_rows
from frostline.dataset.tokens import Tokenized, tokenize

__all__ = ["Rows", "Tokenized", "load_rows", "tokenize"]
