"""A listener of a sweep that calls a function of the user's as trials end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from frostline.api.frames import trial_row
from frostline.records.trial import TrialRecord
from frostline.search import TrialTask

OnTrial = Callable[[Mapping[str, Any]], None]
"""Called when a trial ends: a row of `Study.trials`, as a dict."""


class TrialCaller:
    """A listener that calls a function of the user's at each trial's end."""

    def __init__(self, on_trial: OnTrial) -> None:
        self._on_trial = on_trial
        self.is_calling = False
        """Still set when the function has raised."""

    def started(self, task: TrialTask) -> None:
        """See `Listener`."""

    def reported(self, number: int, step: int, value: float) -> None:
        """See `Listener`."""

    def ended(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""
        self.is_calling = True
        self._on_trial(trial_row(trial))
        self.is_calling = False

    def pruned(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""

    def replicated(self, trial: TrialRecord, seed: int) -> None:
        """See `Listener`."""

    def released(self, number: int) -> None:
        """See `Listener`."""
