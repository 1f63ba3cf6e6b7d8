"""Of several processes that fail, which one is named: the one that failed by itself."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace

import pytest

from frostline.launch import distributed_run, messages
from frostline.records.result import Cause, RunResult, Status

LOST = "RuntimeError: [third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:6810."
CAUSE = "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed."


def ended(rank, at, reason):
    cause = Cause.LOST_PEER if reason == LOST else Cause.ERROR
    result = RunResult(name="x", status=Status.FAILED, reason=reason, cause=cause, spec_digest="0")
    return messages.Envelope(rank=rank, message=messages.RankEnded(result=result), at=at)


@pytest.fixture
def parent():
    made = object.__new__(distributed_run.DistributedRun)
    made._processes = SimpleNamespace(heard=queue.Queue(), size=2)
    made._spec = SimpleNamespace(name=lambda: "x", digest=lambda: "0")
    made._ended, made._known, made._someone_was_killed = {0}, {}, False
    return made


def test_a_process_that_lost_another_waits_for_what_that_one_says(parent):
    """On a busy machine the other one may need seconds for it: its traceback, its record."""
    late = threading.Timer(1.5, parent._processes.heard.put, [ended(1, 2.0, CAUSE)])
    late.start()
    found = parent._first_cause(ended(0, 1.0, LOST))
    late.join()
    assert found.reason == f"process 1 of 2: {CAUSE}"


def test_a_process_that_says_nothing_was_lost(parent, monkeypatch):
    monkeypatch.setattr(distributed_run, "_LOST_S", 0.2)
    assert parent._first_cause(ended(0, 1.0, LOST)).reason == f"process 0 of 2 lost another one: {LOST}"


def test_of_two_causes_the_first_one_counts(parent):
    parent._processes.heard.put(ended(1, 1.0, CAUSE))
    assert parent._first_cause(ended(0, 2.0, "ValueError: a step too far")).reason == f"process 1 of 2: {CAUSE}"
