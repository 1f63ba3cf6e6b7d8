"""Hydra launcher plugin for warm workers. Every Hydra application imports it: keep it light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


@dataclass
class FrostlineLocalLauncherConf:
    """`hydra/launcher=frostline_local`.

    Attributes:
        slots: Jobs side by side; None takes `runtime.slots` of the config; if that is auto, one for each GPU, else one.
    """

    _target_: str = "hydra_plugins.frostline_local_launcher.launcher.FrostlineLocalLauncher"
    slots: int | None = None


ConfigStore.instance().store(
    group="hydra/launcher", name="frostline_local", node=FrostlineLocalLauncherConf, provider="frostline"
)


class FrostlineLocalLauncher(Launcher):
    """Runs jobs in processes that are started once; the next job begins when any of them is free.

    Args:
        slots: Jobs side by side.

    Attributes:
        warm_workers: Whether frostline's sweeper may use a pool of workers itself, trial by trial.
    """

    warm_workers = True

    def __init__(self, slots: int | None = None) -> None:
        self.slots = slots
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs a batch and returns when all of its jobs are over.

        Args:
            job_overrides: Overrides of each job.
            initial_job_idx: Number of the first job.
        """
        from hydra_plugins.frostline_local_launcher import _batch

        return _batch.launch(self, job_overrides, initial_job_idx)
