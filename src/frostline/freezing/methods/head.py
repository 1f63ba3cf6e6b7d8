"""`freeze=head`: everything but what lies above the blocks is frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.freezing.choice import Choice, lowest_blocks
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod

if TYPE_CHECKING:
    from frostline.models.blocks import Anatomy


@FREEZE_METHODS.register("head")
@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeAllButHead(FreezeMethod):
    """Trains the head alone: the same as `freeze.depth` with the model's number of blocks."""

    name: str = "head"

    def choose(self, anatomy: Anatomy) -> Choice:
        """See `FreezeMethod`."""
        return lowest_blocks(anatomy, anatomy.num_blocks)

    def depth_of(self, num_blocks: int) -> int:
        """See `FreezeMethod`."""
        return num_blocks

    def frozen_share(self, num_blocks: int | None) -> float:
        """See `FreezeMethod`."""
        del num_blocks
        return 1.0
