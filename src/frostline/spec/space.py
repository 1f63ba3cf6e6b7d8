"""A typed search space: inclusive bounds, choices, coarse grids."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from frostline.errors import SpecError
from frostline.spec.decode import decode

Value = str | int | float | bool | None
Params = dict[str, Value]
"""A trial of the space: `{'freeze.depth': 4, 'optimizer.lr': 1e-4}`."""

DEPTH_KEY = "freeze.depth"
LR_KEY = "optimizer.lr"
MODEL_KEY = "model"
ROWS_KEY = "dataset.train_rows"
COST_KEYS = (DEPTH_KEY, "freeze.fraction", "freeze.last", "freeze.rank")
"""What trades quality for cost where it is swept."""
_ENTRY = frozenset({"low", "high", "log", "step", "choices", "coarse"})
_COARSE = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """What a YAML entry may hold."""

    low: float | None
    high: float | None
    log: bool
    step: float | None
    coarse: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Dimension:
    """One key of the config that is swept.

    Attributes:
        key: Dotted, as in the config; or a config group, for example `model`.
        choices: The values to choose from; None for a range.
        low: Smallest value of a range.
        high: Largest value, itself included.
        log: Whether the range is searched on a logarithmic scale.
        step: Distance of neighbouring values; None: any value (1 for whole numbers).
        whole: Whether the range holds whole numbers only.
        coarse: How many values the coarse grid has of it.
    """

    key: str
    choices: tuple[Value, ...] | None = None
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False
    coarse: int = _COARSE

    def __post_init__(self) -> None:
        where = f"sweep.space.{self.key}"
        if self.choices is not None:
            if not self.choices:
                raise SpecError(f"{where}.choices: holds no values")
            return
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise SpecError(f"{where}: low and high must be finite numbers")
        if self.low > self.high:
            raise SpecError(f"{where}: low={self.low:g} is above high={self.high:g}")
        if self.log and self.low <= 0:
            raise SpecError(f"{where}: low={self.low:g} must be above 0 with log=true")
        if self.log and self.step is not None:
            raise SpecError(f"{where}: give either log or step (a step is a distance on the linear scale)")
        if self.step is not None and self.step <= 0:
            raise SpecError(f"{where}.step={self.step:g}: must be above 0")
        if self.coarse < 1:
            raise SpecError(f"{where}.coarse={self.coarse}: must be 1 or more")

    @property
    def is_continuous(self) -> bool:
        """Whether its values can't be counted."""
        return self.choices is None and not self.whole and self.step is None

    def values(self, limit: int | None = None) -> tuple[Value, ...]:
        """Returns the values of a grid: all of them where they can be counted, else `coarse` ones.

        Args:
            limit: At most so many, spread over the range; None: all, or `coarse` of a continuous range.
        """
        if self.choices is not None:
            return self.choices
        if self.low == self.high:
            return (self._typed(self.low),)
        if self.is_continuous:
            return tuple(self._typed(value) for value in self._centres(limit or self.coarse))
        step = self.step or 1
        num = math.floor((self.high - self.low) / step + 1e-9) + 1
        every = [self._inside(self.low + step * index) for index in range(num)]
        if limit is not None and len(every) > limit:
            every = self._spread(every, limit)
        return tuple(self._typed(value) for value in every)

    def _spread(self, every: list[float], limit: int) -> list[float]:
        if limit == 1:
            return every[:1]
        if self.log:
            ratio = self.high / self.low
            places = [self.low * ratio ** (index / (limit - 1)) for index in range(limit)]
            return list(dict.fromkeys(min(every, key=lambda value: abs(value - place)) for place in places))
        return [every[math.floor((len(every) - 1) * index / (limit - 1) + 0.5)] for index in range(limit)]

    def _centres(self, count: int) -> list[float]:
        # Middles of equal cells: the ends of a learning-rate range are where the best is not expected.
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        places = [low + (high - low) * (index + 0.5) / count for index in range(count)]
        exact = [math.exp(place) if self.log else place for place in places]
        short = [float(f"{value:.3g}") for value in exact]
        readable = len(set(short)) == count and all(self.low <= value <= self.high for value in short)
        return short if readable else [self._inside(value) for value in exact]

    def _inside(self, value: float) -> float:
        """Returns a computed value without its last bits' noise, and never outside of the range by them."""
        return min(self.high, max(self.low, float(f"{value:.12g}")))

    def _typed(self, value: float) -> Value:
        return int(value) if self.whole else float(value)

    def check(self, value: Value) -> None:
        """Checks a value that the user asked to try.

        Raises:
            SpecError: It is outside of the space.
        """
        if self.choices is not None:
            ok = any(value == choice and type(value) is type(choice) for choice in self.choices)
            wanted = f"one of {', '.join(map(str, self.choices))}"
        else:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            ok = number and self.low <= float(value) <= self.high and (not self.whole or float(value).is_integer())  # type: ignore[arg-type]
            wanted = f"{self.low:g} to {self.high:g}"
            if ok and self.step is not None:
                steps = (float(value) - self.low) / self.step  # type: ignore[arg-type]
                ok = abs(steps - round(steps)) < 1e-8  # as Optuna asks
                wanted += f" in steps of {self.step:g}"
        if not ok:
            raise SpecError(f"sweep.enqueue: {self.key}={value} is outside of the space ({wanted})")

    def describe(self) -> dict[str, Any]:
        """Returns plain data, for records and for comparing two sweeps."""
        if self.choices is not None:
            return {"choices": list(self.choices)}
        return {
            "low": self.low,
            "high": self.high,
            "log": self.log,
            "step": self.step,
            "whole": self.whole,
            "coarse": self.coarse,
        }

    @classmethod
    def from_description(cls, key: str, data: Mapping[str, Any]) -> Dimension:
        """Reads `describe`."""
        if "choices" in data:
            return cls(key=key, choices=tuple(data["choices"]))
        return cls(key=key, **data)


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is swept.

    Config groups come first, because the bounds of other keys may follow from them: `high: ${model.num_blocks}`.

    Attributes:
        groups: Dimensions that choose a config group.
        variants: The other dimensions, by the values of `groups`.
    """

    groups: tuple[Dimension, ...]
    variants: Mapping[tuple[Value, ...], tuple[Dimension, ...]]

    def __post_init__(self) -> None:
        if not self.groups and not any(self.variants.values()):
            raise SpecError(
                "sweep.space is empty: name what to sweep, as "
                "sweep.space.optimizer.lr='{low: 1e-5, high: 1e-3, log: true}' or optimizer.lr='interval(1e-5,1e-3)'"
            )
        seen: dict[str, tuple[Value, ...] | None] = {}
        for dimension in itertools.chain(*self.variants.values()):
            if seen.setdefault(dimension.key, dimension.choices) != dimension.choices:
                raise SpecError(
                    f"sweep.space.{dimension.key}.choices: differ from model to model, which Optuna can't search; "
                    "give a range, {low: .., high: ..}, whose bounds may follow the model"
                )

    @property
    def keys(self) -> list[str]:
        """All keys, groups first."""
        rest = (dimension.key for dimensions in self.variants.values() for dimension in dimensions)
        return list(dict.fromkeys([*(group.key for group in self.groups), *rest]))

    def of(self, params: Mapping[str, Value]) -> tuple[Dimension, ...]:
        """Returns the dimensions behind the groups, for a trial that chose these groups.

        Raises:
            SpecError: There is no such group.
        """
        chosen = tuple(params.get(group.key) for group in self.groups)
        for group, value in zip(self.groups, chosen, strict=True):
            group.check(value)
        return self.variants[chosen]

    def check(self, params: Mapping[str, Value]) -> None:
        """Checks a whole trial.

        Raises:
            SpecError: A key is unknown, missing, or out of range.
        """
        known = {dimension.key: dimension for dimension in (*self.groups, *self.of(params))}
        for key in params:
            if key not in known:
                raise SpecError(f"sweep.enqueue: {key} is not in sweep.space ({', '.join(known)})")
        for key, dimension in known.items():
            if key not in params:
                raise SpecError(f"sweep.enqueue: {key} is missing; a trial names every key of sweep.space")
            dimension.check(params[key])

    def grid(self, *, coarse: bool) -> Iterator[Params]:
        """Yields every trial of the grid.

        Args:
            coarse: Thinned out to `Dimension.coarse` values of each range.
        """
        for chosen in itertools.product(*(group.values() for group in self.groups)):
            names = dict(zip((group.key for group in self.groups), chosen, strict=True))
            dimensions = self.variants[chosen]
            axes = [dimension.values(dimension.coarse if coarse else None) for dimension in dimensions]
            for values in itertools.product(*axes):
                yield {**names, **dict(zip((dimension.key for dimension in dimensions), values, strict=True))}

    @classmethod
    def from_description(cls, data: Mapping[str, Any]) -> Space:
        """Reads `describe`."""
        groups = tuple(Dimension.from_description(key, entry) for key, entry in data["groups"].items())
        variants = {
            chosen: tuple(
                Dimension.from_description(key, entry)
                for key, entry in data["variants"][",".join(map(str, chosen))].items()
            )
            for chosen in itertools.product(*(group.choices or () for group in groups))
        }
        return cls(groups=groups, variants=variants)

    def describe(self) -> dict[str, Any]:
        """Returns plain data, for records and for comparing two sweeps."""
        return {
            "groups": {group.key: group.describe() for group in self.groups},
            "variants": {
                ",".join(map(str, chosen)): {dimension.key: dimension.describe() for dimension in dimensions}
                for chosen, dimensions in self.variants.items()
            },
        }


def flat_entries(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns `sweep.space` with dotted keys: `{optimizer: {lr: {low: ..}}}` and `{optimizer.lr: ..}` mean the same.

    Raises:
        SpecError: An entry is neither a range nor choices.
    """
    entries: dict[str, Any] = {}
    for name, value in raw.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if value is None:  # `sweep.space.optimizer.lr=null` takes a key of a ready-made sweep out
            continue
        if isinstance(value, Mapping) and value and not _ENTRY & set(map(str, value)):
            entries.update(flat_entries(value, key))
        else:
            entries[key] = value
    return entries


