"""`tracking.recorders=[tensorboard]`: a run's numbers for TensorBoard, in `tensorboard/` of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.errors import UserError
from frostline.records.recorder import RECORDERS

if TYPE_CHECKING:
    from frostline.records.recorder import RunStart
    from frostline.records.result import RunResult
    from frostline.spec import RunSpec

FOLDER = "tensorboard"


@RECORDERS.register("tensorboard")
class TensorboardRecorder:
    """Writes each number as a scalar of its step. `tensorboard --logdir runs` shows all runs below a folder.

    Args:
        spec: The run.
        folder: The run's.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, spec: RunSpec, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError as error:
            raise UserError(
                "tracking.recorders: tensorboard isn't installed: pip install 'frostline[tensorboard]'"
            ) from error
        self._name = spec.name()
        self._writer: Any = Writer(str(folder / FOLDER))

    def start(self, run: RunStart) -> None:
        """See `Recorder`."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Recorder`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, result: RunResult) -> None:
        """See `Recorder`."""
        self._writer.flush()
        self._writer.close()
