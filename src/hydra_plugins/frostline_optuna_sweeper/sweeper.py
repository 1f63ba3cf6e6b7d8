"""Hydra sweeper plugin that runs a sweep. Every Hydra application imports it: keep it light."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


@dataclass
class FrostlineOptunaSweeperConf:
    """`hydra/sweeper=frostline_optuna`; its settings are the keys under `sweep.`."""

    _target_: str = "hydra_plugins.frostline_optuna_sweeper.sweeper.FrostlineOptunaSweeper"


ConfigStore.instance().store(
    group="hydra/sweeper", name="frostline_optuna", node=FrostlineOptunaSweeperConf, provider="frostline"
)


class FrostlineOptunaSweeper(Sweeper):
    """Hands the composed config, the overrides and the launcher to `frostline.sweeps`."""

    def __init__(self) -> None:
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher = None
        self.task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra."""
        from hydra.core.plugins import Plugins

        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs or forecasts the sweep.

        Args:
            arguments: The overrides of the job, those that sweep included.

        Returns:
            The exit code, which frostline's own task function keeps, too.
        """
        from frostline.sweeps.plan import plan_sweep
        from frostline.sweeps.run_sweep import run_sweep

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        config, loader = self.config, self.hydra_context.config_loader

        def compose(overrides: Sequence[str]) -> DictConfig:
            return loader.load_sweep_config(config, list(overrides))

        task: Any = self.task_function  # frostline's `RunTask`, or another application's function
        if (nodes := getattr(task, "plan_nodes", None)) is not None:
            task.plan, code = plan_sweep(config, arguments, compose, nodes), 0
        else:
            command = getattr(task, "command", None) or shlex.join(sys.argv)
            _, code = run_sweep(config, arguments, compose, self.launcher, command)
        if hasattr(task, "exit_code"):
            task.exit_code = code
        return code
