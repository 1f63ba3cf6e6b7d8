"""Rungs: which trials are promoted, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optuna.trial import TrialState as OptunaState

from frostline.records.trial import TrialOutcome, TrialRecord, TrialState
from frostline.search.promotion import eliminated, promotable, promoted
from tests.unit.search.fake_search import EPOCHS, FakeExecutor, go, make_plan, open_study, optuna_trials, quality


def test_the_best_quarter_and_the_best_at_each_depth_go_on_to_the_end(tmp_path):
    plan = make_plan(n_trials=16)
    summary = go(tmp_path, plan)
    ended = [p for p in summary.trials if p.state is TrialState.COMPLETE]
    waiting = [p for p in summary.trials if p.state is TrialState.PRUNED]
    assert len(ended) + len(waiting) == 16
    assert all(p.rung == 2 for p in ended)
    assert {p.depth for p in ended} == {p.depth for p in summary.trials}
    by_first = sorted(summary.trials, key=lambda p: -p.first_quality)
    assert {p.number for p in by_first[:4]} <= {p.number for p in ended}
    for trial in waiting:
        better = [p for p in ended if p.depth == trial.depth]
        assert max(p.first_quality for p in better) >= trial.first_quality
        assert trial.quality == pytest.approx(quality(trial.params, epoch=1))
    assert all(p.quality == pytest.approx(quality(p.params)) for p in ended)


def waits(number, params, value, loss=None, learnt=True):
    """A trial at the end of its rung 1."""
    first = TrialOutcome(state=TrialState.COMPLETE, by_seed={0: value}, paused=True, loss=loss, learnt=learnt)
    return TrialRecord(number=number, params=params, state=TrialState.PRUNED, outcome=first, first_rung=first)


def test_promotion_goes_by_loss_and_not_to_what_learnt_nothing():
    plan = make_plan(n_trials=4, promote_fraction=0.25)
    tied = [waits(n, {"freeze.depth": 0}, 0.5, loss) for n, loss in enumerate([0.69, 0.71, 0.66, 0.70])]
    assert [task.number for task in promoted(tied, plan, True)] == [2]
    # the majority class on skewed rows: the best loss, and nothing learnt
    skewed = [*tied[:2], waits(2, {"freeze.depth": 0}, 0.9, 0.3, learnt=False), tied[3]]
    assert [task.number for task in promoted(skewed, plan, True)] == [0]
    # where a loss is missing all go by the objective
    some = [*tied[:3], waits(3, {"freeze.depth": 0}, 0.8)]
    assert [task.number for task in promoted(some, plan, True)] == [3]
    assert [task.number for task in promotable(tied, plan, True)] == [2]
    whole = make_plan(n_trials=4, promote_fraction=0.25, seeds=[0, 1], rung_epochs=None)  # of the first seed
    better = [*tied[:3], waits(3, {"freeze.depth": 0}, 0.6, 0.9)]
    assert [task.number for task in promoted(better, whole, True)] == [3]
    assert promotable(tied[:3], plan, True) == []


def test_the_best_are_promoted_before_all_have_ended_rung_1(tmp_path):
    plan = make_plan(n_trials=16)
    executor = FakeExecutor(plan)
    summary = go(tmp_path, plan, executor)
    rungs = [rung for _, rung in executor.done]
    assert 2 in rungs[: rungs.index(1, 8)]
    # one trial each, from its beginning to its end
    trials = optuna_trials(tmp_path)
    assert len(trials) == 16
    assert {trial.state for trial in trials} == {OptunaState.COMPLETE, OptunaState.PRUNED}
    for frozen, trial in zip(trials, summary.trials, strict=True):
        ended = frozen.state is OptunaState.COMPLETE
        assert ended == (trial.rung == 2)
        assert frozen.value == pytest.approx(trial.quality if ended else trial.first_quality)
        assert not trial.is_paused


def test_a_share_is_not_one_more_for_a_rounding_error(tmp_path):
    plan = make_plan(n_trials=100, promote_fraction=0.07)
    waiting = [
        waits(n, {"optimizer.lr": 1e-4 + n * 1e-6}, n / 100)
        for n in range(100)
    ]  # fmt: skip
    assert len(promoted(waiting, plan, True)) == 7


def test_depths_of_two_models_have_a_best_each():
    plan = make_plan(n_trials=4, promote_fraction=0.01)
    waiting = [
        waits(n, {"model": model, "freeze.depth": 2}, value)
        for n, (model, value) in enumerate([("big", 0.9), ("big", 0.8), ("small", 0.5), ("small", 0.6)])
    ]  # fmt: skip
    assert [task.number for task in promoted(waiting, plan, True)] == [0, 3]


def test_seeds_are_averaged_and_bad_trials_stop_after_the_first(tmp_path):
    plan = make_plan(n_trials=8, seeds=[0, 1, 2], rung_epochs=None)
    trials = go(tmp_path, plan).trials
    done = [p for p in trials if p.state is TrialState.COMPLETE]
    assert all(len(p.outcome.by_seed) == 3 for p in done)
    assert all(len(p.outcome.by_seed) == 1 for p in trials if p.state is TrialState.PRUNED)
    assert done[0].quality == pytest.approx(quality(done[0].params, 1))
    assert done[0].spread == pytest.approx(0.003)


def test_the_sampler_gets_the_quality_of_a_whole_first_seed(tmp_path):
    plan = make_plan(n_trials=8, seeds=[0, 1], rung_epochs=None)
    go(tmp_path, plan)
    for frozen, trial in zip(optuna_trials(tmp_path), open_study(tmp_path, plan).trials(), strict=True):
        assert frozen.intermediate_values[max(frozen.intermediate_values)] == pytest.approx(trial.first_quality)
        assert len(frozen.intermediate_values) == EPOCHS


def test_no_checkpoint_is_kept_that_no_trial_can_need(tmp_path):
    plan = make_plan(n_trials=16)
    trials = go(tmp_path, plan, FakeExecutor(plan)).trials
    rung_1 = [replace(p, rung=1, state=TrialState.PRUNED, outcome=p.first_rung) for p in trials]
    missing = set(eliminated(rung_1, plan, True, 16))
    assert missing
    assert not missing & {task.number for task in promoted(rung_1, plan, True)}
