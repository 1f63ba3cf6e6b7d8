"""Owns: a sweep's parent run in MLflow. Must not know: how points are chosen or trained."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.provenance import redact
from frostline.result import Status
from frostline.spec import TrackingSpec
from frostline.tracking import spool
from frostline.tracking.client import (
    RUN_DIR_TAG,
    STATUS_TAG,
    client,
    end_dead_runs,
    experiment_of,
    metric_name,
    reconcile,
    recorded_run,
    remember,
    reopen,
    reopenable,
    source_tags,
)
from frostline.tracking.view import View, publish

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class SweepRun:
    """The parent run: its charts show the answer, its artifacts hold the report.

    Its troubles never end a sweep; they are told once.

    Args:
        tracking: Where, and under which experiment.
        name: The sweep's.
        folder: The sweep's; the run is found again by a file in it.
        params: What the sweep is, in a few params.
    """

    def __init__(self, tracking: TrackingSpec, name: str, folder: Path, params: Mapping[str, Any]) -> None:
        self._tracking = tracking
        self._name = name
        self._folder = folder
        self._params = dict(params)
        self._client: MlflowClient | None = None
        self._known: dict[tuple[str, int], float] = {}
        self._broken = False
        self._experiment_id = ""
        self._ending: dict[str, Any] = {}
        self.warning: str | None = None
        """What was told of the store's trouble."""
        self.run_id: str | None = None

    def start(self) -> None:
        """Makes the run, or opens the one that the folder is recorded in; ends what a dead process left RUNNING."""
        if not self._tracking.enabled:
            return
        with self._forgiving("start"):
            made = self._client = client(self._tracking.uri)
            self._experiment_id = experiment_of(made, self._tracking)
            reconcile(self._tracking.uri, self._experiment_id)
            earlier = reopenable(self._folder, self._tracking.uri)
            if earlier is not None:
                self._open(made, earlier[1])
            else:
                self._create(made)
            for key, step, value in (spool.kept(self._folder) or {}).get("metrics", ()):
                self.log({key: value}, step)  # what an earlier command could not send

    def _create(self, made: MlflowClient) -> None:
        from mlflow.entities import Param

        tags = {
            **source_tags("frostline sweep"),
            RUN_DIR_TAG: str(self._folder.absolute()),
            "frostline.kind": "sweep",
            **self._tracking.tags,
        }
        run = made.create_run(self._experiment_id, run_name=self._name, tags=tags)
        self.run_id = run.info.run_id
        remember(self._folder, self._tracking.uri, self.run_id)
        made.log_batch(self.run_id, params=[Param(key, str(value)[:6000]) for key, value in self._params.items()])

    def _open(self, made: MlflowClient, run: Run) -> None:
        reopen(made, run)
        for key in run.data.metrics:
            for metric in made.get_metric_history(run.info.run_id, key):
                self._known[key, metric.step] = metric.value
        self.run_id = run.info.run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers at a step; what stands there already with the same value is left out."""
        rows = {metric_name(key): float(value) for key, value in metrics.items()}
        new = {key: value for key, value in rows.items() if self._known.get((key, step)) != value}
        self._known |= {(key, step): value for key, value in new.items()}
        if self._client is None or self.run_id is None or self._broken or not new:
            return
        with self._forgiving("metrics"):
            self._send(new, step)

    def _send(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        assert self._client is not None
        assert self.run_id is not None
        now_ms = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(k, value, now_ms, step) for k, value in metrics.items()])

    def num_missed(self) -> int:
        """Returns how many of the sweep's runs, its own included, the store has missed something of."""
        return len(spool.pending([self._folder])) if self._tracking.enabled else 0

    def recorded(self, folder: Path) -> str | None:
        """Returns the MLflow run that the folder of a run is recorded in, or None."""
        return recorded_run(folder, self._tracking.uri) if self._tracking.enabled else None

    def publish_view(self, metric: str, *, maximize: bool, keys: Sequence[str]) -> str | None:
        """Makes a view of the sweep's points in MLflow's page; returns where it is, None if it could not be made.

        Args:
            metric: The objective's name.
            maximize: Whether more of it is better.
            keys: The swept keys.

        Returns:
            The whole address if the store is a server, else what comes behind that of `frostline ui`.
        """
        links: list[str] = []
        if self._client is None or self.run_id is None or self._broken:
            return None
        with self._forgiving("view"):
            view = View(parent=self.run_id, metric=metric_name(f"best/{metric}"), maximize=maximize, keys=tuple(keys))
            path = publish(self._client, self._experiment_id, view)
            uri = re.sub(r"//[^/@]*@", "//", self._tracking.uri).rstrip("/")  # without user and password
            links.append(f"{uri}{path}" if uri.startswith(("http://", "https://")) else path)
        return links[0] if links else None

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags another run of the sweep."""
        if self._client is None or self._broken:
            return
        with self._forgiving("tags"):
            for key, value in tags.items():
                self._client.set_tag(run_id, key, redact(value)[:6000])

    def log_by_step(self, name: str, values: Mapping[int, float]) -> None:
        """Records one metric over something that isn't time, as the frozen depth."""
        for step, value in sorted(values.items()):
            self.log({name: value}, step)

    def finish(self, status: Status, tags: Mapping[str, str], files: Sequence[Path]) -> None:
        """Ends the run: status first, so that a kill during the upload doesn't leave it RUNNING.

        Its workers must be gone: a run that one of them left RUNNING is ended, too.

        Args:
            status: How the sweep's command ended.
            tags: The answer, and what the run list is filtered by.
            files: Artifacts.
        """
        if not self._tracking.enabled:
            return
        self._ending = {"status": status.value, "tags": dict(tags), "files": [str(path) for path in files]}
        if self._broken:
            self._keep("finish")
            with suppress(Exception):  # told already; at least the status should be true if the store is back
                if self._client is not None and self.run_id is not None and not spool.is_down(self._tracking.uri):
                    self._client.set_terminated(self.run_id, status=status.value)
            return
        if self._client is None or self.run_id is None:
            return
        with self._forgiving("finish"):
            # What a dead worker left RUNNING in the moment before its folder knew of it.
            end_dead_runs(self._tracking.uri, self._experiment_id)
            self._end()

    def _end(self) -> None:
        assert self._client is not None
        assert self.run_id is not None
        status = self._ending["status"]
        self._client.set_terminated(self.run_id, status=status)
        for key, value in {STATUS_TAG: status, **self._ending["tags"]}.items():
            self._client.set_tag(self.run_id, key, redact(value)[:6000])
        for name in self._ending["files"]:
            if Path(name).is_file():
                self._client.log_artifact(self.run_id, name)
        spool.forget(self._folder)

    def replay(self, missed: Mapping[str, Any]) -> bool:
        """Records what a store has missed of a sweep's parent run.

        Args:
            missed: What `spool.kept` returned.

        Returns:
            Whether MLflow has it now.
        """
        self.start()
        if self._broken:
            return False
        with self._forgiving("sync"):
            # A process that was killed in the midst left no word of its end.
            self._ending = missed["ending"] or {"status": Status.KILLED.value, "tags": {}, "files": []}
            self._end()
        return not self._broken

    def _keep(self, why: str) -> None:
        before = (spool.kept(self._folder) or {}).get("metrics", ())
        known = {**{(key, step): value for key, step, value in before}, **self._known}
        metrics = [[key, step, value] for (key, step), value in known.items()]
        missed = {"kind": "sweep", "name": self._name, "params": {k: str(v) for k, v in self._params.items()}}
        spool.keep(self._folder, {**missed, "metrics": metrics, "ending": self._ending or None, "why": why})

    @contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - recording must not end a sweep
            self._broken = True
            spool.mark_down(self._tracking.uri)
            self._keep(f"{what}: {type(error).__name__}: {redact(' '.join(str(error).split()))[:300]}")
            self.warning = spool.warning(self._tracking.uri)
            spool.warn(self._tracking.uri)
