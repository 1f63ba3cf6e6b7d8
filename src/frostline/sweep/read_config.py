"""Owns: a composed config and the command's overrides -> a typed sweep. Must not know: how it is searched."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from frostline.advisor import is_numeric
from frostline.config import Job, decode_job
from frostline.config.errors import explain
from frostline.errors import SpecError, UserError, listing, nearest
from frostline.preflight import num_blocks
from frostline.spec import (
    DEPTH_KEY,
    LR_KEY,
    ROWS_KEY,
    Dimension,
    Enqueue,
    Params,
    PrunerName,
    RunSpec,
    SamplerName,
    Space,
    SweepSpec,
    Value,
    flat_entries,
    parse_dimension,
)
from frostline.spec.decode import decode

_JUDGES = frozenset({"training.objective", "training.direction"})
_SAME_HELD_OUT = frozenset({"dataset.train_rows", "dataset.balance"})
"""Keys of a data set that leave the held-out rows and their labels as they are."""

_LENGTHS = frozenset({"training", "training.epochs", "training.max_steps", "training.evaluate"})
"""Keys that decide how long a run is: if they are swept there is no common end of rung 1."""

Compose = Callable[[Sequence[str]], DictConfig]
"""Composes the job's config from overrides."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep, read and checked.

    Attributes:
        plan: How it is searched.
        space: What is swept.
        enqueue: The user's trials to try first; None: a coarse grid.
        fixed: The overrides that all trials share.
        job: Composed with the first values of the space.
        variants: The run of each choice of config groups, in the order of `space.variants`.
        folder: As configured.
        notices: For the person at the terminal.
        command: What the user typed, to be typed again.
    """

    plan: SweepSpec
    space: Space
    enqueue: tuple[Params, ...] | None
    fixed: tuple[str, ...]
    job: Job
    variants: tuple[RunSpec, ...]
    folder: Path
    notices: tuple[str, ...]
    command: str = ""


def read(cfg: DictConfig, arguments: Sequence[str], compose: Compose, check: Callable[[Job], None]) -> Sweep:
    """Reads and checks a sweep, its corners included.

    Args:
        cfg: The composed config, with `sweep` and `hydra` nodes.
        arguments: The overrides of the job, those that sweep included.
        compose: Composes a trial.
        check: Called with the jobs at the ends of each dimension; raises `UserError` for a bad one.

    Raises:
        UserError: One line that says what to mend.
    """
    try:
        return _read(cfg, arguments, compose, check)
    except UserError:
        raise
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        raise known from error


def _read(cfg: DictConfig, arguments: Sequence[str], compose: Compose, check: Callable[[Job], None]) -> Sweep:
    if "sweep" not in cfg or not isinstance(cfg.sweep, DictConfig):
        raise SpecError("no sweep was named: frostline sweep lr_x_depth, or +sweep=lr_x_depth")
    raw = OmegaConf.to_container(cfg.sweep, resolve=False)
    assert isinstance(raw, dict)
    space_raw = raw.pop("space", None) or {}
    if not isinstance(space_raw, dict):
        raise SpecError(f"sweep.space={space_raw}: expected keys with ranges or choices")
    settings = OmegaConf.to_container(cfg.sweep, resolve=True)
    assert isinstance(settings, dict)
    settings.pop("space", None)
    enqueue_raw = settings.pop("enqueue", "coarse")
    plan = decode(SweepSpec, {str(key): value for key, value in settings.items()}, "sweep")
    entries = flat_entries({str(key): value for key, value in space_raw.items()})
    fixed, swept = _split(arguments)
    notices: list[str] = []
    for override in fixed:
        key = override.key_or_group
        if entries.pop(key, None) is not None:
            notices.append(f"{key} is fixed by the command line and not swept")
    for key in swept:
        entries.pop(key, None)
    lines = tuple(str(override.input_line) for override in fixed)
    if plan.folds is not None:
        own = next((o for o in fixed if o.key_or_group in {"dataset.folds", "dataset.fold"}), None)
        if own is not None:
            raise SpecError(f"{own.input_line}: sweep.folds={plan.folds} sets it; leave one of them out")
        lines += (f"dataset.folds={plan.folds}",)
    groups, more = _groups(entries, swept)
    notices += more
    variants: dict[tuple[Value, ...], tuple[Dimension, ...]] = {}
    jobs: list[Job] = []
    bases: list[RunSpec] = []
    for chosen in itertools.product(*(group.choices or () for group in groups)):
        trial = dict(zip((group.key for group in groups), chosen, strict=True))
        composed = compose([*lines, *encode(trial)])
        job = decode_job(composed)
        bases.append(job.run)
        variants[chosen], more = _dimensions(composed, entries, swept, groups, job)
        notices += [notice for notice in more if notice not in notices]
        jobs += [job, *(replace(job, run=spec) for spec in _corners(job.run, variants[chosen]))]
    space = Space(groups=groups, variants=variants)
    for job in jobs:
        check(job)
    first = jobs[0].run.training
    if any(
        (job.run.training.objective, job.run.training.direction) != (first.objective, first.direction) for job in jobs
    ):
        raise SpecError("sweep.space.training: its choices have different objectives; run a sweep for each")
    _check_axis(plan.axis, space)
    plan, more = _fitted(plan, jobs[0].run, space)
    if plan.sampler is SamplerName.FROST and (space.groups or ROWS_KEY in space.keys):
        other = space.groups[0].key if space.groups else ROWS_KEY
        raise SpecError(
            f"sweep.sampler=frost: searches one model on one number of rows, but {other} is swept; take tpe"
        )
    return Sweep(
        plan=plan,
        space=space,
        enqueue=_enqueue(enqueue_raw),
        fixed=lines,
        job=jobs[0],
        variants=tuple(bases),
        folder=Path(str(cfg.hydra.sweep.dir)),
        notices=(*notices, *more),
    )


def _check_axis(axis: str | None, space: Space) -> None:
    if axis is None:
        return
    found = [each for dimensions in space.variants.values() for each in dimensions if each.key == axis]
    numeric = {each.key for dimensions in space.variants.values() for each in dimensions if is_numeric(each)}
    if axis in {LR_KEY, ROWS_KEY}:
        why = "no rate is cheaper than another" if axis == LR_KEY else "each number of rows has an answer of its own"
        raise SpecError(f"sweep.axis={axis}: {why}")
    if axis in {group.key for group in space.groups}:
        raise SpecError(f"sweep.axis={axis}: each of its choices has an answer of its own")
    if not found:
        raise SpecError(f"sweep.axis={axis}: is not swept{nearest(axis, numeric - {LR_KEY, ROWS_KEY})}")
    if not all(is_numeric(each) for each in found):
        raise SpecError(f"sweep.axis={axis}: its choices are no numbers, so none is the cheapest")


def encode(params: Mapping[str, Value]) -> list[str]:
    """Returns a trial as Hydra overrides, encoded by type: a None is `null`, and no comma in a text makes a sweep.

    A frozen depth of None is that of the baseline: nothing is frozen.
    """
    return ["freeze=none" if is_full(key, value) else f"{key}={_encode_value(value)}" for key, value in params.items()]


def is_full(key: str, value: Value) -> bool:
    """Returns whether a key says that everything is trained."""
    return key == DEPTH_KEY and value is None


def _encode_value(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if value.replace("_", "").replace("-", "").isalnum() and not value[0].isdigit() and value.isascii():
        return value if value.lower() not in {"null", "none", "true", "false", "inf", "nan"} else f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'") if value.endswith("\\") else value.replace("'", "\\'")
    return f"'{escaped}'"


def with_params(spec: RunSpec, params: Mapping[str, Value]) -> RunSpec:
    """Returns a spec with dotted keys replaced.

    Raises:
        SpecError: An unknown key, or a value out of range.
    """
    data = spec.to_dict()
    for key, value in params.items():
        *path, last = key.split(".")
        node: Any = data
        for part in path:
            node = node[part]
        node[last] = value
    return RunSpec.from_dict(data)


def _split(arguments: Sequence[str]) -> tuple[list[Override], dict[str, Override]]:
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


def _groups(entries: Mapping[str, Any], swept: Mapping[str, Override]) -> tuple[tuple[Dimension, ...], list[str]]:
    names = {field.name for field in fields(RunSpec) if is_dataclass(get_type_hints(RunSpec)[field.name])}
    found: list[Dimension] = []
    notices: list[str] = []
    for key in [*entries, *swept]:
        if key not in names:
            continue
        dimension, more = (
            parse_dimension(key, entries[key]) if key in entries else _from_override(swept[key], whole=False)
        )
        if dimension.choices is None:
            raise SpecError(f"sweep.space.{key}: a config group has choices, not a range")
        found.append(dimension)
        notices += more
    return tuple(found), notices


def _dimensions(
    composed: DictConfig,
    entries: Mapping[str, Any],
    swept: Mapping[str, Override],
    groups: Sequence[Dimension],
    job: Job,
) -> tuple[tuple[Dimension, ...], list[str]]:
    resolved = OmegaConf.to_container(composed.sweep, resolve=True)
    assert isinstance(resolved, dict)
    now = flat_entries(resolved.get("space") or {})
    spec = job.run
    known = spec.flat()
    taken = {group.key for group in groups}
    found: list[Dimension] = []
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
        whole = isinstance(known[key], int) and not isinstance(known[key], bool)
        if key not in swept:
            now[key] = _with_blocks(key, now[key], job)
        dimension, more = _from_override(swept[key], whole=whole) if key in swept else parse_dimension(key, now[key])
        found.append(dimension)
        notices += more
        if key not in swept and dimension.whole and isinstance(known[key], float):
            notices.append(
                f"sweep.space.{key}: only the whole numbers {dimension.low:g} to {dimension.high:g} are tried; write "
                f"low: {dimension.low:.1f} for any number between"
            )
    return tuple(found), notices


def _with_blocks(key: str, entry: Any, job: Job) -> Any:
    """Fills in `high: ${model.num_blocks}` for a model whose config doesn't say it."""
    if key != DEPTH_KEY or not isinstance(entry, Mapping) or "high" not in entry or entry["high"] is not None:
        return entry
    blocks = num_blocks(job.run.model)
    if blocks is None:
        raise SpecError(
            f"sweep.space.{key}.high: how many blocks {job.run.model_name} has is not known before it is loaded; "
            "give it, as model.num_blocks=12"
        )
    return {**entry, "high": blocks}


