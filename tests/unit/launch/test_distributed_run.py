"""Of several processes that fail, which one is named: the one that failed by itself."""

from __future__ import annotations

import queue
import threading

import pytest

from frostline.config import compose_run
from frostline.launch import distributed_run, messages
from frostline.launch.distributed_run import DistributedRun
from frostline.records.monitor import NullMonitor
from frostline.records.recorder import NullRecorder
from frostline.records.result import Cause, RunResult, Status

LOST = "RuntimeError: [third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:6810."
CAUSE = "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed."


class FakeProcesses:
    """Two processes that send what a test puts into the queue."""

    size = 2
    pids = (1, 2)
    is_over = False

    def __init__(self):
        self.messages_in = queue.Queue()

    def end(self, grace_s):
        pass

    def failed(self, rank, at, reason):
        cause = Cause.LOST_PEER if reason == LOST else Cause.ERROR
        result = RunResult(name="x", status=Status.FAILED, reason=reason, cause=cause, spec_digest="0")
        message = messages.RankEnded(result=result)
        self.messages_in.put(messages.Envelope(rank=rank, message=message, at=at))


@pytest.fixture
def processes():
    return FakeProcesses()


def reason_of(processes):
    return DistributedRun(compose_run([]), NullRecorder(), NullMonitor(), processes).go().reason


def test_a_process_that_lost_another_waits_for_the_cause(processes):
    """On a busy machine the other process may take seconds to send it: its traceback, its record."""
    processes.failed(0, 1.0, LOST)
    late = threading.Timer(1.5, processes.failed, [1, 2.0, CAUSE])
    late.start()
    assert reason_of(processes) == f"process 1 of 2: {CAUSE}"
    late.join()


def test_a_process_that_sends_nothing_was_lost(processes, monkeypatch):
    monkeypatch.setattr(distributed_run, "LOST_S", 0.2)
    processes.failed(0, 1.0, LOST)
    assert reason_of(processes) == f"process 0 of 2 lost another one: {LOST}"


def test_of_two_causes_the_first_one_counts(processes):
    processes.failed(0, 2.0, "ValueError: a step too far")
    processes.failed(1, 1.0, CAUSE)
    assert reason_of(processes) == f"process 1 of 2: {CAUSE}"
