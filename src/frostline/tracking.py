"""Owns: MLflow, in and out; the only importer of mlflow. Must not know: training.

The run's folder is the truth; MLflow is where people compare. So MLflow's troubles never end a run: they are told once.
"""

from __future__ import annotations

import getpass
import hashlib
import logging
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from frostline.errors import UserError
from frostline.provenance import redact
from frostline.record import RunStart
from frostline.result import RunResult, Status
from frostline.spec import RunSpec, TrackingSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

RUN_DIR_TAG = "frostline.run_dir"
MODEL_FOLDER = "model"

_FLUSH_S = 5.0  # a batch costs what ten single metrics cost (measured: field notes), so numbers are sent in batches
_MAX_TEXT = 6000  # longer params are cut by MLflow without a word
_PARAMS = (
    "freeze.name", "freeze.depth", "optimizer.lr", "optimizer.log10_lr", "seed", "model.name", "dataset.name",
    "dataset.train_rows", "optimizer.name", "optimizer.weight_decay", "optimizer.layer_decay", "optimizer.schedule",
    "optimizer.warmup_ratio", "training.epochs", "training.max_steps", "training.batch_size",
    "training.accumulation_steps", "training.max_tokens", "training.precision", "training.objective",
)  # fmt: skip
"""The params that matter: the compare page shows every one. The whole config is an artifact."""


