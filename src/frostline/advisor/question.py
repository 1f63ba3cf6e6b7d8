"""What a sweep asks: its swept keys as an axis of cost and settings, and back to parameters.

Here is said which key is the axis of cost and where its best learning rates are expected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from frostline.spec import COST_KEYS, DEPTH_KEY, LR_KEY, ROWS_KEY, Dimension, Params, Value

if TYPE_CHECKING:
    import numpy as np

    from frostline.decision import Axis, Ridge, Setting

_CHEAPER_WHEN_LARGER = frozenset({DEPTH_KEY, "freeze.fraction"})
"""Keys of which more is cheaper; of all others it is less."""

_ON_A_LOG_SCALE = frozenset({"freeze.rank", ROWS_KEY})

_IN_PROPORTION = frozenset({"training.epochs", "training.max_steps", "training.max_tokens", ROWS_KEY})
"""Keys by which the time of a run is assumed to grow; of others that are asked for nothing is assumed."""

_MOST_LEVELS = 33
"""Of a range that has more, as of one that can't be counted, those that were tried are levels, and a few more."""

_HEAD_COST = 0.06
"""What a run with all blocks frozen takes beside one with none, with the prefix cache (measured on MiniLM: 1.3 s of
17.6 s for an epoch with its evaluation and its share of a trial's start, docs/benchmarks.md)."""

_RIDGE_BASES = ((6, 1e-4, 0.25), (12, 5e-5, 0.35), (10**9, 2.5e-5, 0.35))
"""Blocks at most, best rate of AdamW with nothing frozen but the embeddings, and its uncertainty in decades. Measured
for MiniLM (6 blocks, width 384); assumed for others from published rates of full fine-tuning: 5e-5 at 12 blocks and
width 768 (Devlin et al. 2019), 2e-5 to 3e-5 at 24 blocks and width 1024 (Liu et al. 2019)."""

_RIDGE_SLOPE = 1.0
"""Decades by which the best rate rises from no frozen block to all of them (measured on MiniLM, docs/study.md)."""

NOTHING_FROZEN = -1.0
"""The level of full fine-tuning on the axis of the frozen depth: at depth 0 the embeddings are frozen still."""

