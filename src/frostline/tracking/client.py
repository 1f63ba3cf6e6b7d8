"""Clients of an MLflow store, its experiments, and the process that writes to a run."""

from __future__ import annotations

import getpass
import json
import logging
import os
import random
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.errors import UserError, as_user_error
from frostline.files import write_atomically
from frostline.provenance import process_start, redact
from frostline.records.result import Status
from frostline.records.run_folder import RUN_FILE
from frostline.spec import TrackingSpec
from frostline.tracking.database import follow_move, is_half_made, make_anew, make_database, migration_lock
from frostline.tracking.names import batches
from frostline.tracking.pending import check_reachable, reason_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

log = logging.getLogger(__name__)

RUN_DIR_TAG = "frostline.run_dir"
STATUS_TAG = "frostline.status"
REASON_TAG = "frostline.reason"
BEST_TAG = "frostline.best_run"
CLEANED_TAG = "frostline.cleaned"
"""What MLflow would not have taken as it was: names and values that were changed, a line each."""

PARENT_TAG = "mlflow.parentRunId"
PROCESS_TAG = "frostline.process"


_RACE_S = (0.1, 0.3, 1.0, 3.0)
"""Seconds to wait for another run that is recording the same at the same moment."""

_IS_RACE = ("unique constraint", "uniqueviolation", "duplicate key", "duplicate entry")
"""What SQLite, PostgreSQL and MySQL say to the second one that inserts a row."""


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

    made = MlflowClient(tracking_uri=uri)
    made.search_experiments(max_results=1)
    return made


def experiment_of(made: MlflowClient, tracking: TrackingSpec) -> str:
    """Returns the id of the experiment, made or restored if need be."""
    from mlflow.exceptions import MlflowException

    found = made.get_experiment_by_name(tracking.experiment)
    if found is None:
        try:
            # Without this tag the page opens as one for generative AI, with an assistant's panel.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(made.create_experiment(tracking.experiment, _artifact_location(tracking.uri), tags))
        except MlflowException:
            found = made.get_experiment_by_name(tracking.experiment)  # another process was faster
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        _take_up_again(made, found.experiment_id, tracking.experiment)
    return str(found.experiment_id)


def _take_up_again(made: MlflowClient, experiment_id: str, name: str) -> None:
    """Makes a deleted experiment one to record in; MLflow alone would bring all its runs back, too."""
    from mlflow.entities import ViewType

    deleted, page = [], None
    while True:
        found = made.search_runs([experiment_id], run_view_type=ViewType.ALL, max_results=1000, page_token=page)
        deleted += [run.info.run_id for run in found]
        page = found.token
        if not page:
            break
    made.restore_experiment(experiment_id)
    for run_id in deleted:
        made.delete_run(run_id)
    log.warning("MLflow experiment %s was deleted: it is taken up again; its %d runs stay deleted", name, len(deleted))


def _user() -> str:
    """Returns the user's name, or number where it has none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _artifact_location(uri: str) -> str | None:
    """Artifacts of a SQLite store lie beside it; those of any other store where it says."""
    path = absolute(uri).removeprefix("sqlite:///")
    return None if path == uri or "://" in path else (Path(path).parent / "mlruns").as_uri()


def add_numbers(folder: Path, uri: str, values: Mapping[str, float], step: int, tags: Mapping[str, str]) -> None:
    """Adds numbers to the run that a folder is recorded in, if it is still there; its status stays as it is.

    Args:
        folder: The run's.
        uri: Tracking URI.
        values: Metrics by name.
        step: Of the weights that they are of.
        tags: By name.

    Raises:
        MlflowException: The store can't be reached.
    """
    found = reopenable(folder, uri)
    if found is None:
        return
    made, run = found
    for name, value in values.items():
        made.log_metric(run.info.run_id, name, value, step=step)
    for name, text in tags.items():
        made.set_tag(run.info.run_id, name, text)


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


def mlflow_status(status: Status) -> str:
    """Returns MLflow's word: it knows no PRUNED, and a run that was stopped early is not FINISHED. A tag says which."""
    return Status.KILLED.value if status is Status.PRUNED else status.value


def send_params(made: MlflowClient, run_id: str, params: Mapping[str, str], there: Mapping[str, str]) -> None:
    """Records params, cleaned, that a run lacks."""
    from mlflow.entities import Param

    for some in batches((Param(key, value) for key, value in params.items() if key not in there), 100):
        made.log_batch(run_id, params=some)


def send_inputs(made: MlflowClient, run_id: str, datasets: Sequence[DatasetInput]) -> None:
    """Records what a run was trained and evaluated on.

    Runs that start at the same moment send the same data: a server looks whether it has them, then inserts them, and
    all but one of them fail in between (seen with PostgreSQL). The next attempt finds them.
    """
    from mlflow.exceptions import MlflowException

    for wait_s in (*_RACE_S, None):
        try:
            made.log_inputs(run_id, datasets=datasets)
            return
        except MlflowException as error:
            if wait_s is None or not any(word in str(error).lower() for word in _IS_RACE):
                raise
            time.sleep(wait_s * random.uniform(0.5, 1.5))


def reopen(made: MlflowClient, run: Run) -> None:
    """Sets a run that ended before to RUNNING, by this process; why it ended then is no longer true."""
    run_id = run.info.run_id
    for key, value in {**process_tags(), STATUS_TAG: "RUNNING"}.items():
        made.set_tag(run_id, key, value)
    made.update_run(run_id, status="RUNNING")  # with the tags of its process there already: nobody takes it for dead
    if REASON_TAG in run.data.tags:
        made.delete_tag(run_id, REASON_TAG)


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


def recorded_run(folder: Path, uri: str) -> str | None:
    """Returns the id of the MLflow run that a folder is recorded in, or None."""
    try:
        data = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        return str(data["run_id"]) if data["uri"] == _seen_from(folder, uri) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def reopenable(folder: Path, uri: str) -> tuple[MlflowClient, Run] | None:
    """Returns the MLflow run that a folder is recorded in, or None if there is none or somebody deleted it.

    Raises:
        MlflowException: The store can't say: a run made now would be a second one.
    """
    run_id = recorded_run(folder, uri)
    if run_id is None:
        return None
    from mlflow.exceptions import MlflowException

    made = client(uri)
    try:
        run = made.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return (made, run) if run.info.lifecycle_stage == "active" else None
