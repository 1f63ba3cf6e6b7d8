"""Evaluates a run's kept weights on all sets of rows, and writes predictions.

The held-out rows were evaluated during training: their logits are at hand unless the run was resumed. Test rows and
those of other data sets are evaluated once, here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from frostline.data.row_table import RowTable
from frostline.files import written_whole
from frostline.prefix_cache.collate import Collator
from frostline.records.run_folder import PREDICTIONS_FILE
from frostline.spec import EVAL_SET, RunSpec, Task
from frostline.train.loss import DivergedError
from frostline.train.metric_names import evaluation_metrics
from frostline.train.setup import Setup
from frostline.train.train_log import KeptWeights
from frostline.train.trainer import Assembly, by_length

Array = np.ndarray[Any, Any]


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


def write_predictions(sets: list[EvaluatedRows], task: Task, folder: Path) -> None:
    """Writes `predictions.parquet`: `set`, `row` (in the set's seeded order), `label`, `predicted`, `loss`.

    Args:
        sets: What was evaluated.
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
                    **columns,
                }
            )
        )
    with written_whole(folder / PREDICTIONS_FILE) as temporary:
        pq.write_table(pa.concat_tables(parts).unify_dictionaries(), temporary, compression="zstd")
