"""Warm workers: messages, answers, deaths, hangs, leftovers. The jobs are in pool_jobs.py, for a worker to import."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frostline.workers.pool import Pool, WorkerProgram
from frostline.workers.worker_main import EventKind

HERE = str(Path(__file__).parent)


def collect(pool, num, limit_s=30.0, on_message=None):
    """Events until `num` jobs have ended."""
    events, ended, deadline = [], 0, time.monotonic() + limit_s
    while ended < num and time.monotonic() < deadline:
        for event in pool.poll(0.2):
            events.append(event)
            if event.kind is EventKind.MESSAGE and on_message is not None:
                on_message(event)
            ended += event.kind is not EventKind.MESSAGE
    assert ended == num, events
    return events


@pytest.fixture(params=[None, "json"], ids=["new", "forks"])
def make_pool(request):
    """Slots that are new processes, and slots that are forks of a template."""

    def make(slots=1, warm=None, log_dir=None, **kwargs):
        program = WorkerProgram(
            function="pool_jobs:job", warm=warm, path=[HERE], log_dir=log_dir, template=request.param
        )
        return Pool(slots, program, **kwargs)

    return make


def test_a_worker_takes_one_job_after_the_other(make_pool):
    with make_pool() as pool:
        pool.submit(1, {"do": "pid"})
        first = collect(pool, 1)[0].value
        pool.submit(2, {"do": "pid"})
        assert collect(pool, 1)[0].value == first != os.getpid()


def test_slots_have_their_own_environment_and_run_side_by_side(make_pool, tmp_path):
    with make_pool(2, env=lambda slot: {"SLOT": str(slot)}, log_dir=tmp_path) as pool:
        pool.submit(0, {"do": "meet", "folder": str(tmp_path), "name": "a", "other": "b"})
        pool.submit(1, {"do": "meet", "folder": str(tmp_path), "name": "b", "other": "a"})
        assert {event.value for event in collect(pool, 2)} == {"0", "1"}
    assert "meeting as a" in (tmp_path / "slot-0.log").read_text() + (tmp_path / "slot-1.log").read_text()


@pytest.mark.parametrize("started", [True, False])
def test_it_grows(make_pool, tmp_path, started):
    with make_pool(1, env=lambda slot: {"SLOT": f"first {slot}"}) as pool:
        if started:
            pool.submit(0, {"do": "env"})
            assert collect(pool, 1)[0].value == "first 0"
        pool.grow(2, lambda slot: {"SLOT": f"then {slot}"})
        assert pool.free == 2
        for key, other in (("a", "b"), ("b", "a")):
            pool.submit(key, {"do": "meet", "folder": str(tmp_path), "name": key, "other": other})
        values = {event.value for event in collect(pool, 2)}
        assert "then 1" in values
        assert values <= {"first 0", "then 0", "then 1"}
        assert not started or "first 0" in values  # it is the same process


def test_the_environment_is_the_parents_of_now(make_pool, monkeypatch):
    for value in ("first", "second"):
        monkeypatch.setenv("SLOT", value)
        with make_pool() as pool:
            pool.submit(0, {"do": "env"})
            assert collect(pool, 1)[0].value == value


def test_messages_and_answers(make_pool):
    with make_pool() as pool:
        pool.submit(5, {"do": "ask"})
        events = collect(pool, 1, on_message=lambda event: pool.answer(event.key, f"yes, {event.value}"))
    assert [event.value for event in events] == ["may I?", "yes, may I?"]


def test_an_exception_or_exit_ends_the_job_not_the_worker(make_pool):
    with make_pool() as pool:
        pids = []
        for key, what in enumerate(("raise", "exit", "unpicklable")):
            pool.submit(key, {"do": what})
            event = collect(pool, 1)[0]
            assert event.kind is EventKind.ERROR
            assert "\n" not in event.value
            pool.submit(10 + key, {"do": "pid"})
            pids.append(collect(pool, 1)[0].value)
        assert len(set(pids)) == 1


@pytest.mark.parametrize(("what", "words"), [("kill", "killed by signal 9"), ("quit", "ended with exit code 7")])
def test_a_dead_worker_is_noticed_and_replaced(make_pool, what, words):
    with make_pool() as pool:
        pool.submit(1, {"do": what})
        event = collect(pool, 1)[0]
        assert (event.kind, event.key) == (EventKind.DIED, 1)
        assert words in event.value
        pool.submit(2, {"do": "pid"})
        assert collect(pool, 1)[0].kind is EventKind.DONE


@pytest.mark.slow
def test_a_hung_worker_is_killed_but_a_slow_one_is_not(make_pool):
    with make_pool(heartbeat_timeout_s=1.5) as pool:
        pool.submit(1, {"do": "slow", "seconds": 3.0})  # longer than the limit, but it gives signs of life
        assert collect(pool, 1)[0].kind is EventKind.DONE
        pool.submit(2, {"do": "hang"})
        event = collect(pool, 1)[0]
        assert event.kind is EventKind.TIMEOUT
        assert "timeout" in event.value
        pool.submit(3, {"do": "pid"})
        assert collect(pool, 1)[0].kind is EventKind.DONE


def test_a_worker_that_dies_while_idle_is_replaced(make_pool):
    with make_pool() as pool:
        pool.submit(1, {"do": "pid"})
        os.kill(collect(pool, 1)[0].value, signal.SIGKILL)
        time.sleep(0.5)
        pool.poll(0.1)
        pool.submit(2, {"do": "pid"})
        assert collect(pool, 1)[0].kind is EventKind.DONE


def test_a_job_may_have_its_process_replaced(make_pool):
    with make_pool() as pool:
        pool.submit(1, {"do": "retire"})
        first = collect(pool, 1)[0]
        assert first.kind is EventKind.DONE
        pool.submit(2, {"do": "pid"})
        second = collect(pool, 1)[0].value
        pool.submit(3, {"do": "pid"})
        assert collect(pool, 1)[0].value == second != first.value


PARENT = f"""
import multiprocessing.forkserver, os, signal, sys, time
sys.path.insert(0, {HERE!r})
from frostline.workers.pool import EventKind, Pool, WorkerProgram

