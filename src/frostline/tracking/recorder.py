"""Owns: one run, recorded in MLflow. Must not know: training.

The run's folder is the truth; MLflow is where people compare. So MLflow's troubles never end a run: they are told once.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.provenance import redact
from frostline.record import RunStart, metrics_up_to
from frostline.result import RunResult, Status
from frostline.spec import RunSpec, TrackingSpec
from frostline.tracking import spool
from frostline.tracking.clean import Cleaner, batches
from frostline.tracking.client import (
    CLEANED_TAG,
    PARENT_TAG,
    REASON_TAG,
    RUN_DIR_TAG,
    STATUS_TAG,
    client,
    experiment_of,
    mlflow_status,
    remember,
    reopen,
    reopenable,
    send_params,
    source_tags,
)
from frostline.tracking.dead import reconcile
from frostline.tracking.model import MODEL_FOLDER, log_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run


_FLUSH_S = 5.0  # a batch costs what ten single metrics cost (measured: field notes), so numbers are sent in batches
_PARAMS = (
    "freeze.name", "freeze.depth", "optimizer.lr", "optimizer.log10_lr", "seed", "model.name", "dataset.name",
    "dataset.train_rows", "optimizer.name", "optimizer.weight_decay", "optimizer.layer_decay", "optimizer.schedule",
    "optimizer.warmup_ratio", "training.epochs", "training.max_steps", "training.batch_size",
    "training.accumulation_steps", "training.max_tokens", "training.precision", "training.objective",
)  # fmt: skip
"""The params that matter: the compare page shows every one. The whole config is an artifact."""


_CHILD_PARAMS = (
    "freeze.depth", "optimizer.lr", "optimizer.log10_lr", "seed", "model.name", "dataset.name", "training.epochs",
    "training.batch_size",
)  # fmt: skip
"""The params of a sweep's children besides the swept keys."""


@dataclass(frozen=True, kw_only=True)
class Child:
    """What makes a run the child of another: of a sweep, or of the run that it reproduces.

    Attributes:
        parent: Run id of the other; None if that is not recorded in this store.
        name: Coordinates: the page cuts names at some 20 characters.
        params: The swept keys.
        tags: Of the point.
        command: What started it.
    """

    parent: str | None
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    command: str = "frostline sweep"


