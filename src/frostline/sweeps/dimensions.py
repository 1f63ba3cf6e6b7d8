"""What is swept: dimensions from the config's entries and the command's overrides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from frostline.config import Job
from frostline.errors import SpecError, listing, nearest
from frostline.preflight import num_blocks
from frostline.spec import (
    DEPTH_KEY,
    Dimension,
    Enqueue,
    Params,
    RunSpec,
    Value,
    flat_entries,
    parse_dimension,
)
from frostline.sweeps.params import with_params


def split_overrides(arguments: Sequence[str]) -> tuple[list[Override], dict[str, Override]]:
    """Splits a command's overrides into those that all trials share and those that sweep, by key.

    Raises:
        SpecError: An override sweeps over the sweep's own settings.
    """
    fixed: list[Override] = []
    swept: dict[str, Override] = {}
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        key = override.key_or_group
        if not override.is_sweep_override():
            fixed.append(override)
        elif key == "sweep" or key.startswith("sweep."):
            raise SpecError(f"{override.input_line}: one sweep at a time; sweep the keys of a run")
        else:
            swept[key] = override
    return fixed, swept


def groups_of(entries: Mapping[str, Any], swept: Mapping[str, Override]) -> tuple[tuple[Dimension, ...], list[str]]:
    """Returns the config groups that are swept, such as `model`, and notices for the user.

    Args:
        entries: Of `sweep.space`, by key.
        swept: Overrides that sweep, by key.

    Raises:
        SpecError: A group has a range instead of choices.
    """
    names = {field.name for field in fields(RunSpec) if is_dataclass(get_type_hints(RunSpec)[field.name])}
    groups: list[Dimension] = []
    notices: list[str] = []
    for key in [*entries, *swept]:
        if key not in names:
            continue
        dimension, more = (
            parse_dimension(key, entries[key]) if key in entries else _from_override(swept[key], is_integer=False)
        )
        if dimension.choices is None:
            raise SpecError(f"sweep.space.{key}: a config group has choices, not a range")
        groups.append(dimension)
        notices += more
    return tuple(groups), notices


def dimensions_of(
    composed: DictConfig,
    entries: Mapping[str, Any],
    swept: Mapping[str, Override],
    groups: Sequence[Dimension],
    job: Job,
) -> tuple[tuple[Dimension, ...], list[str]]:
    """Returns what is swept for one choice of config groups, and notices for the user.

    Args:
        composed: The config of that choice: entries of the space may name keys of its model.
        entries: Of `sweep.space`, by key.
        swept: Overrides that sweep, by key.
        groups: The config groups that are swept.
        job: The decoded config.

    Raises:
        SpecError: A dimension is no setting of a run, or can't be swept.
    """
    resolved = OmegaConf.to_container(composed.sweep, resolve=True)
    assert isinstance(resolved, dict)
    now = flat_entries(resolved.get("space") or {})
    spec = job.run
    known = spec.flat()
    taken = {group.key for group in groups}
    dimensions: list[Dimension] = []
    notices: list[str] = []
    for key in [*entries, *swept]:
        if key in taken:
            continue
        if key not in known or isinstance(_value_of(spec, key), tuple):
            raise SpecError(f"sweep.space.{key}: no such key in a run's config{nearest(key, known)}")
        if key == "seed":
            raise SpecError("sweep.space.seed: a seed is no choice to search for; give sweep.seeds=[0,1,2]")
        if key.startswith("dataset.") and key not in _SAME_HELD_OUT:
            raise SpecError(
                f"sweep.space.{key}: trials would be judged by different rows or labels, and the luckiest would win; "
                "run a sweep for each, or give sweep.folds=4"
            )
        if key in _JUDGES:
            raise SpecError(f"sweep.space.{key}: trials are compared by one objective; run a sweep for each")
        is_integer = isinstance(known[key], int) and not isinstance(known[key], bool)
        if key not in swept:
            now[key] = _with_blocks(key, now[key], job)
        dimension, more = (
            _from_override(swept[key], is_integer=is_integer) if key in swept else parse_dimension(key, now[key])
        )
        dimensions.append(dimension)
        notices += more
        if key not in swept and dimension.whole and isinstance(known[key], float):
            notices.append(
                f"sweep.space.{key}: only the whole numbers {dimension.low:g} to {dimension.high:g} are tried; write "
                f"low: {dimension.low:.1f} for any number between"
            )
    return tuple(dimensions), notices


def _with_blocks(key: str, entry: Any, job: Job) -> Any:
    """Fills in `high: ${model.num_blocks}` for a model whose config doesn't say it."""
    if key != DEPTH_KEY or not isinstance(entry, Mapping) or "high" not in entry or entry["high"] is not None:
        return entry
    blocks = num_blocks(job.run)
    if blocks is None:
        raise SpecError(
            f"sweep.space.{key}.high: how many blocks {job.run.model_name} has is not known before it is loaded; "
            "give it, for example model.num_blocks=12, or fetch the model first: frostline fetch"
        )
    return {**entry, "high": blocks}


