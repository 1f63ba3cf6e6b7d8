"""What runs without a lesson, rows and many trials do to the answer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from frostline.advisor import Advisor, row_vector
from frostline.decision import Standing
from frostline.records.predictions import Evidence, RowScores, known
from frostline.records.trial import TrialOutcome, TrialState
from frostline.report.answer import answer_of
from frostline.report.text import standing_lines
from tests.unit.advisor.fake_sweep import DEAD, DEPTH, RATE, Executor, many, question, sweep


def test_a_level_that_no_run_tells_of_is_no_contender_and_is_named(tmp_path):
    """All runs at depth 0 learnt nothing: further seeds of the others can't settle its result."""

    def find(trial, name):
        return Evidence(by_seed=trial.by_seed, rows=dict.fromkeys(trial.by_seed, DEAD) if trial.depth == 0 else {})

    summary, advisor = sweep(tmp_path / "a", Executor(), settle=3.0, find=find)
    answer = answer_of(summary.trials, "accuracy", {None: advisor}, maximize=True, num_blocks=4, evidence=advisor.find)
    main = answer.main
    assert 0.0 not in {level.level for level in main.decision.contenders}
    assert 0.0 not in {level.level for level in main.decision.lacking_seeds}
    words = "\n".join(standing_lines(answer))
    assert "all runs learnt nothing: 0 (their numbers" in words
    assert "not tried to the end" not in words


def test_rows_that_are_all_right_are_not_certain(tmp_path):
    labels = np.arange(20) % 2

    def find(trial, name):
        rows = RowScores(labels=labels, predicted=labels, losses=np.zeros(20))
        return Evidence(by_seed=trial.by_seed, rows=dict.fromkeys(trial.by_seed, rows))

    summary, advisor = sweep(tmp_path / "a", Executor(lambda params, seed=0: 1.0), settle=0.0, find=find)
    decision, _ = advisor.decide(summary.trials)
    assert all(level.low < 0.95 for level in decision.levels)
    assert decision.standing is Standing.NOT_SETTLED


@pytest.mark.parametrize("train_rows", [100, 200_000])
def test_what_is_assumed_of_seeds_does_not_depend_on_the_rows_where_only_values_are_known(tmp_path, train_rows):
    asked = question(DEPTH, RATE, metric="entity_f1")
    summary, advisor = sweep(tmp_path / "a", Executor(), settle=0.0, asked=asked)
    trials = [
        replace(trial, outcome=replace(trial.outcome, cost={**trial.outcome.cost, "train_rows": float(train_rows)}))
        for trial in summary.trials
    ]
    spread = np.std([trial.quality for trial in trials])
    assert advisor.fit(trials).noise.seed_sd == pytest.approx(0.9 * spread / 3)


def test_a_run_that_found_no_entity_is_left_out(tmp_path):
    asked = question(DEPTH, RATE, metric="entity_f1")
    summary, advisor = sweep(tmp_path / "a", Executor(), settle=0.0, asked=asked)
    last = summary.trials[-1]
    nothing = replace(last, outcome=replace(last.outcome, by_seed={0: 0.0}))
    decision, _ = advisor.decide([*summary.trials[:-1], nothing])
    assert [run.value for run in decision.collapsed] == [0.0]


@pytest.mark.slow
def test_rows_that_may_have_several_classes_are_scored_class_by_class():
    rng = np.random.default_rng(0)
    truth = rng.random((500, 8)) < 0.4
    said = truth ^ (rng.random((500, 8)) < 0.15)
    bits = 2 ** np.arange(8)
    rows = RowScores(labels=truth @ bits, predicted=said @ bits, losses=np.zeros(500), num_classes=8)
    for average in ("macro", "micro"):
        samples = [rng.integers(0, 500, 500) for _ in range(200)]
        values = [f1_score(truth[sample], said[sample], average=average) for sample in samples]
        vector = row_vector(rows, f"f1_{average}")
        assert math.sqrt(vector @ vector) == pytest.approx(np.std(values), rel=0.2)
    assert row_vector(rows, "f1") is None
    assert row_vector(rows, "matthews_correlation") is None
    share = (truth == said).all(axis=1).mean()
    vector = row_vector(rows, "accuracy")
    assert vector @ vector == pytest.approx(share * (1 - share) / 500)


def test_of_very_many_trials_as_many_of_each_depth_are_taken_whatever_they_came_to():
    advisor = Advisor(question=question(DEPTH, RATE), find=known)
    taken = []
    for seed in (1, 2):
        trials = many(300, seed)
        further = TrialOutcome(state=TrialState.COMPLETE, by_seed={1: 0.7})
        trials[250] = replace(trials[250], replicates={1: further})
        fitted = advisor.fit(trials, most=50)
        assert fitted.num_left_out == 250
        chosen = fitted.trials.values()
        taken.append([trial.number for trial in chosen])
        depths = [trial.params["freeze.depth"] for trial in chosen]
        assert {depth: depths.count(depth) for depth in range(5)} == {0: 10, 1: 10, 2: 10, 3: 10, 4: 10}
        assert 250 in taken[-1]  # it has a further seed
        own = sorted(trial.number for trial in chosen if trial.params["freeze.depth"] == 2)
        assert len([number for number in own if number >= 100]) > 5  # from the whole course of the sweep
    assert taken[0] == taken[1]
    assert advisor.fit(trials).num_left_out == 0


@pytest.mark.slow
def test_an_answer_says_how_many_trials_it_was_made_without():
    find = known
    trials = many(1100, 3)
    answer = answer_of(trials, "accuracy", {None: Advisor(question=question(DEPTH, RATE), find=find)}, maximize=True,
                       num_blocks=4, baselines=(), evidence=find)  # fmt: skip
    assert any(
        line.startswith("made without 100 of so many trials: as many at each depth") for line in standing_lines(answer)
    )
