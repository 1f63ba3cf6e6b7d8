"""A forecast is the schedule of the very trials, checked against sums done by hand."""

from __future__ import annotations

import pytest

from frostline.search import Costs, forecast, queue_of
from tests.unit.search.fake_search import SPACE, make_plan

DEPTHS = [4, 3, 2, 1, 0]


def costs(**changes):
    """An epoch takes 10 s, less two for each frozen block; 1 s beside it."""
    plain = {
        "epoch_s": lambda depth: 10.0 - 2.0 * (depth or 0),
        "trial_s": 1.0,
        "start_s": 7.0,
        "fill_s": 20.0,
        "cache_bytes": 1e9,
    }
    return Costs(**{**plain, **changes})


def test_one_rung_on_one_worker_is_the_sum(tmp_path):
    plan = make_plan(n_trials=6, promote_fraction=1.0, rung_epochs=None)
    queue = queue_of(plan, SPACE, None)  # depths 4, 4, 2, 2, 0, 0
    found = forecast(plan, queue, DEPTHS, 3.0, costs(), workers=1)
    assert found.busy_s == pytest.approx(2 * (1 + 3 * 2) + 2 * (1 + 3 * 6) + 2 * (1 + 3 * 10))
    assert found.wall_s == pytest.approx(7 + 20 + found.busy_s)
    assert found.idle == pytest.approx(0)
    assert (found.trials, found.num_promoted) == (6, 0)
    assert found.by_depth[4] == (2, 7.0, 7.0)
    assert found.longest_s == 31.0


def test_two_rungs_add_the_rest_of_the_best_share_and_of_the_best_at_each_depth():
    plan = make_plan(n_trials=10, promote_fraction=0.2, rung_epochs=1)
    found = forecast(plan, [], DEPTHS, 3.0, costs(fill_s=0.0, start_s=0.0), workers=1)
    first = sum(2 * (1 + 10 - 2 * depth) for depth in DEPTHS)
    assert found.num_promoted == 2 + 4  # of five depths, four have no trial in the share
    second = [1 + 2 * (10 - 2 * depth) for depth in (0, 1, 2, 3, 4, 0)]
    assert found.busy_s == pytest.approx(first + sum(second))
    assert found.by_depth[0] == (2, 11.0, 32.0)


def test_more_workers_shorten_it_down_to_the_longest_trial():
    plan = make_plan(n_trials=10, promote_fraction=1.0, rung_epochs=None)
    walls = [
        forecast(plan, [], DEPTHS, 3.0, costs(fill_s=0.0, start_s=0.0), workers=workers).wall_s
        for workers in (1, 2, 10, 100)
    ]
    assert walls == sorted(walls, reverse=True)
    assert walls[1] < 0.6 * walls[0]
    assert walls[2] == walls[3] == 31.0
    found = forecast(plan, [], DEPTHS, 3.0, costs(fill_s=0.0, start_s=0.0), workers=10)
    assert found.idle == pytest.approx(1 - found.busy_s / 310)


def test_seeds_multiply_and_a_sweep_without_depth_has_one_row():
    plan = make_plan(n_trials=3, promote_fraction=1.0, rung_epochs=None, seeds=[0, 1])
    found = forecast(plan, [{}, {}, {}], [None], 2.0, costs(), workers=1)
    assert found.by_depth == {None: (3, 42.0, 42.0)}
    assert found.busy_s == 126.0
