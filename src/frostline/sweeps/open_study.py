"""The study of a sweep: opened, made or rebuilt from the trials' own records, and filled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from frostline.advisor import Advisor
from frostline.errors import SpecError
from frostline.records.trial import TrialRecord
from frostline.search import CorruptStudyError, Journal, Study, open_locked
from frostline.spec import Direction, Params, SamplerName
from frostline.sweeps.differences import differences
from frostline.sweeps.folder import JOURNAL_FILE, SweepFolder, read_description, refusal
from frostline.sweeps.read_config import Sweep
from frostline.sweeps.recovery import behind, merged, notes_of, recover

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class StudyOpener:
    """Opens a sweep's study.

    Attributes:
        sweep: What is swept.
        folder: The sweep's.
        description: Of the sweep, as `sweep.json` has it.
        is_resumed: Whether an earlier command worked on it.
        advisor: Answers the sweep's question; None: several questions.
        stack: Holds the lock on a shared storage.
        check_lock: Raises `LockLostError` if another command has taken the storage meanwhile.
    """

    sweep: Sweep
    folder: SweepFolder
    description: Mapping[str, Any]
    is_resumed: bool
    advisor: Advisor | None
    stack: ExitStack
    check_lock: Callable[[], None] = lambda: None

    def open(self, queue: Sequence[Params], warm_start_trials: Sequence[TrialRecord]) -> Study:
        """Opens the sweep's study, rebuilt from the trials' own records where it lacks some, and fills its queue.

        Args:
            queue: Trials to try first.
            warm_start_trials: Trials of an earlier sweep.

        Raises:
            SpecError: The storage has a study of this name that is of another config.
        """
        plan = self.sweep.plan
        journal = Journal(self.folder.folder / JOURNAL_FILE)
        recorded = self.recorded() if self.is_resumed else []
        try:
            study = self._study(journal.open() if plan.storage is None else self._locked(plan.storage))
        except CorruptStudyError as error:
            aside = journal.put_aside()
            log.warning("%s; put aside as %s", error, aside.name)
            study = self._study(journal.open())
        trials = [trial for trial in recorded if not trial.is_baseline]
        if study.is_empty and trials:
            folder = self.folder.folder
            log.warning("the study is missing: rebuilt from the files of %d trials in %s", len(trials), folder)
            study.rebuild(recorded, warm_start_trials)
        elif plan.storage is None and (late := behind(study.with_baseline(), recorded)):
            all_trials = merged(study.with_baseline(), recorded)
            aside = journal.put_aside()
            log.warning(
                "%s lacks what %d trials' own records hold: put aside as %s, and the study is rebuilt from them",
                journal.path, len(late), aside.name,
            )  # fmt: skip
            study = self._study(journal.open())
            study.rebuild(all_trials, warm_start_trials)
        self._admit(study)
        study.fill(queue, warm_start_trials)
        if plan.sampler is SamplerName.GRID:
            study.extend(queue, (plan.n_trials or len(queue)) + study.num_extra)
        if plan.retry_failed and self.is_resumed:
            study.retry_failed()
        return study

    def _locked(self, url: str) -> Any:
        storage, self.check_lock = self.stack.enter_context(open_locked(url, self.sweep.plan.name))
        return storage

    def recorded(self) -> Sequence[TrialRecord]:
        """Returns the trials from their own records; logs a warning for each damaged one."""
        recovery = recover(self.folder, read_description(self.folder.folder))
        for note in notes_of(recovery):
            log.warning("%s", note)
        return recovery.trials

    def _admit(self, study: Study) -> None:
        """Refuses a study of this name in a shared storage that is of another config."""
        stored = study.description
        if stored is None:
            study.describe(self.description)
            return
        difference = differences(stored, self.description)
        if difference and study.is_untouched:
            study.reset()
            study.describe(self.description)
        elif difference:
            raise SpecError(f"sweep.storage: its study {self.sweep.plan.name} {refusal(difference)}")

    def _study(self, storage: Any) -> Study:
        plan = self.sweep.plan
        seeds = len(plan.seeds) if plan.seeds else 1
        training = self.sweep.job.run.training
        epochs = training.epochs
        steps = None if epochs is None else max(1, round(epochs)) * seeds
        return Study(
            storage, plan.name, plan, self.sweep.space,
            maximize=training.direction is Direction.MAXIMIZE, max_steps=steps, propose=self._proposer(),
        )  # fmt: skip

    def _proposer(self) -> Callable[[Sequence[TrialRecord], int], Params] | None:
        advisor, plan = self.advisor, self.sweep.plan
        if advisor is None or plan.sampler is not SamplerName.FROST:
            return None
        return lambda trials, number: advisor.propose(trials, number, plan.n_trials or 1, plan.seed)
