"""frostline commands in processes that need not import torch, Transformers and MLflow first.

A new process spends some six seconds of a core on these imports, and the tests start more than a hundred. Here they are
imported once by a server (`multiprocessing`'s), which is forked for each command: a process of its own as before, with
its own session, folder, environment, output and signals. So are `accelerate launch` and the processes of a run that it
starts (`WarmPython`): it is Accelerate's and torchrun's code that runs there, only Python's start is left out. What
users start is tested in test_cli, test_quickstart, test_wheel and where processes are killed (`as_users_do`); what a
command imports, in tests/unit/project/test_imports.py.
"""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import multiprocessing.process
import os
import runpy
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from multiprocessing.reduction import DupFd
from pathlib import Path

import pytest

import frostline
from frostline.signals import PREEMPTED

_PRELOADED = "tests.support.preloaded"

_READ_AT_IMPORT = ("HF_", "TRANSFORMERS_", "OMP_", "MKL_", "HOME", "CUDA_VISIBLE_DEVICES")
_READ_LATER = ("HF_TOKEN",)


def is_read_at_import(variable: str) -> bool:
    """Whether libraries look at it when they are imported: with another value a command needs a start of its own."""
    return variable.startswith(_READ_AT_IMPORT) and variable not in _READ_LATER


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


class _Process:
    """A fork of the server, with what both kinds share of `subprocess.Popen`."""

    args: list[str]
    _process: multiprocessing.process.BaseProcess

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


class Forked(_Process):
    """A command that runs; of `subprocess.Popen` what the tests use.

    Args:
        arguments: The command's, or a script's (`*.py`) and its own.
        cwd: Where.
        env: Its environment.
        before: Python that the process runs first.
    """

    def __init__(self, arguments: list[str], cwd: Path, env: dict[str, str], before: str = "") -> None:
        self.args = arguments
        out, their_out = os.pipe()
        err, their_err = os.pipe()
        # A daemon to us: what a failed test left behind is ended with the tests.
        self._process = _server().Process(
            target=_main, args=(arguments, str(cwd), env, _Given(their_out), _Given(their_err), before), daemon=True
        )
        self._process.start()
        os.close(their_out)
        os.close(their_err)
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.stdout = os.fdopen(out, encoding="utf-8", errors="replace")
        self.stderr = os.fdopen(err, encoding="utf-8", errors="replace")

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


def _context() -> multiprocessing.context.ForkServerContext:
    """The server, from a test's process or from a fork of the server."""
    if _PRELOADED not in sys.modules:
        return _server()
    # A fork's own forks are the same server's, in which all is imported that their own would import.
    multiprocessing.forkserver._forkserver.ensure_running = _running
    multiprocessing.forkserver.ensure_running = _running
    return multiprocessing.get_context("forkserver")


def _running() -> None:
    pass


class WarmPython(_Process):
    """`subprocess.Popen([sys.executable, ..., "-m", MODULE, ...])` as a fork: what `launch` and torchrun use of Popen.

    Args:
        args: The command.
        env: Its environment.
        stdout: A file that takes what it prints; None: this process's.
        stderr: Likewise.
        options: A session of its own and no input are what it always has.
    """

    def __init__(self, args, env, stdout=None, stderr=None, **options) -> None:
        assert options.pop("start_new_session")
        assert options.pop("stdin", subprocess.DEVNULL) == subprocess.DEVNULL
        assert not options
        self.args = list(args)
        module = self.args.index("-m") + 1
        numbers = [given.fileno() if given else own for own, given in ((1, stdout), (2, stderr))]
        outputs = [_Given(os.dup(number)) for number in numbers]
        self._process = _context().Process(
            target=_module, args=(self.args[module:], str(Path.cwd()), dict(env), *outputs)
        )
        self._process.start()
        for output in outputs:
            os.close(output.number)
        self.pid = self._process.pid


def _begin(cwd: str, env: dict[str, str], out: int, err: int) -> None:
    """A fork becomes a process as a new one would be: its session, output, environment, folder, module search path."""
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
    sys.path[:] = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), cwd, *sys.path]
    _context()


def _end(name: str) -> None:
    """Runs a module as `python -m` does, or a script, and ends the process as Python does."""
    code: object = 0
    try:
        if name.endswith(".py"):
            runpy.run_path(name, run_name="__main__")
        else:
            runpy.run_module(name, run_name="__main__", alter_sys=False)
    except SystemExit as stop:
        code = stop.code
    with suppress(Exception):
        threading._shutdown()
    atexit._run_exitfuncs()
    sys.exit(code)


def _main(arguments: list[str], cwd: str, env: dict[str, str], out: int, err: int, before: str) -> None:
    """What `python -m frostline ARGUMENTS` or `python SCRIPT ARGUMENTS` does, in a fork."""
    _begin(cwd, env, out, err)
    exec(before, {})
    if arguments[0].endswith(".py"):
        subprocess.run = _run
        sys.argv[:] = arguments
        _end(arguments[0])
    sys.argv[:] = [str(Path(frostline.__file__).with_name("__main__.py")), *arguments]
    _end("frostline")


def _run(command: list[str], real=subprocess.run, **options) -> subprocess.CompletedProcess:
    """`subprocess.run`; of `python -m` that a script runs to its end, as a fork."""
    if command[:2] != [sys.executable, "-m"] or options != {"check": False}:
        return real(command, **options)
    code = WarmPython(command, os.environ, start_new_session=True).wait()
    return subprocess.CompletedProcess(command, code)


def _module(arguments: list[str], cwd: str, env: dict[str, str], out: int, err: int) -> None:
    """What `python -m MODULE ARGUMENTS` does, in a fork: `accelerate launch`, or a process that it starts."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    from frostline.train.worker_setup import reseed_fork

    signal.signal(PREEMPTED, signal.SIG_IGN)  # as `launch` has it: the parent alone answers a scheduler
    _begin(cwd, env, out, err)
    mark_process()
    reseed_fork()
    subprocess_handler.Popen = WarmPython
    sys.argv[:] = arguments
    _end(arguments[0])


MARK = "FROSTLINE_TEST_MARK"
"""A folder: which of a test's processes there are, by their ids. A fork's command line is its server's."""


def mark_process() -> None:
    """Notes that this process is one of a run's."""
    if MARK in os.environ:
        (Path(os.environ[MARK]) / str(os.getpid())).touch()
