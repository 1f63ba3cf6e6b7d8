"""`freeze=norm_only`: only normalization layers and the head are trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.freezing.choice import Choice, all_but
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod

if TYPE_CHECKING:
    from torch import nn

    from frostline.models.blocks import Anatomy


@FREEZE_METHODS.register("norm_only")
@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeAllButNorms(FreezeMethod):
    """Trains the normalization layers and what lies above the blocks."""

    name: str = "norm_only"

    def choose(self, anatomy: Anatomy) -> Choice:
        """See `FreezeMethod`."""
        parts = anatomy.prefix(anatomy.num_blocks)
        norms = {name for part, module in parts for name in _of_norms(part, module)}
        return all_but(anatomy, norms, self.name, "norms")

    def label(self) -> str:
        """See `FreezeMethod`."""
        return "norm"

    @property
    def may_freeze_a_prefix(self) -> bool:
        """See `FreezeMethod`."""
        return False


def _of_norms(prefix: str, module: nn.Module) -> Iterator[str]:
    for name, inner in module.named_modules(prefix=prefix):
        # A block of a pre-norm model, or a dense layer with its norm, has the word in its name and others' parameters.
        is_leaf = not any(True for child in inner.children() for _ in child.parameters())
        if "norm" in type(inner).__name__.lower() and is_leaf:
            yield from (key for key, _ in inner.named_parameters(name))
