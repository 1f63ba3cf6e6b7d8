"""Axes of cost other than the frozen depth, further keys beside them, and config groups: what is compared with what."""

from __future__ import annotations

import pytest

from frostline.advisor import Advisor, Question
from frostline.decision import LevelState, Setting
from frostline.records.predictions import known
from frostline.records.trial import TrialOutcome, TrialRecord, TrialState
from frostline.report.answer import answer_of
from frostline.report.table import level_table
from frostline.report.terminal import transfer_table
from frostline.search.promotion import promoted
from frostline.spec import Space, parse_dimension
from frostline.sweeps.questions import advisors_of
from tests.unit.search.fake_search import make_plan

DEPTH = parse_dimension("freeze.depth", {"low": 0, "high": 4})[0]
RATE = parse_dimension("optimizer.lr", {"low": 1e-5, "high": 3e-3, "log": True})[0]
EPOCHS = parse_dimension("training.epochs", {"choices": [1, 2, 4]})[0]
TOKENS = parse_dimension("training.max_tokens", {"choices": [16, 64]})[0]


def ask(*dimensions, **changes):
    fields = {"metric": "accuracy", "maximize": True, "num_blocks": 4, "optimizer": "adamw", "freeze": "depth"}
    return Advisor(
        question=Question(dimensions=dimensions, margin=0.01, confidence=0.9, **{**fields, **changes}), find=known
    )


def trial(number, params, value, replicates=None, state=TrialState.COMPLETE, **more):
    cost = {"eval_rows": 2000.0, "train_rows": 1000.0, "train_s": 1.0, **more.pop("cost", {})}
    outcome = TrialOutcome(state=state, by_seed={} if value is None else {0: value}, cost=cost, **more)
    return TrialRecord(number=number, params=params, state=state, outcome=outcome, replicates=replicates or {})


def say(trials, advisors):
    return answer_of(trials, "accuracy", advisors, maximize=True, num_blocks=4)


def test_choices_of_a_config_group_have_a_decision_each():
    optimizer = parse_dimension("optimizer", {"choices": ["sgd", "adamw"]})[0]
    space = Space(groups=(optimizer,), variants={("sgd",): (DEPTH, RATE), ("adamw",): (DEPTH, RATE)})
    description = {
        "space": space.describe(), "plan": {"cost": None, "seeds": None, "folds": None, "axis": None}, "storage": None,
        "base": {"seed": 0, "freeze.name": "depth"}, "objective": "accuracy", "direction": "maximize", "num_blocks": 4,
        "groups": {"sgd": {"optimizer.name": "sgd"}, "adamw": {"optimizer.name": "adamw"}},
        "answer": {"margin": 0.01, "confidence": 0.9},
    }  # fmt: skip
    advisors = advisors_of(description, known)
    assert {name: each.question.optimizer for name, each in advisors.items()} == {"sgd": "sgd", "adamw": "adamw"}
    trials = [
        trial(number, {"optimizer": name, "freeze.depth": depth, "optimizer.lr": 1e-4}, value - 0.01 * depth)
        for number, (name, value, depth) in enumerate(
            (name, value, depth) for name, value in (("sgd", 0.55), ("adamw", 0.85)) for depth in range(5)
        )
    ]
    answer = say(trials, advisors)
    assert answer.recommended.params["optimizer"] == "adamw"
    assert all(row.seeds == 1 for row in answer.rows)
    assert {row.group for row in answer.rows} == {"sgd", "adamw"}


def test_depths_beside_another_axis_are_found_by_their_own_runs():
    """Levels of the axis are numbers, too: 1, 2 and 4 epochs are no depths."""
    operations = {0: 100.0, 1: 80.0, 2: 60.0, 3: 45.0, 4: 30.0}
    places = [(1, depth) for depth in range(5)] + [(epochs, depth) for epochs in (2, 4) for depth in range(4, -1, -1)]
    trials = [
        trial(
            number, {"freeze.depth": depth, "training.epochs": epochs}, 0.8 - 0.03 * depth + 0.01 * epochs,
            scores={"test": {0: 0.7 - 0.03 * depth + 0.01 * epochs}},
            cost={"train_s": operations[depth] * epochs, "flops": operations[depth] * epochs},
        )
        for number, (epochs, depth) in enumerate(places)
    ]  # fmt: skip
    advisor = ask(DEPTH, EPOCHS, chosen_axis="training.epochs")
    answer = say(trials, {None: advisor})
    _, lines = transfer_table(answer)
    assert [line[2] for line in lines] == ["0.7400", "0.7100", "0.6800", "0.6500", "0.6200"]
    # What a level costs is what its row's setting costs, not the first run that had so many epochs.
    assert [(row.level, row.operations, row.seconds) for row in answer.rows] == [
        (4.0, 1.0, 400.0), (2.0, 0.5, 200.0), (1.0, 0.25, 100.0)
    ]  # fmt: skip
    # Whole runs count whole, whatever they record; of one that failed at once nothing counts.
    whole = 5 * (1 + 0.5 + 0.25)
    assert advisor.search_cost(trials) == pytest.approx(whole)
    failed = trial(99, {"freeze.depth": 0, "training.epochs": 4}, None, state=TrialState.FAILED)
    assert advisor.search_cost([*trials, failed]) == pytest.approx(whole)


