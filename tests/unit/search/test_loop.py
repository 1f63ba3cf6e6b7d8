"""The ask/tell loop, driven by a fake executor: totals, rungs, resumption, failures, pruning, every sampler."""

from __future__ import annotations

import random

import numpy as np
import pytest

from frostline.records.trial import TrialState
from frostline.search import (
    SearchLimits,
    queue_of,
    search,
)
from frostline.spec import Space, parse_dimension
from tests.unit.search.fake_search import (
    EPOCHS,
    SPACE,
    FakeExecutor,
    Killed,
    Quiet,
    go,
    make_plan,
    open_study,
    quality,
    table,
)


def test_a_total_of_trials_the_coarse_grid_first_and_the_deepest_of_it_first(tmp_path):
    summary = go(tmp_path, make_plan(n_trials=10))
    assert summary.complete
    assert len(summary.trials) == 10
    queue = queue_of(make_plan(n_trials=10), SPACE, None)
    assert [p.params for p in summary.trials[:6]] == queue
    assert [params["freeze.depth"] for params in queue] == [4, 4, 2, 2, 0, 0]


@pytest.mark.parametrize("total", [3, 4])
def test_a_coarse_grid_that_is_too_large_is_thinned_in_every_direction(total):
    queue = queue_of(make_plan(n_trials=total), SPACE, None)
    assert len(queue) == total
    for key in ("freeze.depth", "optimizer.lr"):
        assert len({params[key] for params in queue}) > 1


@pytest.mark.slow
def test_a_sweep_killed_anywhere_and_resumed_ends_like_an_undisturbed_one(tmp_path):
    plan = make_plan(n_trials=14)
    (tmp_path / "whole").mkdir()
    whole = go(tmp_path / "whole", plan)
    rng = random.Random(0)
    for attempt in range(6):
        folder = tmp_path / f"killed-{attempt}"
        folder.mkdir()
        trained = []
        while True:
            executor = FakeExecutor(plan, kill_after=rng.randint(1, 9))
            try:
                summary = go(folder, plan, executor)
            except Killed:
                trained += executor.done
                with (folder / "journal.log").open("ab") as file:  # and the last line is torn
                    file.write(b'{"op_code": 5, "worker')
                continue
            trained += executor.done
            break
        assert table(summary.trials) == table(whole.trials)
        assert len(trained) == len(set(trained))  # what is finished is never trained again


def test_raising_the_total_continues(tmp_path):
    first = go(tmp_path, make_plan(n_trials=8))
    executor = FakeExecutor(make_plan(n_trials=12))
    more = go(tmp_path, make_plan(n_trials=12), executor)
    assert len(more.trials) == 12
    assert len([number for number, rung in executor.done if rung == 1]) == 4
    finished = [row for row in table(first.trials) if row[2] is TrialState.COMPLETE]
    assert [row for row in table(more.trials) if row[0] in {number for number, *_ in finished}] == finished


def test_slots_and_their_order_change_no_value(tmp_path):
    plan = make_plan(n_trials=12)
    for name, slots, order in (("one", 1, None), ("three", 3, random.Random(1))):
        (tmp_path / name).mkdir()
        summary = go(tmp_path / name, plan, FakeExecutor(plan, slots=slots, order=order))
        assert len(summary.trials) == 12
        for trial in summary.trials:
            assert trial.quality == quality(trial.params, epoch=EPOCHS if trial.rung == 2 else 1)


def test_a_trial_that_was_started_is_started_again_by_the_next_command(tmp_path):
    plan = make_plan(n_trials=4)
    study = open_study(tmp_path, plan)
    study.fill([])
    started = study.begin(4)
    assert open_study(tmp_path, plan).begin(4) == started


def test_an_interruption_and_a_time_limit(tmp_path):
    plan = make_plan(n_trials=8, timeout_s=5.0)
    clock = iter([0.0, *range(1000)])
    summary = go(tmp_path, plan, clock=lambda: next(clock))
    assert summary.stopped == "sweep.timeout_s=5 is reached; a larger one continues"
    assert not summary.too_many_failed
    assert not [p for p in summary.trials if p.state is TrialState.RUNNING]
    flags = iter([False, False, True, *[True] * 100])
    summary = go(tmp_path, make_plan(n_trials=8), should_stop=lambda: next(flags))
    assert summary.stopped == "interrupted"
    assert go(tmp_path, make_plan(n_trials=8)).complete


def test_like_trials_are_trained_once(tmp_path):
    plan = make_plan(n_trials=12, sampler="random", promote_fraction=1.0, rung_epochs=None)
    small = Space(groups=(), variants={(): (
        parse_dimension("freeze.depth", {"choices": [0, 1]})[0], parse_dimension("optimizer.lr", {"choices": [1e-3]})[0]
    )})  # fmt: skip
    executor = FakeExecutor(plan)
    summary = go(tmp_path, plan, executor, space=small, explicit=())
    assert len(executor.done) == 2
    copies = [p for p in summary.trials if p.copy_of is not None]
    assert len(copies) == 10
    originals = {p.number: p for p in summary.trials}
    assert all(p.first_quality == originals[p.copy_of].first_quality for p in copies)
    assert all(p.quality == originals[p.copy_of].quality for p in copies)


@pytest.mark.slow
def test_warm_start_teaches_the_sampler_and_is_not_counted(tmp_path):
    plan = make_plan(n_trials=4, promote_fraction=1.0, rung_epochs=None)
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old = go(tmp_path / "old", make_plan(n_trials=20, promote_fraction=1.0, rung_epochs=None))
    study = open_study(tmp_path / "new", plan)
    study.fill([], warm=old.trials)
    assert study.num_warm() == 20
    summary = search(plan, study, FakeExecutor(plan), Quiet(), SearchLimits(total=4))
    assert len(summary.trials) == 4
    cold = [quality(params) for params in queue_of(plan, SPACE, None)]
    assert max(p.quality for p in summary.trials) > np.mean(cold)
