"""Runs found in MLflow by their id, and their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frostline import scratch
from frostline.errors import UserError, as_user_error, best_effort
from frostline.provenance import redact
from frostline.records.run_folder import MODEL_FOLDER
from frostline.tracking.client import RUN_DIR_TAG, absolute, client
from frostline.tracking.links import address_of
from frostline.tracking.model import download_model, model_id_of
from frostline.tracking.pending import reason_of
from frostline.tracking.stored_run import BEST_TAG, lookup_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def run_folder(uri: str, run_id: str) -> Path:
    """Returns the folder of a run recorded in MLflow; its artifacts, downloaded, if the folder isn't on this machine.

    Args:
        uri: Tracking URI.
        run_id: MLflow's run id.

    Raises:
        UserError: There is no such run, or it has no model.
    """
    store, run = _look_up(uri, run_id)
    best = run.data.tags.get(BEST_TAG)
    if best is not None:  # a sweep's run: its best one
        return run_folder(uri, best)
    recorded = Path(run.data.tags.get(RUN_DIR_TAG, ""))
    if run.data.tags.get(RUN_DIR_TAG) and (recorded / MODEL_FOLDER).is_dir():
        return recorded
    with as_user_error(
        lambda error: UserError(f"{run_id}: its artifacts can't be had from {redact(uri)} ({type(error).__name__})")
    ):
        model_id = model_id_of(run)
        names = {item.path for item in store.list_artifacts(run_id)}
        if MODEL_FOLDER in names or model_id is not None:
            target = str(scratch.make("run"))
            store.download_artifacts(run_id, "", dst_path=target)
            if model_id is not None:
                download_model(store, absolute(uri), model_id, Path(target))
            return Path(target)
    where = f"{recorded} holds no model" if recorded.is_dir() else f"its folder {recorded} isn't here"
    raise UserError(f"{run_id}: {where}, and MLflow has none of it (tracking.log_model, sweep.keep_models)")


def recorded_folder(uri: str, run_id: str) -> Path:
    """Returns the folder of a run recorded in MLflow, on this machine.

    Args:
        uri: Tracking URI.
        run_id: MLflow's run id.

    Raises:
        UserError: There is no such run, or its folder isn't here.
    """
    _, run = _look_up(uri, run_id)
    folder = run.data.tags.get(RUN_DIR_TAG)
    if not folder or not Path(folder).is_dir():
        raise UserError(f"{run_id}: its folder ({folder or 'not recorded'}) isn't on this machine")
    return Path(folder)


def _look_up(uri: str, run_id: str) -> tuple[MlflowClient, Run]:
    path = absolute(uri).removeprefix("sqlite:///")
    if uri.startswith("sqlite:") and not Path(path).is_file():
        raise UserError(f"{run_id}: no run's folder, and there is no {redact(uri)} to look it up in")
    with as_user_error(
        lambda error: UserError(f"{run_id}: neither a run's folder nor a run in {redact(uri)} ({reason_of(error)})")
    ):
        store = client(uri)
        return store, store.get_run(run_id)


def views_of(uri: str, sweeps: Sequence[Path]) -> dict[Path, str]:
    """Returns the page of each sweep's trials in MLflow: what comes behind the server's address.

    Args:
        uri: Of the store.
        sweeps: Folders of sweeps; those that are not recorded there are left out.
    """
    views = {}
    for folder in sweeps:
        with best_effort("looking up a sweep in MLflow"):
            recorded = lookup_run(folder, uri)
            if recorded is not None:
                info = recorded[1].info
                views[folder] = address_of(info.experiment_id, info.run_id)
    return views


def fetch_files(uri: str, run_id: str, names: Sequence[str], target: Path) -> Mapping[str, str]:
    """Downloads some of a run's artifacts by name; nothing else of it is touched.

    Args:
        uri: Tracking URI.
        run_id: MLflow's run id.
        names: Of files at the top of the run's artifacts; one that isn't there is left out.
        target: An existing folder.

    Returns:
        The run's tags.

    Raises:
        UserError: There is no such run, or the store can't be reached.
    """
    store, run = _look_up(uri, run_id)
    with as_user_error(
        lambda error: UserError(f"{run_id}: its artifacts can't be had from {redact(uri)} ({type(error).__name__})")
    ):
        artifacts = {item.path for item in store.list_artifacts(run_id)}
        for name in names:
            if name in artifacts:
                store.download_artifacts(run_id, name, dst_path=str(target))
    return dict(run.data.tags)


def tag_run(uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Sets tags of a run; long ones are cut.

    Args:
        uri: Tracking URI.
        run_id: MLflow's run id.
        tags: By name.
    """
    store = client(uri)
    for key, value in tags.items():
        store.set_tag(run_id, key, redact(value)[:6000])
