"""The trials of a study, read incrementally and classified by their attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from operator import attrgetter

import optuna
from optuna.trial import FrozenTrial, TrialState

from frostline.search import attributes


class TrialKind(Enum):
    """What a trial is.

    Attributes:
        TRIAL: A trial of the sweep, at whatever rung.
        WARM: A trial of an earlier study, to learn from.
        SURPLUS: A number of a rebuilt study that no trial has.
    """

    TRIAL = auto()
    WARM = auto()
    SURPLUS = auto()


def kind_of(frozen: FrozenTrial) -> TrialKind:
    """Returns what a trial is."""
    attrs = frozen.user_attrs
    if attributes.SURPLUS in attrs:
        return TrialKind.SURPLUS
    return TrialKind.WARM if attributes.WARM in attrs else TrialKind.TRIAL


@dataclass(frozen=True, kw_only=True)
class StudySnapshot:
    """The trials of a study at one moment, by number.

    Attributes:
        frozen_trials: All that Optuna has.
        trials: Those of the sweep: not of an earlier study, and no placeholder.
    """

    frozen_trials: Sequence[FrozenTrial]
    trials: Sequence[FrozenTrial]


class StudyView:
    """The trials of a study, read again and again: finished trials never change and are classified once.

    Args:
        study: Whose.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._ended: dict[int, TrialKind] = {}
        self.last: StudySnapshot | None = None
        """The newest look: a look reads all that has not ended from the storage, a few times for each trial."""

    def read(self) -> StudySnapshot:
        """Returns the trials as the storage has them now."""
        frozen_trials = sorted(self._study.get_trials(deepcopy=False), key=attrgetter("number"))
        known = self._ended
        trials = [
            frozen for frozen in frozen_trials if (known.get(frozen.number) or self._kind(frozen)) is TrialKind.TRIAL
        ]
        self.last = StudySnapshot(frozen_trials=frozen_trials, trials=trials)
        return self.last

    def _kind(self, frozen: FrozenTrial) -> TrialKind:
        kind = kind_of(frozen)
        if frozen.state.is_finished():
            self._ended[frozen.number] = kind
        return kind


def is_paused(frozen: FrozenTrial) -> bool:
    """Returns whether it has finished rung 1 and waits to be promoted or pruned, or is trained in rung 2.

    Optuna has no state for that: it stays RUNNING, so that it is one trial from its beginning to its end.
    """
    return frozen.state is TrialState.RUNNING and bool((frozen.user_attrs.get(attributes.OUTCOME) or {}).get("paused"))
