"""Optuna's samplers, pruners and several objectives."""

from __future__ import annotations

import contextlib
import json

import pytest

from frostline.errors import UserError
from frostline.records.trial import TrialState
from frostline.search import (
    SearchLimits,
    queue_of,
    search,
)
from frostline.spec import CostName, PrunerName, SamplerName
from tests.unit.search.fake_search import SPACE, FakeExecutor, Killed, Quiet, go, make_plan, open_study, quality, table


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [name for name in SamplerName if name is not SamplerName.GP])
def test_every_sampler_fills_its_total_and_is_repeatable(tmp_path, sampler):
    plan = make_plan(n_trials=10, sampler=sampler.value, promote_fraction=1.0, rung_epochs=None)
    tables = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tables.append(table(go(tmp_path / name, plan, explicit=()).trials))
    assert tables[0] == tables[1]
    assert len(tables[0]) == 10
    assert len({json.dumps(row[1], sort_keys=True) for row in tables[0]}) == 10
    for _, params, _, _, _ in tables[0]:
        SPACE.check(params)


@pytest.mark.slow
def test_the_gp_sampler_too(tmp_path):
    plan = make_plan(n_trials=14, sampler="gp", promote_fraction=1.0, rung_epochs=None)
    summary = go(tmp_path, plan, explicit=())
    assert max(p.quality for p in summary.trials[10:]) > 0.75


def test_the_grid_is_all_of_the_space(tmp_path):
    plan = make_plan(n_trials=None, sampler="grid", promote_fraction=1.0, rung_epochs=None)
    queue = queue_of(plan, SPACE, None)
    assert len(queue) == 5 * 2
    assert queue == sorted(queue, key=lambda params: -params["freeze.depth"])
    assert len(go(tmp_path, plan, total=len(queue)).trials) == 10


@pytest.mark.slow
def test_a_grid_whose_total_is_raised_continues_the_grid(tmp_path):
    whole = queue_of(make_plan(n_trials=None, sampler="grid", promote_fraction=1.0, rung_epochs=None), SPACE, None)
    for total in (3, None):
        plan = make_plan(n_trials=total, sampler="grid", promote_fraction=1.0, rung_epochs=None)
        queue = queue_of(plan, SPACE, None)
        study = open_study(tmp_path, plan)
        study.fill(queue)
        study.extend(queue, total or len(queue))
        search(plan, study, FakeExecutor(plan), Quiet(), SearchLimits(total=total or len(queue)))
    assert [p.params for p in study.trials()] == whole


def test_more_trials_to_try_first_than_the_total_are_refused():
    trials = [{"freeze.depth": depth, "optimizer.lr": 1e-4} for depth in (0, 1, 2)]
    with pytest.raises(UserError, match="names 3 trials"):
        queue_of(make_plan(n_trials=2), SPACE, trials)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("median", {"startup_trials": 2}), ("percentile", {"startup_trials": 2, "percentile": 25.0}),
     ("halving", {"reduction_factor": 2}), ("hyperband", {"reduction_factor": 2})],
)  # fmt: skip
@pytest.mark.parametrize("cost", [None, "num_trainable"])
def test_pruners_prune_under_rungs_and_with_a_cost(tmp_path, name, settings, cost):
    """Optuna's own compare with COMPLETE trials, of which rung 1 has none, and never prune several objectives."""
    rungs = (
        {"promote_fraction": 0.25, "rung_epochs": 3} if cost is None else {"promote_fraction": 1.0, "rung_epochs": None}
    )
    plan = make_plan(n_trials=24, sampler="random", cost=cost, pruner={"name": name, **settings}, **rungs)
    summary = go(tmp_path, plan, FakeExecutor(plan), explicit=())
    pruned = [p for p in summary.trials if p.outcome.reason == "pruned"]
    assert pruned
    assert len(pruned) < 24


@pytest.mark.slow
@pytest.mark.parametrize("name", ["halving", "hyperband", "median"])
def test_a_kill_right_after_a_verdict_does_not_change_it(tmp_path, name):
    plan = make_plan(
        n_trials=14, sampler="random", promote_fraction=1.0, rung_epochs=None,
        pruner={"name": name, "reduction_factor": 2, "startup_trials": 2},
    )  # fmt: skip
    (tmp_path / "whole").mkdir()
    whole = go(tmp_path / "whole", plan, explicit=())
    assert any(p.state is TrialState.PRUNED for p in whole.trials)
    for kill in range(1, 40, 3):
        folder = tmp_path / f"killed-{kill}"
        folder.mkdir()
        with contextlib.suppress(Killed):
            go(folder, plan, FakeExecutor(plan, kill_after=kill), explicit=())
        assert table(go(folder, plan, explicit=()).trials) == table(whole.trials), kill


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (PrunerName.MEDIAN, {"startup_trials": 3}),
        (PrunerName.PERCENTILE, {"startup_trials": 3, "percentile": 25.0}),
        (PrunerName.HALVING, {"reduction_factor": 2}),
        (PrunerName.HYPERBAND, {"reduction_factor": 2}),
    ],
)
def test_pruners_stop_the_worst(tmp_path, name, settings):
    plan = make_plan(
        n_trials=14, sampler="random", promote_fraction=1.0, rung_epochs=None, pruner={"name": name.value, **settings}
    )
    summary = go(tmp_path, plan, explicit=())
    pruned = [p for p in summary.trials if p.state is TrialState.PRUNED]
    done = [p for p in summary.trials if p.state is TrialState.COMPLETE]
    assert pruned
    assert done
    assert max(quality(p.params) for p in pruned) <= max(p.quality for p in done)


def test_the_patient_pruner_stops_what_gains_nothing(tmp_path):
    plan = make_plan(n_trials=3, promote_fraction=1.0, rung_epochs=None, pruner={"name": "patient", "patience": 0})
    falling = FakeExecutor(plan, value=lambda params, seed, epoch: 0.9 - 0.1 * epoch)
    summary = go(tmp_path, plan, falling)
    assert {p.state for p in summary.trials} == {TrialState.PRUNED}


def test_wilcoxon_runs(tmp_path):
    plan = make_plan(n_trials=6, promote_fraction=1.0, rung_epochs=None, pruner={"name": "wilcoxon"})
    assert go(tmp_path, plan).complete


def test_two_objectives_and_pruning_within_a_depth(tmp_path):
    plan = make_plan(
        n_trials=20, cost="num_trainable", promote_fraction=1.0, rung_epochs=None, sampler="random",
        pruner={"name": "median", "startup_trials": 2},
    )  # fmt: skip
    summary = go(tmp_path, plan, explicit=())
    assert summary.complete
    pruned = [p for p in summary.trials if p.state is TrialState.PRUNED]
    assert pruned
    for trial in pruned:  # never for being worse than another depth
        alike = [p for p in summary.trials if p.depth == trial.depth and p.number < trial.number]
        assert any(p.history.get(1, -1) > trial.history[1] for p in alike)
    done = [p for p in summary.trials if p.state is TrialState.COMPLETE]
    assert all(p.cost(CostName.NUM_TRAINABLE) == 10 - p.depth for p in done)
