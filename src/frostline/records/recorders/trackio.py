"""`tracking.recorders=[trackio]`: a run in Trackio's local database, which `trackio show` displays."""

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


@RECORDERS.register("trackio")
class TrackioRecorder:
    """Makes a run of the project `frostline` with the whole config and every number.

    Args:
        spec: The run.
        folder: The run's.

    Raises:
        UserError: Trackio is not installed.
    """

    def __init__(self, spec: RunSpec, folder: Path) -> None:
        try:
            import trackio
        except ImportError as error:
            raise UserError("tracking.recorders: trackio isn't installed: pip install 'frostline[trackio]'") from error
        self._trackio: Any = trackio
        self._name = f"{spec.name()}-{folder.name}"

    def start(self, run: RunStart) -> None:
        """See `Recorder`."""
        config = {
            key: value if isinstance(value, (str, int, float)) else str(value) for key, value in run.spec.flat().items()
        }
        self._trackio.init(project="frostline", name=self._name, config=config, embed=False)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Recorder`."""
        self._trackio.log(dict(metrics), step=step)

    def finish(self, result: RunResult) -> None:
        """See `Recorder`."""
        self._trackio.finish()