_NUM_LEVELS = 9
"""Levels to choose from of an axis that can't be counted, for example `freeze.fraction`."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a sweep asks, as far as it can be read from its config.

    Attributes:
        dimensions: The swept keys that settings differ in; of one model, if models are swept.
        metric: The objective.
        maximize: Whether more of it is better.
        margin: In the metric's unit.
        confidence: Of every statement.
        num_blocks: Of the model; None if unknown.
        optimizer: Its name: only AdamW's best rates are known beforehand.
        freeze: Name of the way of freezing: adapters want other rates.
        seeds: That every trial is trained with.
        num_folds: Into which the rows were dealt; 1: all runs hold out the same rows.
        settle_rows: Held-out rows that further seeds are to be scored on; None: see `race_rows`.
        is_raced: Whether further seeds can be had: not for one of several questions.
        chosen_axis: The swept key that trades quality for cost; None: a depth or a rank, if one is swept.
        fixed_position: Share of the blocks that all runs freeze, where it is not swept.
        sizes: Where the axis is a config group (`model`): the parameters of each choice. Its levels are the ranks of
            the choices, from 0, the smallest.
    """

    dimensions: tuple[Dimension, ...]
    metric: str
    maximize: bool
    margin: float
    confidence: float
    num_blocks: int | None
    optimizer: str
    freeze: str
    seeds: tuple[int, ...] = (0,)
    num_folds: int = 1
    settle_rows: int | None = None
    is_raced: bool = True
    chosen_axis: str | None = None
    fixed_position: float = 0.0
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def level_names(self) -> tuple[str, ...]:
        """The choices of an axis that is a config group, by level; nothing of an axis of numbers."""
        return tuple(sorted(self.sizes, key=lambda name: (self.sizes[name], name)))

    @property
    def axis_key(self) -> str | None:
        """The key that trades quality for cost; None if none is swept."""
        if self.chosen_axis is not None:
            return self.chosen_axis
        keys = [each.key for each in self.dimensions if each.key in COST_KEYS and is_numeric(each)]
        return keys[0] if keys else None

    def axis(self, values: Sequence[float] = (), *, grid: bool = False) -> Axis:
        """Returns the axis of cost.

        Args:
            values: Levels that were tried; the only ones of a range that can't be counted.
            grid: Of such a range, some more, to choose from.
        """
        from frostline.decision import Axis

        key = self.axis_key
        rates, ridge = self.rates()
        if key is None:
            return Axis(levels=(0.0,), positions=(0.0,), relative_costs=(1.0,), rates=rates, ridge=ridge)
        if self.sizes:
            return self._axis_of_sizes(rates, ridge)
        dimension = next(each for each in self.dimensions if each.key == key)
        many = _has_many(dimension)
        wanted = () if many and values and not grid else dimension.values(_NUM_LEVELS if many else None)
        levels = sorted({*(_number(value) for value in wanted if _is_number(value)), *values})
        if key not in _CHEAPER_WHEN_LARGER:
            levels.reverse()
        positions = self._positions(dimension, levels)
        costs = self._costs(dimension, levels, positions)
        return Axis(
            levels=tuple(levels), positions=tuple(positions), relative_costs=tuple(costs), rates=rates, ridge=ridge
        )

    def _axis_of_sizes(self, rates: tuple[float, float] | None, ridge: Ridge | None) -> Axis:
        """Returns the axis over the choices of a config group, the largest first: cost is in proportion to size."""
        from frostline.decision import Axis

        sizes = [self.sizes[name] for name in reversed(self.level_names)]
        span = math.log(sizes[0] / sizes[-1]) or 1.0
        return Axis(
            levels=tuple(float(level) for level in reversed(range(len(sizes)))),
            positions=tuple(math.log(sizes[0] / size) / span for size in sizes),
            relative_costs=tuple(size / sizes[0] for size in sizes), rates=rates, ridge=ridge,
        )  # fmt: skip

    def _costs(self, dimension: Dimension, levels: Sequence[float], positions: Sequence[float]) -> list[float]:
        key = dimension.key
        if key in _IN_PROPORTION and min(levels) > 0:
            return [level / _range_of(dimension)[1] for level in levels]
        if key in COST_KEYS and key != "freeze.rank":
            return [1 + _HEAD_COST - position for position in positions]
        return [1.0] * len(levels)

    def _positions(self, dimension: Dimension, levels: Sequence[float]) -> list[float]:
        key, blocks = dimension.key, self.num_blocks
        if key == DEPTH_KEY and blocks:  # training the embeddings as well changes less than a block (assumed)
            return [max(level, NOTHING_FROZEN / 2) / blocks for level in levels]
        if key == "freeze.last" and blocks:
            return [1 - level / blocks for level in levels]
        if key == "freeze.fraction":
            return list(levels)
        on_a_log_scale = min(levels) > 0 and (key in _ON_A_LOG_SCALE or dimension.log)
        scaled = [math.log(level) if on_a_log_scale else level for level in levels]
        span = scaled[-1] - scaled[0]
        return [(value - scaled[0]) / span if span else 0.0 for value in scaled]

    def rates(self) -> tuple[tuple[float, float] | None, Ridge | None]:
        """Returns the range of learning rates in decades, and where the best are expected; None if none is swept."""
        from frostline.decision import Ridge

        dimension = next((each for each in self.dimensions if each.key == LR_KEY and is_numeric(each)), None)
        if dimension is None:
            return None, None
        low, high = _range_of(dimension)
        if low <= 0 or low == high:
            return None, None
        rates = (math.log10(low), math.log10(high))
        middle = Ridge(base=sum(rates) / 2, slope=0.0, offset_sd=max(0.5, (rates[1] - rates[0]) / 3))
        if self.optimizer != "adamw" or self.freeze == "lora" or self.num_blocks is None:
            return rates, middle
        base, offset_sd = next((base, sd) for blocks, base, sd in _RIDGE_BASES if self.num_blocks <= blocks)
        slope = _RIDGE_SLOPE if self.axis_key in {DEPTH_KEY, "freeze.last", "freeze.fraction"} else 0.0
        start = math.log10(base) + _RIDGE_SLOPE * self.fixed_position
        ridge = Ridge(base=start, slope=slope, offset_sd=offset_sd)
        # Where the user looks elsewhere, the middle of the user's range is the better guess.
        inside = rates[0] - 0.5 <= ridge.base <= rates[1] + 0.5
        return rates, ridge if inside else middle

    # -- settings ----------------------------------------------------------------------------------------------------

    def setting(self, params: Mapping[str, Value]) -> Setting | None:
        """Returns a trial's parameters as a setting; None if they are not of this question."""
        from frostline.decision import Setting

        others, groups = [], []
        level = rate = 0.0
        rates, _ = self.rates()
        for dimension in self.dimensions:
            if dimension.key not in params:
                return None
            value = params[dimension.key]
            if dimension.key == self.axis_key:
                if dimension.key == DEPTH_KEY and value is None:
                    level = NOTHING_FROZEN
                elif self.sizes:
                    level = float(self.level_names.index(str(value)))
                elif _is_number(value):
                    level = _stepped(dimension, _number(value))
                else:
                    return None
            elif dimension.key == LR_KEY and rates is not None:
                rate = math.log10(_number(value))
            elif is_numeric(dimension):
                others.append(_scaled(dimension, _number(value)))
            else:
                groups.append(str(value))
        return Setting(level=level, rate=rate, others=tuple(others), groups=tuple(groups))

    def listed_rates(self) -> list[float] | None:
        """Returns log10 of the rates of a discrete range; None where all between its ends can be had."""
        dimension = next((each for each in self.dimensions if each.key == LR_KEY), None)
        if dimension is None or self.rates()[0] is None or (dimension.choices is None and dimension.step is None):
            return None
        return sorted(math.log10(_number(value)) for value in dimension.values() if _is_number(value))

    def random(self, rng: np.random.Generator) -> Setting:
        """Returns a setting with random values of the further keys."""
        from frostline.decision import Setting

        others, groups = [], []
        rates, _ = self.rates()
        for dimension in self.dimensions:
            if dimension.key == self.axis_key or (dimension.key == LR_KEY and rates is not None):
                continue
            if is_numeric(dimension):
                others.append(_scaled(dimension, _unscaled(dimension, float(rng.random()))))
            else:
                assert dimension.choices is not None
                groups.append(str(dimension.choices[rng.integers(len(dimension.choices))]))
        return Setting(level=0.0, others=tuple(others), groups=tuple(groups))

    def params(self, setting: Setting) -> Params:
        """Returns a setting as parameters, inside the space."""
        others, groups = iter(setting.others), iter(setting.groups)
        rates, _ = self.rates()
        params: Params = {}
        for dimension in self.dimensions:
            if dimension.key == self.axis_key:
                is_named = bool(self.sizes)
                level = self.level_names[round(setting.level)] if is_named else _typed(dimension, setting.level)
                params[dimension.key] = level
            elif dimension.key == LR_KEY and rates is not None:
                params[dimension.key] = _nearest_rate(dimension, 10**setting.rate)
            elif is_numeric(dimension):
                params[dimension.key] = _typed(dimension, _unscaled(dimension, next(others)))
            else:
                name = next(groups)
                params[dimension.key] = next(value for value in dimension.choices or () if str(value) == name)
        return params


