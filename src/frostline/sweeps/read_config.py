"""Reads a typed sweep from a composed config and the command's overrides."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from frostline.advisor import is_numeric
from frostline.config import Job, decode_job
from frostline.config.errors import one_line_errors
from frostline.config.own_files import VARIABLE, check_first_lines
from frostline.errors import SpecError, nearest
from frostline.spec import (
    DEPTH_KEY,
    LR_KEY,
    MODEL_KEY,
    ROWS_KEY,
    Dimension,
    Every,
    KeepModels,
    Params,
    Progress,
    PrunerName,
    RunSpec,
    SamplerName,
    Space,
    SweepSpec,
    TrainingSpec,
    Value,
    flat_entries,
)
from frostline.spec.decode import decode
from frostline.sweeps.dimensions import corners, dimensions_of, groups_of, read_enqueue, split_overrides
from frostline.sweeps.params import encode

if TYPE_CHECKING:
    from frostline.search import Listener

_LENGTHS = frozenset({"training", "training.epochs", "training.max_steps", "training.evaluate"})
"""Keys that decide how long a run is: if they are swept there is no common end of rung 1."""

Compose = Callable[[Sequence[str]], DictConfig]
"""Composes the job's config from overrides."""


@dataclass(frozen=True, kw_only=True)
class SweepView:
    """Who watches a sweep.

    Attributes:
        listeners: Called as trials end, beside the terminal.
        prints_answer: Whether standard output gets the answer when it ends.
    """

    listeners: tuple[Listener, ...] = ()
    prints_answer: bool = True


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
        view: Who watches.
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
    view: SweepView = SweepView()

    @property
    def resume_command(self) -> str:
        """What resumes the sweep: its command, but for `sweep.new`, which would start another one."""
        return self._command_with({})

    def settle_command(self, settle: int) -> str:
        """Returns what resumes the sweep with another budget for further seeds."""
        return self._command_with({"sweep.settle": str(settle)})

    def _command_with(self, changed: Mapping[str, str]) -> str:
        if self.plan.new:
            changed = {"sweep.new": "", "sweep.name": self.plan.name, **changed}
        own = os.environ.get(VARIABLE)
        before = f"{VARIABLE}={shlex.quote(own)} " if own else ""
        words = [word for word in shlex.split(self.command) if word.partition("=")[0] not in changed]
        return before + shlex.join([*words, *(f"{key}={value}" for key, value in changed.items() if value)])

    @property
    def config_dir(self) -> str | None:
        """The folder of the user's own config groups, as the command names it."""
        for word, behind in itertools.pairwise([*shlex.split(self.command), ""]):
            name, _, value = word.partition("=")
            if name in {"--config-dir", "-cd"}:
                return value or behind
        return None

    @property
    def wants_bar(self) -> bool:
        """Whether a progress bar is drawn."""
        choice = self.job.run.runtime.progress
        return choice is Progress.ON or (choice is Progress.AUTO and sys.stderr.isatty())

    @property
    def mlflow_params(self) -> dict[str, Any]:
        """The params of the sweep's run in MLflow."""
        run, swept = self.job.run, set(self.space.keys)
        return {
            "sweep": self.plan.name,
            "sampler": self.plan.sampler.value,
            "pruner": self.plan.pruner.name.value,
            "seeds": ",".join(map(str, self.plan.seeds or (run.seed,))),
            "space": ", ".join(self.space.keys),
            "model.name": "swept" if "model" in swept else run.model_name,
            "dataset.name": "swept" if "dataset" in swept else run.dataset_name,
            "training.epochs": run.training.epochs,
        }


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
    with one_line_errors():
        return _read(cfg, arguments, compose, check)


