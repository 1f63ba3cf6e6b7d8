"""One run in an MLflow store: what is sent to it, and what the store holds of it already.

A run, a sweep's parent and a run whose process died are written by this one class, so that each is cleaned, batched,
resumed and ended alike.
"""

from __future__ import annotations

import getpass
import json
import os
import random
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.errors import best_effort
from frostline.files import write_atomically
from frostline.provenance import process_start, redact
from frostline.records.result import Status
from frostline.records.run_folder import RUN_FILE
from frostline.tracking import pending
from frostline.tracking.client import absolute, client
from frostline.tracking.names import Sanitizer, batches

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

STATUS_TAG = "frostline.status"
REASON_TAG = "frostline.reason"
BEST_TAG = "frostline.best_run"
CLEANED_TAG = "frostline.cleaned"
"""What MLflow would not have taken as it was: names and values that were changed, a line each."""

PARENT_TAG = "mlflow.parentRunId"
PROCESS_TAG = "frostline.process"

_MAX_PARAMS = 100  # in one batch, MLflow's limit
_MAX_METRICS = 1000

_RACE_S = (0.1, 0.3, 1.0, 3.0)
"""Seconds to wait for another run that is recording the same at the same moment."""

_RACE_MESSAGES = ("unique constraint", "uniqueviolation", "duplicate key", "duplicate entry")
"""What SQLite, PostgreSQL and MySQL say to the second one that inserts a row."""


class StoredRun:
    """A run that exists in a store.

    Args:
        store: Its client.
        run_id: Of the run.
        cleaner: Makes names and values fit MLflow's limits.

    Attributes:
        history: The value of each metric and step that the store held when the run was opened.
        params: The params that the store has.
    """

    def __init__(self, store: MlflowClient, run_id: str, cleaner: Sanitizer) -> None:
        self.store = store
        self.run_id = run_id
        self.history: dict[tuple[str, int], float] = {}
        self.params: set[str] = set()
        self._cleaner = cleaner

    @classmethod
    def create(
        cls, store: MlflowClient, experiment_id: str, *, name: str, tags: Mapping[str, str], cleaner: Sanitizer
    ) -> StoredRun:
        """Makes a run.

        Args:
            store: Where.
            experiment_id: Of which experiment.
            name: Of the run.
            tags: Clean ones. With those of its process from the start: a kill right now leaves a run that the next
                command sees is dead.
            cleaner: See the class.
        """
        return cls(store, store.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id, cleaner)

    @classmethod
    def load(cls, store: MlflowClient, run: Run, cleaner: Sanitizer) -> StoredRun:
        """Returns an existing run with its history; the run itself stays as it is."""
        stored = cls(store, run.info.run_id, cleaner)
        stored.params = set(run.data.params)
        for key in run.data.metrics:
            for metric in store.get_metric_history(stored.run_id, key):
                stored.history[key, metric.step] = metric.value
        return stored

    @classmethod
    def resume(cls, store: MlflowClient, run: Run, cleaner: Sanitizer) -> StoredRun:
        """Opens a run that ended before: it is RUNNING again, by this process, and has no reason for its end."""
        for key, value in {**process_tags(), STATUS_TAG: "RUNNING"}.items():
            store.set_tag(run.info.run_id, key, value)
        # After the tags of its process: no other process takes it for dead.
        store.update_run(run.info.run_id, status="RUNNING")
        if REASON_TAG in run.data.tags:
            store.delete_tag(run.info.run_id, REASON_TAG)
        return cls.load(store, run, cleaner)

    def last_steps(self) -> dict[str, int]:
        """Returns the last step of each metric in the history."""
        steps: dict[str, int] = {}
        for key, step in self.history:
            steps[key] = max(step, steps.get(key, step))
        return steps

    def send_params(self, params: Mapping[str, Any]) -> None:
        """Records the params that the store lacks: a param can't be changed."""
        from mlflow.entities import Param

        missing = {key: value for key, value in self._cleaner.params(params).items() if key not in self.params}
        for batch in batches((Param(key, value) for key, value in missing.items()), _MAX_PARAMS):
            self.store.log_batch(self.run_id, params=batch)
        self.params |= missing.keys()

    def send_metrics(self, rows: Iterable[tuple[str, float, int, int]]) -> None:
        """Records metrics: clean name, value, time in ms since 1970, step."""
        from mlflow.entities import Metric

        for batch in batches((Metric(*row) for row in rows), _MAX_METRICS):
            self.store.log_batch(self.run_id, metrics=batch)

    def catch_up(self, rows: Iterable[tuple[int, Mapping[str, float]]], time_ms: int) -> None:
        """Sends the metrics of steps that the store lacks.

        Args:
            rows: Steps and their metrics.
            time_ms: When they were measured, in ms since 1970.
        """
        last = self.last_steps()
        cleaned = [
            (*self._cleaner.metric(name, number), time_ms, step)
            for step, values in rows
            for name, number in values.items()
            if name != "train/epoch"
        ]
        self.send_metrics(row for row in cleaned if row[3] > last.get(row[0], -1))

    def send_inputs(self, datasets: Sequence[DatasetInput]) -> None:
        """Records what a run was trained and evaluated on.

        Runs that start at the same moment send the same data: a server looks whether it has them, then inserts them,
        and all but one of them fail in between (seen with PostgreSQL). The next attempt succeeds.
        """
        from mlflow.exceptions import MlflowException

        for wait_s in (*_RACE_S, None):
            try:
                self.store.log_inputs(self.run_id, datasets=datasets)
                return
            except MlflowException as error:
                if wait_s is None or not any(word in str(error).lower() for word in _RACE_MESSAGES):
                    raise
                time.sleep(wait_s * random.uniform(0.5, 1.5))

    def end(self, status: Status, tags: Mapping[str, str]) -> None:
        """Ends the run: tags, with what was cleaned, then the status. Files may follow.

        A kill while files are uploaded must not leave the run RUNNING for ever.
        """
        clean = self._cleaner.tags({STATUS_TAG: status.value, **tags})
        if self._cleaner.record:
            clean[CLEANED_TAG] = self._cleaner.record
        for key, value in clean.items():
            self.store.set_tag(self.run_id, key, value)
        self.store.set_terminated(self.run_id, status=mlflow_status(status))

    def try_to_set_status(self, uri: str, status: Status) -> None:
        """Sets the status alone, after the store failed: it may be back, and then the status should be true.

        Args:
            uri: Of the store. One that does not answer isn't asked.
            status: How the run ended.
        """
        with best_effort("the status in MLflow"):
            if not pending.is_unreachable(uri):
                self.store.set_terminated(self.run_id, status=mlflow_status(status))


