"""Warm workers: messages, answers, deaths, hangs, leftovers. The jobs are in pool_jobs.py, for a worker to import."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frostline.pool import Kind, Pool

HERE = str(Path(__file__).parent)


def collect(pool, num, limit_s=30.0, on_message=None):
    """Events until `num` jobs have ended."""
    events, ended, deadline = [], 0, time.monotonic() + limit_s
    while ended < num and time.monotonic() < deadline:
        for event in pool.poll(0.2):
            events.append(event)
            if event.kind is Kind.MESSAGE and on_message is not None:
                on_message(event)
            ended += event.kind is not Kind.MESSAGE
    assert ended == num, events
    return events


def make_pool(slots=1, **kwargs):
    return Pool(slots, "pool_jobs:job", path=[HERE], **kwargs)


def test_a_worker_takes_one_job_after_the_other():
    with make_pool() as pool:
        pool.submit(1, {"do": "pid"})
        first = collect(pool, 1)[0].value
        pool.submit(2, {"do": "pid"})
        assert collect(pool, 1)[0].value == first != os.getpid()


def test_slots_have_their_own_environment_and_run_side_by_side(tmp_path):
    with make_pool(2, env=lambda slot: {"SLOT": str(slot)}, log_dir=tmp_path) as pool:
        pool.submit(0, {"do": "meet", "folder": str(tmp_path), "name": "a", "other": "b"})
        pool.submit(1, {"do": "meet", "folder": str(tmp_path), "name": "b", "other": "a"})
        assert {event.value for event in collect(pool, 2)} == {"0", "1"}
    assert "meeting as a" in (tmp_path / "slot-0.log").read_text() + (tmp_path / "slot-1.log").read_text()


def test_messages_and_answers():
    with make_pool() as pool:
        pool.submit(5, {"do": "ask"})
        events = collect(pool, 1, on_message=lambda event: pool.answer(event.key, f"yes, {event.value}"))
    assert [event.value for event in events] == ["may I?", "yes, may I?"]


def test_an_exception_or_exit_ends_the_job_not_the_worker():
    with make_pool() as pool:
        pids = []
        for key, what in enumerate(("raise", "exit", "unpicklable")):
            pool.submit(key, {"do": what})
            event = collect(pool, 1)[0]
            assert event.kind is Kind.ERROR
            assert "\n" not in event.value
            pool.submit(10 + key, {"do": "pid"})
            pids.append(collect(pool, 1)[0].value)
        assert len(set(pids)) == 1


@pytest.mark.parametrize(("what", "words"), [("kill", "killed by signal 9"), ("quit", "ended with exit code 7")])
def test_a_dead_worker_is_noticed_and_replaced(what, words):
    with make_pool() as pool:
        pool.submit(1, {"do": what})
        event = collect(pool, 1)[0]
        assert (event.kind, event.key) == (Kind.DIED, 1)
        assert words in event.value
        pool.submit(2, {"do": "pid"})
        assert collect(pool, 1)[0].kind is Kind.DONE


@pytest.mark.slow
def test_a_hung_worker_is_killed_but_a_slow_one_is_not():
    with make_pool(hang_s=1.5) as pool:
        pool.submit(1, {"do": "slow", "seconds": 3.0})  # longer than the limit, but it gives signs of life
        assert collect(pool, 1)[0].kind is Kind.DONE
        pool.submit(2, {"do": "hang"})
        event = collect(pool, 1)[0]
        assert event.kind is Kind.TIMEOUT
        assert "timeout" in event.value
        pool.submit(3, {"do": "pid"})
        assert collect(pool, 1)[0].kind is Kind.DONE


def test_a_worker_that_dies_while_idle_is_replaced():
    with make_pool() as pool:
        pool.submit(1, {"do": "pid"})
        os.kill(collect(pool, 1)[0].value, signal.SIGKILL)
        time.sleep(0.5)
        pool.poll(0.1)
        pool.submit(2, {"do": "pid"})
        assert collect(pool, 1)[0].kind is Kind.DONE


def test_a_job_may_have_its_process_replaced():
    with make_pool() as pool:
        pool.submit(1, {"do": "retire"})
        first = collect(pool, 1)[0]
        assert first.kind is Kind.DONE
        pool.submit(2, {"do": "pid"})
        second = collect(pool, 1)[0].value
        pool.submit(3, {"do": "pid"})
        assert collect(pool, 1)[0].value == second != first.value


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\n"
        f"sys.path.insert(0, {HERE!r})\n"
        "from frostline.pool import Pool\n"
        "if __name__ == '__main__':\n"
        f"    pool = Pool(2, 'pool_jobs:job', path=[{HERE!r}]).__enter__()\n"
        "    pool.submit(0, {'do': 'hang'}); pool.submit(1, {'do': 'hang'})\n"
        "    print(*pool.pids().values(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in parent.stdout.readline().split()]
    time.sleep(1.0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(pids) == 2
    assert not any(_alive(pid) for pid in pids)


def _alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
