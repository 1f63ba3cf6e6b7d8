"""Owns: search space <-> Optuna, the ask/tell loop over an injected executor. Must not know: Hydra, torch, MLflow."""

from frostline.search.importance import importances
from frostline.search.loop import (
    Ended,
    Event,
    Executor,
    Listener,
    Reported,
    Summary,
    Task,
    check_alike,
    queue_of,
    search,
)
from frostline.search.storages import CorruptStudyError, Journal, open_url, study_names
from frostline.search.study import Study

__all__ = [
    "CorruptStudyError",
    "Ended",
    "Event",
    "Executor",
    "Journal",
    "Listener",
    "Reported",
    "Study",
    "Summary",
    "Task",
    "check_alike",
    "importances",
    "open_url",
    "queue_of",
    "search",
    "study_names",
]