def mlflow_status(status: Status) -> str:
    """Returns MLflow's word: it knows no PRUNED, and a run that was stopped early is not FINISHED. A tag says which."""
    return Status.KILLED.value if status is Status.PRUNED else status.value


def _user() -> str:
    """Returns the user's name, or number where it has none, for example in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def source_tags(command: str) -> dict[str, str]:
    """Returns who runs what, in MLflow's own tags, and that it is under way."""
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": command,
        "mlflow.source.type": "LOCAL",
        STATUS_TAG: "RUNNING",
        **process_tags(),
    }


def process_tags() -> dict[str, str]:
    """Returns which process runs it, so that a later one can see that it died."""
    return {PROCESS_TAG: f"{socket.gethostname()}/{os.getpid()}/{process_start(os.getpid())}"}


def _seen_from(folder: Path, uri: str) -> str:
    """Returns a store's URI as a folder keeps it: a SQLite file relative to the folder, for both may be moved."""
    path = absolute(uri).removeprefix("sqlite:///")
    if path == uri or not path.startswith("/"):
        return redact(absolute(uri))
    return f"sqlite:///{os.path.relpath(os.path.realpath(path), os.path.realpath(folder))}"


def save_run_id(folder: Path, uri: str, run_id: str) -> None:
    """Keeps in a folder which MLflow run it is recorded in."""
    text = json.dumps({"uri": _seen_from(folder, uri), "run_id": run_id}) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RUN_FILE, text)


def recorded_run(folder: Path, uri: str) -> str | None:
    """Returns the id of the MLflow run that a folder is recorded in, or None."""
    try:
        data = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        return str(data["run_id"]) if data["uri"] == _seen_from(folder, uri) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_view(folder: Path, address: str) -> None:
    """Keeps in a sweep's folder where MLflow shows it, beside the id of its run there."""
    record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    write_atomically(folder / RUN_FILE, json.dumps({**record, "view": address}) + "\n")


def saved_view(folder: Path) -> str | None:
    """Returns what `save_view` kept: the whole address, or what comes behind that of `frostline ui`; None: nothing."""
    try:
        return str(json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["view"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def lookup_run(folder: Path, uri: str) -> tuple[MlflowClient, Run] | None:
    """Returns the MLflow run that a folder is recorded in, or None if it has none or it was deleted.

    Raises:
        MlflowException: The store can't say: a run made now would be a second one.
    """
    run_id = recorded_run(folder, uri)
    if run_id is None:
        return None
    from mlflow.exceptions import MlflowException

    store = client(uri)
    try:
        run = store.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return (store, run) if run.info.lifecycle_stage == "active" else None


def log_metrics_and_tags(
    folder: Path, uri: str, values: Mapping[str, float], step: int, tags: Mapping[str, str]
) -> None:
    """Adds numbers to the run that a folder is recorded in, if it still exists; its status stays as it is.

    Args:
        folder: The run's.
        uri: Tracking URI.
        values: Metrics by name.
        step: Of the weights that they are of.
        tags: By name.

    Raises:
        MlflowException: The store can't be reached.
    """
    recorded = lookup_run(folder, uri)
    if recorded is None:
        return
    store, run = recorded
    for name, value in values.items():
        store.log_metric(run.info.run_id, name, value, step=step)
    for name, text in tags.items():
        store.set_tag(run.info.run_id, name, text)
