"""Hydra callbacks that find bad input before a folder is made or a run starts."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback

from frostline.cli.comparison import OWN_SWEEPER
from frostline.cli.task import RunTask
from frostline.config import check_multirun, decode_job
from frostline.console import report_error
from frostline.errors import SpecError, UserError
from frostline.preflight import check_folder, preflight

if TYPE_CHECKING:
    from omegaconf import DictConfig

_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class RunCallback(Callback):
    """Checks a command before it starts. conf/config.yaml names it under `hydra.callbacks`.

    Hydra turns an exception of a callback into a warning and continues: only SystemExit stops it.
    """

    def __init__(self) -> None:
        self._num_jobs: int | None = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks a single run before its folder is made."""
        HydraConfig.instance().set_config(config)  # Hydra sets it later; ${hydra:...} may be asked for now
        with _or_exit():
            preflight(decode_job(config))
            check_folder(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks every value of every sweep before the first run."""
        HydraConfig.instance().set_config(config)
        with _or_exit():
            if config.hydra.sweeper._target_ == OWN_SWEEPER:  # it checks for itself, and has its own end
                return
            _refuse_sweep_of_sweeps(config)
            if config.hydra.sweeper._target_ == _BASIC_SWEEPER:  # another sweeper's values are not known beforehand
                overrides = _sweep_overrides(config)
                check_multirun(overrides, config.hydra.job.config_name, preflight)
                self._num_jobs = _num_jobs(overrides)
            check_folder(Path(config.hydra.sweep.dir))

    def on_job_start(self, config: DictConfig, *, task_function: Any, **kwargs: Any) -> None:
        """Says to the task how many there are, in the process that counted them."""
        if self._num_jobs is not None and isinstance(task_function, RunTask):
            task_function.num_jobs = self._num_jobs


@contextmanager
def _or_exit() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        sys.exit(report_error(error))
    except Exception:  # noqa: BLE001 - Hydra would warn of it and continue as if nothing had been checked
        traceback.print_exc()
        sys.exit(1)


def _sweep_overrides(config: DictConfig) -> list[str]:
    """Returns the job's overrides with those of `hydra.sweeper.params`, which the basic sweeper adds."""
    overrides = list(config.hydra.overrides.task)
    named = {override.partition("=")[0].lstrip("+") for override in overrides}
    params = config.hydra.sweeper.get("params") or {}
    return [*(f"{key}={value}" for key, value in params.items() if key not in named), *overrides]


def _refuse_sweep_of_sweeps(config: DictConfig) -> None:
    """`sweep=a,b` would quietly run the basic sweeper over two plans, searching nothing."""
    for override in OverridesParser.create().parse_overrides(list(config.hydra.overrides.task)):
        if override.key_or_group == "sweep" and override.is_sweep_override():
            raise SpecError(f"{override.input_line}: one sweep at a time, for example frostline sweep lr_x_depth")


def _num_jobs(overrides: list[str]) -> int:
    parsed = OverridesParser.create().parse_overrides(overrides)
    return math.prod(len(list(o.sweep_string_iterator())) for o in parsed if o.is_sweep_override())
