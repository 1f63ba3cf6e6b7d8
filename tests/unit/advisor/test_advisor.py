"""Sampler `frost` and the race in the real search loop, over a fake executor: kills, budgets, axes other than depth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from frostline.advisor import TOGETHER, Advisor, Question, importances, row_vector, rows_to_settle
from frostline.decision import LevelState, RaceEnd, Standing
from frostline.records.predictions import Evidence, RowScores, known
from frostline.records.trial import TrialOutcome, TrialRecord, TrialState
from frostline.report.answer import answer_of
from frostline.report.text import standing_lines
from frostline.search import Journal, SearchLimits, Study, TrialEnded, queue_of, search
from frostline.search.samplers import distribution
from frostline.spec import Space, parse_dimension
from frostline.sweep.questions import SeedRace
from tests.unit.search.test_loop import Killed, Quiet, make_plan

DEPTH = parse_dimension("freeze.depth", {"low": 0, "high": 4})[0]
RATE = parse_dimension("optimizer.lr", {"low": 1e-5, "high": 1e-2, "log": True})[0]
RANK = parse_dimension("freeze.rank", {"choices": [1, 2, 4, 8, 16]})[0]
DECAY = parse_dimension("optimizer.weight_decay", {"low": 0.0, "high": 0.1})[0]
SCHEDULE = parse_dimension("optimizer.schedule", {"choices": ["linear", "cosine"]})[0]


DEAD = RowScores(labels=np.arange(40) % 2, predicted=np.zeros(40, dtype=int), losses=np.zeros(40))
"""What a run says that learnt nothing."""


def question(*dimensions, margin=0.02, **changes):
    fields = {"metric": "accuracy", "maximize": True, "num_blocks": 4, "optimizer": "adamw", "freeze": "depth"}
    return Question(dimensions=dimensions, margin=margin, confidence=0.9, **{**fields, **changes})


def quality(params, seed=0):
    depth, rate = params.get("freeze.depth", 0), math.log10(params.get("optimizer.lr", 1e-4))
    depth = -1 if depth is None else depth
    rng = np.random.default_rng([seed, round(depth) + 1, round(-1000 * rate)])
    ridge = -4 + max(0, depth) / 4
    return 0.85 - (0.1 if depth == 4 else 0.0) - 0.05 * (rate - ridge) ** 2 + rng.normal(0, 0.001)


class Executor:
    """One task at a time, or as many as there are slots, ended in order; dies after so many."""

    def __init__(self, value=quality, slots=1, kill_after=None, broken=(), refused=(), at_hand=20_000):
        self.at_hand = at_hand
        self.value, self.slots, self.kill_after = value, slots, kill_after
        self.broken, self.refused = broken, refused
        self.running, self.done, self.stopped = [], [], False

    @property
    def free(self):
        return 0 if self.stopped else self.slots - len(self.running)

    def submit(self, task):
        self.running.append(task)

    def wait(self):
        if self.kill_after is not None and len(self.done) >= self.kill_after:
            raise Killed
        task = self.running.pop(0)
        self.done.append(task.key)
        seed = 0 if task.seed is None else task.seed
        if task.key in self.refused:
            return [TrialEnded(number=task.number, seed=task.seed, outcome=None, fatal="it can't be had")]
        if task.key in self.broken:
            return [
                TrialEnded(
                    number=task.number, seed=task.seed, outcome=TrialOutcome(state=TrialState.FAILED, reason="x")
                )
            ]
        cost = {"eval_rows": 20_000.0, "train_rows": 20_000.0, "train_s": 1.0}
        cost |= {"scored_rows": 20_000.0, "rows_at_hand": self.at_hand, "trained_per_scoring": 20_000.0}
        outcome = TrialOutcome(state=TrialState.COMPLETE, by_seed={seed: self.value(task.params, seed)}, cost=cost)
        return [TrialEnded(number=task.number, seed=task.seed, outcome=outcome)]

    def answer(self, number, prune):
        pass

    def stop(self):
        self.stopped = True


class Watch(Quiet):
    def replicated(self, trial, seed):
        self.lines.append(("replicated", trial.number, seed))


def sweep(
    folder, executor, dimensions=(DEPTH, RATE), settle=2.0, total=9, asked=None, find=known, listener=None, full=False
):
    folder.mkdir(exist_ok=True)
    plan = make_plan(n_trials=total, sampler="frost", promote_fraction=1.0, settle=settle)
    space = Space(groups=(), variants={(): tuple(dimensions)})
    advisor = Advisor(question=asked or question(*dimensions), find=find)
    study = Study(
        Journal(folder / "journal.log").open(), "test", plan, space, maximize=True,
        propose=lambda trials, number: advisor.propose(trials, number, total, plan.seed),
    )  # fmt: skip
    study.fill(queue_of(plan, space, None))
    race = SeedRace(advisor, settle, (0,)) if settle else None
    summary = search(plan, study, executor, listener or Watch(), SearchLimits(total=total), race=race,
                     baseline=advisor.baseline if full else lambda _trials: None)  # fmt: skip
    return summary, advisor


def table(trials):
    return [(p.number, p.params, p.state, p.by_seed) for p in trials]


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


def test_full_fine_tuning_is_a_row_of_its_own_and_no_trial(tmp_path):
    better = lambda params, seed=0: quality(params, seed) + 0.06 * (params["freeze.depth"] is None)  # noqa: E731
    watch = Watch()
    summary, advisor = sweep(tmp_path / "a", Executor(better), listener=watch, full=True)
    *trials, baseline = summary.trials
    assert len(trials) == 9
    assert baseline.is_baseline
    assert baseline.params["freeze.depth"] is None
    assert 10**-4.3 < baseline.params["optimizer.lr"] < 10**-3.7  # the best rate of depth 0
    started = [line[1] for line in watch.lines if line[0] == "started"]
    assert started.index(-1) == 9  # when the search is over, before any further seed
    decision, _ = advisor.decide(summary.trials)
    assert (decision.standing, decision.recommended.level) == (Standing.SETTLED, -1.0)
    assert [level.level for level in decision.levels] == [-1, 0, 1, 2, 3, 4]
    assert len(baseline.replicates) >= 2
    # the same command trains nothing more, and a kill changes nothing
    again = Executor(better)
    assert table(sweep(tmp_path / "a", again, full=True)[0].trials) == table(summary.trials)
    assert again.done == []
    with pytest.raises(Killed):
        sweep(tmp_path / "b", Executor(better, kill_after=11), full=True)
    assert table(sweep(tmp_path / "b", Executor(better), full=True)[0].trials) == table(summary.trials)


def test_further_seeds_need_not_wait_for_full_fine_tuning(tmp_path):
    watch = Watch()
    summary, _ = sweep(tmp_path / "a", Executor(slots=2), listener=watch, full=True)
    assert summary.complete
    started = [line[1] for line in watch.lines if line[0] == "started"]
    first = started.index(-1)
    assert watch.lines.index(("ended", -1, TrialState.COMPLETE)) > watch.lines.index(("started", started[first + 1], 3))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["broken", "refused"])
def test_full_fine_tuning_that_fails_leaves_the_answer_as_it_is(tmp_path, way):
    plain, advisor = sweep(tmp_path / "plain", Executor())
    broken, _ = sweep(tmp_path / "broken", Executor(**{way: {(-1, None)}}), full=True)
    assert (broken.trials[-1].is_baseline, broken.trials[-1].state) == (True, TrialState.FAILED)
    assert broken.complete
    assert table(broken.trials[:-1]) == table(plain.trials)
    first, second = (advisor.decide(each.trials)[0] for each in (plain, broken))
    assert first.levels == second.levels


def test_a_lost_study_gets_its_full_fine_tuning_back(tmp_path):
    summary, _ = sweep(tmp_path / "a", Executor(), full=True)
    plan = make_plan(n_trials=9, sampler="frost", promote_fraction=1.0)
    space = Space(groups=(), variants={(): (DEPTH, RATE)})
    study = Study(Journal(tmp_path / "journal.log").open(), "test", plan, space, maximize=True)
    study.rebuild(summary.trials)
    assert table(study.with_baseline()) == table(summary.trials)


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


def test_a_level_that_no_run_tells_of_is_no_contender_and_is_named(tmp_path):
    """All runs at depth 0 learnt nothing: further seeds of the others can't settle what it would come to."""

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


