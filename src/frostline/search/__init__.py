"""Owns: search space <-> Optuna, the ask/tell loop over an injected executor. Must not know: Hydra, torch, MLflow."""

from frostline.search.choice import Task, check_alike, hopeless, queue_of
from frostline.search.importance import importances
from frostline.search.loop import (
    Ended,
    Event,
    Executor,
    Listener,
    Reported,
    Summary,
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
    "hopeless",
    "importances",
    "open_url",
    "queue_of",
    "search",
    "study_names",
]
