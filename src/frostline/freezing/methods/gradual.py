"""`freeze=gradual`: the head alone first, then one more block at a time, from above.

Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", arXiv 1801.06146.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.freezing.choice import Choice, lowest_blocks
from frostline.spec.checks import require
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod, FreezePhase, check_count, key

if TYPE_CHECKING:
    from frostline.models.blocks import Anatomy


@FREEZE_METHODS.register("gradual")
@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeGradually(FreezeMethod):
    """Unfreezes one more block every few epochs, from above.

    Attributes:
        every: Epochs after which one more block is trained.
        depth: Frozen blocks in the end; None: nothing, the embeddings are trained last.
    """

    name: str = "gradual"
    every: int = key("give the epochs after which one more block is trained, for example freeze.every=1")
    depth: int | None = key("give the number of frozen blocks in the end, for example freeze.depth=3", nullable=True)

    def __post_init__(self) -> None:
        require(self.every >= 1, "freeze.every", self.every, "1 or more (whole epochs)")
        if self.depth is not None:
            require(self.depth >= 0, "freeze.depth", self.depth, "0 or more (blocks, counted from below)")

    def choose(self, anatomy: Anatomy) -> Choice:
        """See `FreezeMethod`: what is frozen to the end."""
        return lowest_blocks(anatomy, self.depth)

    def label(self) -> str:
        """See `FreezeMethod`."""
        return f"gradual{self.every}-{'none' if self.depth is None else f'd{self.depth}'}"

    def check(self, num_blocks: int, model_name: str) -> None:
        """See `FreezeMethod`."""
        check_count("depth", self.depth, num_blocks, model_name)

    def depth_of(self, num_blocks: int) -> int | None:
        """See `FreezeMethod`."""
        del num_blocks
        return self.depth

    def phases(self, num_blocks: int) -> tuple[FreezePhase, ...]:
        """See `FreezeMethod`."""
        depths: list[int | None] = list(range(num_blocks, (self.depth or 0) - 1, -1))
        depths += [None] if self.depth is None else []
        return tuple(FreezePhase(first_epoch=index * self.every, depth=depth) for index, depth in enumerate(depths))

    @property
    def first_phase(self) -> tuple[str, int] | None:
        """See `FreezeMethod`."""
        return "every", self.every

    @property
    def may_freeze_a_prefix(self) -> bool:
        """See `FreezeMethod`."""
        return False