def started(slots=2, template="colorsys"):
    return Pool(slots, WorkerProgram(function="pool_jobs:job", path=[{HERE!r}], template=template)).__enter__()

def events(pool, num):
    found = []
    while len(found) < num:
        found += pool.poll(0.2)
    return found

def template():
    return multiprocessing.forkserver._forkserver._forkserver_pid
"""


def parent(tmp_path, body, **env):
    """A process with a pool of its own, whose template is one of its own."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT + body)
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, **env},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("template", [None, "colorsys"])
def test_workers_do_not_outlive_a_killed_parent(tmp_path, template):
    process = parent(
        tmp_path,
        f"pool = started(template={template!r})\n"
        "pool.submit(0, {'do': 'hang'}); pool.submit(1, {'do': 'hang'})\n"
        "print(template() or '', *pool.pids().values(), flush=True)\n"
        "time.sleep(60)\n",
    )
    pids = [int(word) for word in process.stdout.readline().split()]
    time.sleep(1.0)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(pids) == (2 if template is None else 3)
    assert not any(_alive(pid) for pid in pids)


def test_forks_have_what_their_template_imported(tmp_path):
    process = parent(
        tmp_path,
        "for name in ('colorsys', None):\n"
        "    pool = started(slots=1, template=name)\n"
        "    pool.submit(0, {'do': 'imported', 'module': 'colorsys'})\n"
        "    print(events(pool, 1)[0].value, flush=True)\n"
        "    pool.close()\n",
    )
    assert process.communicate(timeout=60) == ("True\nFalse\n", "")


def test_when_the_template_is_killed_its_forks_end_and_there_are_new_ones(tmp_path):
    process = parent(
        tmp_path,
        "pool = started()\n"
        "pool.submit(0, {'do': 'hang'}); pool.submit(1, {'do': 'hang'})\n"
        "pids = list(pool.pids().values())\n"
        "time.sleep(1.0)\n"
        "os.kill(template(), signal.SIGKILL)\n"
        "for event in events(pool, 2):\n"
        "    print(event.kind, event.value)\n"
        "print(*pids, flush=True)\n"
        "pool.submit(2, {'do': 'pid'})\n"
        "print(events(pool, 1)[0].kind)\n"
        "pool.close()\n",
    )
    out, err = process.communicate(timeout=60)
    *died, pids, last = out.splitlines()
    assert died == ["template died the process that its worker was forked from has ended"] * 2
    assert not any(_alive(int(pid)) for pid in pids.split())
    assert (last, err) == ("done", "")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_all_processes_ends_neither_template_nor_forks(tmp_path, signum):
    (tmp_path / "slow_template.py").write_text("import time\ntime.sleep(1.0)\n")
    process = parent(
        tmp_path,
        "import threading\n"
        "received = []\n"
        f"signal.signal({int(signum)}, lambda *_: received.append(1))\n"
        f"threading.Timer(0.5, os.killpg, (0, {int(signum)})).start()\n"  # while the template imports
        "pool = started(template='slow_template')\n"
        "for key in range(4):\n"
        "    pool.submit(key, {'do': 'pid'})\n"
        "    assert events(pool, 1)[0].kind is EventKind.DONE\n"
        "    if key == 1:\n"
        "        first = template()\n"
        f"        os.killpg(0, {int(signum)})\n"
        "assert template() == first\n"
        "pool.close()\n"
        "print(len(received))\n",
    )
    out, err = process.communicate(timeout=60)
    assert (out.split(), err, process.returncode) == (["2"], "", 0)


