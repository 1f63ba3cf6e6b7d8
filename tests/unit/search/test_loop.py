"""The ask/tell loop, driven by a fake executor: totals, rungs, resumption, failures, pruning, every sampler."""

from __future__ import annotations

import contextlib
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState as OptunaState

from frostline import paths
from frostline.errors import SpecError, UserError
from frostline.records.result import Cause
from frostline.records.trial import TrialOutcome, TrialRecord, TrialState, ranked
from frostline.search import (
    CorruptStudyError,
    Journal,
    SearchLimits,
    Study,
    TrialEnded,
    TrialReported,
    open_locked,
    open_url,
    queue_of,
    search,
)
from frostline.search.loop import checked
from frostline.search.promotion import eliminated, promotable, promoted
from frostline.spec import CostName, PrunerName, SamplerName, Space, SweepSpec, parse_dimension
from frostline.spec.decode import decode


def make_plan(**changes) -> SweepSpec:
    """The shipped plan, changed."""
    text = (paths.sweeps_dir() / "sweep" / "_base" / "plan.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)["sweep"]
    values.pop("space")
    values.pop("enqueue")
    values["name"] = "test"
    values["pruner"].update(changes.pop("pruner", {}))
    return decode(SweepSpec, {**values, "promote_fraction": 0.25, **changes}, "sweep")


SPACE = Space(
    groups=(),
    variants={
        (): (
            parse_dimension("freeze.depth", {"low": 0, "high": 4, "coarse": 3})[0],
            parse_dimension("optimizer.lr", {"low": 1e-5, "high": 1e-2, "log": True, "coarse": 2})[0],
        )
    },
)
EPOCHS = 3


def quality(params, seed=0, epoch=EPOCHS):
    """Peaks at depth 1 and lr 1e-3; more epochs are better; a seed moves it a little."""
    peak = 0.9 - 0.05 * abs(params["freeze.depth"] - 1) - 0.1 * abs(math.log10(params["optimizer.lr"]) + 3)
    return peak - 0.02 * (EPOCHS - epoch) + 0.003 * seed


class Killed(BaseException):
    """The process dies here."""


class FakeExecutor:
    """Trains nothing; `slots` tasks at a time, each making its reports one by one. In a random order on request."""

    def __init__(self, plan, value=quality, slots=1, kill_after=None, order=None, broken=None):
        self.plan, self.value, self.slots = plan, value, slots
        self.kill_after, self.order, self.broken = kill_after, order, broken or {}
        self.running = {}
        self.done = []
        self.cut = set()
        self.events = 0
        self.stopped = False

    @property
    def free(self):
        return 0 if self.stopped else self.slots - len(self.running)

    def submit(self, task):
        first = task.rung == 1 and self.plan.has_rungs
        epochs = self.plan.rung_epochs if first and self.plan.rung_epochs else EPOCHS
        begin = 0 if task.rung == 1 else self.plan.rung_epochs or 0
        self.running[task.number] = (task, list(range(begin + 1, epochs)), first)

    def wait(self):
        self.events += 1
        if self.kill_after is not None and self.events > self.kill_after:
            raise Killed
        numbers = sorted(self.running)
        number = self.order.choice(numbers) if self.order else numbers[0]
        task, steps, first = self.running[number]
        if self.stopped:
            del self.running[number]
            return [TrialEnded(number=number, outcome=None)]
        if steps:
            step = steps.pop(0)
            return [TrialReported(number=number, step=step, value=self.value(task.params, 0, step))]
        del self.running[number]
        return [TrialEnded(number=number, outcome=self.outcome(task, first))]

    def outcome(self, task, first):
        if task.number in self.broken or (task.number, task.rung) in self.broken:
            reason = self.broken.get(task.number) or self.broken[task.number, task.rung]
            cause = reason if isinstance(reason, Cause) else Cause.ERROR
            error = reason.partition(":")[0] if cause is Cause.ERROR else None
            return TrialOutcome(state=TrialState.FAILED, reason=str(reason), cause=cause, error=error)
        if task.number in self.cut:
            return TrialOutcome(state=TrialState.PRUNED, by_seed={0: self.value(task.params, 0, 1)}, reason="pruned")
        self.done.append((task.number, task.rung))
        epoch = self.plan.rung_epochs if first and self.plan.rung_epochs else EPOCHS
        seeds = self.plan.seeds or (0,)
        seeds = seeds[:1] if first else seeds
        by_seed = {seed: self.value(task.params, seed, epoch) for seed in seeds}
        cost = {"num_trainable": float(10 - task.params["freeze.depth"]), "train_s": 1.0}
        return TrialOutcome(state=TrialState.COMPLETE, by_seed=by_seed, cost=cost, paused=first)

    def answer(self, key, prune):
        number = key[0]
        if prune:
            task, _, first = self.running[number]
            self.running[number] = (task, [], first)
            self.cut.add(number)

    def stop(self):
        self.stopped = True


class Quiet:
    def __init__(self):
        self.lines = []

    def started(self, task):
        self.lines.append(("started", task.number, task.rung))

    def reported(self, number, step, value):
        pass

    def ended(self, trial, trials):
        self.lines.append(("ended", trial.number, trial.state))

    def pruned(self, trial, trials):
        self.lines.append(("pruned", trial.number, trial.state))

    def released(self, number):
        self.lines.append(("released", number))


def open_study(folder: Path, plan, space=SPACE, maximize=True) -> Study:
    return Study(Journal(folder / "journal.log").open(), "test", plan, space, maximize=maximize, max_steps=3)


def go(folder, plan, executor=None, total=None, listener=None, space=SPACE, explicit=None, **kwargs):
    study = open_study(folder, plan, space)
    study.fill(queue_of(plan, space, explicit))
    executor = executor or FakeExecutor(plan)
    total = total if total is not None else plan.n_trials
    limits = {name: kwargs.pop(name) for name in ("should_stop", "clock") if name in kwargs}
    return search(plan, study, executor, listener or Quiet(), SearchLimits(total=total, **limits), **kwargs)


def table(trials):
    return [(p.number, p.params, p.state, p.quality, p.rung) for p in trials]


def test_a_total_of_points_the_coarse_grid_first_and_the_deepest_of_it_first(tmp_path):
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


def test_a_study_is_held_by_one_parent_at_a_time(tmp_path):
    for url in (f"journal:{tmp_path / 'a.log'}", f"sqlite:///{tmp_path / 'a.db'}"):
        lock = open_locked(url, "one")
        with open_locked(url, "one"), pytest.raises(UserError, match="another sweep writes to it"), lock:
            pass
        with open_locked(url, "one") as (_storage, check):  # given back
            check()
    journal = f"journal:{tmp_path / 'a.log'}"
    with open_locked(journal, "one"), open_locked(journal, "other"):
        pass


def test_a_trial_that_was_started_is_started_again_by_the_next_command(tmp_path):
    plan = make_plan(n_trials=4)
    study = open_study(tmp_path, plan)
    study.fill([])
    started = study.begin(4)
    assert open_study(tmp_path, plan).begin(4) == started


# -- failures --


def test_one_failed_trial_of_ten_leaves_nine(tmp_path):
    plan = make_plan(n_trials=10)
    listener = Quiet()
    summary = go(tmp_path, plan, FakeExecutor(plan, broken={7: "ValueError: seven"}), listener=listener)
    states = [p.state for p in summary.trials]
    assert states.count(TrialState.FAILED) == 1
    assert summary.trials[7].outcome.reason == "ValueError: seven"
    assert summary.complete
    assert ("ended", 7, TrialState.FAILED) in listener.lines


def test_a_trial_that_fails_in_rung_2_is_failed_keeps_its_first_value_and_no_other_takes_its_place(tmp_path):
    plan = make_plan(n_trials=12)
    whole = go(tmp_path, plan)
    victim = next(p for p in whole.trials if p.rung == 2).number
    for name in ("broken", "again"):
        (tmp_path / name).mkdir()
    listener, broken = Quiet(), {(victim, 2): "killed by signal 9"}
    summary = go(tmp_path / "broken", plan, FakeExecutor(plan, broken=broken), listener=listener)
    trial = summary.trials[victim]
    assert (trial.state, trial.rung, trial.reason) == (TrialState.FAILED, 2, "rung 2: killed by signal 9")
    assert trial.quality == trial.first_quality == whole.trials[victim].first_quality
    assert ("ended", victim, TrialState.FAILED) in listener.lines
    others = [row for row in table(whole.trials) if row[0] != victim]
    assert [row for row in table(summary.trials) if row[0] != victim] == others
    executor = FakeExecutor(plan)
    assert table(go(tmp_path / "broken", plan, executor).trials) == table(summary.trials)
    assert executor.done == []  # the same command trains nothing more
    study = open_study(tmp_path / "again", plan)
    study.rebuild(summary.trials)
    assert table(study.trials()) == table(summary.trials)
    assert study.trials()[victim].reason == "rung 2: killed by signal 9"
    again = make_plan(n_trials=12, retry_failed=True)
    assert study.retry_failed() == 1
    executor = FakeExecutor(again)
    retried = search(again, study, executor, Quiet(), SearchLimits(total=12 + study.num_extra))
    assert executor.done == [(12, 2)]  # rung 2 alone, and nobody else is promoted
    assert retried.trials[12].by_seed == whole.trials[victim].by_seed
    assert [row for row in table(retried.trials) if row[0] not in {victim, 12}] == others


@pytest.mark.slow
def test_the_first_three_failing_alike_stop_the_sweep_and_keep_its_state(tmp_path):
    plan = make_plan(n_trials=10)
    reasons = {n: f"OSError: no space left after {n} bytes" for n in range(10)}
    summary = go(tmp_path, plan, FakeExecutor(plan, broken=reasons))
    assert summary.stopped == "the first 3 trials failed alike"
    assert summary.too_many_failed
    assert [p.state for p in summary.trials[:4]] == [TrialState.FAILED] * 3 + [TrialState.WAITING]
    again = make_plan(n_trials=10, retry_failed=True)
    study = open_study(tmp_path, again)
    assert study.retry_failed() == 3
    summary = search(again, study, FakeExecutor(again), Quiet(), SearchLimits(total=10 + study.num_extra))
    assert summary.complete
    assert len([p for p in summary.trials if p.state is not TrialState.FAILED]) == 10


@pytest.mark.slow
def test_a_trial_that_failed_twice_is_tried_once_more(tmp_path):
    first = make_plan(n_trials=2, promote_fraction=1.0, rung_epochs=None)
    go(tmp_path, first, FakeExecutor(first, broken={1: "ValueError: x"}))
    plan = make_plan(n_trials=2, promote_fraction=1.0, rung_epochs=None, retry_failed=True)
    for broken in ({2: "ValueError: x"}, {}):
        study = open_study(tmp_path, plan)
        assert study.retry_failed() == 1
        executor = FakeExecutor(plan, broken=broken)
        summary = search(plan, study, executor, Quiet(), SearchLimits(total=2 + study.num_extra))
    assert [p.state for p in summary.trials] == [
        TrialState.COMPLETE,
        TrialState.FAILED,
        TrialState.FAILED,
        TrialState.COMPLETE,
    ]


def test_points_lost_with_the_workers_template_do_not_stop_it(tmp_path):
    plan = make_plan(n_trials=6)
    assert go(tmp_path, plan, FakeExecutor(plan, broken=dict.fromkeys(range(3), Cause.TEMPLATE_DIED))).complete


def test_three_different_failures_do_not_stop_it(tmp_path):
    plan = make_plan(n_trials=6)
    broken = {0: "ValueError: a", 1: "KeyError: b", 2: "ValueError: a"}
    assert go(tmp_path, plan, FakeExecutor(plan, broken=broken)).complete


def test_max_failures(tmp_path):
    plan = make_plan(n_trials=10, max_failures=2)
    summary = go(tmp_path, plan, FakeExecutor(plan, broken={4: "ValueError: x", 6: "KeyError: y"}))
    assert summary.stopped == "sweep.max_failures=2 trials failed"
    assert summary.too_many_failed


@pytest.mark.parametrize("value", [None, "abc", "1.5", math.nan, math.inf, -math.inf, [], np.ones(2), True])
def test_an_objective_that_is_no_finite_number_fails_its_point(value):
    outcome = checked(TrialOutcome(state=TrialState.COMPLETE, by_seed={0: value}))
    assert outcome.state is TrialState.FAILED
    assert outcome.reason.startswith("the objective is ")


def test_a_tensor_or_array_of_one_number_is_taken_as_the_number():
    torch = pytest.importorskip("torch")
    for value in (torch.tensor(0.5), np.float32(0.5), np.array([0.5])[0], 1):
        outcome = checked(TrialOutcome(state=TrialState.COMPLETE, by_seed={0: value}))
        assert outcome.state is TrialState.COMPLETE
        assert type(outcome.by_seed[0]) is float


def test_no_trial_is_left_running_by_a_bad_objective(tmp_path):
    plan = make_plan(n_trials=5, promote_fraction=1.0, rung_epochs=None)
    bad = iter([None, "1.5", -math.inf, math.nan, 0.5])
    summary = go(tmp_path, plan, FakeExecutor(plan, value=lambda *_: next(bad) if _[2] == EPOCHS else 0.5))
    assert [p.state for p in summary.trials] == [TrialState.FAILED] * 4 + [TrialState.COMPLETE]
    assert not [p for p in summary.trials if p.state is TrialState.RUNNING]
    assert all(p.quality is None or math.isfinite(p.quality) for p in ranked(summary.trials, True))


def test_what_the_user_must_mend_stops_the_sweep_and_loses_nothing(tmp_path):
    plan = make_plan(n_trials=6)

    class Fatal(FakeExecutor):
        def wait(self):
            number = next(iter(self.running))
            del self.running[number]
            return [TrialEnded(number=number, outcome=None, fatal="training.objective=x: is not computed")]

    summary = go(tmp_path, plan, Fatal(plan))
    assert summary.fatal == "training.objective=x: is not computed"
    assert go(tmp_path, plan).complete


def test_an_interruption_and_a_time_limit(tmp_path):
    plan = make_plan(n_trials=8, timeout_s=5.0)
    clock = iter([0.0, *range(1000)])
    summary = go(tmp_path, plan, clock=lambda: next(clock))
    assert summary.stopped == "sweep.timeout_s=5 is over"
    assert not summary.too_many_failed
    assert not [p for p in summary.trials if p.state is TrialState.RUNNING]
    flags = iter([False, False, True, *[True] * 100])
    summary = go(tmp_path, make_plan(n_trials=8), should_stop=lambda: next(flags))
    assert summary.stopped == "interrupted"
    assert go(tmp_path, make_plan(n_trials=8)).complete


# -- samplers, pruners, objectives --


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


def test_more_points_to_try_first_than_the_total_are_refused():
    trials = [{"freeze.depth": depth, "optimizer.lr": 1e-4} for depth in (0, 1, 2)]
    with pytest.raises(UserError, match="names 3 trials"):
        queue_of(make_plan(n_trials=2), SPACE, trials)


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
    trials = open_study(tmp_path, plan)._study.get_trials(deepcopy=False)
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


def test_seeds_are_averaged_and_bad_points_stop_after_the_first(tmp_path):
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
    study = open_study(tmp_path, plan)
    for frozen, trial in zip(study._trials.look().trials, study.trials(), strict=False):
        assert frozen.intermediate_values[max(frozen.intermediate_values)] == pytest.approx(trial.first_quality)
        assert len(frozen.intermediate_values) == EPOCHS


def test_like_points_are_trained_once(tmp_path):
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


def test_no_checktrial_is_kept_that_nobody_can_need(tmp_path):
    plan = make_plan(n_trials=16)
    trials = go(tmp_path, plan, FakeExecutor(plan)).trials
    rung_1 = [replace(p, rung=1, state=TrialState.PRUNED, outcome=p.first_rung) for p in trials]
    missing = set(eliminated(rung_1, plan, True, 16))
    assert missing
    assert not missing & {task.number for task in promoted(rung_1, plan, True)}


# -- the storage --


@pytest.mark.slow
def test_a_study_is_rebuilt_from_points_when_its_journal_is_lost(tmp_path):
    plan = make_plan(n_trials=10)
    whole = go(tmp_path, plan)
    half = tmp_path / "half"
    half.mkdir()
    with pytest.raises(Killed):
        go(half, plan, FakeExecutor(plan, kill_after=9))
    trials = [p for p in open_study(half, plan).trials() if p.state is not TrialState.WAITING]
    (half / "journal.log").unlink()
    study = open_study(half, plan)
    study.rebuild([TrialRecord.from_json(p.to_json()) for p in trials])
    study.fill(queue_of(plan, SPACE, None))
    executor = FakeExecutor(plan)
    summary = search(plan, study, executor, Quiet(), SearchLimits(total=10))
    assert table(summary.trials) == table(whole.trials)
    done = {p.number for p in trials if p.outcome is not None}
    assert not done & {number for number, rung in executor.done if rung == 1}


@pytest.mark.slow
def test_a_rebuilt_study_invents_no_points(tmp_path):
    """Numbers between the trials are those of an earlier study, of rung 2 and of retries."""
    old = go(tmp_path, make_plan(n_trials=6, promote_fraction=1.0, rung_epochs=None)).trials
    folder = tmp_path / "new"
    folder.mkdir()
    for total, broken in ((6, {7: "ValueError: x"}), (9, {})):
        plan = make_plan(n_trials=total, retry_failed=bool(broken) is False)
        study = open_study(folder, plan)
        study.fill(queue_of(plan, SPACE, None), old)
        if plan.retry_failed:
            assert study.retry_failed() == 1
        executor = FakeExecutor(plan, broken=broken)
        summary = search(plan, study, executor, Quiet(), SearchLimits(total=total + study.num_extra))
    before, extra = table(summary.trials), study.num_extra
    assert extra == 1
    (folder / "journal.log").unlink()
    study = open_study(folder, plan)
    study.rebuild([TrialRecord.from_json(p.to_json()) for p in summary.trials], old)
    study.fill(queue_of(plan, SPACE, None), old)
    assert table(study.trials()) == before
    assert (study.num_extra, study.num_warm()) == (1, 6)
    executor = FakeExecutor(plan)
    search(plan, study, executor, Quiet(), SearchLimits(total=9 + study.num_extra))
    assert executor.done == []


def test_a_study_that_nobody_trained_in_can_be_made_anew(tmp_path):
    study = open_study(tmp_path, make_plan(n_trials=4))
    study.describe({"base": {"dataset.name": "a"}})
    study.fill(queue_of(make_plan(n_trials=4), SPACE, None))
    study.begin(4)
    assert open_study(tmp_path, make_plan()).description == {"base": {"dataset.name": "a"}}
    assert study.is_untouched
    study.reset()
    assert study.is_empty
    assert study.description is None
    go(tmp_path, make_plan(n_trials=4))
    assert not open_study(tmp_path, make_plan()).is_untouched


@pytest.mark.parametrize("bad", ["/nowhere/at/all.log", "garbage.log"])
def test_a_journal_that_cant_be_opened_is_one_line(tmp_path, bad):
    (tmp_path / "garbage.log").write_text("this is\nno journal\n")
    with pytest.raises(UserError, match=r"sweep\.storage=journal:.*can't be opened"):
        open_url(f"journal:{tmp_path / bad}")


def test_a_damaged_journal_is_noticed(tmp_path):
    plan = make_plan(n_trials=6)
    go(tmp_path, plan)
    lines = (tmp_path / "journal.log").read_bytes().splitlines(keepends=True)
    lines[5] = b"\x00garbage\n"
    (tmp_path / "journal.log").write_bytes(b"".join(lines))
    with pytest.raises(CorruptStudyError, match=r"journal\.log"):
        Journal(tmp_path / "journal.log").open()


def test_a_storage_out_of_reach_is_one_line_without_its_password():
    with pytest.raises(UserError) as error:
        open_url("postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_study_with_another_direction_is_refused(tmp_path):
    open_study(tmp_path, make_plan())
    with pytest.raises(UserError, match="another"):
        open_study(tmp_path, make_plan(), maximize=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampler": "tpee"}, r"sweep\.sampler=tpee: no such choice \(did you mean 'tpe'\?\)"),
        ({"pruner": {"name": "medain"}}, r"sweep\.pruner\.name=medain.*median"),
        ({"n_trials": None}, "n_trials is null"),
        ({"n_trials": 0}, "1 or more"),
        ({"seeds": [0, 0]}, "without repetitions"),
        ({"seeds": []}, "a list of seeds"),
        ({"promote_fraction": 0.0}, "above 0"),
        ({"cost": "money"}, r"sweep\.cost=money"),
        ({"cost": "train_s"}, "give sweep.promote_fraction=1"),
        ({"sampler": "gp"}, "learns from finished trials only"),
        ({"sampler": "cmaes", "cost": "flops", "promote_fraction": 1.0}, "one objective only"),
        ({"name": "a/b"}, r"sweep\.name"),
        ({"timeout_s": -1.0}, "seconds above 0"),
    ],
)
def test_a_bad_plan_is_one_line(changes, words):
    with pytest.raises(SpecError, match=words):
        make_plan(**changes)


@pytest.mark.slow
def test_ten_thousand_points_in_bounded_memory(tmp_path):
    import resource

    plan = make_plan(n_trials=10_000, sampler="random", promote_fraction=1.0, rung_epochs=None)
    study = open_study(tmp_path, plan)
    study.fill([])
    trials = [
        TrialRecord(number=n, params={"freeze.depth": n % 5, "optimizer.lr": 1e-5 * (1 + n % 900)},
                    state=TrialState.COMPLETE, outcome=TrialOutcome(state=TrialState.COMPLETE, by_seed={0: n / 1e4}))
        for n in range(9_990)
    ]  # fmt: skip
    study.rebuild(trials)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    summary = search(plan, study, FakeExecutor(plan, slots=2), Quiet(), SearchLimits(total=10_000))
    assert len(summary.trials) == 10_000
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 300


def test_a_database_whose_tables_another_host_is_just_making_is_waited_for(monkeypatch, tmp_path):
    from frostline.search import storages

    real, failed = storages.RDBStorage, []

    def busy(url, engine_kwargs):
        if len(failed) < 2:
            failed.append(url)
            raise RuntimeError('duplicate key value violates unique constraint "pg_type_typname_nsp_index"')
        return real(url, engine_kwargs=engine_kwargs)

    monkeypatch.setattr(storages, "_MAKING_S", (0.01, 0.01))
    monkeypatch.setattr(storages, "RDBStorage", busy)
    assert open_url(f"sqlite:///{tmp_path / 'a.db'}") is not None
    assert len(failed) == 2
    monkeypatch.setattr(storages, "_MAKING_S", ())
    failed.clear()
    with pytest.raises(UserError, match=r"sweep\.storage=sqlite:.*duplicate key"):
        open_url(f"sqlite:///{tmp_path / 'b.db'}")


def test_what_a_restarting_database_cut_off_is_asked_once_more(tmp_path, monkeypatch, caplog):
    study = open_study(tmp_path, make_plan(n_trials=4, promote_fraction=1.0, rung_epochs=None))
    study.fill([])
    number, _ = study.begin(4)
    real, cut = study._study._storage.set_trial_state_values, []

    def break_off(*arguments, **options):
        done = real(*arguments, **options)
        if not cut:  # it was done, and the answer was lost
            cut.append(arguments)
            raise StorageInternalError("server closed the connection unexpectedly")
        return done

    monkeypatch.setattr(study._study._storage, "set_trial_state_values", break_off)
    study.tell(number, TrialOutcome(state=TrialState.COMPLETE, by_seed={0: 0.5}))
    (trial,) = study.trials()
    assert (trial.state, trial.quality) == (TrialState.COMPLETE, 0.5)
    assert "server closed the connection unexpectedly; trying again" in caplog.text

    def broken(*arguments, **options):
        raise StorageInternalError("connection lost")

    monkeypatch.setattr(study._trials, "look", broken)
    with pytest.raises(StorageInternalError, match="connection lost"):
        study.trials()
