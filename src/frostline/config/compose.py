"""Composes configs with Hydra and decodes them to typed specs.

Unknown keys, wrong types and `_target_` die here, before torch is imported. No module below this one knows of a
`DictConfig`.
"""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from frostline import paths
from frostline.config.errors import one_line_errors
from frostline.config.hydra_options import VERSION_BASE
from frostline.config.own_files import check_first_lines
from frostline.config.recorded import refuse_code
from frostline.errors import SpecError, listing, nearest
from frostline.process_cache import PROCESS_CACHE
from frostline.registry import import_plugins
from frostline.spec import Engine, RaySpec, RunSpec, Source, TrackingSpec
from frostline.spec.decode import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_BESIDE_THE_RUN = ("tracking", "resume", "plugins")
_SLOTS = "must be auto, or 1 to 1024"
_OF_SWEEPS = ("slots", "gpus_per_trial", "engine", "ray")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A composed command: the run, and what is not part of it.

    Attributes:
        run: What to train.
        tracking: Where to record it besides its folder.
        resume: A run's folder to resume from, or None.
        plugins: Modules to import first.
        slots: How many trials of a sweep run side by side; None: as many as this machine is best used by.
        gpus_per_trial: How many GPUs each of them gets, on a cluster also a part of one; None: one for each of its
            processes.
        engine: Who runs them.
        ray: What they ask of a Ray cluster.
    """

    run: RunSpec
    tracking: TrackingSpec
    resume: str | None
    plugins: tuple[str, ...]
    slots: int | None
    gpus_per_trial: float | None
    engine: Engine
    ray: RaySpec

    def __post_init__(self) -> None:
        gpus = self.gpus_per_trial
        if gpus is not None and not (1 <= gpus <= 1024 and gpus == int(gpus)):
            if self.engine is not Engine.RAY:
                raise SpecError(
                    f"runtime.gpus_per_trial={gpus:g}: must be 1 to 1024, or null for one for each process; more "
                    "runtime.slots than GPUs share them"
                )
            if not 0 < gpus < 1:
                raise SpecError(f"runtime.gpus_per_trial={gpus:g}: must be a whole number, or a part of one GPU")
        if self.slots is not None and not 1 <= self.slots <= 1024:
            raise SpecError(f"runtime.slots={self.slots}: {_SLOTS}")


def decode_job(cfg: DictConfig, searchpath: Sequence[str] = ()) -> Job:
    """Turns a composed config into a typed job.

    Args:
        cfg: The composed config.
        searchpath: Overrides that named folders of the user's own groups, if it was composed with such.

    Raises:
        SpecError: An unknown key, a wrong type, a value out of range, a `_target_`, an interpolation that can't be
            resolved. One line.
    """
    with one_line_errors():
        raw = OmegaConf.to_container(cfg, resolve=False)
        assert isinstance(raw, dict)
        raw.pop("hydra", None)
        refuse_code(raw, "")
        check_first_lines({str(key): value for key, value in raw.items()})
        data = OmegaConf.to_container(without_hydra(cfg), resolve=True, throw_on_missing=True)
        assert isinstance(data, dict)
        refuse_code(data, "")
        values = {str(key): value for key, value in data.items()}
        values.pop("sweep", None)  # how the run came about is not part of it: sweeps.read_config reads it
        # What is not part of a run may be left out by a config that another program composed.
        rest = {"resume": None, "plugins": [], **{key: values.pop(key) for key in _BESIDE_THE_RUN if key in values}}
        runtime = values.get("runtime")
        for key in _OF_SWEEPS:  # nothing that a run computes depends on them
            rest[key] = runtime.pop(key, None) if isinstance(runtime, dict) else None
        if rest["slots"] == "auto":
            rest["slots"] = None
        elif isinstance(rest["slots"], str):
            raise SpecError(f"runtime.slots={rest['slots']}: {_SLOTS}")
        rest["engine"] = rest["engine"] or Engine.LOCAL.value
        rest["ray"] = rest["ray"] or dict.fromkeys(get_type_hints(RaySpec)) | {"shared": True}
        if rest["engine"] not in set(Engine):
            raise SpecError(f"runtime.engine={rest['engine']}: no such choice; one of {listing(Engine)}")
        decode(RaySpec, rest["ray"], "runtime.ray")  # under the name that the user gave it
        if isinstance(rest["plugins"], list) and all(isinstance(name, str) for name in rest["plugins"]):
            import_plugins(rest["plugins"])  # a task or a freeze method may be a plugin's
        run = RunSpec.from_dict(_with_other_sets(values, searchpath))
        _check_names(run)
        return decode(Job, {"run": run, **rest})


def _check_names(run: RunSpec) -> None:
    """Refuses a run that would be recorded under another model's or data set's name.

    Raises:
        SpecError: `model.name=bert_base` was meant to choose it.
    """
    for group, spec in (("model", run.model), ("dataset", run.dataset)):
        if spec.name is None or spec.source is Source.PATH or Path(spec.location).exists():
            continue  # a copy of it on this machine may have its name
        origin = _origin_of(group, spec.name)
        if any(getattr(spec, key) != value for key, value in origin.items()):
            raise SpecError(
                f"{group}.name={spec.name}: is the name of the ready-made {group} from {' '.join(origin.values())}, "
                f"and this is another; use that one by {group}={spec.name}, or give {group}.name another name or null"
            )


@PROCESS_CACHE.function
def _origin_of(group: str, name: str) -> dict[str, str]:
    """Returns where a ready-made choice is from, as its file says; nothing if there is none of this name."""
    path = paths.conf_dir() / group / f"{name}.yaml"
    if PurePath(name).name != name or not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        key: content[key]
        for key in ("location", "member", "subset")
        if isinstance(content.get(key), str) and content[key] != "???"
    }


_OTHER_SETS: dict[tuple[str, ...], dict[str, Any]] = PROCESS_CACHE.container({})
"""By search path and name: a sweep composes the same ones for each of its trials."""


def _with_other_sets(values: dict[str, Any], searchpath: Sequence[str]) -> dict[str, Any]:
    """Returns a composed run in which `dataset.also_evaluate` holds what its names stand for.

    Raises:
        SpecError: There is no data set of a name.
    """
    dataset = values.get("dataset")
    others = dataset.get("also_evaluate") if isinstance(dataset, dict) else None
    if not isinstance(dataset, dict) or not isinstance(others, list):
        return values
    also_evaluate = [
        _other_set(each, index, searchpath) if isinstance(each, str) else each for index, each in enumerate(others)
    ]
    return {**values, "dataset": {**dataset, "also_evaluate": also_evaluate}}


def _other_set(name: str, index: int, searchpath: Sequence[str]) -> dict[str, Any]:
    with _hydra_initialized():
        loader = GlobalHydra.instance().config_loader()
        places = (f"{item.provider}:{item.path}" for item in loader.get_search_path().get_path())
        key = (*places, *searchpath, name)
        if key not in _OTHER_SETS:
            try:
                composed = compose("config", overrides=[f"dataset={name}", *searchpath])
            except (MissingConfigException, OverrideParseException) as error:
                known = loader.get_group_options("dataset")
                where = f"dataset.also_evaluate[{index}]={name}"
                raise SpecError(
                    f"{where}: no such dataset{nearest(name, known)}; there are {listing(known)}"
                ) from error
            _OTHER_SETS[key] = OmegaConf.to_container(composed.dataset, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
        return _OTHER_SETS[key]


def check_multirun(overrides: Sequence[str], config_name: str, check: Callable[[Job], None]) -> None:
    """Composes every value of every sweep once, so that a bad one is known before the first run.

    Each value is checked with the first values of the other sweeps: the sum of their numbers, not the product.

    Args:
        overrides: The job's overrides, sweeps included: `freeze.depth=0,3`.
        config_name: The primary config.
        check: Called with each job; raises `UserError` for a bad one.

    Raises:
        SpecError: One of them doesn't compose or isn't valid.
    """
    with one_line_errors():
        choices: list[list[str]] = []
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            if override.is_sweep_override():
                key = override.get_key_element()
                if override.is_interval_sweep():
                    raise SpecError(
                        f"{override.input_line}: a multirun draws nothing from an interval: list the values, as "
                        f"{key}=1,2; or search it: frostline sweep NAME {shlex.quote(override.input_line or '')}"
                    )
                choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
                if not choices[-1]:
                    raise SpecError(f"{override.input_line}: holds no values (range excludes its end)")
            else:
                assert override.input_line is not None
                choices.append([override.input_line])
        first = [values[0] for values in choices]
        check(decode_job(compose(config_name, overrides=first)))
        for position, values in enumerate(choices):
            for value in values[1:]:
                check(decode_job(compose(config_name, overrides=[*first[:position], value, *first[position + 1 :]])))


@contextmanager
def _hydra_initialized() -> Iterator[None]:
    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with initialize_config_dir(config_dir=str(paths.conf_dir()), job_name="frostline", **VERSION_BASE):
            yield


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Returns a config without Hydra's own part, which is most of it; the same one if it has none."""
    if "hydra" not in cfg:
        return cfg
    copy = cfg.copy()
    OmegaConf.set_struct(copy, False)
    OmegaConf.set_readonly(copy, False)
    del copy["hydra"]
    return copy