class MlflowRecorder:
    """Records one run in MLflow.

    Args:
        tracking: Where, and under which experiment.
        spec: The run; needed even if it fails before it starts.
        folder: The run's folder, whose files become artifacts.
        child: Its place in a sweep, or None.
        reopen: Go on in the MLflow run that the folder was recorded in before, if there is one.
    """

    def __init__(
        self, tracking: TrackingSpec, spec: RunSpec, folder: Path, *, child: Child | None = None, reopen: bool = False
    ) -> None:
        self._tracking = tracking
        self._spec = spec
        self._folder = folder
        self._child = child
        self._reopen = reopen
        self._recorded: dict[str, int] = {}
        self._cleaner = Cleaner()
        self._client: MlflowClient | None = None
        self._run_id: str | None = None
        self._broken = False
        self._note = ""
        # What to type for such a run; a point of a sweep is one like any other.
        self._command = child.command if child is not None and child.command != "frostline sweep" else "frostline run"
        self._pending: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()

    def start(self, run: RunStart) -> None:
        """Creates the run with its params and tags."""
        with self._forgiving("start"):
            self._note = _note(run, self._command)
            earlier = reopenable(self._folder, self._tracking.uri) if self._reopen else None
            if earlier is not None:
                self._open(*earlier)
                self._send_params(_params(self._spec, run.freeze_depth, self._child), earlier[1].data.params)
                return
            self._create(_params(self._spec, run.freeze_depth, self._child), _tags(run))
            assert self._client is not None
            assert self._run_id is not None
            self._client.log_inputs(self._run_id, datasets=_dataset_inputs(run))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes metrics, sent in batches every few seconds."""
        if self._broken:
            return
        now_ms = int(time.time() * 1000)
        cleaned = [self._cleaner.metric(key, value) for key, value in metrics.items() if key != "train/epoch"]
        self._pending += [(key, value, now_ms, step) for key, value in cleaned if step > self._recorded.get(key, -1)]
        if time.monotonic() - self._flushed > _FLUSH_S:
            with self._forgiving("metrics"):
                self._flush()

    def finish(self, result: RunResult) -> None:
        """Sends what is left, the files of the run's folder, and the status: never FINISHED for what isn't."""
        if self._broken:
            with suppress(Exception):  # told already; at least the status should be true if the store is back
                if self._client is not None and self._run_id is not None and not spool.is_down(self._tracking.uri):
                    self._client.set_terminated(self._run_id, status=mlflow_status(result.status))
            return
        with self._forgiving("finish"):
            if self._run_id is None:  # it failed before it started
                self._create(_params(self._spec, None, self._child), {})
            assert self._client is not None
            assert self._run_id is not None
            last = result.step or (result.cost.steps if result.cost else 0)
            self._finish_metrics(_final_metrics(result), last)
            self._flush()
            tags = _final_tags(result)
            if self._note:
                tags["mlflow.note.content"] = f"{self._note}\n{_words(result)}\n"
            if self._cleaner.record:
                tags[CLEANED_TAG] = self._cleaner.record
            for key, value in self._cleaner.tags(tags).items():
                self._client.set_tag(self._run_id, key, value)
            # The status first: a kill while the model is uploaded must not leave the run RUNNING for ever.
            self._client.set_terminated(self._run_id, status=mlflow_status(result.status))
            self._log_files()
            spool.forget(self._folder)

    def bury(self, result: RunResult, start: RunStart | None = None) -> bool:
        """Ends the run of a process that is gone, with what its folder holds; makes the run if there was none yet.

        Args:
            result: How it ended. Nothing is done if MLflow has heard it already.
            start: What was known of the run before it trained, if that is known.

        Returns:
            Whether MLflow has it now.
        """
        with self._forgiving("end"):
            earlier = reopenable(self._folder, self._tracking.uri)
            missed = spool.kept(self._folder) is not None
            if start is not None:
                self._note = _note(start, self._command)
            params = _params(self._spec, start.freeze_depth if start is not None else None, self._child)
            if earlier is None:
                self._create(params, _tags(start) if start is not None else {})
            elif _has_heard(earlier[1], result) and not missed:
                return True
            else:
                self._open(*earlier)
                self._send_params(params, earlier[1].data.params)
            if start is not None and self._client is not None and self._run_id is not None:
                self._client.log_inputs(self._run_id, datasets=_dataset_inputs(start))
            for step, values in metrics_up_to(self._folder, sys.maxsize):  # its last seconds had not been sent
                self.log(values, step)
        self.finish(result)
        return not self._broken

    def _create(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self._client = client(self._tracking.uri)
        experiment_id = experiment_of(self._client, self._tracking)
        if self._child is None:  # a sweep's parent has done it for its children
            reconcile(self._tracking.uri, experiment_id)
        child = self._child
        base = {
            **source_tags("frostline run" if child is None else child.command),
            "frostline.spec_digest": self._spec.digest(),
            RUN_DIR_TAG: str(self._folder.absolute()),
        }
        if self._note:
            base["mlflow.note.content"] = self._note
        everything = self._cleaner.tags({**base, **tags, **(child.tags if child else {}), **self._tracking.tags})
        if child is not None and child.parent is not None:
            everything[PARENT_TAG] = child.parent
        # With the tags from the start: a kill right now leaves a run that the next command can tell for dead.
        name = child.name if child is not None else self._spec.name()
        run = self._client.create_run(experiment_id, run_name=name, tags=everything)
        self._run_id = run.info.run_id
        remember(self._folder, self._tracking.uri, self._run_id)
        self._send_params(params, {})

    def _finish_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """What the whole run came to replaces what stands there of a part of it, whichever step that was told at."""
        now_ms = int(time.time() * 1000)
        for name, number in metrics.items():
            key, value = self._cleaner.metric(name, number)
            self._pending.append((key, value, now_ms, max(step, self._recorded.get(key, step))))

    def _send_params(self, params: Mapping[str, Any], there: Mapping[str, str]) -> None:
        assert self._client is not None
        assert self._run_id is not None
        send_params(self._client, self._run_id, self._cleaner.params(params), there)

    def _open(self, made: MlflowClient, run: Run) -> None:
        """Goes on in an earlier run; what is told again of the steps that stand there already is left out."""
        reopen(made, run)
        run_id = run.info.run_id
        self._recorded = {
            key: max(metric.step for metric in made.get_metric_history(run_id, key)) for key in run.data.metrics
        }
        self._client, self._run_id = made, run_id

    def _flush(self) -> None:
        if self._client is None or self._run_id is None:
            return
        from mlflow.entities import Metric

        for some in batches((Metric(*row) for row in self._pending), 1000):
            self._client.log_batch(self._run_id, metrics=some)
        self._pending.clear()
        self._flushed = time.monotonic()

    def _log_files(self) -> None:
        assert self._client is not None
        assert self._run_id is not None
        for path in sorted(self._folder.rglob("*")):
            relative = path.relative_to(self._folder)
            hidden = any(part.startswith(".") for part in relative.parts)
            if path.is_file() and not hidden and relative.parts[0] not in {"checkpoints", MODEL_FOLDER}:
                parent = relative.parent.as_posix()
                self._client.log_artifact(self._run_id, str(path), None if parent == "." else parent)
        if self._tracking.log_model and (self._folder / MODEL_FOLDER).is_dir():
            log_model(self._client, self._run_id, self._folder)

    @contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - recording must not end a run
            self._broken = True
            spool.mark_down(self._tracking.uri, error)
            child = None if self._child is None else asdict(self._child)
            why = f"{what}: {type(error).__name__}: {redact(' '.join(str(error).split()))[:300]}"
            missed = {"kind": "run", "tracking": spool.place(self._tracking), "child": child, "why": why}
            spool.keep(self._folder, missed)
            spool.warn(self._tracking.uri)


def _has_heard(run: Run, result: RunResult) -> bool:
    return run.info.status == mlflow_status(result.status) and run.data.tags.get(STATUS_TAG) == result.status.value


def _params(spec: RunSpec, freeze_depth: int | None, child: Child | None) -> dict[str, Any]:
    flat = spec.flat()
    names = _PARAMS if child is None else (*child.params, *_CHILD_PARAMS)
    values: dict[str, Any] = {key: flat.get(key) for key in names}
    for group, name in (("model", spec.model_name), ("dataset", spec.dataset_name)):
        if group in values:  # a swept config group
            values[group] = name
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
    git = run.provenance["git"]
    if git is not None:
        tags["mlflow.source.git.commit"] = git["commit"]
        tags["frostline.git_dirty"] = str(git["dirty"]).lower()
    return tags


def _note(run: RunStart, command: str) -> str:
    spec, data = run.spec, run.data
    frozen = "nothing" if run.freeze_depth is None else f"the embeddings and the lowest {run.freeze_depth} blocks"
    return (
        f"**{spec.model_name}** on **{spec.dataset_name}** ({data['train_rows']} training rows, {data['eval_rows']} "
        f"held out). Frozen: {frozen}. Learning rate {spec.optimizer.lr:g}, seed {spec.seed}.\n\n"
        f"```\n{command} {redact(' '.join(run.overrides))}\n```\n"
    )


def _words(result: RunResult) -> str:
    """Returns what a run came to, in a sentence of its description."""
    if result.status is Status.FINISHED and result.objective is not None:
        name, value = result.objective.metric, result.objective.value
        seconds = f", {result.cost.train_s:.0f} s of training" if result.cost is not None else ""
        return f"It came to **{name} {value:.4f}** (step {result.step}{seconds})."
    return f"It ended as **{result.status.value}**: {redact(result.reason or 'unknown')}."


def _dataset_inputs(run: RunStart) -> list[DatasetInput]:
    """Returns the rows of a run as MLflow's dataset inputs, by which its page groups and filters runs."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    spec, data = run.spec.dataset, run.data
    counted = ("rows_read", "train_rows", "eval_rows", "labels", "duplicates", "overlap", "truncated")
    source = {"location": redact(spec.location), "member": spec.member, "subset": spec.subset, "split": spec.split}
    found = []
    for context in ("training", "evaluation") if spec.eval_from is not None else ("training",):
        where = source if context == "training" else {"location": redact(spec.eval_from or "")}
        dataset = Dataset(
            name=run.spec.dataset_name,
            digest=run.provenance["data_fingerprint"][:32],  # MLflow takes 36 characters
            source_type=spec.source.value,
            source=json.dumps({key: value for key, value in where.items() if value is not None}),
            profile=json.dumps({key: data[key] for key in counted if key in data}),
        )
        found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return found


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
    tags = {STATUS_TAG: result.status.value}
    if result.status is not Status.FINISHED:
        tags[REASON_TAG] = redact(result.reason or "unknown")
    if result.audit is not None:
        tags["frostline.frozen_unchanged"] = str(result.audit.frozen_unchanged).lower()
    return tags
