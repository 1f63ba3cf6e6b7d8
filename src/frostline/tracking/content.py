"""A run in MLflow's terms: params, tags, description, dataset inputs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from frostline.provenance import redact
from frostline.records.recorder import RunStart
from frostline.records.result import Frozen, RunResult, Status
from frostline.spec import RunSpec
from frostline.tracking.stored_run import REASON_TAG, STATUS_TAG

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_MAX_COMMAND = 4000
"""Characters of the command in a description, of MLflow's 8000."""

_PARAMS = (
    "freeze.name", "freeze.depth", "freeze.blocks", "freeze.embeddings", "freeze.pattern", "optimizer.lr",
    "optimizer.log10_lr", "seed", "model.name", "dataset.name",
    "dataset.train_rows", "optimizer.name", "optimizer.weight_decay", "optimizer.layer_decay", "optimizer.schedule",
    "optimizer.warmup_ratio", "training.epochs", "training.max_steps", "training.batch_size",
    "training.accumulation_steps", "training.max_tokens", "training.precision", "training.objective",
)  # fmt: skip
"""The params that matter: the compare page shows every one. The whole config is an artifact."""


_FREEZE_PARAMS = ("freeze.name", "freeze.blocks", "freeze.embeddings", "freeze.pattern")
"""How a run was frozen, where that is no depth."""

_CHILD_PARAMS = (
    "freeze.depth", "optimizer.lr", "optimizer.log10_lr", "seed", "model.name", "dataset.name", "training.epochs",
    "training.batch_size",
)  # fmt: skip
"""The params of a sweep's children besides the swept keys."""


@dataclass(frozen=True, kw_only=True)
class ChildRun:
    """What makes a run the child of another: of a sweep, or of the run that it reproduces.

    Attributes:
        parent: Run id of the other; None if that is not recorded in this store.
        name: Coordinates: the page cuts names at some 20 characters.
        params: The swept keys.
        tags: Of the trial.
        command: What started it.
    """

    parent: str | None
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    command: str = "frostline sweep"


def params_of(spec: RunSpec, freeze: Frozen | None, child: ChildRun | None) -> dict[str, Any]:
    """Returns the params of a run.

    Args:
        spec: The run.
        freeze: What was frozen; None if it isn't known yet.
        child: Its place in a sweep, if it is in one.
    """
    flat = spec.flat()
    names = _PARAMS if child is None else (*child.params, *_CHILD_PARAMS)
    values: dict[str, Any] = {key: flat.get(key) for key in names}
    if spec.freeze.name != "depth":  # else the depth says it
        values |= {key: flat.get(key) for key in _FREEZE_PARAMS}
    groups = {"model": spec.model_name, "dataset": spec.dataset_name, "freeze": spec.freeze.label()}
    for group, name in groups.items():
        if group in values:  # a swept config group
            values[group] = name
    values["model.name"], values["dataset.name"] = spec.model_name, spec.dataset_name
    values["optimizer.log10_lr"] = round(math.log10(spec.optimizer.lr), 4)  # charts draw lr on a linear axis
    if freeze is not None and freeze.depth is not None:
        values["freeze.depth"] = freeze.depth  # the number, for freeze=head too
    return {key: value for key, value in values.items() if value is not None}


def tags_of(run: RunStart) -> dict[str, str]:
    """Returns versions, hashes and the commit."""
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


def note_of(run: RunStart, command: str) -> str:
    """Returns what is run and how, in Markdown."""
    spec, data = run.spec, run.data
    frozen = run.freeze.words if run.freeze is not None else "unknown"
    line = f"{command} {redact(' '.join(run.overrides))}"
    line = line if len(line) <= _MAX_COMMAND else f"{line[:_MAX_COMMAND]} ..."  # what follows is worth more
    return (
        f"**{spec.model_name}** on **{spec.dataset_name}** ({data['train_rows']} training rows, {data['eval_rows']} "
        f"held out). Frozen: {frozen}. Learning rate {spec.optimizer.lr:g}, seed {spec.seed}.\n\n"
        f"```\n{line}\n```\n"
    )


def outcome_of(result: RunResult) -> str:
    """Returns what a run gave, for its description."""
    if result.status is Status.FINISHED and result.objective is not None:
        name, value = result.objective.metric, result.objective.value
        seconds = f", {result.cost.train_s:.0f} s of training" if result.cost is not None else ""
        return f"Result: **{name} {value:.4f}** (step {result.step}{seconds})."
    return f"Status: **{result.status.value}**: {redact(result.reason or 'unknown')}."


def inputs_of(run: RunStart) -> list[DatasetInput]:
    """Returns the rows of a run as MLflow's dataset inputs, by which its page groups and filters runs."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    spec, data = run.spec.dataset, run.data
    counted = ("rows_read", "train_rows", "eval_rows", "labels", "duplicates", "overlap", "truncated")
    source = {"location": redact(spec.location), "member": spec.member, "subset": spec.subset, "split": spec.split}
    inputs = []
    for context in ("training", "evaluation") if spec.eval_from is not None else ("training",):
        where = source if context == "training" else {"location": redact(spec.eval_from or "")}
        dataset = Dataset(
            name=run.spec.dataset_name,
            digest=run.provenance["data_fingerprint"][:32],  # MLflow takes 36 characters
            source_type=spec.source.value,
            source=json.dumps({key: value for key, value in where.items() if value is not None}),
            profile=json.dumps({key: data[key] for key in counted if key in data}),
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return inputs


def final_metrics(result: RunResult) -> dict[str, float]:
    """Returns the objective of the weights that were kept, and what the run cost."""
    metrics = {}
    if result.objective is not None:
        metrics[f"best/{result.objective.metric}"] = result.objective.value
    if result.cost is not None:
        metrics |= {
            "cost/train_s": result.cost.train_s,
            "cost/eval_s": result.cost.eval_s,
            "cost/peak_bytes": float(result.cost.peak_bytes),
        }
        more = {"cost/fill_s": result.cost.fill_s, "cost/saved_s": result.cost.saved_s}
        metrics |= {name: value for name, value in more.items() if value is not None}
    if result.params is not None:
        metrics["cost/num_trainable"] = float(result.params.num_trainable)
    return metrics


def final_tags(result: RunResult) -> dict[str, str]:
    """Returns how a run ended, and why if it did not finish."""
    tags = {STATUS_TAG: result.status.value}
    if result.status is not Status.FINISHED:
        tags[REASON_TAG] = redact(result.reason or "unknown")
    if result.audit is not None:
        tags["frostline.frozen_unchanged"] = str(result.audit.frozen_unchanged).lower()
    return tags
