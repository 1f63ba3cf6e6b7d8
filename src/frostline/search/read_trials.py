"""A study read back as trials: its user attributes, and a journal that another process may be writing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import optuna

from frostline import scratch
from frostline.records.trial import BASELINE_NUMBER, TrialOutcome, TrialRecord
from frostline.search import attributes
from frostline.search.frozen_trials import record_of
from frostline.search.storages import CorruptStudyError, Journal, quiet
from frostline.search.study_view import TrialKind, kind_of


def read_trials(path: Path, name: str) -> list[TrialRecord]:
    """Returns the trials in a sweep's journal, the baseline first; nothing is written to it.

    Args:
        path: Of the journal; a process may be at work on it.
        name: Of the study.

    Returns:
        By number; nothing if the journal can't be read.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with scratch.folder("journal") as folder, quiet():
        copy = folder / path.name
        try:
            shutil.copyfile(path, copy)
            study = optuna.load_study(study_name=name, storage=Journal(copy).open())
        except (OSError, KeyError, CorruptStudyError):
            return []
        replicates = replicates_in(study)
        trials = [
            replace(record_of(frozen), replicates=dict(sorted(replicates.get(frozen.number, {}).items())))
            for frozen in study.get_trials(deepcopy=False)
            if kind_of(frozen) is TrialKind.TRIAL
        ]
        baseline = baseline_in(study)
    return trials if baseline is None else [baseline, *trials]


def baseline_in(study: optuna.Study) -> TrialRecord | None:
    """Returns the result of full fine-tuning; None if it was not trained."""
    data = study.user_attrs.get(attributes.BASELINE)
    if data is None:
        return None
    outcome = TrialOutcome.from_dict(data["outcome"])[0]
    return TrialRecord(
        number=BASELINE_NUMBER, params=dict(data["params"]), state=outcome.state, outcome=outcome,
        replicates=dict(sorted(replicates_in(study).get(BASELINE_NUMBER, {}).items())),
    )  # fmt: skip


def replicates_in(study: optuna.Study) -> dict[int, dict[int, TrialOutcome]]:
    """Returns the results of further seeds, by number of the trial and seed."""
    replicates: dict[int, dict[int, TrialOutcome]] = {}
    for key, data in study.user_attrs.items():
        if key.startswith(attributes.REPLICATE):
            number, seed = key.removeprefix(attributes.REPLICATE).split(".")
            replicates.setdefault(int(number), {})[int(seed)] = TrialOutcome.from_dict(data)[0]
    return replicates
