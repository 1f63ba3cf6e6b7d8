"""Clients of an MLflow store, and its experiments."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.errors import UserError, as_user_error
from frostline.provenance import redact
from frostline.spec import TrackingSpec
from frostline.tracking.database import follow_move, is_half_made, make_anew, make_database, migration_lock
from frostline.tracking.pending import check_reachable, reason_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

RUN_DIR_TAG = "frostline.run_dir"


def preload() -> None:
    """Imports MLflow, which takes a second or two, before anybody waits for it."""
    import mlflow  # noqa: F401


def absolute(uri: str) -> str:
    """Returns a tracking URI with the path of a SQLite file made absolute: a process may change its folder."""
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri or not path else f"sqlite:///{Path(path).absolute()}"


def client(uri: str) -> MlflowClient:
    """Returns an MLflow client, with a fresh database made ready by one process only.

    Args:
        uri: A tracking URI.

    Raises:
        OSError: Nobody answers there, or the file of a SQLite store can't be made.
    """
    check_reachable(uri)
    # No usage data to MLflow's makers, and no minutes of retries when a server is down.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is frostline's
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # after the import, which sets it
    uri = absolute(uri)
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None
    with migration_lock(uri):  # a second process must not make a database, or migrate it, too
        if path is not None and path.parent.is_dir() and not path.exists():
            make_database(path)
        if path is None:
            return MlflowClient(tracking_uri=uri)
        if path.is_file() and (old := follow_move(path, RUN_DIR_TAG)) is not None:
            log.warning("%s: was in %s, and names its artifacts and runs here from now on", path, old)
        try:
            return _opened(uri)
        except Exception:
            if not is_half_made(path):
                raise
            aside = make_anew(path)
            log.warning("%s: was left half made, and is made anew; what there was is in %s", path, aside.name)
            return _opened(uri)


def _opened(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    store = MlflowClient(tracking_uri=uri)
    store.search_experiments(max_results=1)
    return store


def experiment_of(store: MlflowClient, tracking: TrackingSpec) -> str:
    """Returns the id of the experiment, made or restored if need be."""
    from mlflow.exceptions import MlflowException

    experiment = store.get_experiment_by_name(tracking.experiment)
    if experiment is None:
        try:
            # Without this tag the page opens as one for generative AI, with an assistant's panel.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(store.create_experiment(tracking.experiment, _artifact_location(tracking.uri), tags))
        except MlflowException:
            experiment = store.get_experiment_by_name(tracking.experiment)  # another process was faster
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        _take_up_again(store, experiment.experiment_id, tracking.experiment)
    return str(experiment.experiment_id)


def _take_up_again(store: MlflowClient, experiment_id: str, name: str) -> None:
    """Makes a deleted experiment one to record in; MLflow alone would bring all its runs back, too."""
    from mlflow.entities import ViewType

    deleted, page = [], None
    while True:
        runs = store.search_runs([experiment_id], run_view_type=ViewType.ALL, max_results=1000, page_token=page)
        deleted += [run.info.run_id for run in runs]
        page = runs.token
        if not page:
            break
    store.restore_experiment(experiment_id)
    for run_id in deleted:
        store.delete_run(run_id)
    log.warning("MLflow experiment %s was deleted: it is taken up again; its %d runs stay deleted", name, len(deleted))


def _artifact_location(uri: str) -> str | None:
    """Artifacts of a SQLite store lie beside it; those of any other store where it says."""
    path = absolute(uri).removeprefix("sqlite:///")
    return None if path == uri or "://" in path else (Path(path).parent / "mlruns").as_uri()


def ui_command(uri: str, host: str, port: int) -> list[str]:
    """Returns the command that serves MLflow's UI on a local store, from whatever folder it is started.

    Raises:
        UserError: The store is a server already: open it in a browser. Or a file that can't be opened.
    """
    if uri.startswith(("http://", "https://", "databricks")):
        raise UserError(f"tracking.uri={redact(uri)} is a server with a UI of its own: open it in a browser")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    location = _artifact_location(uri)
    if uri.startswith("sqlite:"):
        with as_user_error(
            lambda error: UserError(f"tracking.uri={uri}: can't be opened ({reason_of(error)}); move it away")
        ):
            client(uri)  # repairs a half-made file, and updates its paths after a move
    return [
        sys.executable,
        "-P",  # a file mlflow.py in the current folder must not be run
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        absolute(uri),
        *([] if location is None else ["--default-artifact-root", location]),
        "--host",
        host,
        "--port",
        str(port),
    ]
