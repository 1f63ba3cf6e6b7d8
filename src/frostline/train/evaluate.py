"""Evaluates a run's kept weights on all sets of rows, and writes predictions.

The held-out rows were evaluated during training: their logits are at hand unless the run was resumed. Test rows and
those of other data sets are evaluated once, here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from frostline.data.row_table import RowTable
from frostline.files import written_whole
from frostline.prefix_cache.collate import Collator
from frostline.records.run_folder import PREDICTIONS_FILE, WORST_ROWS_FILE
from frostline.spec import EVAL_SET, RunSpec, Task
from frostline.train.loss import DivergedError
from frostline.train.metric_names import evaluation_metrics
from frostline.train.setup import Setup
from frostline.train.train_log import KeptWeights
from frostline.train.trainer import Assembly, by_length

Array = np.ndarray[Any, Any]

_NUM_WORST, _SHOWN = 20, 300
"""Rows of largest loss that are shown, and characters of each."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedRows:
    """Rows and what the model says of them.

    Attributes:
        name: Of the set: `eval`, `test`, another data set's.
        labels: `[N]`, in the set's order.
        logits: `[N, C]`.
    """

    name: str
    labels: Array
    logits: Array


def evaluate_tables(
    spec: RunSpec, setup: Setup, assembly: Assembly, weights: KeptWeights
) -> tuple[list[EvaluatedRows], dict[str, float]]:
    """Looks at every set that the run is scored on, with the weights that are in the model now.

    Args:
        spec: The run.
        setup: Its tables.
        assembly: Its Trainer.
        weights: The evaluation whose weights these are.

    Returns:
        Rows and logits of each set, the held-out one first; metrics of the others, for example `test/accuracy`,
        `tweets/loss`.

    Raises:
        DivergedError: A loss is not finite.
    """
    tables = setup.tables
    if weights.logits is not None:
        held_out = EvaluatedRows(name=EVAL_SET, labels=tables.evaluation.all_labels(), logits=weights.logits)
    else:
        held_out, _ = _evaluate_table(spec, setup, assembly, EVAL_SET, tables.evaluation)
    evaluations, metrics = [held_out], dict[str, float]()
    for name, table in tables.others.items():
        scored, values = _evaluate_table(spec, setup, assembly, name, table)
        evaluations.append(scored)
        metrics |= values
        if not math.isfinite(values[f"{name}/loss"]):
            raise DivergedError(assembly.trainer.state.global_step, f"the loss on {name} is not finite")
    return evaluations, metrics


def _evaluate_table(
    spec: RunSpec, setup: Setup, assembly: Assembly, name: str, table: RowTable
) -> tuple[EvaluatedRows, dict[str, float]]:
    """Runs the model over a table: from its hidden states if they are kept, else the whole model."""
    trainer, before, cached = assembly.trainer, assembly.collator, setup.cached
    hidden = None
    if cached is not None:
        hidden = cached.hidden if name == EVAL_SET else cached.others.get(name)
        if hidden is None:
            cached.detach()
    is_own = name == EVAL_SET
    trainer.data_collator = Collator(setup.tables.train if is_own else table, table, before.padding, hidden)
    order = by_length(spec.training, table)
    try:
        numbers: Any = [-1 - row for row in order]
        output = trainer.predict(numbers, metric_key_prefix=name)
    finally:
        trainer.data_collator = before
        if cached is not None and hidden is None:
            cached.attach()
    raw = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
    logits = np.empty_like(raw)
    logits[order] = raw
    values = evaluation_metrics(output.metrics or {}, name)
    return EvaluatedRows(name=name, labels=table.all_labels(), logits=logits), values


def write_predictions(sets: list[EvaluatedRows], setup: Setup, task: Task, folder: Path) -> None:
    """Writes `predictions.parquet`: `set`, `row` (in its seeded order), `label`, `predicted`, `loss`, `probabilities`.

    And `worst_rows.jsonl`: the held-out rows of largest loss, with what they hold.

    Args:
        sets: What was evaluated, the held-out rows first.
        setup: The run's; it has the held-out rows as they were read.
        task: Of a classification, `label` and `predicted` are class ids; where a row may have several classes, numbers
            in which bit i stands for class i; where each word has a class, lists.
        folder: The run's.
    """
    parts = []
    for each in sets:
        columns = task.prediction_columns(each.logits.astype(np.float64), each.labels)
        parts.append(
            pa.table(
                {
                    "set": pa.array([each.name] * len(columns["loss"])).dictionary_encode(),
                    "row": pa.array(np.arange(len(columns["loss"])), pa.int32()),
                    **{name: _arrow(column) for name, column in columns.items()},
                }
            )
        )
    with written_whole(folder / PREDICTIONS_FILE) as temporary:
        pq.write_table(pa.concat_tables(parts).unify_dictionaries(), temporary, compression="zstd")
    _write_worst_rows(sets[0], setup, task, folder)


def _write_worst_rows(held_out: EvaluatedRows, setup: Setup, task: Task, folder: Path) -> None:
    names = setup.data["label_names"]
    columns = task.prediction_columns(held_out.logits.astype(np.float64), held_out.labels)
    labels, predicted = (pa.array(_arrow(columns[name])).to_pylist() for name in ("label", "predicted"))
    losses = columns["loss"]
    lines = []
    for row in np.argsort(-losses, kind="stable")[:_NUM_WORST].tolist():
        record = {
            "row": row, "label": task.describe_label(labels[row], names),
            "predicted": task.describe_label(predicted[row], names), "loss": round(float(losses[row]), 4),
            "text": _content(setup.held_out, row),
        }  # fmt: skip
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    with written_whole(folder / WORST_ROWS_FILE) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _content(rows: Dataset, row: int) -> str:
    """Returns what a row holds, cut; of an image its path, if it has one."""
    if "image" in rows.column_names:
        plain = rows.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
        return str(plain[row]["image"]["path"] or f"image {row + 1}")
    own = rows[row]
    parts = [own[name] for name in ("text", "pair", "target", "messages") if name in own]
    text = " | ".join(parts) if parts else " ".join(own["words"])
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _arrow(column: Any) -> Any:
    """Returns a column as Arrow takes it: `[N, C]` as lists of C."""
    if isinstance(column, np.ndarray) and column.ndim > 1:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(column).ravel()), column.shape[1])
    return column
