"""Owns: what a trial of Optuna's is to a sweep, by its marks. Must not know: who begins, trains or ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import optuna
from optuna.trial import FrozenTrial, TrialState

from frostline.point import State
from frostline.search import marks


class Kind(Enum):
    """What a trial is.

    Attributes:
        POINT: A point of the sweep, at whatever stage.
        WARM: A point of an earlier study, to learn from.
        SURPLUS: It came to nothing, and nothing is missing for it.
        ENDED_FOR_ITS_HOST: A point that another parent has ended, because its own was gone.
    """

    POINT = auto()
    WARM = auto()
    SURPLUS = auto()
    ENDED_FOR_ITS_HOST = auto()


def kind_of(trial: FrozenTrial) -> Kind:
    """Returns what a trial is."""
    attrs = trial.user_attrs
    if marks.SURPLUS in attrs:
        return Kind.SURPLUS
    if marks.WARM in attrs:
        return Kind.WARM
    # Whoever trains a point says what it came to before it ends it, and may die in between: then it was no failure.
    last = attrs.get(marks.FINAL) or attrs.get(marks.OUTCOME) or {}
    if trial.state is TrialState.FAIL and last.get("state") != State.FAILED.value:
        return Kind.ENDED_FOR_ITS_HOST
    return Kind.POINT


@dataclass(frozen=True, kw_only=True)
class Look:
    """The trials of a study at one moment, by number.

    Attributes:
        trials: All of them.
        points: Those that are points; of one that two parents have put back at once the first.
        doubles: The others of those.
        between_owners: Those that somebody has ended for their dead host and that are not back in the queue yet.
    """

    trials: Sequence[FrozenTrial]
    points: Sequence[FrozenTrial]
    doubles: Sequence[FrozenTrial]
    between_owners: Sequence[FrozenTrial]


class Trials:
    """The trials of a study, looked at again and again: what has ended never changes, and is sorted once.

    Args:
        study: Whose.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._ended: dict[int, tuple[Kind, int | None]] = {}
        self.last: Look | None = None
        """The newest look: a look reads all that has not ended from the storage, a few times for each trial."""

    def look(self) -> Look:
        """Returns the trials as the storage has them now."""
        trials = sorted(self._study.get_trials(deepcopy=False), key=lambda trial: trial.number)
        points, doubles, ended, back = [], [], [], set()
        for trial in trials:
            kind, source = self._ended.get(trial.number) or self._read(trial)
            if kind is Kind.POINT and (source is None or source not in back):
                points.append(trial)
            elif kind is Kind.POINT:
                doubles.append(trial)
            elif kind is Kind.ENDED_FOR_ITS_HOST:
                ended.append(trial)
            if source is not None:
                back.add(source)
        between = [trial for trial in ended if trial.number not in back]
        self.last = Look(trials=trials, points=points, doubles=doubles, between_owners=between)
        return self.last

    def _read(self, trial: FrozenTrial) -> tuple[Kind, int | None]:
        found = kind_of(trial), trial.user_attrs.get(marks.TAKEN_FROM)
        if trial.state.is_finished():
            self._ended[trial.number] = found
        return found


def is_paused(trial: FrozenTrial) -> bool:
    """Returns whether it has ended stage 1 and waits to be promoted or pruned, or is trained in stage 2.

    Optuna has no state for that: it stays RUNNING, so that it is one trial from its beginning to its end.
    """
    return trial.state is TrialState.RUNNING and bool((trial.user_attrs.get(marks.OUTCOME) or {}).get("more"))
