"""Records a sweep's parent run in MLflow."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.errors import best_effort
from frostline.provenance import redact, without_user
from frostline.records.result import Status
from frostline.records.run_folder import MODEL_FOLDER
from frostline.spec import TrackingSpec
from frostline.tracking import pending
from frostline.tracking.client import (
    BEST_TAG,
    CLEANED_TAG,
    RUN_DIR_TAG,
    STATUS_TAG,
    client,
    experiment_of,
    recorded_run,
    reopen,
    reopenable,
    save_run_id,
    send_params,
    source_tags,
)
from frostline.tracking.links import RunListView, publish
from frostline.tracking.model import log_model
from frostline.tracking.names import Sanitizer, clean_name
from frostline.tracking.orphans import end_dead_runs, end_runs_below, reconcile

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


log = logging.getLogger(__name__)


class SweepRun:
    """The parent run: its charts show the answer, its artifacts hold the report.

    Its troubles never end a sweep; they are logged once.

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
        self._cleaner = Sanitizer()
        self._params = self._cleaner.params(params)
        self._client: MlflowClient | None = None
        self._known: dict[tuple[str, int], float] = {}
        self._broken = False
        self._is_whole = True
        self._experiment_id = ""
        self._ending: dict[str, Any] = {}
        self._view: dict[str, Any] | None = None
        self.warning: str | None = None
        """The last warning about the store."""
        self.run_id: str | None = None

    def start(self, known: str | None = None) -> None:
        """Makes the run, or opens the one that the folder is recorded in; ends what a dead process left RUNNING.

        Args:
            known: Id of the sweep's run, if another machine began it: nobody works on the sweep there any more.
        """
        if not self._tracking.enabled:
            return
        with self._forgiving("start"):
            made = self._client = client(self._tracking.uri)
            self._experiment_id = experiment_of(made, self._tracking)
            reconcile(self._tracking.uri, self._experiment_id)
            earlier = reopenable(self._folder, self._tracking.uri)
            if earlier is None and known is not None:
                save_run_id(self._folder, self._tracking.uri, known)
                earlier = reopenable(self._folder, self._tracking.uri)  # None: it is of another store
                if earlier is not None:
                    end_runs_below(self._tracking.uri, known, "its machine died")
            if earlier is not None:
                self._open(made, earlier[1])
                send_params(made, earlier[1].info.run_id, self._params, earlier[1].data.params)
            else:
                self._create(made)
            for key, step, value in (pending.load(self._folder) or {}).get("metrics", ()):
                self.log({key: value}, step)  # what an earlier command could not send

    def _create(self, made: MlflowClient) -> None:
        tags = {
            **source_tags("frostline sweep"),
            RUN_DIR_TAG: str(self._folder.absolute()),
            "frostline.kind": "sweep",
            **self._cleaner.tags(self._tracking.tags),
        }
        run = made.create_run(self._experiment_id, run_name=self._name, tags=tags)
        self.run_id = run.info.run_id
        save_run_id(self._folder, self._tracking.uri, self.run_id)
        send_params(made, self.run_id, self._params, {})

    def _open(self, made: MlflowClient, run: Run) -> None:
        reopen(made, run)
        for key in run.data.metrics:
            for metric in made.get_metric_history(run.info.run_id, key):
                self._known[key, metric.step] = metric.value
        self.run_id = run.info.run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers at a step; what stands there already with the same value is left out."""
        rows = dict(self._cleaner.metric(key, float(value)) for key, value in metrics.items())
        new = {key: value for key, value in rows.items() if self._known.get((key, step)) != value}
        self._known |= {(key, step): value for key, value in new.items()}
        if self._broken and new:  # the next word may never come
            self._keep("metrics")
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
        return len(pending.find_pending([self._folder])) if self._tracking.enabled else 0

    def recorded(self, folder: Path) -> str | None:
        """Returns the MLflow run that the folder of a run is recorded in, or None."""
        return recorded_run(folder, self._tracking.uri) if self._tracking.enabled else None

    def publish_view(self, metric: str, *, maximize: bool, keys: Sequence[str]) -> str | None:
        """Makes a view of the sweep's trials in MLflow's page; returns where it is, None if it could not be made.

        Args:
            metric: The objective's name.
            maximize: Whether more of it is better.
            keys: The swept keys.

        Returns:
            The whole address if the store is a server, else what comes behind that of `frostline ui`.
        """
        self._view = {"metric": clean_name(f"best/{metric}"), "maximize": maximize, "keys": list(keys)}
        if self._client is None or self.run_id is None or self._broken:
            return None
        with best_effort("MLflow's view of the sweep"):
            path = publish(self._client, self._experiment_id, RunListView(parent=self.run_id, **self._view))
            uri = without_user(self._tracking.uri).rstrip("/")
            return f"{uri}{path}" if uri.startswith(("http://", "https://")) else path
        return None

    def log_by_step(self, name: str, values: Mapping[int, float]) -> None:
        """Records one metric over something that isn't time, as the frozen depth."""
        for step, value in sorted(values.items()):
            self.log({name: value}, step)

    def finish(
        self,
        status: Status,
        tags: Mapping[str, str],
        files: Sequence[Path],
        *,
        best: Path | None = None,
        with_model: bool = False,
        trials: Mapping[Path, Mapping[str, str]] | None = None,
    ) -> None:
        """Ends the run: status first, so that a kill during the upload doesn't leave it RUNNING.

        Its workers must have ended: a run that one of them left RUNNING is ended, too.

        Args:
            status: How the sweep's command ended.
            tags: The answer, and what the run list is filtered by.
            files: Artifacts.
            best: The folder of the best run.
            with_model: Make its model, if there is one in its folder, a model in MLflow.
            trials: More tags for the runs that lie in these folders.
        """
        if not self._tracking.enabled:
            return
        self._ending = {
            "status": status.value,
            "tags": {key: redact(value) for key, value in tags.items()},
            "files": [self._relative(path) for path in files],
            "best": None if best is None else self._relative(best),
            "with_model": with_model,
            "trials": {self._relative(path): dict(more) for path, more in (trials or {}).items()},
        }
        if self._broken:
            self._keep("finish")
            with best_effort(
                "the status in MLflow"
            ):  # logged already; at least the status should be true if the store is back
                if (
                    self._client is not None
                    and self.run_id is not None
                    and not pending.is_unreachable(self._tracking.uri)
                ):
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
        tags = self._cleaner.tags({STATUS_TAG: status, **self._ending["tags"]})
        tags |= {CLEANED_TAG: self._cleaner.record} if self._cleaner.record else {}
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)
        best = self._inside(self._ending.get("best"))
        run_id = self.recorded(best) if best is not None else None
        if run_id is not None:
            self._client.set_tag(self.run_id, BEST_TAG, run_id)
        for folder, more in self._ending.get("trials", {}).items():
            place = self._inside(folder)
            child = None if place is None else self.recorded(place)
            if child is not None:
                for key, value in more.items():
                    self._client.set_tag(child, key, value)
        for name in self._ending["files"]:
            if (file := self._inside(name)) is not None and file.is_file():
                self._client.log_artifact(self.run_id, str(file))
        with_model = self._ending.get("with_model") and best is not None and (best / MODEL_FOLDER).is_dir()
        if best is not None and run_id is not None and with_model:
            log_model(self._client, run_id, best)
        if best is not None and run_id is None and pending.load(best) is not None:
            self._is_whole = False  # this run names its best one: it is to be logged again when that one is there
            self._keep("its best run is not recorded yet")
        else:
            pending.clear(self._folder)

    def _relative(self, path: Path) -> str:
        """Returns a path below the sweep's folder as it is kept: the folder may be moved."""
        return path.absolute().relative_to(self._folder.absolute()).as_posix()

    def _inside(self, name: object) -> Path | None:
        """Returns what a record names below the sweep's folder; None for what lies elsewhere, or is a link."""
        if not isinstance(name, str) or not name:
            return None
        path = self._folder / name
        steps = [self._folder.joinpath(*Path(name).parts[: n + 1]) for n in range(len(Path(name).parts))]
        is_inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        return path if is_inside and not any(step.is_symlink() for step in steps) else None

    def replay(self, missed: Mapping[str, Any]) -> bool:
        """Records what a store has missed of a sweep's parent run.

        Args:
            missed: What `pending.load` returned.

        Returns:
            Whether MLflow has it now.
        """
        self.start()
        if self._broken:
            return False
        with self._forgiving("sync"):
            # A process that was killed in the midst left no word of its end.
            self._ending = missed["ending"] or {"status": Status.KILLED.value, "tags": {}, "files": []}
            if missed.get("view") and self._client is not None and self.run_id is not None:
                publish(self._client, self._experiment_id, RunListView(parent=self.run_id, **missed["view"]))
            self._end()
        return not self._broken and self._is_whole

    def _keep(self, why: str) -> None:
        before = (pending.load(self._folder) or {}).get("metrics", ())
        known = {**{(key, step): value for key, step, value in before}, **self._known}
        metrics = [[key, step, value] for (key, step), value in known.items()]
        missed = {
            "kind": "sweep",
            "tracking": pending.location_of(self._tracking),
            "name": self._name,
            "params": self._params,
            "view": self._view,
        }
        pending.save(self._folder, {**missed, "metrics": metrics, "ending": self._ending or None, "why": why})

    @contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - recording must not end a sweep
            self._broken = True
            pending.mark_unreachable(self._tracking.uri, error)
            reason = pending.reason_of(error)
            self._keep(f"{what}: {reason}")
            self.warning = pending.warning(self._tracking.uri, reason)
            pending.warn(self._tracking.uri, reason)
