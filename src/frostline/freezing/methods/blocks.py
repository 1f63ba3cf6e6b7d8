"""`freeze=blocks`: any blocks are frozen (surgical fine-tuning, Lee et al. 2023, arXiv 2210.11466)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.errors import SpecError
from frostline.freezing.choice import Choice, prefix_depth
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod, format_value, key

if TYPE_CHECKING:
    from frostline.models.blocks import Anatomy

_HINT = "give the frozen blocks, for example freeze.blocks=[0-3,7]"


@FREEZE_METHODS.register("blocks")
@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeBlocks(FreezeMethod):
    """Freezes any blocks.

    Attributes:
        blocks: Frozen blocks, counted from 0: numbers, and ranges as `2-4`, both ends included.
        embeddings: Whether the embeddings are frozen too.
    """

    name: str = "blocks"
    blocks: tuple[int | str, ...] = key(_HINT)
    embeddings: bool = key("say whether they are frozen too, for example freeze.embeddings=true")

    def __post_init__(self) -> None:
        _expand(self.blocks)
        if not self.blocks:
            raise SpecError(f"freeze.blocks is empty: {_HINT}; or use freeze.depth=0")

    def numbers(self) -> tuple[int, ...]:
        """Returns the numbers of the frozen blocks, in order."""
        return _expand(self.blocks)

    def choose(self, anatomy: Anatomy) -> Choice:
        """See `FreezeMethod`."""
        numbers, total = self.numbers(), anatomy.num_blocks
        assert max(numbers) < total, "FreezeMethod.check comes first"
        embedded, *blocks = (modules for _, modules in anatomy.groups())
        below = embedded if self.embeddings else ()
        listed = ", ".join(map(str, self.blocks))
        embeddings = "the embeddings and " if below else ""
        return Choice(
            modules=(*below, *(item for number in numbers for item in blocks[number])),
            prefix_depth=prefix_depth(numbers) if self.embeddings else None,
            description=f"{embeddings}{len(numbers)} of {total} blocks ({listed})",
        )

    def label(self) -> str:
        """See `FreezeMethod`."""
        return f"b{_ranges(self.numbers())}{'' if self.embeddings else '-free'}"

    def check(self, num_blocks: int, model_name: str) -> None:
        """See `FreezeMethod`."""
        if max(self.numbers()) >= num_blocks:
            raise SpecError(
                f"freeze.blocks={format_value(self.blocks)}: {model_name} has {num_blocks} blocks, so give 0 to "
                f"{num_blocks - 1}"
            )

    @property
    def may_freeze_a_prefix(self) -> bool:
        """See `FreezeMethod`."""
        return self.embeddings


def _ranges(numbers: Sequence[int]) -> str:
    """Returns numbers in order as `0-2+5`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return "+".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _expand(blocks: Sequence[int | str]) -> tuple[int, ...]:
    numbers: set[int] = set()
    for index, item in enumerate(blocks):
        where = f"freeze.blocks[{index}]={item}"
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", str(item))
        if match is None:
            raise SpecError(f"{where}: give the number of a block, from 0 up, or a range as 2-4")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise SpecError(f"{where}: a range goes up, for example {last}-{first}")
        if last >= 10_000:
            raise SpecError(f"{where}: no model has so many blocks")
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))