def _value_of(spec: RunSpec, key: str) -> Any:
    value: Any = spec
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _from_override(override: Override, *, whole: bool) -> tuple[Dimension, list[str]]:
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
            key=key, low=low, high=high, log=is_log, whole=whole and low.is_integer() and high.is_integer()
        ), []
    if isinstance(value, ChoiceSweep):
        texts = [
            OverridesParser.create().parse_overrides([f"{key}={text}"])[0] for text in override.sweep_string_iterator()
        ]
        return parse_dimension(key, {"choices": [_plain(text.value()) for text in texts]})
    raise SpecError(f"{override.input_line}: give choice(..), range(..), interval(..) or values with commas")


def _plain(value: Any) -> Any:
    return value.text if hasattr(value, "text") else value


def _corners(spec: RunSpec, dimensions: Sequence[Dimension]) -> list[RunSpec]:
    """Returns a spec for each end (or choice) of each dimension, so that a bad one is known before the first trial."""
    corners = []
    for dimension in dimensions:
        ends: tuple[Value, ...] = dimension.choices or ()
        if dimension.choices is None:
            ends = tuple(int(end) if dimension.whole else end for end in (dimension.low, dimension.high))
        for value in ends:
            corners.append(with_params(spec, {dimension.key: value}))
    return corners


