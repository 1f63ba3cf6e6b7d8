"""Runs that were left RUNNING by a process that died."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path

from frostline.errors import UserError
from frostline.process_cache import PROCESS_CACHE
from frostline.provenance import process_start
from frostline.records.result import Status
from frostline.records.run_folder import METRICS_FILE, metrics_up_to
from frostline.tracking.client import RUN_DIR_TAG, client
from frostline.tracking.names import Sanitizer
from frostline.tracking.stored_run import PROCESS_TAG, REASON_TAG, StoredRun, recorded_run

log = logging.getLogger(__name__)


@PROCESS_CACHE.function
def reconcile(uri: str, experiment_id: str) -> int:
    """Calls `end_dead_runs` once per process."""
    return end_dead_runs(uri, experiment_id)


def end_dead_runs(uri: str, experiment_id: str) -> int:
    """Ends the runs that a process of this machine left RUNNING when it died.

    The numbers of their last seconds, which had not been sent, are taken from their folders. A run that is resumed
    later is opened again.

    Args:
        uri: Tracking URI.
        experiment_id: Where to look.

    Returns:
        How many runs it ended.
    """
    store = client(uri)
    host = socket.gethostname()
    condition = f"attributes.status = 'RUNNING' AND tags.`{PROCESS_TAG}` LIKE '{host}/%'"
    count = 0
    for run in store.search_runs([experiment_id], condition, max_results=1000):
        process = run.data.tags[PROCESS_TAG]
        pid, _, start = process.removeprefix(f"{host}/").partition("/")
        if not pid.isdigit() or process_start(int(pid)) == start:
            continue
        stored = StoredRun.load(store, run, Sanitizer())
        _send_rest(stored, Path(run.data.tags.get(RUN_DIR_TAG, "")), uri)
        now = store.get_run(stored.run_id)
        if now.data.tags.get(PROCESS_TAG) == process and now.info.status == "RUNNING":  # else it was resumed meanwhile
            stored.end(Status.KILLED, {REASON_TAG: "its process died"})
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
        How many runs it ended.
    """
    store = client(uri)
    below = f"attributes.status = 'RUNNING' AND tags.`mlflow.parentRunId` = '{parent}'"
    running = store.search_runs([store.get_run(parent).info.experiment_id], below, max_results=1000)
    for run in running:
        StoredRun(store, run.info.run_id, Sanitizer()).end(Status.KILLED, {REASON_TAG: reason})
    return len(running)


def _send_rest(stored: StoredRun, folder: Path, uri: str) -> None:
    """Sends what the run's folder has and the store does not."""
    if recorded_run(folder, uri) != stored.run_id:  # a sweep's run, a missing folder, or one of another run by now
        return
    try:
        rows = metrics_up_to(folder, sys.maxsize)
        written_ms = int((folder / METRICS_FILE).stat().st_mtime * 1000)
    except (UserError, OSError):
        return
    stored.catch_up(rows, written_ms)
