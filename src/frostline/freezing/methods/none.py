"""`freeze=none`: everything is trained, the embeddings too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from frostline.freezing.choice import NOTHING, Choice
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod

if TYPE_CHECKING:
    from frostline.models.blocks import Anatomy


@FREEZE_METHODS.register("none")
@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeNone(FreezeMethod):
    """Freezes nothing."""

    needs_blocks: ClassVar[bool] = False

    name: str = "none"

    def choose(self, anatomy: Anatomy) -> Choice:
        """See `FreezeMethod`."""
        del anatomy
        return NOTHING

    @property
    def may_freeze_a_prefix(self) -> bool:
        """See `FreezeMethod`."""
        return False
