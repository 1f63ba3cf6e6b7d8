"""`freeze=lp_ft`: linear probing, then fine-tuning (LP-FT, Kumar et al. 2022, arXiv 2202.10054)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.freezing.choice import Choice, lowest_blocks
from frostline.spec.checks import finite, require
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod, FreezePhase, check_count, key

if TYPE_CHECKING:
    from frostline.models.blocks import Anatomy


@FREEZE_METHODS.register("lp_ft")
@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeLinearProbeFirst(FreezeMethod):
    """Trains the head alone, then all that `depth` leaves.

    Attributes:
        probe_epochs: Epochs in which the head alone is trained.
        probe_lr: Peak learning rate meanwhile; the schedule then begins anew with the optimizer's.
        depth: Frozen blocks afterwards; None: nothing.
    """

    name: str = "lp_ft"
    probe_epochs: int = key("give the epochs in which the head alone is trained, for example freeze.probe_epochs=1")
    probe_lr: float = key(
        "give the learning rate of the head while it alone is trained, for example freeze.probe_lr=1e-3"
    )
    depth: int | None = key("give the number of frozen blocks afterwards, for example freeze.depth=3", nullable=True)

    def __post_init__(self) -> None:
        require(self.probe_epochs >= 1, "freeze.probe_epochs", self.probe_epochs, "1 or more (whole epochs)")
        require(
            finite(self.probe_lr) and self.probe_lr > 0, "freeze.probe_lr", self.probe_lr, "above 0, for example 1e-3"
        )
        if self.depth is not None:
            require(self.depth >= 0, "freeze.depth", self.depth, "0 or more (blocks, counted from below)")

    def choose(self, anatomy: Anatomy) -> Choice:
        """See `FreezeMethod`: what is frozen to the end."""
        return lowest_blocks(anatomy, self.depth)

    def label(self) -> str:
        """See `FreezeMethod`."""
        return f"lpft{self.probe_epochs}-{'none' if self.depth is None else f'd{self.depth}'}"

    def check(self, num_blocks: int, model_name: str) -> None:
        """See `FreezeMethod`."""
        check_count("depth", self.depth, num_blocks, model_name)

    def depth_of(self, num_blocks: int) -> int | None:
        """See `FreezeMethod`."""
        del num_blocks
        return self.depth

    def phases(self, num_blocks: int) -> tuple[FreezePhase, ...]:
        """See `FreezeMethod`."""
        return (
            FreezePhase(first_epoch=0, depth=num_blocks, lr=self.probe_lr),
            FreezePhase(first_epoch=self.probe_epochs, depth=self.depth),
        )

    @property
    def first_phase(self) -> tuple[str, int] | None:
        """See `FreezeMethod`."""
        return "probe_epochs", self.probe_epochs

    @property
    def may_freeze_a_prefix(self) -> bool:
        """See `FreezeMethod`."""
        return False
