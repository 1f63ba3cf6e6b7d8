"""Events of trials, and the protocols of what trains them, listens to them and adds seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from frostline.decision import RaceEnd
from frostline.records.trial import TrialOutcome, TrialRecord
from frostline.search.promotion import Key, TrialTask


@dataclass(frozen=True, kw_only=True)
class TrialReported:
    """A running trial made an evaluation and waits for the answer whether it should continue."""

    number: int
    step: int
    value: float
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrialEnded:
    """A task ended.

    Attributes:
        number: Of the trial.
        outcome: Its result; None if it was interrupted and can be resumed.
        fatal: What the user must mend before any trial can be trained, if that is why.
        machine: Whether that is the machine's trouble, for example a full disk.
        seed: Of a further seed of a finished trial.
    """

    number: int
    outcome: TrialOutcome | None
    fatal: str | None = None
    machine: bool = False
    seed: int | None = None


TrialEvent = TrialReported | TrialEnded


class Executor(Protocol):
    """Who trains. Several tasks may be under way; their events come in the order in which they happen."""

    @property
    def free(self) -> int:
        """How many more tasks it takes now."""

    def submit(self, task: TrialTask) -> None:
        """Begins a task."""

    def wait(self) -> Sequence[TrialEvent]:
        """Returns what happened, after a moment at most; may be empty."""

    def answer(self, key: Key, prune: bool) -> None:
        """Answers the `TrialReported` of a task."""

    def stop(self) -> None:
        """Interrupts what runs: each task ends, with a `TrialEnded`."""


class Listener(Protocol):
    """Who watches: the live view, MLflow, the trials' files."""

    def started(self, task: TrialTask) -> None:
        """A task was handed to the executor."""

    def reported(self, number: int, step: int, value: float) -> None:
        """A running trial made an evaluation."""

    def ended(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """A trial's rung ended; `trials` are all of the study."""

    def pruned(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """A trial that had ended its rung 1 is not promoted."""

    def replicated(self, trial: TrialRecord, seed: int) -> None:
        """A further seed of a finished trial ended."""

    def released(self, number: int) -> None:
        """A trial was interrupted; the next command resumes it."""


class Race(Protocol):
    """Who gives further seeds to finished trials."""

    def next(self, trials: Sequence[TrialRecord], running: Sequence[Key]) -> tuple[TrialRecord, int] | RaceEnd:
        """Returns a trial and the seed that it is to be trained with, or why there is none.

        Args:
            trials: All of the study.
            running: Further seeds that are under way: number of the trial, and the seed.
        """


@dataclass(frozen=True, kw_only=True)
class SearchSummary:
    """How a sweep's command ended.

    Attributes:
        trials: All trials of the study; the baseline, which is no trial, is the last one if it was trained.
        complete: Whether the total was reached and rung 2 is done.
        stopped: Why not, in one line.
        fatal: What the user must mend, if that is why.
        too_many_failed: Whether it stopped because trials failed.
        race: Why no trial got a further seed any more; None if there was no race, or it was stopped.
    """

    trials: Sequence[TrialRecord]
    complete: bool
    stopped: str | None = None
    fatal: str | None = None
    too_many_failed: bool = False
    race: RaceEnd | None = None
