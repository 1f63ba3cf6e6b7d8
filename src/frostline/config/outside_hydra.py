"""Composes configs outside of an application of Hydra: for commands and programs that call frostline."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import open_dict

from frostline import paths
from frostline.config.compose import Job, decode_job
from frostline.config.errors import one_line_errors
from frostline.config.hydra_options import VERSION_BASE
from frostline.config.own_files import with_files
from frostline.spec import RunSpec, expand_cache_shorthand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hydra.plugins.launcher import Launcher
    from hydra.types import TaskFunction
    from omegaconf import DictConfig


def compose_job(overrides: Sequence[str] = (), config_dir: str | None = None) -> Job:
    """Composes `conf/config.yaml` with overrides, outside of `hydra.main`.

    Args:
        overrides: As on the command line: `model=minilm`, `freeze.depth=3`.
        config_dir: A folder of the user's own groups.

    Raises:
        SpecError: The config can't be composed or isn't valid.
    """
    extra, words = _searched(config_dir), _expanded(overrides)
    with one_line_errors(), _own_hydra():
        return decode_job(compose("config", overrides=[*words, *extra]), extra)


def compose_run(overrides: Sequence[str] = ()) -> RunSpec:
    """Composes one run. See `compose_job`."""
    return compose_job(overrides).run


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A composed sweep, as Hydra would hand it to a sweeper.

    Attributes:
        cfg: With its `sweep` and `hydra` nodes.
        arguments: The overrides of the job.
        compose: Composes a trial's config from overrides.
        launcher: What `hydra/launcher` names, set up.
    """

    cfg: DictConfig
    arguments: Sequence[str]
    compose: Callable[[Sequence[str]], DictConfig]
    launcher: Launcher


@contextmanager
def composed_sweep(overrides: Sequence[str], config_dir: str | None, task: TaskFunction) -> Iterator[SweepConfig]:
    """Composes a sweep outside of `hydra.main`; what it returns can be used within the context.

    Args:
        overrides: As on the command line, `+sweep=NAME` among them.
        config_dir: A folder of the user's own groups.
        task: What a launcher that trains in batches calls for each job.

    Raises:
        SpecError: It can't be composed.
    """
    words = [*_expanded(overrides), *_searched(config_dir)]
    with _own_hydra():
        with one_line_errors():
            cfg = compose("config", overrides=words, return_hydra_config=True)
            with open_dict(cfg):
                cfg.hydra.mode = RunMode.MULTIRUN
            HydraConfig.instance().set_config(cfg)
        loader = GlobalHydra.instance().config_loader()
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=cfg)
        yield SweepConfig(
            cfg=cfg,
            arguments=list(cfg.hydra.overrides.task),
            compose=lambda words: loader.load_sweep_config(cfg, list(words)),
            launcher=launcher,
        )


def compose_with_folder(overrides: Sequence[str] = (), config_dir: str | None = None) -> tuple[Job, Path]:
    """Composes a job, and the folder that `hydra.run.dir` gives it. See `compose_job`."""
    words = [*_expanded(overrides), *_searched(config_dir)]
    with _own_hydra(), one_line_errors():
        cfg = compose("config", overrides=words, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return decode_job(cfg, _searched(config_dir)), Path(str(cfg.hydra.run.dir))


def _expanded(overrides: Sequence[str]) -> list[str]:
    """Returns overrides as Hydra takes them; to be called before it is initialized, which sets its search path."""
    return with_files(expand_cache_shorthand(overrides))


def _searched(config_dir: str | None) -> list[str]:
    return [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Initializes Hydra for frostline; an application of Hydra that the caller may be in is as before afterwards."""
    application, settings = GlobalHydra.instance(), HydraConfig.instance()
    before = application.hydra, settings.cfg
    application.hydra, settings.cfg = None, None
    try:
        with initialize_config_dir(config_dir=str(paths.conf_dir()), job_name="frostline", **VERSION_BASE):
            yield
    finally:
        application.hydra, settings.cfg = before
