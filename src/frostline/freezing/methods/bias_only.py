"""`freeze=bias_only`: only biases and the head are trained (BitFit, Ben Zaken et al. 2022, arXiv 2106.10199)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.freezing.choice import Choice, all_but, below_head
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod

if TYPE_CHECKING:
    from frostline.models.blocks import Anatomy


@FREEZE_METHODS.register("bias_only")
@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeAllButBiases(FreezeMethod):
    """Trains the biases and what lies above the blocks."""

    name: str = "bias_only"

    def choose(self, anatomy: Anatomy) -> Choice:
        """See `FreezeMethod`."""
        # q_bias and in_proj_bias too: layers have several names for the vector that they add.
        biases = {name for name in below_head(anatomy) if re.search(r"(?:^|_)bias$", name.rpartition(".")[2])}
        return all_but(anatomy, biases, self.name, "biases")

    def label(self) -> str:
        """See `FreezeMethod`."""
        return "bias"

    @property
    def may_freeze_a_prefix(self) -> bool:
        """See `FreezeMethod`."""
        return False
