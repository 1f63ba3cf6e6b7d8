"""What the recommended model of a sweep says of the held-out rows, read from its run's folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from frostline.errors import UserError
from frostline.records.result import RunResult
from frostline.records.run_folder import PREDICTIONS_FILE, WORST_ROWS_FILE, check_files
from frostline.report.model_rows import ModelRows, model_rows
from frostline.spec import EVAL_SET
from frostline.sweeps.predictions import task_of

log = logging.getLogger(__name__)


def model_rows_in(folder: Path | None) -> ModelRows | None:
    """Returns what a run's model says of the held-out rows; None if its files are not there, or not as it left them.

    Args:
        folder: The run's; None: there is no run.
    """
    import numpy as np
    import pyarrow.parquet as pq

    if folder is None or not (folder / WORST_ROWS_FILE).is_file():
        return None
    try:
        result = RunResult.read(folder)
        check_files(folder, result, PREDICTIONS_FILE)
        check_files(folder, result, WORST_ROWS_FILE)
        lines = (folder / WORST_ROWS_FILE).read_text(encoding="utf-8").splitlines()
        worst = [json.loads(line) for line in lines]
        table = pq.read_table(folder / PREDICTIONS_FILE, filters=[("set", "=", EVAL_SET)])
        probabilities = None
        if "probabilities" in table.column_names and task_of(folder).one_class_a_row:
            flat = table["probabilities"].combine_chunks().flatten().to_numpy()
            probabilities = flat.reshape(len(table), -1)
        labels, predicted = (np.zeros(len(table), dtype=np.int64),) * 2
        if probabilities is not None:
            labels, predicted = table["label"].to_numpy(), table["predicted"].to_numpy()
        return model_rows(labels, predicted, probabilities, result.data["label_names"], worst)
    except (UserError, OSError, ValueError, KeyError) as error:
        log.warning("%s: its rows are not shown (%s)", folder, error)
        return None
