"""`freeze=last`: all but the last blocks is frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.freezing.choice import Choice, lowest_blocks
from frostline.spec.checks import require
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod, check_count, key

if TYPE_CHECKING:
    from frostline.models.blocks import Anatomy


@FREEZE_METHODS.register("last")
@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeAllButLast(FreezeMethod):
    """Trains the last blocks and what lies above them.

    Attributes:
        last: Number of blocks that are trained, 0 to the model's, counted from above.
    """

    name: str = "last"
    last: int = key("give the number of blocks that are trained, counted from above, for example freeze.last=2")

    def __post_init__(self) -> None:
        require(self.last >= 0, "freeze.last", self.last, "0 or more (blocks, counted from above)")

    def choose(self, anatomy: Anatomy) -> Choice:
        """See `FreezeMethod`."""
        return lowest_blocks(anatomy, self.depth_of(anatomy.num_blocks))

    def label(self) -> str:
        """See `FreezeMethod`."""
        return f"last{self.last}"

    def check(self, num_blocks: int, model_name: str) -> None:
        """See `FreezeMethod`."""
        check_count("last", self.last, num_blocks, model_name)

    def depth_of(self, num_blocks: int) -> int:
        """See `FreezeMethod`."""
        return num_blocks - self.last

    def frozen_share(self, num_blocks: int | None) -> float:
        """See `FreezeMethod`."""
        return max(0.0, 1 - self.last / num_blocks) if num_blocks else 0.0
