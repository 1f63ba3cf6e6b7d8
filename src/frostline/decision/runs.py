"""What a decision is made from: the axis of cost, the settings that were tried, and the runs that tried them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """Where the best learning rates are expected before any is tried.

    Attributes:
        base: log10 of the best rate at position 0 of the axis of cost.
        slope: Decades by which it rises from position 0 to position 1.
        offset_sd: Standard deviation of the error of `base`, in decades.
    """

    base: float
    slope: float
    offset_sd: float


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The swept quantity that trades quality for cost: frozen depth, LoRA rank, the number of trained parameters.

    Attributes:
        levels: Every value that may be chosen, from the dearest to the cheapest.
        positions: Where each level lies on a scale from 0 (dearest) to 1 (cheapest) on which equal steps matter
            equally: depth / number of blocks; the logarithm of a rank.
        relative_costs: Seconds of a run at each level, in any unit. A model or a count of operations and no
            measurement: the same runs must lead to the same decision.
        rates: Least and greatest log10 of the learning rate that may be chosen; None if it is not swept.
        ridge: Where its best values are expected; None if it is not swept.
    """

    levels: tuple[float, ...]
    positions: tuple[float, ...]
    relative_costs: tuple[float, ...]
    rates: tuple[float, float] | None
    ridge: Ridge | None

    def __post_init__(self) -> None:
        if not len(self.levels) == len(self.positions) == len(self.relative_costs) > 0:
            raise ValueError("an axis has as many positions and costs as levels, and at least one")
        if len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels repeat: {self.levels}")
        if any(not math.isfinite(cost) or cost <= 0 for cost in self.relative_costs):
            raise ValueError(f"costs are above 0: {self.relative_costs}")
        if (self.rates is None) != (self.ridge is None):
            raise ValueError("an axis has a ridge where it has rates, and only there")

    def index(self, level: float) -> int:
        """Returns the place of a level, counted from the dearest."""
        return self.levels.index(level)

    def position(self, level: float) -> float:
        """Returns the position of a level."""
        return self.positions[self.index(level)]

    def cost(self, level: float) -> float:
        """Returns the relative cost of a run at a level."""
        return self.relative_costs[self.index(level)]

    def ridge_rate(self, level: float, offset: float = 0.0) -> float:
        """Returns log10 of the rate on the ridge, so many decades above it, inside the rates that may be chosen."""
        if self.ridge is None or self.rates is None:
            return 0.0
        rate = self.ridge.base + self.ridge.slope * self.position(level) + offset
        return min(self.rates[1], max(self.rates[0], rate))


@dataclass(frozen=True, order=True)
class Setting:
    """What a run was trained with, as far as it was chosen by the sweep.

    Attributes:
        level: On the axis of cost.
        rate: log10 of the learning rate; 0 if it is not swept.
        others: Further numeric keys, each scaled to 0..1 over its range.
        groups: Values of categorical keys.
    """

    level: float
    rate: float = 0.0
    others: tuple[float, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: a setting trained with one seed, scored on held-out rows.

    Attributes:
        setting: With what it was trained.
        seed: Of the run, or the number of its fold: what makes it a replicate.
        value: The quality, more is better: the sign of a loss is turned by the caller.
        chosen: Whether this run took part in the choice of its setting (a search's run did, a race's did not).
        collapsed: Whether it learnt nothing: NaN, or one class for all rows. Named, and left out of every average.
    """

    setting: Setting
    seed: int
    value: float
    chosen: bool = True
    collapsed: bool = False


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """Returns the settings that were tried by a run that learnt, each once, in order."""
    return sorted({run.setting for run in runs if not run.collapsed})
