"""Owns: MLflow, in and out; the only importer of mlflow. Must not know: training."""

from frostline.tracking.client import (
    MODEL_FOLDER,
    RUN_DIR_TAG,
    absolute,
    client,
    metric_name,
    preload,
    reconcile,
    run_folder,
    ui_command,
)
from frostline.tracking.recorder import Child, MlflowRecorder
from frostline.tracking.sweep import SweepRun

__all__ = [
    "MODEL_FOLDER",
    "RUN_DIR_TAG",
    "Child",
    "MlflowRecorder",
    "SweepRun",
    "absolute",
    "client",
    "metric_name",
    "preload",
    "reconcile",
    "run_folder",
    "ui_command",
]
