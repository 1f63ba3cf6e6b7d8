"""frostline commands in processes that need not import torch, Transformers and MLflow first.

A new process spends some six seconds of a core on these imports, and the tests start more than a hundred. Here they are
imported once by a server (`multiprocessing`'s), which is forked for each command: a process of its own as before, with
its own session, folder, environment, output and signals. What users start is tested in test_cli, test_quickstart,
test_wheel and where processes are killed (`as_users_do`); what a command imports, in tests/unit/test_imports.py.
"""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import multiprocessing.process
import os
import runpy
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from multiprocessing.reduction import DupFd
from pathlib import Path

import pytest

import frostline

_PRELOADED = "tests.e2e.preloaded"

READ_AT_IMPORT = ("HF_", "TRANSFORMERS_", "OMP_", "MKL_", "HOME", "CUDA_VISIBLE_DEVICES")
"""Variables that libraries look at when they are imported: with others than ours a command needs a start of its own."""


@cache
def _server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    multiprocessing.forkserver._forkserver._stop()  # a test of the pool may have started one, with another template
    context.set_forkserver_preload([_PRELOADED])
    with pytest.MonkeyPatch.context() as patch:
        # Python 3.11 gives it no module search path.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        multiprocessing.forkserver.ensure_running()
    return context


class Forked:
    """A command that runs; of `subprocess.Popen` what the tests use."""

    def __init__(self, arguments: list[str], cwd: Path, env: dict[str, str]) -> None:
        self.args = arguments
        out, their_out = os.pipe()
        err, their_err = os.pipe()
        # A daemon to us: what a failed test left behind is ended with the tests.
        self._process = _server().Process(
            target=_main, args=(arguments, str(cwd), env, _Given(their_out), _Given(their_err)), daemon=True
        )
        self._process.start()
        os.close(their_out)
        os.close(their_err)
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.stdout = os.fdopen(out, encoding="utf-8", errors="replace")
        self.stderr = os.fdopen(err, encoding="utf-8", errors="replace")

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Reads both to their ends, then waits; what was read before a timeout is kept for the next call."""
        if not hasattr(self, "_readers"):
            self._read = ["", ""]
            self._readers = [
                threading.Thread(target=self._take, args=(index, stream), daemon=True)
                for index, stream in enumerate((self.stdout, self.stderr))
            ]
            for reader in self._readers:
                reader.start()
        self.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return self._read[0], self._read[1]

    def _take(self, index: int, stream) -> None:
        self._read[index] = stream.read()
        stream.close()


class _Given:
    """A file descriptor that is handed to the process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self):
        return _detach, (DupFd(self.number),)


def _detach(handed) -> int:
    return handed.detach()


def _running() -> None:
    pass


def _main(arguments: list[str], cwd: str, env: dict[str, str], out: int, err: int) -> None:
    """What `python -m frostline ARGUMENTS` does, in a fork."""
    assert _PRELOADED in sys.modules, "the server could not import it"
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    multiprocessing.current_process()._config["daemon"] = False  # it may have workers
    multiprocessing.process.ORIGINAL_DIR = cwd
    # Its workers are forks of the same server, in which all is imported that their own would import.
    multiprocessing.forkserver._forkserver.ensure_running = _running
    multiprocessing.forkserver.ensure_running = _running
    sys.path[:] = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), cwd, *sys.path]
    sys.argv[:] = [str(Path(frostline.__file__).with_name("__main__.py")), *arguments]
    code: object = 0
    try:
        runpy.run_module("frostline", run_name="__main__", alter_sys=False)
    except SystemExit as stop:
        code = stop.code
    with suppress(Exception):
        threading._shutdown()
    atexit._run_exitfuncs()
    sys.exit(code)
