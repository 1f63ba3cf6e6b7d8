"""The outcome of a trial, from the results of its runs."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from frostline.hashes import DamagedError
from frostline.records.result import RunResult
from frostline.records.run_folder import MODEL_FOLDER, RECORDED_FILES, check_files
from frostline.records.trial import TrialOutcome, TrialState
from frostline.spec import EVAL_SET

log = logging.getLogger(__name__)


def is_whole(folder: Path, result: RunResult) -> bool:
    """Returns whether a run's files are as it left them; a model may have been removed since."""
    names = [name for name in RECORDED_FILES if name != MODEL_FOLDER or (folder / MODEL_FOLDER).is_dir()]
    try:
        check_files(folder, result, *names)
    except DamagedError as error:
        log.warning("%s: the run is trained again", error.finding)
        return False
    return True


def _rows_of(results: Sequence[tuple[int, RunResult]]) -> dict[str, float]:
    """Returns what says on how many held-out rows further seeds are to be scored (`frostline.advisor.rows`)."""
    result = next((each for _, each in results if each.cost is not None and each.cost.num_evals), None)
    if result is None or result.cost is None or "eval_rows_at_hand" not in result.data:
        return {}
    return {
        "scored_rows": float(result.data["eval_rows"]),
        "rows_at_hand": float(result.data["eval_rows_at_hand"]),
        "trained_per_scoring": result.data["train_rows"] * result.cost.epochs / result.cost.num_evals,
    }


def outcome_of(
    results: Sequence[tuple[int, RunResult]],
    state: TrialState,
    *,
    paused: bool,
    resumed: int = 0,
    note: str | None = None,
) -> TrialOutcome:
    """Returns the outcome of a trial's runs.

    Args:
        results: By seed.
        state: Of the trial.
        paused: Whether rung 2 follows if it is COMPLETE.
        resumed: How many runs were resumed from a checkpoint.
        note: For the record.
    """
    costs = [result.cost for _, result in results if result.cost is not None]
    cost: dict[str, float] = {"train_s": sum(c.train_s for c in costs), "eval_s": sum(c.eval_s for c in costs)}
    if costs and all(c.flops is not None for c in costs):
        cost["flops"] = sum(c.flops or 0.0 for c in costs)
    for key in ("fill_s", "saved_s"):  # of those that began at their frozen depth
        seconds = [value for c in costs if (value := getattr(c, key)) is not None]
        if seconds:
            cost[key] = sum(seconds)
    trainable = [result.params.num_trainable for _, result in results if result.params is not None]
    if trainable:
        cost["num_trainable"] = float(trainable[0])
    # Of words no interval is known: those of a sentence are not independent, and there are more of them than rows.
    known = (result.data for _, result in results if result.data and "words_cut" not in result.data)
    rows = next((data.get("eval_rows") for data in known), None)
    if isinstance(rows, int):
        cost["eval_rows"] = float(rows)
    cost |= _rows_of(results)
    trained_on = next((result.data["train_rows"] for _, result in results if result.data), None)
    if isinstance(trained_on, int):
        cost["train_rows"] = float(trained_on)
    last = results[-1][1]
    return TrialOutcome(
        state=state,
        by_seed={seed: result.objective.value for seed, result in results if result.objective is not None},
        scores=scores_of(results),
        cost=cost,
        reason=last.reason if state is not TrialState.COMPLETE else None,
        cause=last.cause if state is not TrialState.COMPLETE else None,
        error=last.error if state is not TrialState.COMPLETE else None,
        paused=paused and state is TrialState.COMPLETE,
        resumed=resumed,
        note=note,
        loss=_mean_of("eval/loss", results),
        learnt=any(result.metrics.get("eval/matthews_correlation") != 0.0 for _, result in results),
    )


def _mean_of(key: str, results: Sequence[tuple[int, RunResult]]) -> float | None:
    """Returns the mean of a metric over the runs; None if one of them lacks it, or it is no finite number."""
    values = [result.metrics.get(key, math.nan) for _, result in results]
    mean = math.fsum(values) / len(values) if values else math.nan
    return mean if math.isfinite(mean) else None


def scores_of(results: Sequence[tuple[int, RunResult]]) -> dict[str, dict[int, float]]:
    """Returns the objective's metric on the other rows that runs were scored on, by set and seed."""
    scores: dict[str, dict[int, float]] = {}
    for seed, result in results:
        for key, value in result.metrics.items():
            name, _, metric = key.partition("/")
            if result.objective is not None and metric == result.objective.metric and name != EVAL_SET:
                scores.setdefault(name, {})[seed] = value
    return scores
