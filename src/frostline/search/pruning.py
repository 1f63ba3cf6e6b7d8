"""Asks Optuna's pruners about a running trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from frostline.records.trial import TrialState
from frostline.search.attributes import OUTCOME, VERDICTS
from frostline.search.storages import quiet


def ask_pruner(
    pruner: BasePruner,
    frozen: FrozenTrial,
    others: Sequence[FrozenTrial],
    *,
    name: str,
    maximize: bool,
    noted: Mapping[str, Any],
) -> tuple[bool, dict[str, Any]]:
    """Asks a pruner in a copy of the study in which it can decide.

    Optuna's pruners compare with COMPLETE trials only, and never prune a study of several objectives. In the copy a
    trial that finished rung 1 is COMPLETE, and there is the quality alone. The numbers are those of the
    study, since Hyperband's brackets depend on them.

    Args:
        pruner: Which.
        frozen: The running trial, its newest report included.
        others: The trials that it is compared with.
        name: Of the study; Hyperband's brackets depend on it, too.
        maximize: Whether more of the quality is better.
        noted: What the pruner noted of this trial before.

    Returns:
        The verdict, and what the pruner notes now.
    """
    shadow = optuna.create_study(study_name=name, direction="maximize" if maximize else "minimize", pruner=pruner)
    by_number = {trial.number: trial for trial in others}
    for number in range(frozen.number):
        shadow.add_trial(_copy(by_number.pop(number, None)))
    running = shadow.ask()
    assert running.number == frozen.number
    for other in by_number.values():
        shadow.add_trial(_copy(other))
    for key, value in noted.items():
        shadow._storage.set_trial_system_attr(running._trial_id, key, value)
    for step, value in sorted(frozen.intermediate_values.items()):
        running.report(value, step)
    with quiet():
        verdict = bool(running.should_prune())
    return verdict, dict(shadow._storage.get_trial(running._trial_id).system_attrs)


def _copy(trial: FrozenTrial | None) -> FrozenTrial:
    """Returns a trial as a pruner is to see it; None: a number that plays no part."""
    if trial is None:
        return create_trial(state=OptunaState.FAIL)
    outcome = trial.user_attrs.get(OUTCOME)
    ended = outcome is not None and outcome["state"] == TrialState.COMPLETE.value
    state = OptunaState.COMPLETE if ended else OptunaState.PRUNED
    if not trial.state.is_finished():  # its reports so far count for halving
        state = OptunaState.PRUNED
    last = trial.intermediate_values[max(trial.intermediate_values)]
    return create_trial(
        state=state,
        value=last,
        intermediate_values=dict(trial.intermediate_values),
        system_attrs=dict((trial.user_attrs.get(VERDICTS) or {"attrs": {}})["attrs"]),
    )
