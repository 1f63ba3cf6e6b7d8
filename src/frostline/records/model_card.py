"""The model card of a trained model: `README.md` in `model/`, in the form that the Hugging Face hub reads."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from frostline.records.result import RunResult
from frostline.spec import EVAL_SET, Source

if TYPE_CHECKING:
    from frostline.spec import RunSpec

CARD_FILE = "README.md"


def model_card(spec: RunSpec, result: RunResult, folder: Path, answer: Sequence[str] = ()) -> str:
    """Returns the card of a run's model.

    Args:
        spec: What was trained.
        result: Of the run.
        folder: The run's.
        answer: What the sweep says that recommends the run, a sentence each; nothing of a run without a sweep.
    """
    head: dict[str, Any] = {"library_name": "transformers", "tags": ["frostline", f"freeze-{spec.freeze.name}"]}
    if spec.model.source is Source.HUB:
        head["base_model"] = spec.model.location
    if spec.dataset.source is Source.HUB:
        head["datasets"] = [spec.dataset.location]
    values = {
        name.removeprefix(f"{EVAL_SET}/"): value
        for name, value in sorted(result.metrics.items())
        if name.startswith(f"{EVAL_SET}/")
    }
    head["metrics"] = [name for name in spec.training.metrics if name in values]
    lines = [
        f"# {spec.name()}", "",
        f"{spec.model_name}, fine-tuned on {spec.dataset_name} ({spec.dataset.task.name}) with frostline.", "",
        "| | |", "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in _facts(spec, result, values)),
    ]  # fmt: skip
    if answer:
        lines += ["", "## Why this depth and this rate", "", *(f"- {line}" for line in answer)]
    place = folder.absolute()
    place = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else Path(place.name)
    lines += [
        "", "## Train it again", "", "The run's folder holds its whole config, and what all of it depends on:", "",
        "```", f"frostline reproduce {shlex.quote(str(place))}", "```", "",
    ]  # fmt: skip
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n" + "\n".join(lines)


def _facts(spec: RunSpec, result: RunResult, values: dict[str, float]) -> list[tuple[str, str]]:
    data, provenance = result.data, result.provenance
    versions = provenance.get("versions") or {}
    is_frozen = result.params is not None and result.params.num_frozen > 0
    named = [f"{name} {versions[name]}" for name in ("frostline", "torch", "transformers") if name in versions]
    return [
        ("frozen", f"{result.freeze.words}, unchanged (hashes compared)" if is_frozen and result.freeze else "nothing"),
        ("optimizer", f"{spec.optimizer.name}, learning rate {spec.optimizer.lr:.6g}"),
        ("trained on", f"{data.get('train_rows')} rows of {spec.dataset_name}"),
        ("held out", f"{data.get('eval_rows')} rows: {', '.join(f'{k} {v:.4f}' for k, v in values.items())}"),
        ("data fingerprint", f"`{provenance.get('data_fingerprint')}`"),
        ("pretrained weights", f"`sha256:{provenance.get('weights_sha256')}`"),
        ("config digest", f"`{spec.digest()}`"),
        ("made with", ", ".join(named)),
    ]


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")
