"""Per-row predictions of a sweep's runs, read from its folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from frostline.errors import UserError
from frostline.hashes import DamagedError
from frostline.records.predictions import Evidence, EvidenceOf, RowScores, known
from frostline.records.result import RunResult
from frostline.records.run_folder import PREDICTIONS_FILE, SPEC_FILE, check_files
from frostline.records.trial import TrialRecord, ranked
from frostline.report import Baseline
from frostline.spec import TASKS, Task
from frostline.sweeps.folder import SweepFolder

log = logging.getLogger(__name__)


def evidence_in(folder: Path, seeds: Sequence[int] | None) -> EvidenceOf:
    """Returns what finds a trial's quality on a set of rows, row by row where its runs' files are at hand.

    Args:
        folder: The sweep's.
        seeds: With which a trial is trained; None: one of its own.
    """
    several = seeds is not None and len(seeds) > 1
    sweep = SweepFolder(folder)

    @cache
    def read(path: Path) -> dict[str, RowScores]:
        return _read(path)

    def find(trial: TrialRecord, name: str) -> Evidence | None:
        plain = known(trial, name)
        if plain is None:
            return None
        number = trial.number if trial.copy_of is None else trial.copy_of
        own = sweep.trial_folder(number)
        paths = {
            seed: (own / f"s{seed}" if several or seed in trial.replicates else own) / PREDICTIONS_FILE
            for seed in plain.by_seed
        }
        rows = {seed: scores[name] for seed, path in paths.items() if name in (scores := read(path))}
        return Evidence(by_seed=plain.by_seed, rows=rows)

    return find


def baseline_of(study: str, folder: Path, trials: Sequence[TrialRecord], description: dict[str, Any]) -> Baseline:
    """Returns the best trial of another sweep, for the rows of a sweep to be compared with.

    Raises:
        UserError: It has none.
    """
    best = next(iter(ranked(trials, description["direction"] == "maximize")), None)
    if best is None:
        raise UserError(f"--against {study}: no trial of that sweep was trained to its end")
    find: Callable[[TrialRecord, str], Evidence | None] = evidence_in(folder, description["plan"]["seeds"])
    return Baseline(name=f"{folder.name} ({best.label()})", find=lambda name: find(best, name))


_NOT_ROWS = frozenset({"name", "train_rows", "balance", "also_evaluate", "test_at_end"})
"""Keys of a data set that don't decide which rows are held out or put aside for a test."""


def other_rows(first_run: Mapping[str, Any], second_run: Mapping[str, Any]) -> list[str]:
    """Returns in what two sweeps' data sets differ that decides which rows they are judged on: `key: one -> two`."""
    keys = sorted(key for key in first_run.keys() | second_run.keys() if key.startswith("dataset."))
    values = {key: (first_run.get(key), second_run.get(key)) for key in keys}
    return [
        f"{key}: {first} -> {second}"
        for key, (first, second) in values.items()
        if first != second and key.partition(".")[2] not in _NOT_ROWS
    ]


def _read(path: Path) -> dict[str, RowScores]:
    """Returns a run's predictions by set; nothing, and a warning, if they are not as the run left them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return {}
    try:
        check_files(path.parent, RunResult.read(path.parent), path.name)
        predictions = pq.read_table(path, columns=["set", "label", "predicted", "loss"])
        if pa.types.is_list(predictions.schema.field("label").type):
            return {}  # of words: those of a sentence are not independent, and no test here knows that
        table = predictions.to_pandas()
        task = task_of(path.parent)
        num_classes = len(RunResult.read(path.parent).data["label_names"]) if task.may_have_no_class else None
        return {
            str(name): RowScores(
                labels=_stacked(part["label"].to_numpy()),
                predicted=_stacked(part["predicted"].to_numpy()),
                losses=part["loss"].to_numpy(),
                num_classes=num_classes,
                counts_tokens=task.generates,
            )
            for name, part in table.groupby("set", observed=True)
        }
    except UserError as error:
        log.warning("%s: its rows are not used", error.finding if isinstance(error, DamagedError) else error)
        return {}
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s: can't be read (%s): its rows are not used", path, type(error).__name__)
        return {}


def task_of(folder: Path) -> Task:
    """Returns the task of a run.

    Raises:
        OSError, ValueError, KeyError: The run's record can't be read.
    """
    spec = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
    return TASKS.get(spec["dataset"]["task"])


def _stacked(column: Any) -> Any:
    """Returns a column of numbers, or of arrays of one length as `[N, W]`."""
    import numpy as np

    return np.stack(column) if column.dtype == object else column
