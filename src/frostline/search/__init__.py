"""The search over trials with Optuna: study, samplers, and the ask/tell loop."""

from frostline.search.events import (
    Executor,
    Listener,
    Race,
    SearchSummary,
    TrialEnded,
    TrialEvent,
    TrialReported,
)
from frostline.search.forecast import Costs, Forecast, forecast
from frostline.search.lock import LockLostError, open_locked
from frostline.search.loop import SearchLimits, search
from frostline.search.promotion import Key, TrialTask, eliminated, queue_of, reason_if_all_failed
from frostline.search.read_trials import read_trials
from frostline.search.storages import CorruptStudyError, Journal, open_url, storage_trouble, study_names
from frostline.search.study import Study

__all__ = [
    "CorruptStudyError",
    "Costs",
    "Executor",
    "Forecast",
    "Journal",
    "Key",
    "Listener",
    "LockLostError",
    "Race",
    "SearchLimits",
    "SearchSummary",
    "Study",
    "TrialEnded",
    "TrialEvent",
    "TrialReported",
    "TrialTask",
    "eliminated",
    "forecast",
    "open_locked",
    "open_url",
    "queue_of",
    "read_trials",
    "reason_if_all_failed",
    "search",
    "storage_trouble",
    "study_names",
]
