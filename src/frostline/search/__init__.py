"""Owns: search space <-> Optuna, the ask/tell loop over an injected executor. Must not know: Hydra, torch, MLflow."""

from frostline.search.loop import Ended, Event, Executor, Listener, Reported, Summary, Task, search
from frostline.search.study import Journal, Study

__all__ = [
    "Ended",
    "Event",
    "Executor",
    "Journal",
    "Listener",
    "Reported",
    "Study",
    "Summary",
    "Task",
    "search",
]
