"""Owns: what of a model is frozen, as it is chosen. Must not know: models."""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from frostline.errors import SpecError
from frostline.spec.parts import finite, require


class FreezeName(StrEnum):
    """Ways of freezing; a group file of `conf/freeze/` each."""

    NONE = "none"
    DEPTH = "depth"
    FRACTION = "fraction"
    LAST = "last"
    HEAD = "head"
    BLOCKS = "blocks"
    PATTERN = "pattern"
    BIAS_ONLY = "bias_only"
    NORM_ONLY = "norm_only"
    GRADUAL = "gradual"
    LP_FT = "lp_ft"
    LORA = "lora"


_OWN_KEYS: dict[FreezeName, tuple[str, ...]] = {
    FreezeName.DEPTH: ("depth",),
    FreezeName.FRACTION: ("fraction",),
    FreezeName.LAST: ("last",),
    FreezeName.BLOCKS: ("blocks", "embeddings"),
    FreezeName.PATTERN: ("pattern",),
    FreezeName.GRADUAL: ("depth", "every"),
    FreezeName.LP_FT: ("depth", "probe_epochs", "probe_lr"),
    FreezeName.LORA: ("depth", "rank", "alpha", "dropout"),
}
_MAY_BE_NULL = {FreezeName.GRADUAL: ("depth",), FreezeName.LP_FT: ("depth",)}
"""Own keys that mean something when they are null."""

PHASED = frozenset({FreezeName.GRADUAL, FreezeName.LP_FT})
"""Ways in which less is frozen as a run goes on."""

_MOST_LABEL = 40
"""Characters of a pattern in a run's name."""

