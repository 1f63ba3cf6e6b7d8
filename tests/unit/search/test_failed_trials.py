"""Trials that fail, and what the search makes of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from frostline.records.result import Cause
from frostline.records.trial import TrialOutcome, TrialState, ranked
from frostline.search import (
    SearchLimits,
    TrialEnded,
    search,
)
from frostline.search.loop import checked
from tests.unit.search.fake_search import EPOCHS, FakeExecutor, Quiet, go, make_plan, open_study, table


def test_one_failed_trial_of_ten_leaves_nine(tmp_path):
    plan = make_plan(n_trials=10)
    listener = Quiet()
    summary = go(tmp_path, plan, FakeExecutor(plan, broken={7: "ValueError: seven"}), listener=listener)
    states = [p.state for p in summary.trials]
    assert states.count(TrialState.FAILED) == 1
    assert summary.trials[7].outcome.reason == "ValueError: seven"
    assert summary.complete
    assert ("ended", 7, TrialState.FAILED) in listener.lines


def test_a_trial_that_fails_in_rung_2_is_failed_keeps_its_first_value_and_no_other_takes_its_place(tmp_path):
    plan = make_plan(n_trials=12)
    whole = go(tmp_path, plan)
    victim = next(p for p in whole.trials if p.rung == 2).number
    for name in ("broken", "again"):
        (tmp_path / name).mkdir()
    listener, broken = Quiet(), {(victim, 2): "killed by signal 9"}
    summary = go(tmp_path / "broken", plan, FakeExecutor(plan, broken=broken), listener=listener)
    trial = summary.trials[victim]
    assert (trial.state, trial.rung, trial.reason) == (TrialState.FAILED, 2, "rung 2: killed by signal 9")
    assert trial.quality == trial.first_quality == whole.trials[victim].first_quality
    assert ("ended", victim, TrialState.FAILED) in listener.lines
    others = [row for row in table(whole.trials) if row[0] != victim]
    assert [row for row in table(summary.trials) if row[0] != victim] == others
    executor = FakeExecutor(plan)
    assert table(go(tmp_path / "broken", plan, executor).trials) == table(summary.trials)
    assert executor.done == []  # the same command trains nothing more
    study = open_study(tmp_path / "again", plan)
    study.rebuild(summary.trials)
    assert table(study.trials()) == table(summary.trials)
    assert study.trials()[victim].reason == "rung 2: killed by signal 9"
    again = make_plan(n_trials=12, retry_failed=True)
    assert study.retry_failed() == 1
    executor = FakeExecutor(again)
    retried = search(again, study, executor, Quiet(), SearchLimits(total=12 + study.num_extra))
    assert executor.done == [(12, 2)]  # rung 2 alone, and nobody else is promoted
    assert retried.trials[12].by_seed == whole.trials[victim].by_seed
    assert [row for row in table(retried.trials) if row[0] not in {victim, 12}] == others


@pytest.mark.slow
def test_the_first_three_failing_alike_stop_the_sweep_and_keep_its_state(tmp_path):
    plan = make_plan(n_trials=10)
    reasons = {n: f"OSError: no space left after {n} bytes" for n in range(10)}
    summary = go(tmp_path, plan, FakeExecutor(plan, broken=reasons))
    assert summary.stopped == "the first 3 trials failed for the same reason"
    assert summary.too_many_failed
    assert [p.state for p in summary.trials[:4]] == [TrialState.FAILED] * 3 + [TrialState.WAITING]
    again = make_plan(n_trials=10, retry_failed=True)
    study = open_study(tmp_path, again)
    assert study.retry_failed() == 3
    summary = search(again, study, FakeExecutor(again), Quiet(), SearchLimits(total=10 + study.num_extra))
    assert summary.complete
    assert len([p for p in summary.trials if p.state is not TrialState.FAILED]) == 10


@pytest.mark.slow
def test_a_trial_that_failed_twice_is_tried_once_more(tmp_path):
    first = make_plan(n_trials=2, promote_fraction=1.0, rung_epochs=None)
    go(tmp_path, first, FakeExecutor(first, broken={1: "ValueError: x"}))
    plan = make_plan(n_trials=2, promote_fraction=1.0, rung_epochs=None, retry_failed=True)
    for broken in ({2: "ValueError: x"}, {}):
        study = open_study(tmp_path, plan)
        assert study.retry_failed() == 1
        executor = FakeExecutor(plan, broken=broken)
        summary = search(plan, study, executor, Quiet(), SearchLimits(total=2 + study.num_extra))
    assert [p.state for p in summary.trials] == [
        TrialState.COMPLETE,
        TrialState.FAILED,
        TrialState.FAILED,
        TrialState.COMPLETE,
    ]


def test_trials_lost_with_the_workers_template_do_not_stop_it(tmp_path):
    plan = make_plan(n_trials=6)
    assert go(tmp_path, plan, FakeExecutor(plan, broken=dict.fromkeys(range(3), Cause.TEMPLATE_DIED))).complete


def test_three_different_failures_do_not_stop_it(tmp_path):
    plan = make_plan(n_trials=6)
    broken = {0: "ValueError: a", 1: "KeyError: b", 2: "ValueError: a"}
    assert go(tmp_path, plan, FakeExecutor(plan, broken=broken)).complete


def test_max_failures(tmp_path):
    plan = make_plan(n_trials=10, max_failures=2)
    summary = go(tmp_path, plan, FakeExecutor(plan, broken={4: "ValueError: x", 6: "KeyError: y"}))
    assert summary.stopped == "sweep.max_failures=2 trials failed"
    assert summary.too_many_failed


@pytest.mark.parametrize("value", [None, "abc", "1.5", math.nan, math.inf, -math.inf, [], np.ones(2), True])
def test_an_objective_that_is_no_finite_number_fails_its_trial(value):
    outcome = checked(TrialOutcome(state=TrialState.COMPLETE, by_seed={0: value}))
    assert outcome.state is TrialState.FAILED
    assert outcome.reason.startswith("the objective is ")


def test_a_tensor_or_array_of_one_number_is_taken_as_the_number():
    torch = pytest.importorskip("torch")
    for value in (torch.tensor(0.5), np.float32(0.5), np.array([0.5])[0], 1):
        outcome = checked(TrialOutcome(state=TrialState.COMPLETE, by_seed={0: value}))
        assert outcome.state is TrialState.COMPLETE
        assert type(outcome.by_seed[0]) is float


def test_no_trial_is_left_running_by_a_bad_objective(tmp_path):
    plan = make_plan(n_trials=5, promote_fraction=1.0, rung_epochs=None)
    bad = iter([None, "1.5", -math.inf, math.nan, 0.5])
    summary = go(tmp_path, plan, FakeExecutor(plan, value=lambda *_: next(bad) if _[2] == EPOCHS else 0.5))
    assert [p.state for p in summary.trials] == [TrialState.FAILED] * 4 + [TrialState.COMPLETE]
    assert not [p for p in summary.trials if p.state is TrialState.RUNNING]
    assert all(p.quality is None or math.isfinite(p.quality) for p in ranked(summary.trials, True))


def test_what_the_user_must_mend_stops_the_sweep_and_loses_nothing(tmp_path):
    plan = make_plan(n_trials=6)

    class Fatal(FakeExecutor):
        def wait(self):
            number = next(iter(self.running))
            del self.running[number]
            return [TrialEnded(number=number, outcome=None, fatal="training.objective=x: is not computed")]

    summary = go(tmp_path, plan, Fatal(plan))
    assert summary.fatal == "training.objective=x: is not computed"
    assert go(tmp_path, plan).complete