def test_a_level_is_not_out_for_what_was_not_tried_there():
    """Tokens change nothing; 16 of them were tried with deep, poor settings alone."""
    best = [0.83, 0.83, 0.82, 0.78, 0.70]
    trials = []
    for tokens, depths in ((64, (0, 1, 2, 4)), (16, (3, 4))):
        for depth in depths:
            more = {
                seed: TrialOutcome(state=TrialState.COMPLETE, by_seed={seed: best[depth] + 0.003 * (-1) ** seed})
                for seed in (1, 2)
            }
            params = {"freeze.depth": depth, "training.max_tokens": tokens}
            trials.append(trial(len(trials), params, best[depth], more))
    answer = say(trials, {None: ask(DEPTH, TOKENS, chosen_axis="training.max_tokens")})
    assert [(row.level, row.state) for row in answer.rows] == [(64.0, LevelState.GOOD), (16.0, LevelState.OPEN)]


def test_a_range_of_many_values_has_the_tried_levels_and_a_stepped_one_each_of_its_own_once():
    tokens = parse_dimension("training.max_tokens", {"low": 16, "high": 512})[0]
    question = ask(tokens, RATE, chosen_axis="training.max_tokens").question
    assert question.axis([32.0, 500.0]).levels == (500.0, 32.0)
    assert 9 <= len(question.axis([32.0, 500.0], grid=True).levels) <= 11
    assert question.axis([32.0, 500.0]).relative_costs == pytest.approx([500 / 512, 32 / 512])
    share = parse_dimension("freeze.fraction", {"low": 0.0, "high": 0.5, "step": 0.1})[0]
    question = ask(share).question
    meant = question.setting({"freeze.fraction": 0.30000000000000004})
    assert meant == Setting(level=0.3)
    assert question.axis([meant.level]).levels == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def test_nothing_is_assumed_of_what_a_key_costs_that_is_no_length():
    decay = parse_dimension("optimizer.weight_decay", {"choices": [0.001, 0.01, 0.1]})[0]
    assert ask(decay, RATE, chosen_axis="optimizer.weight_decay").question.axis().relative_costs == (1.0, 1.0, 1.0)


def test_the_ridge_starts_where_all_runs_are_frozen():
    base = ask(RATE).question.axis().ridge.base
    assert ask(RATE, fixed_position=1.0).question.axis().ridge.base == pytest.approx(base + 1.0)
    assert ask(RATE, fixed_position=0.5).question.axis().ridge.base == pytest.approx(base + 0.5)


@pytest.mark.parametrize(
    ("axis", "key", "values"),
    [("training.max_tokens", "training.max_tokens", (16, 32, 64)), (None, "freeze.rank", (2, 4, 8))],
)
def test_the_best_of_each_level_of_the_axis_goes_beyond_the_rung(axis, key, values):
    plan = make_plan(promote_fraction=0.25, rung_epochs=1, axis=axis)
    trials = []
    for place, value in enumerate(values):
        first = TrialOutcome(
            state=TrialState.COMPLETE, by_seed={0: 0.5 + 0.1 * place}, paused=True, loss=1.0 - place / 10
        )
        for _ in range(4):
            params = {key: value, "optimizer.lr": 1e-4 * (1 + len(trials))}
            trials.append(
                TrialRecord(number=len(trials), params=params, state=TrialState.PRUNED, outcome=first, first_rung=first)
            )
    tasks = promoted(trials, plan, True)
    assert {task.params[key] for task in tasks} == set(values)


