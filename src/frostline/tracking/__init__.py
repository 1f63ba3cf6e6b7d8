"""MLflow tracking; nothing else imports mlflow."""

from frostline.records.run_folder import MODEL_FOLDER
from frostline.tracking.client import RUN_DIR_TAG, absolute, client, preload, ui_command
from frostline.tracking.content import ChildRun
from frostline.tracking.lookup import fetch_files, recorded_folder, run_folder, tag_run, views_of
from frostline.tracking.orphans import reconcile
from frostline.tracking.pending import find_pending
from frostline.tracking.recorders import recorders_of
from frostline.tracking.run import MlflowRecorder
from frostline.tracking.stored_run import log_metrics_and_tags, recorded_run, saved_view
from frostline.tracking.sweep import SweepRun
from frostline.tracking.sync import OtherStoreError, Replay, publish_run

__all__ = [
    "MODEL_FOLDER",
    "RUN_DIR_TAG",
    "ChildRun",
    "MlflowRecorder",
    "OtherStoreError",
    "Replay",
    "SweepRun",
    "absolute",
    "client",
    "fetch_files",
    "find_pending",
    "log_metrics_and_tags",
    "preload",
    "publish_run",
    "reconcile",
    "recorded_folder",
    "recorded_run",
    "recorders_of",
    "run_folder",
    "saved_view",
    "tag_run",
    "ui_command",
    "views_of",
]
