"""Probes a loaded model: where its head reads, and whether its last block can be computed there alone.

Must not know: how it is trained. What is found is kept for the process, by the model's class and config.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from frostline.data.token_table import TokenTable
from frostline.data.tokenize import Tokenized
from frostline.models.blocks import Anatomy
from frostline.models.config_file import config_sha256
from frostline.models.loading import LoadedModel
from frostline.prefix_cache.last_block import LastBlockAtPosition, position_of, read_block
from frostline.process_cache import PROCESS_CACHE, LruCache

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelProbe:
    """A model and what was found.

    Attributes:
        loaded: Model and processor, as they were loaded.
        anatomy: The model taken apart.
        kind: Class and config.
        position: Which position of the last hidden state the head reads of every row, if it is just one.
        reading: Computes the last block for it alone, if the architecture allows; not attached.
        is_steady: Whether its forward leaves the model as it is. BigBird's exchanges modules on a short input.
    """

    loaded: LoadedModel
    anatomy: Anatomy
    kind: str
    position: str | None = None
    reading: LastBlockAtPosition | None = None
    is_steady: bool = True


_POSITIONS: LruCache[str | None] = PROCESS_CACHE.lru()
_CHECKED: set[str] = PROCESS_CACHE.container(set())
"""Kinds whose last block was found to be the same at the read position alone."""
_UNSTEADY: set[str] = PROCESS_CACHE.container(set())


def probe_model(load: Callable[[], tuple[LoadedModel, Anatomy]], tables: Tokenized, *, wanted: bool) -> ModelProbe:
    """Loads a model and runs it on a few tokens.

    Args:
        load: Loads it; called again if running it has changed it.
        tables: The rows that it will be given.
        wanted: Whether anybody asks; else it is not run.
    """
    loaded, anatomy = load()
    kind = f"{type(loaded.model).__name__} {config_sha256(loaded.model.config)}"
    if not wanted or not anatomy.blocks or kind in _UNSTEADY:
        return ModelProbe(loaded=loaded, anatomy=anatomy, kind=kind, is_steady=kind not in _UNSTEADY)
    before = _modules(loaded.model)
    position = if_of_every_row(_POSITIONS.get(kind, lambda: position_of(anatomy)), anatomy, tables)
    reading = None if anatomy.image is not None else read_block(anatomy, position, is_checked=kind in _CHECKED)
    if _modules(loaded.model) != before:
        log.info("%s exchanges its own modules when it is run: it is trained as it is", type(loaded.model).__name__)
        _UNSTEADY.add(kind)
        loaded, anatomy = load()
        return ModelProbe(loaded=loaded, anatomy=anatomy, kind=kind, is_steady=False)
    if reading is not None:
        _CHECKED.add(kind)
    return ModelProbe(loaded=loaded, anatomy=anatomy, kind=kind, position=position, reading=reading)


def if_of_every_row(position: str | None, anatomy: Anatomy, tables: Tokenized) -> str | None:
    """Returns the position if the head reads it of every row."""
    if any((table.lengths == 0).any() for table in tables.every):
        return None  # a tokenizer that adds nothing makes nothing of an empty text: there is no position to read
    texts = [table for table in tables.every if isinstance(table, TokenTable)]
    if position == "last":
        # A decoder's head looks for the last id that isn't the padding's: a row may end in just that one.
        pad = getattr(anatomy.model.config, "pad_token_id", None)
        if any((table.last_tokens() == pad).any() for table in texts):
            return None
    return position


def _modules(model: nn.Module) -> list[tuple[str, type]]:
    return [(name, type(module)) for name, module in model.named_modules()]
