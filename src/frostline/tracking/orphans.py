"""Runs that were left RUNNING by a process that died."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.errors import UserError
from frostline.process_cache import PROCESS_CACHE
from frostline.provenance import process_start
from frostline.records.result import Status
from frostline.records.run_folder import METRICS_FILE, metrics_up_to
from frostline.tracking.client import (
    CLEANED_TAG,
    PROCESS_TAG,
    REASON_TAG,
    RUN_DIR_TAG,
    STATUS_TAG,
    client,
    recorded_run,
)
from frostline.tracking.names import Sanitizer, batches

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)


def end_dead_runs(uri: str, experiment_id: str) -> int:
    """Ends what processes of this machine left RUNNING, now; returns how many runs there were."""
    return _reconcile(uri, experiment_id)


@PROCESS_CACHE.function
def reconcile(uri: str, experiment_id: str) -> int:
    """See `end_dead_runs`; once per process."""
    return _reconcile(uri, experiment_id)


def _reconcile(uri: str, experiment_id: str) -> int:
    """Ends the runs that a process of this machine left RUNNING when it died; once per process.

    The numbers of their last seconds, which had not been sent, are taken from their folders. A run that is resumed
    later is opened again.

    Args:
        uri: Tracking URI.
        experiment_id: Where to look.

    Returns:
        How many there were.
    """
    made = client(uri)
    host = socket.gethostname()
    wanted = f"attributes.status = 'RUNNING' AND tags.`{PROCESS_TAG}` LIKE '{host}/%'"
    count = 0
    for run in made.search_runs([experiment_id], wanted, max_results=1000):
        pid, _, start = run.data.tags[PROCESS_TAG].removeprefix(f"{host}/").partition("/")
        if pid.isdigit() and process_start(int(pid)) != start:
            _send_rest(made, uri, run)
            now = made.get_run(run.info.run_id)
            if now.data.tags.get(PROCESS_TAG) != run.data.tags[PROCESS_TAG] or now.info.status != "RUNNING":
                continue  # it has been resumed meanwhile
            made.set_tag(run.info.run_id, STATUS_TAG, Status.KILLED.value)
            made.set_tag(run.info.run_id, REASON_TAG, "its process died")
            made.set_terminated(run.info.run_id, status=Status.KILLED.value)
            count += 1
    if count:
        log.info("MLflow: %d run%s of a dead process ended as KILLED", count, "" if count == 1 else "s")
    return count


def end_runs_below(uri: str, parent: str, reason: str) -> int:
    """Ends the trials of a sweep that are RUNNING on a machine that died: nothing else will.

    Args:
        uri: Tracking URI.
        parent: Run id of the sweep.
        reason: For the record.

    Returns:
        How many there were.
    """
    made = client(uri)
    below = f"attributes.status = 'RUNNING' AND tags.`mlflow.parentRunId` = '{parent}'"
    running = made.search_runs([made.get_run(parent).info.experiment_id], below, max_results=1000)
    for run in running:
        made.set_tag(run.info.run_id, STATUS_TAG, Status.KILLED.value)
        made.set_tag(run.info.run_id, REASON_TAG, reason)
        made.set_terminated(run.info.run_id, status=Status.KILLED.value)
    return len(running)


def _send_rest(made: MlflowClient, uri: str, run: Run) -> None:
    """Sends what the run's folder knows and the store does not."""
    from mlflow.entities import Metric

    run_id = run.info.run_id
    folder = Path(run.data.tags.get(RUN_DIR_TAG, ""))
    if recorded_run(folder, uri) != run_id:  # it is of a sweep, missing, or another run's by now
        return
    try:
        rows = metrics_up_to(folder, sys.maxsize)
        written_ms = int((folder / METRICS_FILE).stat().st_mtime * 1000)
    except (UserError, OSError):
        return
    last_steps = {key: max(metric.step for metric in made.get_metric_history(run_id, key)) for key in run.data.metrics}
    cleaner = Sanitizer()
    found = []
    for step, values in rows:
        for name, number in values.items():
            key, value = cleaner.metric(name, number)
            if name != "train/epoch" and step > last_steps.get(key, -1):
                found.append(Metric(key, value, written_ms, step))
    for some in batches(found, 1000):
        made.log_batch(run_id, metrics=some)
    if cleaner.record:
        made.set_tag(run_id, CLEANED_TAG, cleaner.record)