_MISSING = {
    "depth": "give the number of frozen blocks, as freeze.depth=3",
    "fraction": "give the share of the blocks that is frozen, as freeze.fraction=0.5",
    "last": "give the number of blocks that are trained, counted from above, as freeze.last=2",
    "blocks": "give the frozen blocks, as freeze.blocks=[0-3,7]",
    "embeddings": "say whether they are frozen too, as freeze.embeddings=true",
    "pattern": "give regular expressions of parameter names, as freeze.pattern=[embeddings,LayerNorm]",
    "every": "give the epochs after which one more block is trained, as freeze.every=1",
    "probe_epochs": "give the epochs in which the head alone is trained, as freeze.probe_epochs=1",
    "probe_lr": "give the learning rate of the head while it alone is trained, as freeze.probe_lr=1e-3",
    "rank": "give the rank of the adapters, as freeze.rank=8",
    "alpha": "give the scale of the adapters, as freeze.alpha=16",
    "dropout": "give the dropout before the adapters, as freeze.dropout=0",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FreezePhase:
    """A part of a run in which the same is frozen.

    Attributes:
        first_epoch: Counted from 0.
        depth: Frozen blocks, and the embeddings; None: nothing.
    """

    first_epoch: int
    depth: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeSpec:
    """How much of the model is frozen. `conf/freeze/`.

    Attributes:
        name: `none` trains everything, `head` only what lies above the blocks; `depth`, `fraction` and `last` freeze
            the embeddings and the lowest blocks, counted in three ways; `blocks` any blocks; `pattern` parameters by
            name; `bias_only` and `norm_only` all but biases or norms and what lies above the blocks. `gradual` trains
            the head alone first and then one more block at a time, from above (ULMFiT, arXiv 1801.06146); `lp_ft` the
            head alone and then all that `depth` leaves (LP-FT, arXiv 2202.10054); `lora` adapters beside the linear
            layers of the blocks above `depth` (arXiv 2106.09685). Each takes its own keys, no others.
        depth: Number of frozen blocks, 0 to the model's; of `gradual` and `lp_ft` in the end, where null is nothing.
        fraction: Share of the blocks that is frozen, 0 to 1; rounded to whole blocks, half a block to the lower depth.
        last: Number of blocks that are trained, 0 to the model's.
        blocks: Frozen blocks, counted from 0: numbers, and ranges as `2-4`, both ends included.
        embeddings: With `blocks`, whether the embeddings are frozen too.
        pattern: Regular expressions; a parameter is frozen if one of them is found in its name.
        every: Epochs after which `gradual` trains one more block.
        probe_epochs: Epochs in which `lp_ft` trains the head alone.
        probe_lr: Peak learning rate meanwhile; the schedule then begins anew with the optimizer's.
        rank: Of `lora`'s adapters.
        alpha: Their output is multiplied by `alpha / rank`.
        dropout: On what they are given, 0 <= x < 1.
    """

    name: FreezeName
    depth: int | None = None
    fraction: float | None = None
    last: int | None = None
    blocks: tuple[int | str, ...] | None = None
    embeddings: bool | None = None
    pattern: tuple[str, ...] | None = None
    every: int | None = None
    probe_epochs: int | None = None
    probe_lr: float | None = None
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        own = _OWN_KEYS.get(self.name, ())
        for key, hint in _MISSING.items():
            value = getattr(self, key)
            if key in own and value is None and key not in _MAY_BE_NULL.get(self.name, ()):
                raise SpecError(f"freeze.{key} is missing: {hint}")
            if key not in own and value is not None:
                owner = next(name for name, keys in _OWN_KEYS.items() if key in keys)
                raise SpecError(
                    f"freeze.{key}={_shown(value)} contradicts freeze={self.name.value}: "
                    f"drop one of them (freeze.{key} belongs to freeze={owner.value})"
                )
        if self.depth is not None:
            require(self.depth >= 0, "freeze.depth", self.depth, "0 or more (blocks, counted from below)")
        if self.fraction is not None:
            require(0 <= self.fraction <= 1, "freeze.fraction", self.fraction, "0 to 1")
        if self.last is not None:
            require(self.last >= 0, "freeze.last", self.last, "0 or more (blocks, counted from above)")
        for key in ("every", "probe_epochs"):
            number = getattr(self, key)
            require(number is None or number >= 1, f"freeze.{key}", number, "1 or more (whole epochs)")
        require(self.rank is None or 1 <= self.rank <= 1024, "freeze.rank", self.rank, "1 to 1024")
        if self.alpha is not None:
            require(finite(self.alpha) and self.alpha > 0, "freeze.alpha", self.alpha, "above 0")
        require(self.dropout is None or 0 <= self.dropout < 1, "freeze.dropout", self.dropout, "at least 0, below 1")
        if self.probe_lr is not None:
            require(finite(self.probe_lr) and self.probe_lr > 0, "freeze.probe_lr", self.probe_lr, "above 0, as 1e-3")
        if self.blocks is not None:
            _expand(self.blocks)
            if not self.blocks:
                raise SpecError(f"freeze.blocks is empty: {_MISSING['blocks']}; or use freeze.depth=0")
        for index, pattern in enumerate(self.pattern or ()):
            _check_pattern(pattern, index)
        if self.pattern == ():
            raise SpecError(f"freeze.pattern is empty: {_MISSING['pattern']}; or use freeze=none")

    def depth_of(self, num_blocks: int) -> int | None:
        """Returns the depth that a way of counting blocks from below comes to; None for every other way."""
        if self.name is FreezeName.HEAD:
            return num_blocks
        if self.fraction is not None:
            return max(0, math.ceil(self.fraction * num_blocks - 0.5 - 1e-9))  # 0.07 * 50 is a little above 3.5
        if self.last is not None:
            return num_blocks - self.last
        return self.depth

    def phases(self, num_blocks: int) -> tuple[FreezePhase, ...]:
        """Returns what is frozen when, of the ways in which that changes; else nothing."""
        if self.name is FreezeName.LP_FT:
            assert self.probe_epochs is not None
            return (
                FreezePhase(first_epoch=0, depth=num_blocks),
                FreezePhase(first_epoch=self.probe_epochs, depth=self.depth),
            )
        if self.name is not FreezeName.GRADUAL:
            return ()
        assert self.every is not None
        depths: list[int | None] = list(range(num_blocks, (self.depth or 0) - 1, -1))
        depths += [None] if self.depth is None else []
        return tuple(FreezePhase(first_epoch=index * self.every, depth=depth) for index, depth in enumerate(depths))

    def frozen_blocks(self) -> tuple[int, ...]:
        """Returns the numbers of `blocks`, in order."""
        return _expand(self.blocks or ())

    @property
    def may_freeze_a_prefix(self) -> bool:
        """Whether lowest blocks may be frozen together with the embeddings."""
        whole_trained = {FreezeName.NONE, FreezeName.BIAS_ONLY, FreezeName.NORM_ONLY}
        return (
            self.name not in whole_trained
            and self.name not in PHASED
            and self.depth != 0
            and self.embeddings is not False
        )

    def check(self, num_blocks: int, model_name: str) -> None:
        """Checks what counts blocks against a model.

        Raises:
            SpecError: It has fewer blocks.
        """
        for key in ("depth", "last"):
            value = getattr(self, key)
            if value is not None and value > num_blocks:
                raise SpecError(
                    f"freeze.{key}={value}: {model_name} has {num_blocks} blocks, so give 0 to {num_blocks}"
                )
        highest = max(self.frozen_blocks(), default=0)
        if self.blocks is not None and highest >= num_blocks:
            raise SpecError(
                f"freeze.blocks={_shown(self.blocks)}: {model_name} has {num_blocks} blocks, so give 0 to "
                f"{num_blocks - 1}"
            )

    def label(self) -> str:
        """Returns the short form used in names: `d4`, `none`, `head`, `b0-2+5`."""
        if self.name in PHASED:
            first = f"gradual{self.every}" if self.name is FreezeName.GRADUAL else f"lpft{self.probe_epochs}"
            return f"{first}-{'none' if self.depth is None else f'd{self.depth}'}"
        if self.name is FreezeName.LORA:
            return f"lora{self.rank}{f'-d{self.depth}' if self.depth else ''}"
        if self.depth is not None:
            return f"d{self.depth}"
        if self.fraction is not None:
            return f"f{self.fraction:g}"
        if self.last is not None:
            return f"last{self.last}"
        if self.blocks is not None:
            return f"b{_ranges(self.frozen_blocks())}{'' if self.embeddings else '-free'}"
        if self.pattern is not None:
            words = f"p{'+'.join(self.pattern)}"
            if len(words) <= _MOST_LABEL:
                return words
            return f"{words[:_MOST_LABEL]}-{hashlib.sha256(words.encode()).hexdigest()[:6]}"
        return {FreezeName.BIAS_ONLY: "bias", FreezeName.NORM_ONLY: "norm"}.get(self.name, self.name.value)


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
    found: set[int] = set()
    for index, each in enumerate(blocks):
        where = f"freeze.blocks[{index}]={each}"
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", str(each))
        if match is None:
            raise SpecError(f"{where}: give the number of a block, from 0 up, or a range as 2-4")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise SpecError(f"{where}: a range goes up, as {last}-{first}")
        if last >= 10_000:
            raise SpecError(f"{where}: no model has so many blocks")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def _check_pattern(pattern: str, index: int) -> None:
    if not pattern.strip():
        raise SpecError(f"freeze.pattern[{index}] is empty: it would freeze everything")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # a set within a set: it will mean something else
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError, FutureWarning) as error:
        raise SpecError(f"freeze.pattern[{index}]={pattern}: no regular expression ({error})") from error


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
