"""Trials of a sweep as Optuna's storage holds them, in both directions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from frostline.records.trial import TrialOutcome, TrialRecord, TrialState
from frostline.search import attributes
from frostline.search.samplers import distribution
from frostline.search.study_view import is_paused
from frostline.spec import Params, Space, SweepSpec

_STATES = {
    OptunaState.WAITING: TrialState.WAITING,
    OptunaState.RUNNING: TrialState.RUNNING,
    OptunaState.COMPLETE: TrialState.COMPLETE,
    OptunaState.PRUNED: TrialState.PRUNED,
    OptunaState.FAIL: TrialState.FAILED,
}


@dataclass(frozen=True)
class FrozenTrials:
    """Makes Optuna's trials of a sweep's.

    Attributes:
        plan: The sweep.
        space: What is swept.
    """

    plan: SweepSpec
    space: Space

    def waiting(self, params: Params, *, is_retry: bool = False) -> FrozenTrial:
        """Returns a trial with these parameters that was not started yet."""
        return create_trial(
            state=OptunaState.WAITING,
            system_attrs={"fixed_params": dict(params)},
            user_attrs={attributes.RETRY: True} if is_retry else {},
        )

    def surplus(self) -> FrozenTrial:
        """Returns what stands for a number that no trial has."""
        return create_trial(state=OptunaState.FAIL, user_attrs={attributes.SURPLUS: True})

    def warm(self, trial: TrialRecord) -> FrozenTrial:
        """Returns a finished trial of an earlier study, to learn from."""
        assert trial.outcome is not None
        return create_trial(
            state=OptunaState.COMPLETE,
            values=self.values(trial.outcome),
            params=dict(trial.params),
            distributions=self.distributions(trial.params),
            user_attrs={attributes.WARM: True, attributes.OUTCOME: trial.outcome.to_dict(trial.rung)},
        )

    def recorded(self, trial: TrialRecord) -> FrozenTrial:
        """Returns a trial from its own record."""
        attrs: dict[str, Any] = {}
        state, outcome = trial.state, trial.outcome
        if trial.copy_of is not None:
            attrs[attributes.COPY] = trial.copy_of
        if outcome is not None:
            attrs[attributes.OUTCOME] = (trial.first_rung or outcome).to_dict(1)
        if trial.rung == 2 and outcome is not None:
            attrs[attributes.FINAL] = outcome.to_dict(2)
        if trial.is_paused:
            state = TrialState.RUNNING
        wanted = {value: key for key, value in _STATES.items()}[state]
        values = self.values(outcome) if wanted is OptunaState.COMPLETE and outcome is not None else None
        if wanted is OptunaState.PRUNED and trial.first_quality is not None and not self.plan.cost:
            values = [trial.first_quality]
        return create_trial(
            state=wanted,
            values=values,
            params=dict(trial.params),
            distributions=self.distributions(trial.params),
            user_attrs=attrs,
            intermediate_values=dict(trial.history),
        )

    def values(self, outcome: TrialOutcome) -> list[float]:
        """Returns the objectives of a trial: its quality, then its cost if the sweep has one."""
        assert outcome.quality is not None
        values = [outcome.quality]
        if self.plan.cost is not None:
            values.append(float(outcome.cost[self.plan.cost.value]))
        return values

    def distributions(self, params: Params) -> dict[str, Any]:
        """Returns what Optuna may draw of each dimension that these parameters have."""
        dimensions = (*self.space.groups, *self.space.of(params))
        return {dimension.key: distribution(dimension) for dimension in dimensions}


def record_of(frozen: FrozenTrial) -> TrialRecord:
    """Returns a trial as Optuna holds it."""
    state, rung = _STATES[frozen.state], 1
    first = _outcome(frozen, attributes.OUTCOME)
    final = _outcome(frozen, attributes.FINAL) if frozen.state.is_finished() else None
    outcome = first
    if final is not None and first is not None:
        rung = 2
        outcome = final
        if final.state is TrialState.FAILED:
            # It keeps its rung 1 result, is not retried, and no other trial is promoted instead: a resumed sweep must
            # end in the same table as an undisturbed one.
            outcome = replace(
                first, state=TrialState.FAILED, reason=final.reason, cause=final.cause, error=final.error, paused=False
            )
    elif outcome is not None and outcome.paused and is_paused(frozen):
        state = TrialState.PRUNED  # unless it is promoted
    elif outcome is not None and outcome.paused:
        outcome = replace(outcome, paused=False)
    params = frozen.params or frozen.system_attrs.get("fixed_params", {})
    return TrialRecord(
        number=frozen.number,
        params=dict(params),
        state=state,
        outcome=outcome,
        history=dict(frozen.intermediate_values),
        copy_of=frozen.user_attrs.get(attributes.COPY),
        rung=rung,
        first_rung=first if first is not None and first.paused else None,
    )


def _outcome(frozen: FrozenTrial, attribute: str) -> TrialOutcome | None:
    data = frozen.user_attrs.get(attribute)
    return TrialOutcome.from_dict(data)[0] if data else None
