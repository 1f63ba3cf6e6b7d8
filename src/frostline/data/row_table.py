"""Rows as a model takes them: one interface for texts and images."""

from frostline.data.pixel_table import PixelTable
from frostline.data.token_table import TokenTable

RowTable = TokenTable | PixelTable
"""Lengths, inputs of some rows, labels of some rows, a hash: everything above knows no more."""