class MlflowRecorder:
    """Records one run in MLflow.

    Args:
        tracking: Where, and under which experiment.
        spec: The run; needed even if it fails before it starts.
        folder: The run's folder, whose files become artifacts.
    """

    def __init__(self, tracking: TrackingSpec, spec: RunSpec, folder: Path) -> None:
        self._tracking = tracking
        self._spec = spec
        self._folder = folder
        self._client: MlflowClient | None = None
        self._run_id: str | None = None
        self._broken = False
        self._pending: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()

    def start(self, run: RunStart) -> None:
        """Creates the run with its params and tags."""
        with self._forgiving("start"):
            self._create(_params(self._spec, run.freeze_depth), _tags(run))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes metrics, sent in batches every few seconds."""
        if self._broken:
            return
        now_ms = int(time.time() * 1000)
        self._pending += [(key, value, now_ms, step) for key, value in metrics.items() if key != "train/epoch"]
        if time.monotonic() - self._flushed > _FLUSH_S:
            with self._forgiving("metrics"):
                self._flush()

    def finish(self, result: RunResult) -> None:
        """Sends what is left, the files of the run's folder, and the status: never FINISHED for what isn't."""
        if self._broken:
            with suppress(Exception):  # told already; at least the status should be true if the store is back
                if self._client is not None and self._run_id is not None:
                    self._client.set_terminated(self._run_id, status=result.status.value)
            return
        with self._forgiving("finish"):
            if self._run_id is None:  # it failed before it started
                self._create(_params(self._spec, None), {})
            assert self._client is not None
            assert self._run_id is not None
            last = result.step or (result.cost.steps if result.cost else 0)
            self.log(_final_metrics(result), last)
            self._flush()
            for key, value in _final_tags(result).items():
                self._client.set_tag(self._run_id, key, value)
            # The status first: a kill while the model is uploaded must not leave the run RUNNING for ever.
            self._client.set_terminated(self._run_id, status=result.status.value)
            self._log_files()

    def _create(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        self._client = client(self._tracking.uri)
        experiment_id = _experiment(self._client, self._tracking)
        base = {
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": "frostline run",
            "mlflow.source.type": "LOCAL",
            "frostline.spec_digest": self._spec.digest(),
            RUN_DIR_TAG: str(self._folder.absolute()),
        }
        everything = {**base, **tags, **self._tracking.tags}
        run = self._client.create_run(experiment_id, run_name=self._spec.name(), tags=None)
        self._run_id = run.info.run_id
        self._client.log_batch(
            self._run_id,
            params=[Param(key, str(value)[:_MAX_TEXT]) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in everything.items()],
        )

    def _flush(self) -> None:
        if self._client is None or self._run_id is None:
            return
        from mlflow.entities import Metric

        metrics = [Metric(metric_name(key), value, at, step) for key, value, at, step in self._pending]
        for first in range(0, len(metrics), 1000):  # MLflow's limit
            self._client.log_batch(self._run_id, metrics=metrics[first : first + 1000])
        self._pending.clear()
        self._flushed = time.monotonic()

    def _log_files(self) -> None:
        assert self._client is not None
        assert self._run_id is not None
        for path in sorted(self._folder.rglob("*")):
            relative = path.relative_to(self._folder)
            hidden = any(part.startswith(".") for part in relative.parts)
            skipped = relative.parts[0] == "checkpoints" or (
                relative.parts[0] == MODEL_FOLDER and not self._tracking.log_model
            )
            if path.is_file() and not hidden and not skipped:
                parent = relative.parent.as_posix()
                self._client.log_artifact(self._run_id, str(path), None if parent == "." else parent)

    @contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - recording must not end a run
            self._broken = True
            message = redact(" ".join(str(error).split()))[:300]
            log.warning(
                "MLflow at %s: %s failed (%s: %s); the run goes on and is recorded in its folder alone",
                redact(self._tracking.uri), what, type(error).__name__, message,
            )  # fmt: skip


def absolute(uri: str) -> str:
    """Returns a tracking URI with the path of a SQLite file made absolute: a process may change its folder."""
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri or not path else f"sqlite:///{Path(path).absolute()}"


def client(uri: str) -> MlflowClient:
    """Returns an MLflow client, with a fresh database made ready by one process only.

    Args:
        uri: A tracking URI.
    """
    # No usage data to MLflow's makers, and no minutes of retries when a server is down.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    uri = absolute(uri)
    with _migration_lock(uri):
        made = MlflowClient(tracking_uri=uri)
        if uri.startswith("sqlite:"):
            made.search_experiments(max_results=1)  # migrates a fresh database: a second process must not do it, too
    return made


@contextmanager
def _migration_lock(uri: str) -> Iterator[None]:
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"frostline-{getpass.getuser()}-{name}.lock")
    with lock if uri.startswith("sqlite:") else nullcontext():
        yield


def _experiment(made: MlflowClient, tracking: TrackingSpec) -> str:
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
        made.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _artifact_location(uri: str) -> str | None:
    """Artifacts of a SQLite store lie beside it; those of any other store where it says."""
    path = absolute(uri).removeprefix("sqlite:///")
    return None if path == uri or "://" in path else (Path(path).parent / "mlruns").as_uri()


def run_folder(uri: str, run_id: str) -> Path:
    """Returns the folder of a run recorded in MLflow; its artifacts, downloaded, if the folder isn't on this machine.

    Args:
        uri: Tracking URI.
        run_id: MLflow's run id.

    Raises:
        UserError: There is no such run, or it has no model.
    """
    path = absolute(uri).removeprefix("sqlite:///")
    if uri.startswith("sqlite:") and not Path(path).is_file():
        raise UserError(f"{run_id}: no run's folder, and there is no {redact(uri)} to look it up in")
    try:
        made = client(uri)
        run = made.get_run(run_id)
    except Exception as error:
        raise UserError(
            f"{run_id}: neither a run's folder nor a run in {redact(uri)} ({type(error).__name__})"
        ) from error
    recorded = Path(run.data.tags.get(RUN_DIR_TAG, ""))
    if run.data.tags.get(RUN_DIR_TAG) and (recorded / MODEL_FOLDER).is_dir():
        return recorded
    names = {item.path for item in made.list_artifacts(run_id)}
    if MODEL_FOLDER not in names:
        raise UserError(f"{run_id}: its folder {recorded} isn't here and its model is no artifact (tracking.log_model)")
    return Path(made.download_artifacts(run_id, "", dst_path=tempfile.mkdtemp(prefix="frostline-run-")))


def ui_command(uri: str, host: str, port: int) -> list[str]:
    """Returns the command that serves MLflow's UI on a local store.

    Raises:
        UserError: The store is a server already: open it in a browser.
    """
    if uri.startswith(("http://", "https://", "databricks")):
        raise UserError(f"tracking.uri={redact(uri)} is a server with a UI of its own: open it in a browser")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        host,
        "--port",
        str(port),
    ]


def metric_name(name: str) -> str:
    """Returns a name that MLflow accepts: letters, digits and `_ - . / : space`; others become `_`."""
    return re.sub(r"[^\w\-./: ]", "_", name)


def _params(spec: RunSpec, freeze_depth: int | None) -> dict[str, Any]:
    flat = spec.flat()
    values: dict[str, Any] = {key: flat.get(key) for key in _PARAMS}
    values["model.name"], values["dataset.name"] = spec.model_name, spec.dataset_name
    values["optimizer.log10_lr"] = round(math.log10(spec.optimizer.lr), 4)  # charts draw lr on a linear axis
    if freeze_depth is not None:
        values["freeze.depth"] = freeze_depth  # the number, for freeze=head too
    return {key: value for key, value in values.items() if value is not None}


def _tags(run: RunStart) -> dict[str, str]:
    versions = run.provenance["versions"]
    tags = {
        f"frostline.version.{name}": versions[name]
        for name in ("frostline", "torch", "transformers")
        if name in versions
    }
    tags["frostline.weights_sha256"] = run.provenance["weights_sha256"]
    tags["frostline.data_fingerprint"] = run.provenance["data_fingerprint"]
    tags["mlflow.note.content"] = _note(run)
    git = run.provenance["git"]
    if git is not None:
        tags["mlflow.source.git.commit"] = git["commit"]
        tags["frostline.git_dirty"] = str(git["dirty"]).lower()
    return tags


def _note(run: RunStart) -> str:
    spec, data = run.spec, run.data
    frozen = "nothing" if run.freeze_depth is None else f"the embeddings and the lowest {run.freeze_depth} blocks"
    return (
        f"**{spec.model_name}** on **{spec.dataset_name}** ({data['train_rows']} training rows, {data['eval_rows']} "
        f"held out). Frozen: {frozen}. Learning rate {spec.optimizer.lr:g}, seed {spec.seed}.\n\n"
        f"```\nfrostline run {redact(' '.join(run.overrides))}\n```\n"
    )


def _final_metrics(result: RunResult) -> dict[str, float]:
    metrics = {}
    if result.objective is not None:
        metrics[f"best/{result.objective.metric}"] = result.objective.value
    if result.cost is not None:
        metrics |= {
            "cost/train_s": result.cost.train_s,
            "cost/eval_s": result.cost.eval_s,
            "cost/peak_bytes": float(result.cost.peak_bytes),
        }
    if result.params is not None:
        metrics["cost/num_trainable"] = float(result.params.num_trainable)
    return metrics


def _final_tags(result: RunResult) -> dict[str, str]:
    tags = {"frostline.status": result.status.value}
    if result.status is not Status.FINISHED:
        tags["frostline.reason"] = redact(result.reason or "unknown")[:_MAX_TEXT]
    if result.audit is not None:
        tags["frostline.frozen_unchanged"] = str(result.audit.frozen_unchanged).lower()
    return tags