def _read(cfg: DictConfig, arguments: Sequence[str], compose: Compose, check: Callable[[Job], None]) -> Sweep:
    plan, entries, enqueue = _read_settings(cfg)
    fixed, swept = split_overrides(arguments)
    notices = []
    for override in fixed:
        if entries.pop(override.key_or_group, None) is not None:
            notices.append(f"{override.key_or_group} is fixed by the command line and not swept")
    for key in swept:
        entries.pop(key, None)
    lines = _shared_overrides(plan, fixed)
    groups, more = groups_of(entries, swept)
    notices += more
    variants: dict[tuple[Value, ...], tuple[Dimension, ...]] = {}
    jobs: list[Job] = []
    bases: list[RunSpec] = []
    for chosen in itertools.product(*(group.choices or () for group in groups)):
        trial = dict(zip((group.key for group in groups), chosen, strict=True))
        composed = compose([*lines, *encode(trial)])
        job = decode_job(composed)
        bases.append(job.run)
        variants[chosen], more = dimensions_of(composed, entries, swept, groups, job)
        notices += [notice for notice in more if notice not in notices]
        jobs += [job, *(replace(job, run=spec) for spec in corners(job.run, variants[chosen]))]
    space = Space(groups=groups, variants=variants)
    _check_registered(plan, jobs[0])
    for job in jobs:
        check(job)
    _check_objectives(jobs)
    _check_axis(plan.axis, space)
    plan, more = _fitted(plan, jobs[0].run, space)
    if plan.sampler is SamplerName.FROST and (space.groups or (ROWS_KEY in space.keys and plan.axis != ROWS_KEY)):
        other = space.groups[0].key if space.groups else ROWS_KEY
        raise SpecError(
            f"sweep.sampler=frost: searches one model on one number of rows, but {other} is swept; take tpe"
        )
    return Sweep(
        plan=plan,
        space=space,
        enqueue=read_enqueue(enqueue),
        fixed=lines,
        job=jobs[0],
        variants=tuple(bases),
        folder=Path(str(cfg.hydra.sweep.dir)),
        notices=(*notices, *more),
    )


def _read_settings(cfg: DictConfig) -> tuple[SweepSpec, dict[str, Any], Any]:
    """Returns how a sweep searches, the entries of its space by key, and its `enqueue`."""
    if "sweep" not in cfg or not isinstance(cfg.sweep, DictConfig):
        raise SpecError("no sweep was named: frostline sweep lr_x_depth, or +sweep=lr_x_depth")
    raw = OmegaConf.to_container(cfg.sweep, resolve=False)
    check_first_lines({"sweep": raw})
    settings = OmegaConf.to_container(cfg.sweep, resolve=True)
    assert isinstance(raw, dict)
    assert isinstance(settings, dict)
    space = raw.pop("space", None) or {}  # unresolved: an entry may name a key of the model that a trial has
    if not isinstance(space, dict):
        raise SpecError(f"sweep.space={space}: expected keys with ranges or choices")
    settings.pop("space", None)
    enqueue = settings.pop("enqueue", "coarse")
    plan = decode(SweepSpec, {str(key): value for key, value in settings.items()}, "sweep")
    return plan, flat_entries({str(key): value for key, value in space.items()}), enqueue


def _shared_overrides(plan: SweepSpec, fixed: Sequence[Override]) -> tuple[str, ...]:
    """Returns the overrides that all trials share."""
    lines = tuple(str(override.input_line) for override in fixed)
    if plan.folds is None:
        return lines
    own = next((o for o in fixed if o.key_or_group in {"dataset.folds", "dataset.fold"}), None)
    if own is not None:
        raise SpecError(f"{own.input_line}: sweep.folds={plan.folds} sets it; leave one of them out")
    return (*lines, f"dataset.folds={plan.folds}")


def _check_registered(plan: SweepSpec, job: Job) -> None:
    """Refuses a name in the model registry where no model would get it."""
    if job.tracking.register is None:
        return
    if not plan.log_best_model:
        raise SpecError("tracking.register: needs the recommended model in MLflow; set sweep.log_best_model=true")
    if plan.keep_models is KeepModels.NONE:
        raise SpecError("tracking.register: needs the recommended model; set sweep.keep_models=recommended")


def _check_objectives(jobs: Sequence[Job]) -> None:
    objectives = {(job.run.training.objective, job.run.training.direction) for job in jobs}
    if len(objectives) > 1:
        raise SpecError("sweep.space.training: its choices have different objectives; run a sweep for each")


