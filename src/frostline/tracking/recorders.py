"""The recorders of a run: its folder, those that the config names, and MLflow."""

from __future__ import annotations

from frostline.records.recorder import Recorder, Recorders, named_recorders
from frostline.records.run_folder import RunFolder
from frostline.spec import RunSpec, TrackingSpec
from frostline.tracking.content import ChildRun
from frostline.tracking.run import MlflowRecorder


def recorders_of(
    folder: RunFolder,
    spec: RunSpec,
    tracking: TrackingSpec,
    *more: Recorder,
    child: ChildRun | None = None,
    reopen: bool = False,
) -> Recorders:
    """Returns what records a run.

    Args:
        folder: The run's.
        spec: The run.
        tracking: Its settings: names of recorders, MLflow's store.
        more: Further recorders.
        child: See `MlflowRecorder`.
        reopen: See `MlflowRecorder`.

    Raises:
        UserError: No recorder has a name of `tracking.recorders`.
    """
    recorders = [folder, *more, *named_recorders(tracking.recorders, spec, folder.folder)]
    if tracking.enabled:
        recorders.append(MlflowRecorder(tracking, spec, folder.folder, child=child, reopen=reopen))
    return Recorders(recorders)