def _has_many(dimension: Dimension) -> bool:
    return dimension.is_continuous or len(dimension.values()) > _MOST_LEVELS


def _stepped(dimension: Dimension, value: float) -> float:
    """Returns the value of a stepped range that a sampler meant: 0.30000000000000004 is 0.3."""
    return value if dimension.step is None else float(f"{value:.12g}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Value) -> float:
    """Returns a value that is known to be a number."""
    return float(value)  # type: ignore[arg-type]


def is_numeric(dimension: Dimension) -> bool:
    """Returns whether all values of a key are numbers."""
    return dimension.choices is None or all(_is_number(value) for value in dimension.choices)


def _range_of(dimension: Dimension) -> tuple[float, float]:
    if dimension.choices is None:
        return dimension.low, dimension.high
    values = [_number(value) for value in dimension.choices]
    return min(values), max(values)


def _scaled(dimension: Dimension, value: float) -> float:
    low, high = _range_of(dimension)
    if low == high:
        return 0.0
    if dimension.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _unscaled(dimension: Dimension, share: float) -> float:
    """Returns the value of the space next to a place between its ends."""
    low, high = _range_of(dimension)
    value = low * (high / low) ** share if dimension.log else low + (high - low) * share
    if not dimension.is_continuous:
        return min(
            (_number(each) for each in dimension.values() if _is_number(each)), key=lambda each: abs(each - value)
        )
    return min(high, max(low, value))


def _typed(dimension: Dimension, value: float) -> Value:
    if dimension.choices is not None:
        return next(each for each in dimension.choices if _number(each) == value)
    return round(value) if dimension.whole else float(value)


def _nearest_rate(dimension: Dimension, rate: float) -> Value:
    if dimension.choices is not None or dimension.step is not None:
        return min(dimension.values(), key=lambda each: abs(math.log(_number(each) / rate)))
    return min(dimension.high, max(dimension.low, float(f"{rate:.3g}")))
