"""Further seeds: until it is settled, futile or out of budget."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from frostline.advisor import Advisor, rows_to_settle
from frostline.decision import LevelState, RaceEnd, Standing
from frostline.records.predictions import Evidence, RowScores, known
from frostline.records.trial import TrialState
from frostline.report.answer import answer_of
from frostline.report.text import standing_lines
from tests.unit.advisor.fake_sweep import DEAD, Executor, Watch, quality, sweep


def test_further_seeds_need_not_wait_for_full_fine_tuning(tmp_path):
    watch = Watch()
    summary, _ = sweep(tmp_path / "a", Executor(slots=2), listener=watch, full=True)
    assert summary.complete
    started = [line[1] for line in watch.lines if line[0] == "started"]
    first = started.index(-1)
    assert watch.lines.index(("ended", -1, TrialState.COMPLETE)) > watch.lines.index(("started", started[first + 1], 3))


def test_more_seeds_are_added_to_a_finished_sweep(tmp_path):
    noisy = lambda params, seed=0: quality(params, seed) + 0.02 * math.sin(7 * seed + params["freeze.depth"])  # noqa: E731
    first, _ = sweep(tmp_path / "a", Executor(noisy), settle=0.0)
    assert not any(p.replicates for p in first.trials)
    second, _ = sweep(tmp_path / "a", Executor(noisy), settle=1.0)
    third, _ = sweep(tmp_path / "a", Executor(noisy), settle=3.0)
    counts = [sum(len(p.replicates) for p in each.trials) for each in (first, second, third)]
    assert counts[0] < counts[1] < counts[2]
    assert [p.params for p in third.trials] == [p.params for p in first.trials]
    assert first.race is None
    assert second.race is RaceEnd.OUT_OF_BUDGET


def test_two_slots_get_two_jobs_even_for_one_contender(tmp_path):
    executor = Executor(slots=2)
    summary, _ = sweep(tmp_path / "a", executor)
    assert summary.race is RaceEnd.SETTLED
    assert len(set(executor.done)) == len(executor.done)


class Slow(Executor):
    """Full fine-tuning ends when nothing else runs."""

    def wait(self):
        if self.running[0].number == -1 and len(self.running) > 1:
            self.running.append(self.running.pop(0))
        return super().wait()


@pytest.mark.slow
def test_what_ends_last_may_begin_something_new(tmp_path):
    """However many slots there are: full fine-tuning needs further seeds of its own before anything is settled."""
    good = lambda params, seed=0: quality(params, seed) + 0.03 * (params["freeze.depth"] is None)  # noqa: E731
    for slots in (1, 2, 4):
        summary, advisor = sweep(tmp_path / str(slots), Slow(good, slots=slots), settle=4.0, full=True)
        decision, _ = advisor.decide(summary.trials)
        assert (summary.race, decision.standing) == (RaceEnd.SETTLED, Standing.SETTLED), slots


@pytest.mark.slow
@pytest.mark.parametrize("way", ["fail", "learn nothing"])
def test_a_contender_whose_further_seeds_come_to_nothing_does_not_eat_the_race(tmp_path, way):
    class Broken(Executor):
        def wait(self):
            task = self.running[0]
            if way == "fail" and task.seed is not None and task.params["freeze.depth"] == 2:
                self.broken = (*self.broken, task.key)
            return super().wait()

    def find(trial, name):
        nothing = [seed for seed in trial.replicates if way == "learn nothing" and trial.depth == 2]
        return Evidence(by_seed=trial.by_seed, rows=dict.fromkeys(nothing, DEAD))

    def value(params, seed=0):
        return quality(params, seed) + 0.02 * math.sin(7 * seed + params["freeze.depth"])

    summary, advisor = sweep(tmp_path / "a", Broken(value), settle=3.0, find=find)
    given = {p.depth: len(p.replicates) for p in summary.trials if p.replicates}
    assert given[2] == 2
    assert given[3] >= 2
    decision, _ = advisor.decide(summary.trials)
    level = next(level for level in decision.levels if level.level == 2)
    assert level.state is not LevelState.GOOD or way == "fail"
    answer = answer_of(summary.trials, "accuracy", {None: advisor}, maximize=True, num_blocks=4, evidence=advisor.find)
    words = "\n".join(standing_lines(answer))
    assert ("further seeds failed: 2 of 2" if way == "fail" else "and are left out: 2 of depth 2") in words


def test_of_a_trial_that_was_stopped_early_its_share_counts_in_the_budget(tmp_path):
    summary, advisor = sweep(tmp_path / "a", Executor(), settle=0.0)
    whole = [
        replace(trial, outcome=replace(trial.outcome, cost={"flops": 4e9 * (5 - trial.depth)}))
        for trial in summary.trials
    ]
    twice = [*whole, *(replace(trial, number=100 + trial.number) for trial in whole)]
    assert advisor.search_cost(twice) == pytest.approx(2 * advisor.search_cost(whole))
    stopped = [
        replace(
            trial, number=100 + trial.number, state=TrialState.PRUNED,
            outcome=replace(trial.outcome, state=TrialState.PRUNED, cost={"flops": 1e9 * (5 - trial.depth)}),
        )
        for trial in whole
    ]  # fmt: skip
    assert advisor.search_cost([*whole, *stopped]) == pytest.approx(1.25 * advisor.search_cost(whole))


def test_seeds_of_every_trial_count_in_the_budget_and_in_what_is_advised(tmp_path):
    summary, advisor = sweep(tmp_path / "a", Executor(), settle=0.0)
    once = advisor.search_cost(summary.trials)
    doubled = [
        replace(trial, outcome=replace(trial.outcome, by_seed={0: trial.quality, 1: trial.quality}))
        for trial in summary.trials
    ]
    assert advisor.search_cost(doubled) == pytest.approx(2 * once)
    for raced in (True, False):
        asked = replace(advisor.question, is_raced=raced, margin=0.01)
        answer = answer_of(
            summary.trials, "accuracy", {None: Advisor(question=asked, find=known)}, maximize=True, num_blocks=4
        )
        assert answer.main.requirement.seeds is not None
        assert (answer.settle_needed is not None) == raced


def test_a_further_seed_that_fails_is_recorded_and_another_one_is_taken(tmp_path):
    plain = Executor()
    whole, _ = sweep(tmp_path / "whole", plain)
    victim = next(key for key in plain.done if key[1] is not None)
    summary, _ = sweep(tmp_path / "a", Executor(broken=[victim]))
    trial = summary.trials[victim[0]]
    assert trial.replicates[victim[1]].state is TrialState.FAILED
    assert victim[1] not in trial.by_seed
    assert trial.state is TrialState.COMPLETE
    assert summary.race in {RaceEnd.SETTLED, RaceEnd.OUT_OF_BUDGET}
    assert whole.race is RaceEnd.SETTLED


def test_a_collapsed_run_is_not_raced_for(tmp_path):
    labels = np.arange(400) % 2

    def find(trial, name):
        rng = np.random.default_rng(trial.number)
        rows = {}
        for seed, value in trial.by_seed.items():
            right = rng.permutation(400) < round(400 * value)
            predicted = np.zeros(400, dtype=int) if trial.depth == 0 else np.where(right, labels, 1 - labels)
            rows[seed] = RowScores(labels=labels, predicted=predicted, losses=np.zeros(400))
        return Evidence(by_seed=trial.by_seed, rows=rows)

    summary, advisor = sweep(tmp_path / "a", Executor(), find=find, settle=1.0)
    assert not any(p.replicates for p in summary.trials if p.depth == 0)
    decision, _ = advisor.decide(summary.trials)
    assert {run.setting.level for run in decision.collapsed} == {0.0}
    assert not next(level for level in decision.levels if level.level == 0.0).tried


@pytest.mark.parametrize(
    ("rows", "at_hand", "trained", "asked", "expected"),
    [
        (512, 2000, 1024, None, 2000),  # all there are
        (512, 1_000_000, 1024, None, 3072),  # as long as to score them takes no longer than to train
        (2000, 2000, 100, None, 2000),  # never fewer than the search's
        (2000, 5000, 100, None, 2000),
        (512, 2000, 1024, 700, 700),
        (512, 2000, 1024, 9000, 2000),
    ],
)
def test_the_rows_that_settle_it(rows, at_hand, trained, asked, expected):
    assert rows_to_settle(rows, at_hand, trained, asked) == expected


def test_what_more_rows_cost_comes_out_of_the_budget(tmp_path):
    def counted(at_hand):
        noisy = lambda params, seed=0: quality(params, seed) + 0.02 * math.sin(7 * seed + params["freeze.depth"])  # noqa: E731
        executor = Executor(noisy, at_hand=at_hand)
        summary, advisor = sweep(tmp_path / str(at_hand), executor, settle=1.0)
        assert summary.race is RaceEnd.OUT_OF_BUDGET
        fitted = advisor.fit(summary.trials)
        spent = sum(len(p.replicates) * fitted.axis.cost(p.depth) for p in summary.trials)
        return fitted.race_rows, spent * fitted.race_cost / advisor.search_cost(summary.trials), spent

    rows, used, spent = counted(20_000)
    more_rows, more_used, more_spent = counted(60_000)
    assert (rows, more_rows) == (None, 60_000)
    assert 0.7 < used <= 1
    assert 0.7 < more_used <= 1
    assert more_spent < spent
