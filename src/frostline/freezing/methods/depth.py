"""`freeze.depth=N`: the embeddings and the lowest blocks are frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.freezing.choice import Choice, lowest_blocks
from frostline.spec.checks import require
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod, check_count, key

if TYPE_CHECKING:
    from frostline.models.blocks import Anatomy


@FREEZE_METHODS.register("depth")
@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeDepth(FreezeMethod):
    """Freezes the embeddings and the lowest `depth` blocks.

    Attributes:
        depth: Number of frozen blocks, 0 to the model's; 0 freezes the embeddings alone.
    """

    name: str = "depth"
    depth: int = key("give the number of frozen blocks, for example freeze.depth=3")

    def __post_init__(self) -> None:
        require(self.depth >= 0, "freeze.depth", self.depth, "0 or more (blocks, counted from below)")

    def choose(self, anatomy: Anatomy) -> Choice:
        """See `FreezeMethod`."""
        return lowest_blocks(anatomy, self.depth)

    def label(self) -> str:
        """See `FreezeMethod`."""
        return f"d{self.depth}"

    def check(self, num_blocks: int, model_name: str) -> None:
        """See `FreezeMethod`."""
        check_count("depth", self.depth, num_blocks, model_name)

    def depth_of(self, num_blocks: int) -> int | None:
        """See `FreezeMethod`."""
        del num_blocks
        return self.depth

    def frozen_share(self, num_blocks: int | None) -> float:
        """See `FreezeMethod`."""
        return self.depth / num_blocks if num_blocks else 0.0

    @property
    def may_freeze_a_prefix(self) -> bool:
        """See `FreezeMethod`."""
        return self.depth != 0