def parse_dimension(key: str, entry: Any) -> tuple[Dimension, list[str]]:
    """Reads one entry of `sweep.space`.

    Returns:
        The dimension, and notices: values that stood there more than once.

    Raises:
        SpecError: It is no valid entry.
    """
    where = f"sweep.space.{key}"
    if isinstance(entry, (list, tuple)):
        entry = {"choices": entry}
    if not isinstance(entry, Mapping):
        raise SpecError(f"{where}={entry}: give {{low: .., high: ..}} with log or step, or {{choices: [..]}}")
    if "choices" in entry:
        others = sorted(set(entry) - {"choices", "coarse"})
        if others:
            raise SpecError(f"{where}: choices and {others[0]} exclude each other")
        if isinstance(entry["choices"], str) or not isinstance(entry["choices"], (list, tuple)):
            raise SpecError(f"{where}.choices={entry['choices']}: expected a list, for example [1,2]")
        return _choices(key, list(entry["choices"]))
    fields = {"low": None, "high": None, "log": False, "step": None, "coarse": _COARSE, **entry}
    values = decode(_Entry, fields, where)
    if values.low is None or values.high is None:
        raise SpecError(f"{where}: a range needs low and high (both are included)")
    # Numbers written without a dot make a range of whole numbers.
    is_integer = all(isinstance(fields[name], int) for name in ("low", "high")) and isinstance(
        fields["step"], (int, type(None))
    )
    return (
        Dimension(
            key=key,
            low=values.low,
            high=values.high,
            log=values.log,
            step=values.step,
            whole=is_integer,
            coarse=values.coarse,
        ),
        [],
    )


def _choices(key: str, values: list[Any]) -> tuple[Dimension, list[str]]:
    distinct: list[Value] = []
    notices = []
    for value in values:
        if isinstance(value, (list, dict)):
            raise SpecError(f"sweep.space.{key}.choices: {json.dumps(value)} is not a single value")
        if any(value == other and type(value) is type(other) for other in distinct):
            notices.append(f"sweep.space.{key}: {value} stands there more than once and is tried once")
        else:
            distinct.append(value)
    return Dimension(key=key, choices=tuple(distinct)), notices
