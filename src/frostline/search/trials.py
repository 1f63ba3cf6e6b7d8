"""Owns: what a trial of Optuna's is to a sweep, by its marks. Must not know: who begins, trains or ends it."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from frostline.search import marks


def is_point(trial: FrozenTrial) -> bool:
    """Returns whether it is a point of the sweep: no stage 2, none of an earlier study, none that came to nothing."""
    marked = any(key in trial.user_attrs for key in (marks.CONTINUES, marks.WARM, marks.SURPLUS))
    return not marked and not was_ended_for_its_host(trial)


def was_ended_for_its_host(trial: FrozenTrial) -> bool:
    """Returns whether another parent ended it: whoever trains a point says what it came to before it ends it."""
    others = any(key in trial.user_attrs for key in (marks.CONTINUES, marks.WARM, marks.SURPLUS, marks.OUTCOME))
    return trial.state is TrialState.FAIL and not others


def points_among(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Returns the trials that are points; of a point that two parents have put back at once the first."""
    found: dict[object, FrozenTrial] = {}
    for trial in trials:
        if is_point(trial):
            source = trial.user_attrs.get(marks.TAKEN_FROM)
            found.setdefault(("back", source) if source is not None else trial.number, trial)
    return sorted(found.values(), key=lambda trial: trial.number)


def between_owners(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Returns the trials that somebody has ended for their dead host and that are not back in the queue yet."""
    followed = {trial.user_attrs.get(marks.TAKEN_FROM) for trial in trials}
    return [trial for trial in trials if was_ended_for_its_host(trial) and trial.number not in followed]


def has_outcome(trial: FrozenTrial) -> bool:
    """Returns whether it has ended and says what it came to."""
    return trial.state.is_finished() and marks.OUTCOME in trial.user_attrs
