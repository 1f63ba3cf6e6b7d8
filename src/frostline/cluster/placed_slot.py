"""A slot of a sweep on a cluster's node, as its parent knows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from frostline.cluster.node import About


@dataclass
class PlacedSlot:
    """A slot: asked for, then ready, then busy or idle."""

    actor: Any
    asked: Any
    about: About | None = None
    key: Any = None
    name: str = ""
    pending: Any = None
    held: set[str] = field(default_factory=set)
    near: set[Any] = field(default_factory=set)
    is_leaving: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether it takes a trial now."""
        return self.about is not None and self.key is None and not self.is_leaving
