"""What a freeze method chose in a model, and ways to choose it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.errors import SpecError

if TYPE_CHECKING:
    from frostline.models.blocks import Anatomy, NamedModule


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a freeze method chose in a model.

    Attributes:
        modules: Modules that are frozen whole, lowest first.
        extra_params: Names of frozen parameters outside of these modules.
        prefix_depth: How many of the lowest blocks are frozen whole with the embeddings; None: those are trained.
        description: For people.
    """

    modules: tuple[NamedModule, ...]
    extra_params: tuple[str, ...] = ()
    prefix_depth: int | None
    description: str


NOTHING = Choice(modules=(), prefix_depth=None, description="nothing")
"""Everything is trained."""


def lowest_blocks(anatomy: Anatomy, depth: int | None) -> Choice:
    """Chooses the embeddings and the lowest blocks; with a depth of None nothing."""
    if depth is None:
        return NOTHING
    total = anatomy.num_blocks
    assert 0 <= depth <= total, "FreezeMethod.check comes first"
    description = f"the embeddings and {depth} of {total} blocks" if depth else "the embeddings"
    return Choice(modules=anatomy.prefix(depth), prefix_depth=depth, description=description)


def below_head(anatomy: Anatomy) -> set[str]:
    """Returns the names of the parameters of the embeddings and the blocks."""
    parts = anatomy.prefix(anatomy.num_blocks)
    return {name for part, module in parts for name, _ in module.named_parameters(part)}


def all_but(anatomy: Anatomy, trained: Collection[str], method: str, kind: str) -> Choice:
    """Chooses all parameters below the head but some.

    Args:
        anatomy: The model.
        trained: Names of the parameters that are trained.
        method: Name of the freeze method, for messages.
        kind: What the trained parameters are, in the plural: `biases`.

    Raises:
        SpecError: There are none of this kind, or nothing else.
    """
    inside = below_head(anatomy)
    if not trained or set(trained) == inside:
        amount = "no" if not trained else "nothing but"
        raise SpecError(f"freeze={method}: {type(anatomy.model).__name__} has {amount} {kind} below its head")
    return by_name(anatomy, inside - set(trained), f"all but the {kind} and what lies above the blocks")


def by_name(anatomy: Anatomy, frozen: Collection[str], description: str) -> Choice:
    """Chooses parameters by name: parts of the model of which all are frozen are frozen whole.

    Args:
        anatomy: The model.
        frozen: Names of parameters.
        description: For people.
    """
    below = [modules for _, modules in anatomy.groups()][:-1]
    units: list[tuple[int | None, tuple[NamedModule, ...]]] = list(enumerate(below))
    units += [(None, (module,)) for module in anatomy.head]
    modules: list[NamedModule] = []
    frozen_whole: set[int] = set()
    rest = set(frozen)
    for number, unit in units:
        inside = {name for prefix, module in unit for name, _ in module.named_parameters(prefix)}
        if inside and inside <= set(frozen):
            modules += unit
            rest -= inside
            if number is not None:
                frozen_whole.add(number)
    blocks = {number - 1 for number in frozen_whole if number}
    return Choice(
        modules=tuple(modules),
        extra_params=tuple(name for name, _ in anatomy.model.named_parameters() if name in rest),
        prefix_depth=prefix_depth(blocks) if 0 in frozen_whole else None,
        description=description,
    )


def prefix_depth(blocks: Collection[int]) -> int:
    """Returns how many of the lowest blocks are among some."""
    depth = 0
    while depth in blocks:
        depth += 1
    return depth