def _check_axis(axis: str | None, space: Space) -> None:
    if axis is None:
        return
    dimensions_of_axis = [each for dimensions in space.variants.values() for each in dimensions if each.key == axis]
    numeric = {each.key for dimensions in space.variants.values() for each in dimensions if is_numeric(each)}
    if axis == LR_KEY:
        raise SpecError(f"sweep.axis={axis}: no rate is cheaper than another")
    if axis in {group.key for group in space.groups}:
        _check_axis_of_groups(axis, space)
        return
    if not dimensions_of_axis:
        raise SpecError(f"sweep.axis={axis}: is not swept{nearest(axis, numeric - {LR_KEY})}")
    if not all(is_numeric(each) for each in dimensions_of_axis):
        raise SpecError(f"sweep.axis={axis}: its choices are no numbers, so none is the cheapest")


def _check_axis_of_groups(axis: str, space: Space) -> None:
    """Checks that a config group can be the axis of cost: one question is asked of all its choices."""
    if axis != MODEL_KEY:
        raise SpecError(
            f"sweep.axis={axis}: none of its choices is known to be cheaper than another; model is, by size"
        )
    if len(space.groups) > 1:
        other = next(group.key for group in space.groups if group.key != axis)
        raise SpecError(f"sweep.axis=model: {other} is swept, too; sweep one of them")
    if ROWS_KEY in space.keys:
        raise SpecError(f"sweep.axis=model: {ROWS_KEY} is swept, too; sweep one of them")
    first, *others = space.variants.values()
    for dimensions in others:
        differing = next((a.key for a, b in itertools.zip_longest(first, dimensions) if a != b), None)
        if differing is not None:
            hint = "; sweep freeze.fraction in its place" if differing == DEPTH_KEY else ""
            raise SpecError(f"sweep.axis=model: {differing} has another range for each model{hint}")


def _own_ends(training: TrainingSpec) -> str | None:
    """Returns the setting by which runs have no evaluation after the same whole epochs; None: they have."""
    if training.patience is not None:
        return f"training.patience={training.patience}"
    if training.eval_steps is not None:
        return f"training.eval_steps={training.eval_steps}"
    return "training.evaluate=never" if training.evaluate is Every.NEVER else None


def _fitted(plan: SweepSpec, spec: RunSpec, space: Space) -> tuple[SweepSpec, list[str]]:
    """Returns the plan with rungs that the runs can have, and what was changed."""
    notices = []
    epochs = spec.training.epochs
    lengths = sorted(_LENGTHS & set(space.keys))
    if lengths and plan.rung_epochs is not None:
        plan = replace(plan, rung_epochs=None)
        if plan.promote_fraction < 1 and not plan.has_rungs:
            notices.append(f"one rung only: {lengths[0]} is swept, so that runs have no common first epochs")
    own_ends = _own_ends(spec.training)
    if plan.rung_epochs is not None and (epochs is None or epochs <= plan.rung_epochs or own_ends):
        plan = replace(plan, rung_epochs=None)
        if plan.promote_fraction < 1 and not plan.has_rungs:
            why = own_ends or (f"training.epochs={epochs:g}" if epochs else "steps")
            notices.append(f"one rung only: runs of {why} can't pause after sweep.rung_epochs")
    reports = plan.has_rungs or (plan.seeds is not None and len(plan.seeds) > 1)
    training = spec.training
    rare = epochs is None or epochs <= 1 or training.evaluate is Every.NEVER or training.eval_steps is not None
    if plan.pruner.name is not PrunerName.NONE and not reports and rare:
        raise SpecError(
            f"sweep.pruner={plan.pruner.name.value}: a run without evaluations of whole epochs can't be pruned; "
            "give training.epochs=2 or more, or sweep.pruner.name=none"
        )
    if plan.deep_first and plan.sampler.value == "qmc":
        notices.append("sampler=qmc: the coarse grid comes before its sequence")
    return plan, notices
