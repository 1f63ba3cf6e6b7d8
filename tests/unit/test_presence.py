"""Parents on one storage: who is alive, and whose points are taken over."""

from __future__ import annotations

import threading

import pytest
from optuna.trial import TrialState

from frostline.point import Outcome, State
from frostline.search import Presence, Study, open_url, queue_of, search
from frostline.search.samplers import distribution
from tests.unit.test_search import SPACE, FakeExecutor, Quiet, make_plan

GRACE_S = 60.0


class Clock:
    """Seconds that pass when somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def storage(tmp_path):
    return f"journal:{tmp_path / 'shared.log'}"


@pytest.fixture
def parent(storage):
    """Makes a parent with a clock of its own."""

    def make(owner, plan, clock=None):
        study = Study(open_url(storage), "shared", plan, SPACE, maximize=True, owner=owner, grace_s=GRACE_S)
        study.ownership.presence = Presence(study._study, owner, GRACE_S, clock or Clock())
        study.fill(queue_of(plan, SPACE, None))
        study.ownership.presence.beat()
        return study

    return make


def age(study, clock, seconds=GRACE_S + 1):
    """Lets a parent watch the others for a while: it looks now and then, as the loop does."""
    for _ in range(6):
        study.ownership.presence.gone()
        clock.now += seconds / 6


def done(value=0.5):
    return Outcome(state=State.COMPLETE, by_seed={0: value})


def test_a_parent_that_gives_no_sign_of_life_is_gone_and_one_that_does_is_not(parent):
    plan, clock = make_plan(n_trials=4), Clock()
    here, there, third = parent("here", plan, clock), parent("there", plan), parent("third", plan)
    assert here.ownership.presence.gone() == {}
    for _ in range(7):  # seven times ten seconds
        clock.now += GRACE_S / 6
        third.ownership.presence.beat()
        gone = here.ownership.presence.gone()
    assert set(gone) == {"there"}
    there.ownership.presence.beat()  # it was only slow
    clock.now += GRACE_S / 6
    assert here.ownership.presence.gone() == {}


def test_clocks_are_not_compared_and_one_that_jumps_back_takes_nobody_for_gone(parent):
    plan = make_plan(n_trials=4)
    clock = Clock()
    clock.now = 1e9
    here = parent("here", plan, clock)
    parent("there", plan)
    assert here.ownership.presence.gone() == {}
    age(here, clock)
    assert set(here.ownership.presence.gone()) == {"there"}


def test_who_could_not_look_for_long_takes_nobody_for_gone(parent):
    """As after a database was away: the others could give no sign either."""
    plan, clock = make_plan(n_trials=4), Clock()
    here, there = parent("here", plan, clock), parent("there", plan)
    assert here.ownership.presence.gone() == {}
    clock.now += 10 * GRACE_S
    assert here.ownership.presence.gone() == {}
    clock.now += GRACE_S / 3
    there.ownership.presence.beat()
    age(here, clock, GRACE_S * 0.9)
    assert here.ownership.presence.gone() == {}
    age(here, clock, GRACE_S)
    assert set(here.ownership.presence.gone()) == {"there"}


def test_a_parent_that_stops_by_itself_is_gone_at_once(parent):
    plan = make_plan(n_trials=4)
    here, there = parent("here", plan), parent("there", plan)
    with there.ownership.presence.shown({"host": "b", "mlflow": "abc"}):
        assert here.ownership.presence.gone() == {}
    here.ownership.presence._next_look = -1.0
    (note,) = here.ownership.presence.gone().values()
    assert (note["host"], note["mlflow"], note["left"]) == ("b", "abc", True)


def test_signs_of_life_go_on_while_the_work_blocks(storage):
    plan = make_plan(n_trials=4)
    study = Study(open_url(storage), "shared", plan, SPACE, maximize=True, owner="here", grace_s=0.3)
    assert study.ownership.presence is not None
    other = Study(open_url(storage), "shared", plan, SPACE, maximize=True, owner="there", grace_s=60.0)
    seen = set()
    with study.ownership.presence.shown({}):
        waited = threading.Event()
        for _ in range(30):
            waited.wait(0.05)
            seen.add(other._study.user_attrs["frostline.alive.here"]["beat"])
    assert len(seen) > 3


def test_the_points_of_a_dead_parent_are_taken_over_and_the_total_is_exact(parent):
    plan, clock = make_plan(n_trials=6, finish=1.0, first_epochs=None), Clock()
    here, dead = parent("here", plan, clock), parent("dead", plan)
    left = [dead.begin(6), dead.begin(6)]
    while (begun := here.begin(6)) is not None:
        here.tell(begun[0], done())
    assert here.ownership.others_at_work(6)  # not gone yet: nothing is taken from it
    assert sum(p.state is State.COMPLETE for p in here.points()) == 4
    age(here, clock)
    taken = []
    while (begun := here.begin(6)) is not None:
        taken.append(begun)
        here.tell(begun[0], done())
    assert [params for _, params in taken] == [params for _, params in left]
    assert not {number for number, _ in taken} & {number for number, _ in left}
    points = here.points()
    assert len(points) == 6
    assert {p.state for p in points} == {State.COMPLETE}
    assert not here.ownership.others_at_work(6)
    # It was only cut off: what it says now counts for nothing, and ends nothing.
    assert dead.lost(left[0][0])
    dead.settle(left[0][0], 0.9)
    assert dead.report(left[0][0], 1, 0.9) in {True, False}
    dead.tell(left[0][0], done(0.9))
    assert here.points() == points


def test_of_two_that_see_a_dead_parents_point_one_takes_it(parent, monkeypatch):
    plan = make_plan(n_trials=3)
    clocks = [Clock(), Clock()]
    one, two = (parent(name, plan, clock) for name, clock in zip(("one", "two"), clocks, strict=True))
    dead = parent("dead", plan)
    number, params = dead.begin(1)
    for study, clock in zip((one, two), clocks, strict=True):
        age(study, clock)
    before = two._trials.look()
    with monkeypatch.context() as patched:
        assert one.ownership.take_over()
        patched.setattr(two._trials, "look", lambda: before)  # as it was a moment ago
        assert not two.ownership.take_over()
    (again,) = [trial for trial in two._trials.look().trials if trial.user_attrs.get("frostline.taken_from") == number]
    assert again.system_attrs["fixed_params"] == params


def test_a_parent_that_was_cut_off_goes_on_with_the_rest(parent):
    plan, clock = make_plan(n_trials=6), Clock()
    away = parent("away", plan, clock)
    here = parent("here", plan, Clock())
    quiet, executor = Quiet(), FakeExecutor(plan)
    real = executor.wait
    taken = []

    def wait():
        if not taken:  # in the midst of its first point it is taken for dead
            number = next(iter(executor.running))
            age(here, here.ownership.presence._clock)
            while (begun := here.begin(6)) is not None:
                taken.append(begun[0])
                here.tell(begun[0], done())
            assert not here._frozen(number).user_attrs.get("frostline.outcome")
            away.ownership.presence.beat()
        return real()

    executor.wait = wait
    summary = search(plan, away, executor, quiet, maximize=True, total=6, clock=clock, sleep=clock.sleep)
    assert ("released", 0) in quiet.lines
    assert summary.complete
    assert len(summary.points) == 6
    assert {p.state for p in summary.points} == {State.COMPLETE}


def test_what_is_between_two_owners_is_put_back_by_whoever_comes(parent):
    plan, clock = make_plan(n_trials=1, sampler="grid", finish=1.0, first_epochs=None), Clock()
    dead, one, two = parent("dead", plan), parent("one", plan, clock), parent("two", plan)
    number, params = dead.begin(1)
    one._study._storage.set_trial_state_values(one._frozen(number)._trial_id, TrialState.FAIL)  # and dies, too
    again, same = two.begin(1)
    assert (again != number, same) == (True, params)
    one.ownership.put_back(one._frozen(number))  # it did not die, but was slow
    assert one.begin(1) is None
    assert [p.params for p in one.points()] == [params]
    assert not [trial for trial in one._trials.look().trials if trial.state is TrialState.WAITING]


@pytest.mark.parametrize("died", [False, True])
def test_of_two_that_put_back_one_point_at_the_same_moment_one_withdraws(parent, monkeypatch, died):
    plan, clock = make_plan(n_trials=2, sampler="grid", finish=1.0, first_epochs=None), Clock()
    dead, one, two = parent("dead", plan), parent("one", plan, clock), parent("two", plan)
    number, params = dead.begin(2)
    one._study._storage.set_trial_state_values(one._frozen(number)._trial_id, TrialState.FAIL)
    assert two.ownership.put_back_what_is_between(two._trials.look())
    with monkeypatch.context() as patched:
        if died:  # in the moment after it has put the point back
            patched.setattr(one.ownership, "withdraw", lambda trial_id: None)
        one.ownership.put_back(one._frozen(number))
    begun = []
    while (point := two.begin(2)) is not None:
        begun.append(point)
        two.tell(point[0], done())
    assert sorted(str(p) for _, p in begun).count(str(params)) == 1
    assert len(begun) == len(two.points()) == 2
    assert not [trial for trial in one._trials.look().trials if trial.state is TrialState.WAITING]
    assert one.begin(2) is None


def test_a_point_that_is_taken_over_just_now_keeps_its_place_in_the_total(parent, monkeypatch):
    plan = make_plan(n_trials=2, sampler="grid", finish=1.0, first_epochs=None)
    dead, one, two = parent("dead", plan), parent("one", plan, Clock()), parent("two", plan)
    number, _ = dead.begin(2)
    first = two.begin(2)
    looked = two.ownership.put_back_what_is_between

    def look_and_then(look):
        found = looked(look)
        if not two._frozen(number).state.is_finished():  # in this moment another parent ends it
            one._study._storage.set_trial_state_values(one._frozen(number)._trial_id, TrialState.FAIL)
        return found

    monkeypatch.setattr(two.ownership, "put_back_what_is_between", look_and_then)
    assert two.begin(2) is None
    one.ownership.put_back(one._frozen(number))
    two.tell(first[0], done())
    again = two.begin(2)
    assert again is not None
    two.tell(again[0], done())
    assert two.begin(2) is None
    assert len(two.points()) == 2
    assert not [trial for trial in one._trials.look().trials if not trial.state.is_finished()]


def test_a_point_whose_parent_died_before_it_ended_it_is_trained_again(parent):
    plan, clock = make_plan(n_trials=3, finish=1.0, first_epochs=None), Clock()
    here, dead = parent("here", plan, clock), parent("dead", plan)
    number, params = dead.begin(3)
    storage = dead._study._storage
    storage.set_trial_user_attr(dead._frozen(number)._trial_id, "frostline.outcome", done().to_dict(1))  # and dies
    age(here, clock)
    here.ownership.presence.gone()
    taken = []
    while (begun := here.begin(3)) is not None:
        taken.append(begun[1])
        here.tell(begun[0], done())
    assert params in taken
    assert len(here.points()) == 3
    assert {point.state for point in here.points()} == {State.COMPLETE}
    assert not [trial for trial in here._trials.look().trials if not trial.state.is_finished()]


def test_a_point_that_had_failed_when_its_parent_died_stays_failed(parent):
    plan, clock = make_plan(n_trials=3, finish=1.0, first_epochs=None), Clock()
    here, dead = parent("here", plan, clock), parent("dead", plan)
    number, params = dead.begin(3)
    failed = Outcome(state=State.FAILED, by_seed={}, reason="no")
    dead._study._storage.set_trial_user_attr(dead._frozen(number)._trial_id, "frostline.outcome", failed.to_dict(1))
    age(here, clock)
    here.ownership.presence.gone()
    taken = []
    while (begun := here.begin(3)) is not None:
        taken.append(begun[1])
        here.tell(begun[0], done())
    assert params not in taken
    assert sorted(point.state for point in here.points()) == [State.COMPLETE, State.COMPLETE, State.FAILED]
    assert len(here._trials.look().trials) == 3  # nothing was put back, to be withdrawn later


def test_a_point_whose_parent_died_while_it_drew_comes_back_whole(parent):
    plan, clock = make_plan(n_trials=2, sampler="grid", finish=1.0, first_epochs=None), Clock()
    here, dead = parent("here", plan, clock), parent("dead", plan)
    wanted = dead._frozen(0).system_attrs["fixed_params"]
    asked = dead._study.ask()
    asked.set_user_attr("frostline.owner", "dead")
    asked._suggest("freeze.depth", distribution(next(d for d in SPACE.of({}) if d.key == "freeze.depth")))  # and dies
    age(here, clock)
    here.ownership.presence.gone()
    taken = []
    while (begun := here.begin(2)) is not None:
        taken.append(begun[1])
        here.tell(begun[0], done())
    assert wanted in taken


def test_the_second_row_of_a_queue_filled_twice_is_none_though_the_first_failed(parent):
    plan = make_plan(n_trials=2, sampler="grid", finish=1.0, first_epochs=None)
    here, other = parent("here", plan), parent("other", plan)
    for params in queue_of(plan, SPACE, None):
        here._study.enqueue_trial(params)  # by another parent at the same moment
    begun = []
    while (point := other.begin(2)) is not None:
        begun.append(point)
        other.tell(point[0], Outcome(state=State.FAILED, by_seed={}, reason="no"))
    assert len(begun) == 2
    assert not [trial for trial in here._trials.look().trials if not trial.state.is_finished()]
    assert here.retry_failed() == 2
    again = here.begin(4)
    assert again is not None  # those are wanted though they have failed,
    here._study._storage.set_trial_state_values(here._frozen(again[0])._trial_id, TrialState.FAIL)
    taken = []
    while (point := other.begin(4)) is not None:
        taken.append(point[1])
        other.tell(point[0], done())
    assert again[1] in taken  # also if a host dies over one
    assert len(taken) == 2


def test_of_two_results_of_stage_2_the_first_counts(parent):
    plan, clock = make_plan(n_trials=4), Clock()
    here, away = parent("here", plan, clock), parent("away", plan)
    number, params = away.begin(4)
    away.tell(number, Outcome(state=State.COMPLETE, by_seed={0: 0.7}, more=True))
    assert away.claim(number) == number
    age(here, clock)
    taken = here.claim(number)
    assert taken not in {None, number}
    here.tell_final(taken, done(0.8))
    away.tell_final(number, done(0.9))  # it was only cut off
    for study in (here, away):
        (point,) = [p for p in study.points() if p.params == params]
        assert (point.number, point.stage, point.quality) == (taken, 2, 0.8)


def test_a_parent_that_never_gave_a_sign_of_life_is_watched_too(parent):
    plan, clock = make_plan(n_trials=3, finish=1.0, first_epochs=None), Clock()
    here, silent = parent("here", plan, clock), parent("silent", plan)
    here._study._storage.set_study_user_attr(here._study._study_id, "frostline.alive.silent", None)
    number, params = silent.begin(3)
    here.ownership.gone()
    assert here.ownership.others_at_work(3)
    age(here, clock)
    while (begun := here.begin(3)) is not None:
        here.tell(begun[0], done())
    assert params in [p.params for p in here.points() if p.number > number]
    assert len(here.points()) == 3


def test_stage_2_of_a_dead_parents_point_goes_to_one_of_the_others(parent):
    plan = make_plan(n_trials=4)
    clocks = [Clock(), Clock()]
    one, two = (parent(name, plan, clock) for name, clock in zip(("one", "two"), clocks, strict=True))
    dead = parent("dead", plan)
    number, params = dead.begin(4)
    dead.tell(number, Outcome(state=State.COMPLETE, by_seed={0: 0.7}, more=True))
    assert one.claim(number) is None
    for study, clock in zip((one, two), clocks, strict=True):
        age(study, clock)
        study.ownership.presence.gone()
    for study, clock in ((one, clocks[0]), (two, clocks[1])):  # these two are alive
        study.ownership.presence.beat()
        clock.now += GRACE_S / 6
    taken = one.claim(number)
    assert taken not in {None, number}
    assert one.claim(taken) == taken  # asked again
    assert two.claim(number) is None
    assert two.claim(taken) is None
    again = Study(one._storage, "shared", plan, SPACE, maximize=True, owner="one", grace_s=GRACE_S)
    assert again.claim(taken) == taken  # restarted in between
    assert again.begin(0) is None  # and not taken for a point of stage 1
    again.tell_final(taken, done(0.8))
    (point,) = [p for p in two.points() if p.params == params]
    assert (point.number, point.params, point.stage) == (taken, params, 2)
    assert (point.state, point.quality, point.first_quality) == (State.COMPLETE, 0.8, 0.7)
    assert two.claim(taken) is None  # it is finished
    assert dead.claim(number) is None


def test_a_sweep_waits_for_the_others_and_finishes_what_a_dead_one_left(parent):
    plan, clock = make_plan(n_trials=8), Clock()
    dead = parent("dead", plan)
    first = dead.begin(8)
    dead.tell(first[0], Outcome(state=State.COMPLETE, by_seed={0: 0.99}, more=True))  # the best after stage 1
    second = dead.begin(8)
    here = parent("here", plan, clock)
    executor = FakeExecutor(plan)
    summary = search(
        plan, here, executor, Quiet(), maximize=True, total=8, clock=clock, sleep=clock.sleep,
    )  # fmt: skip
    assert summary.complete
    assert clock.now > GRACE_S  # it waited before it took anything
    assert len(summary.points) == 8
    assert {p.state for p in summary.points} <= {State.COMPLETE, State.PRUNED}
    ended = next(p for p in summary.points if p.params == first[1])
    assert (ended.number, 2) in executor.done  # trained to its end, from the start
    assert ended.number != first[0]
    assert second[1] in [p.params for p in summary.points]
    assert len(executor.done) == len(set(executor.done))
    assert {p.depth for p in summary.points if p.stage == 2} == {p.depth for p in summary.points}
