"""`tracking.recorders=[wandb]`: a run in Weights & Biases; with WANDB_MODE=offline in `wandb/` of its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.errors import UserError
from frostline.records.recorder import RECORDERS
from frostline.records.result import Status

if TYPE_CHECKING:
    from frostline.records.recorder import RunStart
    from frostline.records.result import RunResult
    from frostline.spec import RunSpec


@RECORDERS.register("wandb")
class WandbRecorder:
    """Makes a run of the project `frostline` (or of WANDB_PROJECT) with the whole config and every number.

    Args:
        spec: The run.
        folder: The run's.

    Raises:
        UserError: wandb is not installed.
    """

    def __init__(self, spec: RunSpec, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError("tracking.recorders: wandb isn't installed: pip install 'frostline[wandb]'") from error
        self._wandb: Any = wandb
        self._spec = spec
        self._folder = folder
        self._run: Any = None

    def start(self, run: RunStart) -> None:
        """See `Recorder`."""
        settings = self._wandb.Settings(silent=True, console="off")
        project = None if "WANDB_PROJECT" in os.environ else "frostline"
        self._run = self._wandb.init(
            project=project, name=run.spec.name(), config=dict(run.spec.flat()), dir=str(self._folder),
            settings=settings, reinit="create_new",
        )  # fmt: skip

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Recorder`."""
        if self._run is not None:
            self._run.log(dict(metrics), step=step)

    def finish(self, result: RunResult) -> None:
        """See `Recorder`."""
        if self._run is not None:
            self._run.summary.update({"status": result.status.value, **result.metrics})
            self._run.finish(exit_code=0 if result.status is Status.FINISHED else 1)
