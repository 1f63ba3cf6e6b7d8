"""A second Ctrl-C or SIGTERM ends any command within two seconds, wherever it waits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cases.damaged import FEW
from tests.cases.test_damage import descendants, is_alive
from tests.support.sweep_tools import start, wait_for

LIMIT_S = 2.0


@pytest.fixture
def silent() -> Iterator[tuple[str, socket.socket, list[socket.socket]]]:
    """The address of a server that accepts connections and never answers, its socket, and those of who connected."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    held: list[socket.socket] = []
    yield f"127.0.0.1:{server.getsockname()[1]}", server, held
    for each in (server, *held):
        each.close()


def accepted(server: socket.socket, held: list[socket.socket], times: int, process: subprocess.Popen[str]) -> None:
    """Waits until a command has connected; some ask whether anybody listens, and connect again."""
    deadline = time.monotonic() + 120.0
    while len(held) < times and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            held.append(server.accept()[0])
        except TimeoutError:
            continue
    assert len(held) >= times, "nobody connected"


def ends_within(process: subprocess.Popen[str], signum: int) -> None:
    time.sleep(0.5)  # it waits for an answer now
    os.kill(process.pid, signum)
    time.sleep(0.3)
    if process.poll() is None:
        os.kill(process.pid, signum)
    began = time.monotonic()
    out, err = process.communicate(timeout=30)
    # On a busy machine a process takes seconds to end; what waits for another one would take five and more.
    assert time.monotonic() - began < LIMIT_S + 2.0
    assert process.returncode in {128 + signum, -signum}, (out, err)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", ["tracking", "storage", "download"])
def test_a_second_signal_ends_a_command_that_waits(tmp_path, tiny_overrides, silent, what, signum):
    place, server, held = silent
    tiny = [each for each in tiny_overrides if not each.startswith("optimizer.lr=")]
    env: dict[str, str] = {}
    few = [word for word in FEW if word != "tracking=off"]
    if what == "tracking":
        words, times = ["run", *tiny_overrides, *few, f"tracking.uri=http://{place}"], 2
    elif what == "storage":
        url = f"sweep.storage='postgresql+psycopg://me:x@{place}/studies'"
        words, times = ["sweep", "lr_only", *tiny, *FEW, url], 1
    else:
        env = {"PIP_INDEX_URL": f"http://{place}/simple", "FROSTLINE_HOME": str(tmp_path / "home"), "PIP_NO_INDEX": ""}
        words, times = ["fetch", "model=minilm"], 1
    process = start(*words, cwd=tmp_path, as_users_do=True, **env)
    accepted(server, held, times, process)
    ends_within(process, signum)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_run_whose_processes_wait_for_each_other(tmp_path, tiny_overrides, signum):
    few = (*FEW, "runtime.num_processes=2", "runtime.threads=2")
    process = start("run", *tiny_overrides, *few, cwd=tmp_path, as_users_do=True)

    def beginning() -> int | None:
        """A process of the run that imports torch, before it looks for the other one."""
        for pid in descendants(process.pid):
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"launch.rank" in line and b"accelerate_launch" not in line:
                    return pid if "libtorch_cpu" in Path(f"/proc/{pid}/maps").read_text() else None
        return None

    os.kill(wait_for(beginning, what="a process of the run"), signal.SIGSTOP)
    time.sleep(8.0)
    below = descendants(process.pid)
    ends_within(process, signum)
    deadline = time.monotonic() + 3.0
    while any(map(is_alive, below)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in below if is_alive(pid)]


@pytest.mark.slow
def test_a_second_signal_ends_a_command_that_hears_nothing(tmp_path):
    # as while a compiler or a rendezvous in C waits: Python's own handler does not run
    script = (
        "import ctypes, signal\n"
        "from frostline import signals\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "signals.end_on_second()\n"
        "print('ready', flush=True)\n"
        "while True: ctypes.CDLL(None).usleep(60_000_000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        ends_within(process, signal.SIGTERM)
