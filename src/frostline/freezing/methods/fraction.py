"""`freeze=fraction`: the embeddings and a share of the blocks are frozen, the same setting for models of any size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.freezing.choice import Choice, lowest_blocks
from frostline.spec.checks import require
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod, key

if TYPE_CHECKING:
    from frostline.models.blocks import Anatomy


@FREEZE_METHODS.register("fraction")
@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeFraction(FreezeMethod):
    """Freezes the embeddings and a share of the blocks, counted from below.

    Attributes:
        fraction: 0 to 1; rounded to whole blocks, half a block to the lower depth.
    """

    name: str = "fraction"
    fraction: float = key("give the share of the blocks that is frozen, for example freeze.fraction=0.5")

    def __post_init__(self) -> None:
        require(0 <= self.fraction <= 1, "freeze.fraction", self.fraction, "0 to 1")

    def choose(self, anatomy: Anatomy) -> Choice:
        """See `FreezeMethod`."""
        return lowest_blocks(anatomy, self.depth_of(anatomy.num_blocks))

    def label(self) -> str:
        """See `FreezeMethod`."""
        return f"f{self.fraction:g}"

    def depth_of(self, num_blocks: int) -> int:
        """See `FreezeMethod`."""
        return max(0, math.ceil(self.fraction * num_blocks - 0.5 - 1e-9))  # 0.07 * 50 is a little above 3.5

    def frozen_share(self, num_blocks: int | None) -> float:
        """See `FreezeMethod`."""
        del num_blocks
        return self.fraction