MODELS = parse_dimension("model", {"choices": ["large", "small", "mid"]})[0]
ROWS = parse_dimension("dataset.train_rows", {"choices": [100, 1000, 10_000]})[0]
SIZES = {"large": 100_000_000, "small": 1_000_000, "mid": 10_000_000}


def describe(space, **more):
    plan = {"cost": None, "seeds": None, "folds": None, "axis": None} | more.pop("plan")
    return {
        "space": space.describe(), "plan": plan,
        "storage": None, "base": {"seed": 0, "freeze.name": "none"}, "objective": "accuracy", "direction": "maximize",
        "num_blocks": None, "groups": {}, "answer": {"margin": 0.01, "confidence": 0.9}, **more,
    }  # fmt: skip


def with_seeds(value):
    return {seed: TrialOutcome(state=TrialState.COMPLETE, by_seed={seed: value}, cost={}) for seed in (1, 2, 3)}


def test_models_are_levels_by_their_size():
    space = Space(groups=(MODELS,), variants={(name,): (RATE,) for name in MODELS.choices})
    advisors = advisors_of(describe(space, plan={"axis": "model"}, sizes=SIZES), known)
    [advisor] = advisors.values()
    question = advisor.question
    assert question.level_names == ("small", "mid", "large")
    axis = question.axis()
    assert axis.levels == (2.0, 1.0, 0.0)
    assert axis.relative_costs == (1.0, 0.1, 0.01)
    assert axis.positions == pytest.approx((0.0, 0.5, 1.0))
    for name in MODELS.choices:
        params = {"model": name, "optimizer.lr": 1e-4}
        assert question.params(question.setting(params)) == pytest.approx(params)
    values = {"small": 0.70, "mid": 0.898, "large": 0.90}
    trials = [
        trial(number, {"model": name, "optimizer.lr": 1e-4}, value, with_seeds(value))
        for number, (name, value) in enumerate(values.items())
    ]
    answer = say(trials, advisors)
    assert [row.trial.model for row in answer.rows] == ["large", "mid", "small"]
    assert answer.recommended.model == "mid"
    assert [answer.level_name(row.level) for row in answer.rows] == ["large", "mid", "small"]


def test_models_of_one_size_are_two_levels():
    question = ask(MODELS, RATE, chosen_axis="model", sizes=dict.fromkeys(MODELS.choices, 7)).question
    assert question.level_names == ("large", "mid", "small")
    assert question.axis().relative_costs == (1.0, 1.0, 1.0)
    assert question.axis().positions == (0.0, 0.0, 0.0)


def test_fewer_training_rows_are_cheaper():
    space = Space(groups=(), variants={(): (ROWS, RATE)})
    apart = advisors_of(describe(space, plan={}), known)
    assert set(apart) == {"100 rows", "1000 rows", "10000 rows"}
    together = advisors_of(describe(space, plan={"axis": "dataset.train_rows"}), known)
    [advisor] = together.values()
    axis = advisor.question.axis()
    assert axis.levels == (10_000, 1000, 100)
    assert axis.relative_costs == (1.0, 0.1, 0.01)
    assert axis.positions == pytest.approx((0.0, 0.5, 1.0))
    assert advisor.question.is_raced
    values = {100: 0.70, 1000: 0.898, 10_000: 0.90}
    trials = [
        trial(number, {"dataset.train_rows": rows, "optimizer.lr": 1e-4}, value, with_seeds(value))
        for number, (rows, value) in enumerate(values.items())
    ]
    assert say(trials, together).recommended.num_rows == 1000


def test_a_share_is_not_shown_above_one_and_what_learnt_nothing_says_so():
    space = Space(groups=(MODELS,), variants={(name,): (RATE,) for name in MODELS.choices})
    advisors = advisors_of(describe(space, plan={"axis": "model"}, sizes=SIZES), known)
    trials = [
        trial(0, {"model": "small", "optimizer.lr": 1e-4}, 1.0, with_seeds(1.0)),
        trial(1, {"model": "mid", "optimizer.lr": 1e-4}, 0.998, with_seeds(0.998)),
        trial(2, {"model": "large", "optimizer.lr": 1e-4}, float("nan"), with_seeds(float("nan"))),
    ]
    answer = say(trials, advisors)
    assert all(0 <= row.low <= row.mean <= row.high <= 1 for row in answer.rows)
    table = level_table(answer)
    states = {line[0]: line[table.head.index("")] for line in table.lines}
    assert states["large"] == "learnt nothing"
