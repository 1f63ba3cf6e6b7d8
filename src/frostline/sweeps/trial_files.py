"""A sweep's files of its trials, written as they end; checkpoints and models that are not needed go."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

from frostline.records.trial import TrialRecord, TrialState, ranked
from frostline.search import TrialTask, eliminated
from frostline.spec import KeepModels, SweepSpec
from frostline.sweeps.folder import SweepFolder


class TrialFiles:
    """Keeps a file for each trial, and of models and checkpoints only those that may be wanted.

    Args:
        folder: The sweep's.
        plan: The sweep's.
        maximize: Whether more of the objective is better.
        total: Trials in all.
        judged: Which trials a level may be judged by, so that one of them will be recommended.
    """

    def __init__(
        self,
        folder: SweepFolder,
        plan: SweepSpec,
        maximize: bool,
        total: int,
        judged: Callable[[Sequence[TrialRecord]], Sequence[TrialRecord]],
    ) -> None:
        self._folder = folder
        self._plan = plan
        self._maximize = maximize
        self._total = total
        self._judged = judged
        self._tidied: set[int] = set()
        self._without_model: set[int] = set()
        self._num_ended = 0
        self._looked_at = 0
        self._best_since: list[TrialRecord] = []

    def started(self, task: TrialTask) -> None:
        """See `Listener`."""
        if task.rung == 1:
            self._folder.write_trial(TrialRecord(number=task.number, params=task.params, state=TrialState.RUNNING))

    def reported(self, number: int, step: int, value: float) -> None:
        """See `Listener`."""

    def ended(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""
        self._folder.write_trial(trial)
        self._tidy_checkpoints(trials)
        self._tidy_models(trial, trials)

    def pruned(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""
        self._folder.write_trial(trial)
        self._remove(trial.number, "checkpoints")

    def replicated(self, trial: TrialRecord, seed: int) -> None:
        """See `Listener`."""
        self._folder.write_trial(trial)
        if self._plan.keep_models is not KeepModels.ALL:
            shutil.rmtree(self._folder.trial_folder(trial.number) / f"s{seed}" / "model", ignore_errors=True)

    def released(self, number: int) -> None:
        """See `Listener`."""

    def _tidy_checkpoints(self, trials: Sequence[TrialRecord]) -> None:
        if self._plan.has_rungs:
            for number in eliminated(trials, self._plan, self._maximize, self._total):
                if number not in self._tidied:
                    self._tidied.add(number)
                    self._remove(number, "checkpoints")

    def keep_only(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """Removes all models but one, when the sweep is over."""
        if self._plan.keep_models is KeepModels.RECOMMENDED:
            for other in trials:
                if other.number != trial.number:
                    self._remove(other.number, "model")

    def _tidy_models(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        if self._plan.keep_models is KeepModels.ALL:
            return
        self._num_ended += 1
        if self._plan.keep_models is KeepModels.NONE:
            first = self._num_ended == 1  # an earlier command may have been killed
            self._remove_models(trials if first else [trial], [])
        elif self._plan.keep_models is KeepModels.BEST:
            self._remove_models(trials, ranked(trials, self._maximize)[:1])
        elif self._looked_at < _FEW or self._num_ended >= _GROWN * self._looked_at:
            # Who is judged takes a fit of the trials: of many, one more changes little.
            self._looked_at, self._best_since = self._num_ended, []
            self._remove_models(trials, self._judged(trials) or ranked(trials, self._maximize)[:1])
        else:  # a model that is missing in the end is trained once more
            since = [*self._best_since, trial]
            self._best_since = ranked(since, self._maximize)[:_BEST]
            self._remove_models(since, self._best_since)

    def _remove_models(self, trials: Sequence[TrialRecord], needed: Sequence[TrialRecord]) -> None:
        numbers = {trial.number for trial in needed}
        for trial in trials:
            if trial.outcome is None or trial.outcome.paused or trial.number in numbers:
                continue
            if trial.number not in self._without_model:
                self._without_model.add(trial.number)
                self._remove(trial.number, "model")

    def _remove(self, number: int, name: str) -> None:
        folder = self._folder.trial_folder(number)
        for target in (folder / name, *folder.glob(f"s*/{name}")):
            shutil.rmtree(target, ignore_errors=True)


_GROWN = 1.1


_FEW = 50
"""Who is judged is asked after each of so many trials; then when there are `_GROWN` times as many as the last time."""


_BEST = 20
"""So many of the best trials keep their models until the next time."""