def _fitted(plan: SweepSpec, spec: RunSpec, space: Space) -> tuple[SweepSpec, list[str]]:
    """Returns the plan with rungs that the runs can have, and what was changed."""
    notices = []
    epochs, every = spec.training.epochs, spec.training.evaluate.value
    lengths = sorted(_LENGTHS & set(space.keys))
    if lengths and plan.rung_epochs is not None:
        plan = replace(plan, rung_epochs=None)
        if plan.promote_fraction < 1 and not plan.has_rungs:
            notices.append(f"one rung only: {lengths[0]} is swept, so that runs have no common first epochs")
    if plan.rung_epochs is not None and (epochs is None or epochs <= plan.rung_epochs or every == "never"):
        plan = replace(plan, rung_epochs=None)
        if plan.promote_fraction < 1 and not plan.has_rungs:
            why = (
                "training.evaluate=never" if every == "never" else f"training.epochs={epochs:g}" if epochs else "steps"
            )
            notices.append(f"one rung only: runs of {why} can't pause after sweep.rung_epochs")
    reports = plan.has_rungs or (plan.seeds is not None and len(plan.seeds) > 1)
    if plan.pruner.name is not PrunerName.NONE and not reports and (epochs is None or epochs <= 1 or every == "never"):
        raise SpecError(
            f"sweep.pruner={plan.pruner.name.value}: a run of one evaluation can't be pruned; "
            "give training.epochs=2 or more, or sweep.pruner.name=none"
        )
    if plan.deep_first and plan.sampler.value == "qmc":
        notices.append("sampler=qmc: the coarse grid comes before its sequence")
    return plan, notices


def _enqueue(raw: Any) -> tuple[Params, ...] | None:
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
            raise SpecError(f"sweep.enqueue[{index}]: a trial is a group of keys, as {{freeze.depth: 3}}")
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