def _value_of(spec: RunSpec, key: str) -> Any:
    value: Any = spec
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _from_override(override: Override, *, is_integer: bool) -> tuple[Dimension, list[str]]:
    """Hydra's own syntax: `a,b` and `choice(a,b)`, `range(a,b,step)` (without its end), `interval(a,b)` (with both)."""
    key, value = override.key_or_group, override.value()
    if isinstance(value, RangeSweep):
        steps = list(value.range())
        if not steps:
            raise SpecError(f"{override.input_line}: holds no values (range excludes its end)")
        return Dimension(key=key, choices=tuple(steps)), []
    if isinstance(value, IntervalSweep):
        low, high = float(value.start or 0.0), float(value.end or 0.0)
        is_log = "log" in value.tags
        return Dimension(
            key=key, low=low, high=high, log=is_log, whole=is_integer and low.is_integer() and high.is_integer()
        ), []
    if isinstance(value, ChoiceSweep):
        texts = [
            OverridesParser.create().parse_overrides([f"{key}={text}"])[0] for text in override.sweep_string_iterator()
        ]
        return parse_dimension(key, {"choices": [_plain(text.value()) for text in texts]})
    raise SpecError(f"{override.input_line}: give choice(..), range(..), interval(..) or values with commas")


def _plain(value: Any) -> Any:
    return value.text if hasattr(value, "text") else value


def corners(spec: RunSpec, dimensions: Sequence[Dimension]) -> list[RunSpec]:
    """Returns a spec for each end (or choice) of each dimension, so that a bad one is known before the first trial."""
    corners = []
    for dimension in dimensions:
        ends: tuple[Value, ...] = dimension.choices or ()
        if dimension.choices is None:
            ends = tuple(int(end) if dimension.whole else end for end in (dimension.low, dimension.high))
        for value in ends:
            corners.append(with_params(spec, {dimension.key: value}))
    return corners


def read_enqueue(raw: Any) -> tuple[Params, ...] | None:
    """Returns the trials that the user wants tried first; None: a coarse grid.

    Raises:
        SpecError: `sweep.enqueue` is something else.
    """
    if raw is None or raw == Enqueue.NONE.value:
        return ()
    if isinstance(raw, str):
        if raw == Enqueue.COARSE.value:
            return None
        raise SpecError(f"sweep.enqueue={raw}: give coarse, none, or a list of trials; one of {listing(Enqueue)}")
    if not isinstance(raw, list):
        raise SpecError(f"sweep.enqueue={json.dumps(raw)}: give coarse, none, or a list of trials")
    trials = []
    for index, entry in enumerate(raw):
        if not isinstance(entry, Mapping):
            raise SpecError(f"sweep.enqueue[{index}]: a trial is a group of keys, for example {{freeze.depth: 3}}")
        trials.append(_flat_trial(entry))
    return tuple(trials)


def _flat_trial(entry: Mapping[Any, Any], prefix: str = "") -> Params:
    flat: Params = {}
    for name, value in entry.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            flat.update(_flat_trial(value, key))
        else:
            flat[key] = value
    return flat


_JUDGES = frozenset({"training.objective", "training.direction"})


_SAME_HELD_OUT = frozenset({"dataset.train_rows", "dataset.balance"})
"""Keys of a data set that leave the held-out rows and their labels as they are."""
