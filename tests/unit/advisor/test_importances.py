"""How much each key explains."""

from __future__ import annotations

import math

import pytest

from frostline.advisor import TOGETHER, importances
from frostline.spec import parse_dimension
from tests.unit.advisor.fake_sweep import DECAY, DEPTH, RATE, SCHEDULE, Executor, sweep


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda params, seed: params["freeze.depth"] / 10, {"freeze.depth": 1.0}),
        (lambda params, seed: math.log10(params["optimizer.lr"]) / 10, {"optimizer.lr": 1.0}),
        # Two coordinates of one size that multiply: all is in both together.
        (
            lambda params, seed: 0.1 * (params["freeze.depth"] - 2) * (math.log10(params["optimizer.lr"]) + 3.5),
            {TOGETHER: 1.0},
        ),
    ],
)
def test_importances_are_those_of_the_surface(tmp_path, value, expected):
    summary, advisor = sweep(tmp_path, Executor(value=value), settle=0, total=24)
    found = importances(advisor.question, advisor.fit(summary.trials))
    assert list(found) == ["freeze.depth", "optimizer.lr", TOGETHER]
    assert sum(found.values()) == pytest.approx(1)
    for key, share in expected.items():
        assert found[key] == pytest.approx(share, abs=0.15)


def test_importances_of_an_axis_that_cant_be_counted(tmp_path):
    fraction = parse_dimension("freeze.fraction", {"low": 0.0, "high": 1.0})[0]
    executor = Executor(value=lambda params, seed: 0.9 - params["freeze.fraction"] / 5)
    summary, advisor = sweep(tmp_path, executor, (fraction, RATE), settle=0, total=16)
    found = importances(advisor.question, advisor.fit(summary.trials))
    assert found["freeze.fraction"] > 0.8
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.slow
def test_a_key_of_many_values_without_effect_explains_nothing(tmp_path):
    warmup = parse_dimension("training.warmup_steps", {"low": 0, "high": 1000})[0]
    executor = Executor(value=lambda params, seed: params["freeze.depth"] / 10)
    summary, advisor = sweep(tmp_path, executor, (DEPTH, RATE, DECAY, warmup), settle=0, total=11)
    found = importances(advisor.question, advisor.fit(summary.trials))
    assert found["training.warmup_steps"] < 0.05
    assert sum(found.values()) == pytest.approx(1)


def test_importances_of_few_runs_are_none(tmp_path):
    summary, advisor = sweep(tmp_path, Executor(), settle=0, total=7)
    assert importances(advisor.question, advisor.fit(summary.trials)) == {}


@pytest.mark.slow
def test_importances_of_many_keys_and_of_none(tmp_path):
    keys = (DEPTH, RATE, DECAY, SCHEDULE)
    value = {"linear": 0.0, "cosine": 0.2}
    executor = Executor(value=lambda params, seed: 0.5 + value[params["optimizer.schedule"]])
    summary, advisor = sweep(tmp_path / "many", executor, keys, settle=0, total=24)
    assert importances(advisor.question, advisor.fit(summary.trials))["optimizer.schedule"] > 0.8
    summary, advisor = sweep(tmp_path / "one", Executor(), (DEPTH,), settle=0)
    assert importances(advisor.question, advisor.fit(summary.trials)) == {}
