"""Owns: search space <-> Optuna, the ask/tell loop over an injected executor. Must not know: Hydra, torch, MLflow."""

from frostline.search.forecast import Costs, Forecast, forecast
from frostline.search.lock import LockLostError, open_locked
from frostline.search.loop import (
    Ended,
    Event,
    Executor,
    Listener,
    Race,
    Reported,
    Summary,
    search,
)
from frostline.search.promotion import Key, Task, check_alike, hopeless, queue_of
from frostline.search.storages import CorruptStudyError, Journal, open_url, storage_trouble, study_names
from frostline.search.study import Study, read_trials

__all__ = [
    "CorruptStudyError",
    "Costs",
    "Ended",
    "Event",
    "Executor",
    "Forecast",
    "Journal",
    "Key",
    "Listener",
    "LockLostError",
    "Race",
    "Reported",
    "Study",
    "Summary",
    "Task",
    "check_alike",
    "forecast",
    "hopeless",
    "open_locked",
    "open_url",
    "queue_of",
    "read_trials",
    "search",
    "storage_trouble",
    "study_names",
]
