"""Records one run in MLflow.

The run's folder is the truth; MLflow is where people compare. So MLflow's troubles never end a run: they are logged
once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.files import regular_files
from frostline.records.recorder import RunStart
from frostline.records.result import RunResult
from frostline.records.run_folder import MODEL_FOLDER, metrics_up_to
from frostline.spec import RunSpec, TrackingSpec
from frostline.tracking import pending
from frostline.tracking.client import RUN_DIR_TAG, absolute, client, experiment_of
from frostline.tracking.content import (
    ChildRun,
    final_metrics,
    final_tags,
    inputs_of,
    note_of,
    outcome_of,
    params_of,
    tags_of,
)
from frostline.tracking.model import log_model, register_model
from frostline.tracking.names import Sanitizer
from frostline.tracking.orphans import reconcile
from frostline.tracking.stored_run import (
    CLEANED_TAG,
    PARENT_TAG,
    STATUS_TAG,
    StoredRun,
    lookup_run,
    mlflow_status,
    save_run_id,
    source_tags,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_FIRST_FLUSH_S = 60.0
"""So long the first batch waits for an evaluation: MLflow's compare page opens on what was recorded first."""

_FLUSH_S = 5.0  # a batch costs what ten single metrics cost (measured), so numbers are sent in batches


class MlflowRecorder:
    """Records one run in MLflow.

    Args:
        tracking: Where, and under which experiment.
        spec: The run; needed even if it fails before it starts.
        folder: The run's folder, whose files become artifacts.
        child: Its parent run, name and tags if it is nested; None: a run of its own.
        reopen: Continue in the MLflow run that the folder was recorded in before, if there is one.
    """

    def __init__(
        self,
        tracking: TrackingSpec,
        spec: RunSpec,
        folder: Path,
        *,
        child: ChildRun | None = None,
        reopen: bool = False,
    ) -> None:
        self._tracking = tracking
        self._spec = spec
        self._folder = folder
        self._child = child
        self._reopen = reopen
        self._cleaner = Sanitizer()
        self._stored: StoredRun | None = None
        self._last_steps: dict[str, int] = {}
        self._broken = False
        self._note = ""
        # What to type for such a run; a trial of a sweep is one like any other.
        self._command = child.command if child is not None and child.command != "frostline sweep" else "frostline run"
        self._pending: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()
        self._may_flush_early = False
        self._monitor: Any = None

    def start(self, run: RunStart) -> None:
        """Creates the run with its params and tags."""
        with self._forgiving("start"):
            self._note = note_of(run, self._command)
            earlier = lookup_run(self._folder, self._tracking.uri) if self._reopen else None
            params = params_of(self._spec, run.freeze, self._child)
            if earlier is not None:
                stored = self._resume(*earlier, params)
            else:
                stored = self._create(params, tags_of(run))
                stored.send_inputs(inputs_of(run))
            if self._tracking.system_metrics:
                self._start_system_metrics(stored)

    def _start_system_metrics(self, stored: StoredRun) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor: Any = SystemMetricsMonitor  # untyped
        self._monitor = monitor(
            stored.run_id, tracking_uri=absolute(self._tracking.uri), resume_logging=bool(stored.history)
        )
        self._monitor.start()

    def _stop_system_metrics(self) -> None:
        if self._monitor is not None:
            monitor, self._monitor = self._monitor, None
            monitor.finish()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes metrics, sent in batches every few seconds."""
        if self._broken:
            return
        now_ms = int(time.time() * 1000)
        cleaned = [self._cleaner.metric(key, value) for key, value in metrics.items() if key != "train/epoch"]
        self._pending += [(key, value, now_ms, step) for key, value in cleaned if step > self._last_steps.get(key, -1)]
        for key, value in cleaned:
            if self._history.get((key, step), value) != value and value == value:
                self._cleaner.tell(f"metric {key}: some steps stand here as they were before the run was resumed")
        self._may_flush_early |= f"eval/{self._spec.training.objective}" in metrics
        if time.monotonic() - self._flushed > (_FLUSH_S if self._may_flush_early else _FIRST_FLUSH_S):
            with self._forgiving("metrics"):
                self._flush()

    def finish(self, result: RunResult) -> None:
        """Sends what is left, the files of the run's folder, and the status: never FINISHED for what isn't."""
        if self._broken:
            if self._stored is not None:
                self._stored.try_to_set_status(self._tracking.uri, result.status)
            return
        with self._forgiving("finish"):
            self._stop_system_metrics()
            if self._stored is None:  # it failed before it started
                self._create(params_of(self._spec, None, self._child), {})
            assert self._stored is not None
            last = result.step or (result.cost.steps if result.cost else 0)
            self._add_final(final_metrics(result), last)
            self._flush()
            tags = final_tags(result)
            if self._note:
                tags["mlflow.note.content"] = f"{self._note}\n{outcome_of(result)}\n"
            self._stored.end(result.status, tags)
            self._log_files(self._stored)
            pending.clear(self._folder)

    def close_run(self, result: RunResult, start: RunStart | None = None) -> bool:
        """Ends the run of a dead process with what its folder holds; makes the run if there was none yet.

        Args:
            result: How it ended. Nothing is done if MLflow has it already.
            start: What was known of the run before it trained, if that is known.

        Returns:
            Whether MLflow has it now.
        """
        with self._forgiving("end"):
            earlier = lookup_run(self._folder, self._tracking.uri)
            missed = pending.load(self._folder) is not None
            if start is not None:
                self._note = note_of(start, self._command)
            params = params_of(self._spec, start.freeze if start is not None else None, self._child)
            if earlier is None:
                stored = self._create(params, tags_of(start) if start is not None else {})
            elif _has_end(earlier[1], result) and not missed:
                return True
            else:
                stored = self._resume(*earlier, params)
            if start is not None:
                stored.send_inputs(inputs_of(start))
            for step, values in metrics_up_to(self._folder, sys.maxsize):  # its last seconds had not been sent
                self.log(values, step)
        self.finish(result)
        return not self._broken

    @property
    def _history(self) -> dict[tuple[str, int], float]:
        return self._stored.history if self._stored is not None else {}

    def _create(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> StoredRun:
        store = client(self._tracking.uri)
        experiment_id = experiment_of(store, self._tracking)
        if self._child is None:  # a sweep's parent does it for its trials
            reconcile(self._tracking.uri, experiment_id)
        child = self._child
        base = {
            **source_tags("frostline run" if child is None else child.command),
            "frostline.spec_digest": self._spec.digest(),
            RUN_DIR_TAG: str(self._folder.absolute()),
        }
        if self._note:
            base["mlflow.note.content"] = self._note
        all_tags = self._cleaner.tags({**base, **tags, **(child.tags if child else {}), **self._tracking.tags})
        if self._cleaner.record:
            all_tags[CLEANED_TAG] = self._cleaner.record
        if child is not None and child.parent is not None:
            all_tags[PARENT_TAG] = child.parent
        name = child.name if child is not None else self._spec.name()
        stored = StoredRun.create(store, experiment_id, name=name, tags=all_tags, cleaner=self._cleaner)
        self._stored = stored
        save_run_id(self._folder, self._tracking.uri, stored.run_id)
        stored.send_params(params)
        return stored

    def _resume(self, store: MlflowClient, run: Run, params: Mapping[str, Any]) -> StoredRun:
        """Continues an earlier run: the steps that it has already are not sent again."""
        self._stored = StoredRun.resume(store, run, self._cleaner)
        self._last_steps = self._stored.last_steps()
        self._stored.send_params(params)
        return self._stored

    def _add_final(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds results of the whole run; they replace those of a part of it, whatever step that was logged at."""
        now_ms = int(time.time() * 1000)
        for name, number in metrics.items():
            key, value = self._cleaner.metric(name, number)
            at = max(step, self._last_steps.get(key, step))
            if self._history.get((key, at)) != value:  # a failed upload of the model is no reason to log it twice
                self._pending.append((key, value, now_ms, at))

    def _flush(self) -> None:
        if self._stored is None:
            return
        objective = self._cleaner.name("metric", f"eval/{self._spec.training.objective}")
        self._stored.send_metrics(
            sorted(self._pending, key=lambda row: (not row[0].startswith("best/"), row[0] != objective))
        )
        self._pending.clear()
        self._flushed, self._may_flush_early = time.monotonic(), True  # the first batch is out

    def _log_files(self, stored: StoredRun) -> None:
        for path in regular_files(self._folder):
            relative = path.relative_to(self._folder)
            hidden = any(part.startswith(".") for part in relative.parts)
            if not hidden and relative.parts[0] not in {"checkpoints", MODEL_FOLDER}:
                parent = relative.parent.as_posix()
                stored.store.log_artifact(stored.run_id, str(path), None if parent == "." else parent)
        if self._tracking.log_model and (self._folder / MODEL_FOLDER).is_dir():
            log_model(stored.store, stored.run_id, self._folder)
            if self._tracking.register is not None and (self._child is None or self._child.parent is None):
                register_model(stored.store, stored.run_id, self._tracking.register)

    @contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - recording must not end a run
            self._broken = True
            self._stop_system_metrics()
            pending.mark_unreachable(self._tracking.uri, error)
            child = None if self._child is None else asdict(self._child)
            why = f"{what}: {pending.reason_of(error)}"
            missed = {"kind": "run", "tracking": pending.location_of(self._tracking), "child": child, "why": why}
            pending.save(self._folder, missed)
            pending.warn(self._tracking.uri, pending.reason_of(error))


def _has_end(run: Run, result: RunResult) -> bool:
    return run.info.status == mlflow_status(result.status) and run.data.tags.get(STATUS_TAG) == result.status.value
