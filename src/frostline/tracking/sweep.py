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
from frostline.tracking.client import RUN_DIR_TAG, client, experiment_of
from frostline.tracking.links import RECOMMENDED_TAG, RunListView, publish
from frostline.tracking.model import RECOMMENDED, log_model, register_model
from frostline.tracking.names import Sanitizer, clean_name
from frostline.tracking.orphans import end_dead_runs, end_runs_below, reconcile
from frostline.tracking.stored_run import (
    BEST_TAG,
    StoredRun,
    lookup_run,
    recorded_run,
    save_run_id,
    save_view,
    source_tags,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

_STAR = "\u2605 "
"""Before the name of the run that a sweep recommends: the first thing that one sees of it in the list."""


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
        self._params = dict(params)
        self._stored: StoredRun | None = None
        self._known: dict[tuple[str, int], float] = {}
        self._broken = False
        self._is_whole = True
        self._experiment_id = ""
        self._ending: dict[str, Any] = {}
        self._view: dict[str, Any] | None = None
        self.registered: str | None = None
        """The name in the model registry that the recommended model has got."""
        self.warning: str | None = None
        """The last warning about the store."""

    @property
    def run_id(self) -> str | None:
        """Id of the run in MLflow; None if there is none."""
        return None if self._stored is None else self._stored.run_id

    def start(self, known: str | None = None) -> None:
        """Makes the run, or opens the one that the folder is recorded in; ends what a dead process left RUNNING.

        Args:
            known: Id of the sweep's run, if another machine began it: no process works on the sweep there any more.
        """
        if not self._tracking.enabled:
            return
        with self._forgiving("start"):
            store = client(self._tracking.uri)
            self._experiment_id = experiment_of(store, self._tracking)
            reconcile(self._tracking.uri, self._experiment_id)
            earlier = lookup_run(self._folder, self._tracking.uri)
            if earlier is None and known is not None:
                save_run_id(self._folder, self._tracking.uri, known)
                earlier = lookup_run(self._folder, self._tracking.uri)  # None: it is of another store
                if earlier is not None:
                    end_runs_below(self._tracking.uri, known, "its machine died")
            self._stored = self._create(store) if earlier is None else StoredRun.resume(*earlier, self._cleaner)
            self._known |= self._stored.history
            self._stored.send_params(self._params)
            for key, step, value in (pending.load(self._folder) or {}).get("metrics", ()):
                self.log({key: value}, step)  # what an earlier command could not send

    def _create(self, store: MlflowClient) -> StoredRun:
        tags = {
            **source_tags("frostline sweep"),
            RUN_DIR_TAG: str(self._folder.absolute()),
            "frostline.kind": "sweep",
            **self._cleaner.tags(self._tracking.tags),
        }
        stored = StoredRun.create(store, self._experiment_id, name=self._name, tags=tags, cleaner=self._cleaner)
        save_run_id(self._folder, self._tracking.uri, stored.run_id)
        return stored

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers at a step; what is already recorded with the same value is left out."""
        rows = dict(self._cleaner.metric(key, float(value)) for key, value in metrics.items())
        new = {key: value for key, value in rows.items() if self._known.get((key, step)) != value}
        self._known |= {(key, step): value for key, value in new.items()}
        if self._broken and new:  # this may be the last call
            self._keep("metrics")
        if self._stored is None or self._broken or not new:
            return
        with self._forgiving("metrics"):
            now_ms = int(time.time() * 1000)
            self._stored.send_metrics((key, value, now_ms, step) for key, value in new.items())

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
        if self._stored is None or self._broken:
            return None
        with best_effort("MLflow's view of the sweep"):
            return self._publish(self._stored, self._view)
        return None

    def _publish(self, stored: StoredRun, view: Mapping[str, Any]) -> str:
        path = publish(stored.store, self._experiment_id, RunListView(parent=stored.run_id, **view))
        uri = without_user(self._tracking.uri).rstrip("/")
        address = f"{uri}{path}" if uri.startswith(("http://", "https://")) else path
        save_view(self._folder, address)
        return address

    def log_by_step(self, name: str, values: Mapping[int, float]) -> None:
        """Records one metric over something that isn't time, for example the frozen depth."""
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
            if self._stored is not None:
                self._stored.try_to_set_status(self._tracking.uri, status)
            return
        if self._stored is None:
            return
        with self._forgiving("finish"):
            # What a dead worker left RUNNING in the moment before its folder knew of it.
            end_dead_runs(self._tracking.uri, self._experiment_id)
            self._end(self._stored)

    def _end(self, stored: StoredRun) -> None:
        stored.end(Status(self._ending["status"]), self._ending["tags"])
        best = self._inside(self._ending.get("best"))
        run_id = self.recorded(best) if best is not None else None
        if run_id is not None:
            self._mark(stored, run_id)
        for folder, more in self._ending.get("trials", {}).items():
            place = self._inside(folder)
            child = None if place is None else self.recorded(place)
            if child is not None:
                for key, value in more.items():
                    stored.store.set_tag(child, key, value)
        for name in self._ending["files"]:
            if (file := self._inside(name)) is not None and file.is_file():
                stored.store.log_artifact(stored.run_id, str(file))
        with_model = self._ending.get("with_model") and best is not None and (best / MODEL_FOLDER).is_dir()
        if best is not None and run_id is not None and with_model:
            log_model(stored.store, run_id, best)
            if self._tracking.register is not None:
                register_model(stored.store, run_id, self._tracking.register, RECOMMENDED)
                self.registered = f"{self._tracking.register}@{RECOMMENDED}"
        if best is not None and run_id is None and pending.load(best) is not None:
            self._is_whole = False  # this run names its best one: it is to be logged again when that one is there
            self._keep("its best run is not recorded yet")
        else:
            pending.clear(self._folder)

    def _mark(self, stored: StoredRun, run_id: str) -> None:
        """Notes the recommended run at the sweep's and in the list of runs, in the place of an earlier one."""
        earlier = stored.store.get_run(stored.run_id).data.tags.get(BEST_TAG)
        if earlier is not None and earlier != run_id:
            with best_effort("taking the mark off the run that was recommended before"):
                stored.store.delete_tag(earlier, RECOMMENDED_TAG)
                name = stored.store.get_run(earlier).info.run_name or ""
                stored.store.update_run(earlier, name=name.removeprefix(_STAR))
        stored.store.set_tag(stored.run_id, BEST_TAG, run_id)
        stored.store.set_tag(run_id, RECOMMENDED_TAG, "recommended")
        name = stored.store.get_run(run_id).info.run_name or ""
        stored.store.update_run(run_id, name=_STAR + name.removeprefix(_STAR))

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
        stored = self._stored
        if self._broken or stored is None:
            return False
        with self._forgiving("sync"):
            # A process that was killed before its end has no ending.
            self._ending = missed["ending"] or {"status": Status.KILLED.value, "tags": {}, "files": []}
            if missed.get("view"):
                self._publish(stored, missed["view"])
            self._end(stored)
        return not self._broken and self._is_whole

    def _keep(self, why: str) -> None:
        before = (pending.load(self._folder) or {}).get("metrics", ())
        known = {**{(key, step): value for key, step, value in before}, **self._known}
        metrics = [[key, step, value] for (key, step), value in known.items()]
        missed = {
            "kind": "sweep",
            "tracking": pending.location_of(self._tracking),
            "name": self._name,
            "params": {key: redact(str(value)) for key, value in self._params.items()},
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
