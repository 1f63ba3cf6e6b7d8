"""Sampler `frost` and the race in the real search loop, over a fake executor: kills, budgets, axes other than depth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.storages import JournalStorage

from frostline.decision import RaceEnd, Standing
from frostline.records.predictions import Evidence
from frostline.report.answer import answer_of
from frostline.search import Journal, Study
from frostline.spec import Space, parse_dimension
from tests.unit.advisor.fake_sweep import (
    DEAD,
    DECAY,
    DEPTH,
    RATE,
    SCHEDULE,
    Executor,
    Watch,
    quality,
    question,
    sweep,
    table,
)
from tests.unit.search.fake_search import Killed, make_plan

RANK = parse_dimension("freeze.rank", {"choices": [1, 2, 4, 8, 16]})[0]


def test_the_opening_then_the_search_then_fresh_seeds_until_it_is_settled(tmp_path):
    watch = Watch()
    summary, advisor = sweep(tmp_path / "a", Executor(), listener=watch)
    assert [p.depth for p in summary.trials[:9]] == [4, 4, 4, 3, 3, 3, 1, 0, 2]
    assert summary.race is RaceEnd.SETTLED
    decision, _ = advisor.decide(summary.trials)
    assert (decision.standing, decision.recommended.level) == (Standing.SETTLED, 3.0)
    raced = [line for line in watch.lines if line[0] == "replicated"]
    assert len(raced) == sum(len(p.replicates) for p in summary.trials) >= 8
    assert all(sorted(p.replicates) == list(range(1, len(p.replicates) + 1)) for p in summary.trials)
    assert len(summary.trials) == 9  # a further seed is no further trial


@pytest.mark.slow
@pytest.mark.parametrize("kill_after", [3, 8, 11, 14])
def test_killed_in_search_or_race_it_ends_in_the_same_table(tmp_path, kill_after):
    whole, _ = sweep(tmp_path / "whole", Executor())
    with pytest.raises(Killed):
        sweep(tmp_path / "torn", Executor(kill_after=kill_after))
    rest = Executor()
    torn, _ = sweep(tmp_path / "torn", rest)
    assert table(torn.trials) == table(whole.trials)
    again = Executor()
    assert table(sweep(tmp_path / "torn", again)[0].trials) == table(whole.trials)
    assert again.done == []


def test_any_numeric_key_can_be_the_axis_and_its_least_good_value_is_found(tmp_path):
    """Epochs: more than three give nothing."""
    epochs = parse_dimension("training.epochs", {"low": 1, "high": 6})[0]

    def value(params, seed=0):
        rng = np.random.default_rng(
            [seed, params["training.epochs"], round(-1000 * math.log10(params["optimizer.lr"]))]
        )
        wrong = 0.05 * (math.log10(params["optimizer.lr"]) + 3.5) ** 2
        return 0.8 - 0.1 * max(0, 3 - params["training.epochs"]) - wrong + rng.normal(0, 0.001)

    asked = question(epochs, RATE, chosen_axis="training.epochs")
    axis = asked.axis()
    assert axis.levels == (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    assert axis.relative_costs == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert axis.positions == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    summary, advisor = sweep(tmp_path / "a", Executor(value), (epochs, RATE), total=14, asked=asked)
    decision, _ = advisor.decide(summary.trials)
    assert (decision.standing, decision.recommended.level) == (Standing.SETTLED, 3.0)
    answer = answer_of(summary.trials, "accuracy", {None: advisor}, maximize=True, num_blocks=4, evidence=advisor.find)
    assert answer.recommended.params["training.epochs"] == 3
    # Beside a depth it is asked for by name; on a logarithmic range equal factors are equal steps.
    tokens = parse_dimension("training.max_tokens", {"low": 16, "high": 64, "step": 16})[0]
    assert question(DEPTH, tokens).axis_key == "freeze.depth"
    assert question(DEPTH, tokens, chosen_axis="training.max_tokens").axis().levels == (64.0, 48.0, 32.0, 16.0)
    sizes = parse_dimension("freeze.size", {"low": 4, "high": 16, "log": True})[0]
    axis = question(sizes, RATE, chosen_axis="freeze.size").axis()
    assert [axis.position(level) for level in (16.0, 8.0, 4.0)] == pytest.approx([0.0, 0.5, 1.0])


def test_the_smallest_lora_rank_within_the_margin(tmp_path):
    def by_rank(params, seed=0):
        rng = np.random.default_rng([seed, params["freeze.rank"]])
        return 0.8 - (0.06 if params["freeze.rank"] < 4 else 0.0) + rng.normal(0, 0.001)

    asked = question(RANK, freeze="lora")
    summary, advisor = sweep(tmp_path / "a", Executor(by_rank), (RANK,), total=5, asked=asked, settle=3.0)
    assert sorted(p.params["freeze.rank"] for p in summary.trials) == [1, 2, 4, 8, 16]
    decision, fitted = advisor.decide(summary.trials)
    assert fitted.axis.levels == (16, 8, 4, 2, 1)
    assert (decision.standing, decision.recommended.level) == (Standing.SETTLED, 4.0)


@pytest.mark.slow
def test_further_keys_are_searched_along(tmp_path):
    dimensions = (DEPTH, RATE, DECAY, SCHEDULE)
    summary, advisor = sweep(tmp_path / "a", Executor(), dimensions, settle=0.0, total=14)
    assert len({p.params["optimizer.weight_decay"] for p in summary.trials}) > 8
    assert {p.params["optimizer.schedule"] for p in summary.trials} == {"linear", "cosine"}
    for trial in summary.trials:
        Space(groups=(), variants={(): dimensions}).check(trial.params)
    again, _ = sweep(tmp_path / "b", Executor(), dimensions, settle=0.0, total=14)
    assert table(again.trials) == table(summary.trials)
    assert advisor.decide(summary.trials)[0].recommended.level in range(5)


def test_a_rate_alone_a_discrete_one_and_another_optimizers(tmp_path):
    summary, _ = sweep(tmp_path / "a", Executor(), (RATE,), settle=0.0, total=6)
    best = max(summary.trials, key=lambda p: p.quality)
    assert abs(math.log10(best.lr) + 4) < 0.4
    listed = parse_dimension("optimizer.lr", {"choices": [1e-5, 1e-4, 1e-3]})[0]
    summary, advisor = sweep(tmp_path / "b", Executor(), (DEPTH, listed), settle=0.0, total=12)
    assert {p.lr for p in summary.trials} <= {1e-5, 1e-4, 1e-3}
    assert {p.depth for p in summary.trials} == {0, 1, 2, 3, 4}
    assert len({(p.depth, p.lr) for p in summary.trials}) == 12  # no setting twice
    opening = advisor.opening()
    assert [each["freeze.depth"] for each in opening] == [4, 4, 3, 3, 1, 0, 2]
    nothing = parse_dimension("optimizer.lr", {"choices": [0.0, 1e-4]})[0]  # no decades between these
    summary, _ = sweep(tmp_path / "c", Executor(lambda params, seed: 0.5), (DEPTH, nothing), settle=0.0, total=6)
    assert {p.lr for p in summary.trials} <= {0.0, 1e-4}
    for blocks, optimizer in ((None, "adamw"), (4, "sgd")):
        axis = question(DEPTH, RATE, num_blocks=blocks, optimizer=optimizer).axis()
        assert axis.ridge.slope == 0.0
        assert axis.ridge.base == pytest.approx(-3.5)
        assert axis.positions == (0.0, 0.25, 0.5, 0.75, 1.0)


def test_where_nothing_learns_it_looks_elsewhere_and_never_at_the_same_place_twice(tmp_path):
    def find(trial, name):
        return Evidence(by_seed=trial.by_seed, rows=dict.fromkeys(trial.by_seed, DEAD))

    summary, advisor = sweep(tmp_path / "a", Executor(lambda params, seed=0: 0.5), total=14, find=find)
    assert len({tuple(p.params.values()) for p in summary.trials}) == 14
    assert not any(p.copy_of is not None or p.replicates for p in summary.trials)
    assert summary.race is RaceEnd.FUTILE
    assert advisor.decide(summary.trials) is None


def test_an_axis_that_can_not_be_counted(tmp_path):
    fraction = parse_dimension("freeze.fraction", {"low": 0.0, "high": 1.0})[0]

    def by_fraction(params, seed=0):
        return quality({"freeze.depth": 4 * params["freeze.fraction"], "optimizer.lr": params["optimizer.lr"]}, seed)

    summary, advisor = sweep(tmp_path / "a", Executor(by_fraction), (fraction, RATE), settle=0.0, total=15)
    tried = {p.params["freeze.fraction"] for p in summary.trials}
    assert len(tried) == 9
    decision, fitted = advisor.decide(summary.trials)
    assert set(fitted.axis.levels) == tried
    assert decision.recommended.level in tried


def test_a_trial_that_a_kill_left_half_drawn_gets_the_rest(tmp_path, monkeypatch):
    whole, advisor = sweep(tmp_path / "whole", Executor(), settle=0.0)
    plan = make_plan(n_trials=9, sampler="frost", promote_fraction=1.0, settle=0.0)
    space = Space(groups=(), variants={(): (DEPTH, RATE)})
    study = Study(
        Journal(tmp_path / "journal.log").open(), "test", plan, space, maximize=True,
        propose=lambda trials, number: advisor.propose(trials, number, 9, plan.seed),
    )  # fmt: skip
    study.fill([])
    first = whole.trials[0].params
    real = JournalStorage.set_trial_param

    def killed_at_the_rate(storage, trial_id, name, *more):
        if name == "optimizer.lr":
            raise Killed
        real(storage, trial_id, name, *more)

    with monkeypatch.context() as patch:
        patch.setattr(JournalStorage, "set_trial_param", killed_at_the_rate)
        with pytest.raises(Killed):
            study.begin(9)
    again = Study(
        Journal(tmp_path / "journal.log").open(), "test", plan, space, maximize=True,
        propose=lambda trials, number: advisor.propose(trials, number, 9, plan.seed),
    )  # fmt: skip
    assert again.begin(9) == (0, first)
