"""Trials whose worker or machine dies, over a pool that trains nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from frostline.records.trial import TrialState
from frostline.search import TrialTask
from frostline.spec import PrunerName
from frostline.sweeps import pool_executor
from frostline.sweeps.pool_executor import PoolExecutor
from frostline.workers.pool import WorkerEvent
from frostline.workers.worker_main import EventKind


class FakePool:
    """Takes jobs, and reports what a test puts into `events`."""

    free = 1

    def __init__(self):
        self.submitted, self.events = [], []

    def submit(self, key, job):
        self.submitted.append(job)

    def poll(self, timeout_s):
        events, self.events = self.events, []
        return events


@pytest.fixture
def pool():
    return FakePool()


@pytest.fixture
def executor(monkeypatch, pool):
    monkeypatch.setattr(pool_executor, "sharing_of", lambda sweep, threads: None)
    monkeypatch.setattr(pool_executor, "record_worker_death", lambda trial, reason, cause: None)
    plan = SimpleNamespace(pruner=SimpleNamespace(name=PrunerName.NONE), has_rungs=False)
    runs = SimpleNamespace(of=lambda task: (), seeds=(0,), steps_per_run=None)
    executor = PoolExecutor(pool, SimpleNamespace(plan=plan), runs, lambda: None, lambda text: None, None)
    executor.submit(TrialTask(number=0, params={"optimizer.lr": 1e-4}, rung=1))
    return executor


def ends_after(executor, pool, *kinds):
    """What comes of a trial whose processes end like this, one after the other."""
    ends = []
    for kind in kinds:
        pool.events = [WorkerEvent(key=(0, None), kind=kind, value=f"it ended: {kind}")]
        ends += executor.wait()
    return ends


def test_a_trial_whose_worker_dies_is_resumed_once(executor, pool):
    assert ends_after(executor, pool, EventKind.DIED) == []
    assert pool.submitted[-1].note == "it ended: died: resumed from its last checkpoint"
    (end,) = ends_after(executor, pool, EventKind.DIED)
    assert (end.outcome.state, end.outcome.reason) == (TrialState.FAILED, "it ended: died")
    assert len(pool.submitted) == 2


def test_a_lost_machine_does_not_count(executor, pool):
    assert ends_after(executor, pool, *[EventKind.MACHINE_DIED] * 3, EventKind.DIED) == []
    assert len(pool.submitted) == 5
    (end,) = ends_after(executor, pool, EventKind.DIED)
    assert end.outcome.state is TrialState.FAILED


def test_a_trial_that_hangs_is_not_retried(executor, pool):
    (end,) = ends_after(executor, pool, EventKind.TIMEOUT)
    assert end.outcome.state is TrialState.FAILED
    assert len(pool.submitted) == 1