def test_a_template_that_ends_at_its_import_is_done_without(tmp_path):
    (tmp_path / "script.py").write_text("raise SystemExit(3)\n")  # a user's, under the name of a library
    process = parent(
        tmp_path,
        "pool = started(slots=1, template='script')\n"
        "pool.submit(0, {'do': 'pid'})\n"
        "print(events(pool, 1)[0].kind)\n"
        "pool.close()\n",
    )
    assert process.communicate(timeout=60) == ("done\n", "")


@pytest.mark.slow
def test_a_template_that_does_not_answer_is_replaced(tmp_path):
    (tmp_path / "stopped.py").write_text("import time\ntime.sleep(0.5)\n")
    process = parent(
        tmp_path,
        "import frostline.workers.process\n"
        "frostline.workers.process._TEMPLATE_S = 2.0\n"
        "pool = started(slots=1, template='stopped')\n"
        "first = template()\n"
        "os.kill(first, signal.SIGSTOP)\n"
        "pool.submit(0, {'do': 'pid'})\n"
        "print(events(pool, 1)[0].kind, template() != first)\n"
        "pool.close()\n",
    )
    assert process.communicate(timeout=60) == ("done True\n", "")


@pytest.mark.parametrize("template", [None, "colorsys"])
def test_what_wants_to_be_asked_at_the_end_is(tmp_path, template):
    process = parent(
        tmp_path,
        f"pool = started(slots=1, template={template!r})\n"
        f"pool.submit(0, {{'do': 'at the end', 'touch': {str(tmp_path / 'asked')!r}}})\n"
        "print(events(pool, 1)[0].kind)\n"
        "pool.close()\n",
    )
    assert process.communicate(timeout=60) == ("done\n", "")
    assert (tmp_path / "asked").is_file()


@pytest.mark.parametrize("template", [None, "colorsys"])
def test_what_a_killed_worker_leaves_is_tidied_up_without_a_word(tmp_path, template):
    process = parent(
        tmp_path,
        f"pool = started(slots=1, template={template!r})\n"
        "pool.submit(0, {'do': 'leave a lock'})\n"
        "print(events(pool, 1)[0].value)\n"
        "pool.close()\n",
    )
    assert process.communicate(timeout=60) == ("its process ended with exit code 7\n", "")


@pytest.mark.slow
def test_forks_of_a_sweeps_template_have_threads_and_random_states_of_their_own(tmp_path):
    process = parent(
        tmp_path,
        "def threads_and_draws(slots, threads):\n"
        "    program = WorkerProgram(function='pool_jobs:job', path=[" + repr(HERE) + "],\n"
        "        warm='frostline.sweeps.trial:warm', template='frostline.sweeps.worker_template')\n"
        "    pool = Pool(slots, program,\n"
        "        env=lambda _: {'OMP_NUM_THREADS': str(threads)}).__enter__()\n"
        "    for key in range(slots):\n"
        "        pool.submit(key, {'do': 'draw'})\n"
        "    found = [event.value for event in events(pool, slots)]\n"
        "    pool.close()\n"
        "    return found\n"
        "one, two = threads_and_draws(1, 2), threads_and_draws(2, 1)\n"
        "print([threads for threads, *_ in one + two], len({draw for _, draw, _ in one + two}),\n"
        "      len({draw for *_, draw in one + two}))\n",
    )
    out, _ = process.communicate(timeout=120)
    assert out == "[2, 1, 1] 3 3\n"


def test_where_there_can_be_no_template_each_slot_is_a_new_process(tmp_path):
    process = parent(
        tmp_path,
        "from frostline import scratch\n"
        "scratch._SHORT, scratch.tempfile.gettempdir = (), lambda: '/nowhere'\n"
        "pool = started(slots=1)\n"
        "pool.submit(0, {'do': 'pid'})\n"
        "print(events(pool, 1)[0].kind, template())\n"
        "pool.close()\n",
    )
    assert process.communicate(timeout=60) == ("done None\n", "")


def _alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