def test_a_trial_that_a_kill_left_half_drawn_gets_the_rest(tmp_path):
    whole, advisor = sweep(tmp_path / "whole", Executor(), settle=0.0)
    plan = make_plan(n_trials=9, sampler="frost", promote_fraction=1.0, settle=0.0)
    space = Space(groups=(), variants={(): (DEPTH, RATE)})
    study = Study(
        Journal(tmp_path / "journal.log").open(), "test", plan, space, maximize=True,
        propose=lambda trials, number: advisor.propose(trials, number, 9, plan.seed),
    )  # fmt: skip
    study.fill([])
    first = whole.trials[0].params
    asked = study._asking.ask()
    asked._suggest("freeze.depth", distribution(DEPTH))  # and here it was killed
    assert study.begin(9) == (0, first)


def many(count, seed):
    """Trials of which most are at one depth; what they came to goes by the seed."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        params = {"freeze.depth": number % 5 if number < 100 else 2, "optimizer.lr": 1e-5 * 10 ** (3 * number / count)}
        outcome = TrialOutcome(state=TrialState.COMPLETE, by_seed={0: float(rng.uniform(0.5, 0.9))})
        found.append(TrialRecord(number=number, params=params, state=TrialState.COMPLETE, outcome=outcome))
    return found


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


def test_an_answer_says_how_many_trials_it_was_made_without():
    find = known
    trials = many(1100, 3)
    answer = answer_of(trials, "accuracy", {None: Advisor(question=question(DEPTH, RATE), find=find)}, maximize=True,
                       num_blocks=4, baselines=(), evidence=find)  # fmt: skip
    assert any(
        line.startswith("made without 100 of so many trials: as many at each depth") for line in standing_lines(answer)
    )
