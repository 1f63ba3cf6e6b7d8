"""Owns: warm worker processes - started once, watched, replaced. Must not know: what they run.

Each slot is one process that takes one job after another: a new one that imports what it needs, or a fork of a process
that imported it for all slots. The parent hears of a job's messages, its end, its process's death, and of a job that
gives no sign of life.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess

_GRACE_S = 5.0  # assumed: what a process gets to end by itself before it is killed
_HUSH_S = 0.5
"""A worker tells at most so often that it is alive."""


_RETIRING = "retiring"

_NOT_FOR_THE_TEMPLATE = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What a terminal or a scheduler sends to all processes of a group: the parent decides what becomes of the slots."""

_LOST = 255
"""The exit code that `multiprocessing` gives to a fork whose template is gone."""

_TEMPLATE_S = 180.0
"""How long a fork may be waited for (assumed: an import from a slow network disk takes a minute or two)."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

LOST_TEMPLATE = "its process ended with the one that it was a fork of"
"""Why a job ended through no fault of its own."""


class Kind(StrEnum):
    """What can be heard of a job."""

    MESSAGE = "message"
    DONE = "done"
    ERROR = "error"  # the function raised
    DIED = "died"  # the process ended
    TIMEOUT = "timeout"  # no sign of life: the process was killed


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    Attributes:
        kind: What.
        key: The job's.
        value: A message, the function's result, or why it ended, in words.
    """

    kind: Kind
    key: int
    value: Any


class Channel:
    """A job's line to the parent, in the worker."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told = 0.0
        self.retiring = False

    def send(self, message: Any) -> None:
        """Sends a message."""
        self._connection.send((Kind.MESSAGE, message))
        self._told = time.monotonic()

    def ask(self, message: Any) -> Any:
        """Sends a message and waits for the parent's answer."""
        self.send(message)
        return self._connection.recv()

    def alive(self) -> None:
        """Tells that the job makes progress; cheap enough for every step."""
        if time.monotonic() - self._told > _HUSH_S:
            self._told = time.monotonic()
            self._connection.send(None)

    def retire(self) -> None:
        """Has the process replaced once the job is done: it can't be trusted to be as it was."""
        self.retiring = True


class _Worker:
    """One slot's process, seen from the parent."""

    def __init__(self, slot: int, process: SpawnProcess | ForkServerProcess, connection: Connection) -> None:
        self.slot = slot
        self.process = process
        self.connection = connection
        self.key: int | None = None
        self.retiring = False
        self.heard = time.monotonic()


class Pool:
    """Slots that take one job each. Use as a context manager; leaving it ends the processes.

    Args:
        slots: How many.
        function: `module:name` of what a worker calls for each job: `f(payload, channel)`.
        warm: `module:name` of what it calls once at its start, as imports; or None.
        env: Environment variables of each slot, set before anything is imported.
        log_dir: Where what workers print goes, `slot-0.log`; None leaves it on the terminal.
        path: Folders for the workers' module search, before their own.
        hang_s: Seconds without a sign of life after which a job's process is killed; None: never.
        template: A module that is imported once, in a process that all slots are forks of: they start at once, and
            share the memory of what was imported. It must start no thread and touch no GPU. None, or not on Linux: each
            slot is a new process that imports for itself.
    """

    def __init__(
        self,
        slots: int,
        function: str,
        *,
        warm: str | None = None,
        env: Callable[[int], Mapping[str, str]] = lambda _slot: {},
        log_dir: Path | None = None,
        path: Sequence[str] = (),
        hang_s: float | None = None,
        template: str | None = None,
    ) -> None:
        self._function = function
        self._warm = warm
        self._env = env
        self._log_dir = log_dir
        self._path = list(path)
        self._hang_s = hang_s
        self._template = template if sys.platform == "linux" else None
        self._slots = slots
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        if self._template is None:
            self._begin()
        else:
            self._context(self._env(0))  # it imports while the parent goes on: who asks for a fork waits for it
        return self

    def _begin(self) -> None:
        if not self._workers:
            self._workers = [self._start(slot) for slot in range(self._slots)]

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def free(self) -> int:
        """How many slots have no job."""
        if not self._workers:
            return self._slots
        return sum(worker.key is None for worker in self._workers)

    def pids(self) -> dict[int, int]:
        """Returns the process ids by the key of their job."""
        return {w.key: w.process.pid for w in self._workers if w.key is not None and w.process.pid is not None}

    def submit(self, key: int, payload: Any) -> None:
        """Gives a job to a free slot.

        Args:
            key: Names the job in events.
            payload: Picklable.
        """
        self._begin()
        worker = next(worker for worker in self._workers if worker.key is None)
        if not worker.process.is_alive():  # it died while idle
            worker = self._replace(worker)
        worker.key = key
        worker.heard = time.monotonic()
        with contextlib.suppress(OSError):  # a death right now is heard of in `poll`
            worker.connection.send(("job", payload))

    def answer(self, key: int, value: Any) -> None:
        """Answers a job's `Channel.ask`."""
        for worker in self._workers:
            if worker.key == key:
                with contextlib.suppress(OSError):
                    worker.connection.send(value)

    def signal(self, key: int, signum: int) -> None:
        """Sends a signal to a job's process."""
        pid = self.pids().get(key)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def poll(self, timeout_s: float) -> list[Event]:
        """Returns what happened, waiting for it at most `timeout_s` seconds."""
        sources: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers}
        sources |= {worker.process.sentinel: worker for worker in self._workers if worker.key is not None}
        ready = multiprocessing.connection.wait(list(sources), timeout_s)
        events: list[Event] = []
        for worker in dict.fromkeys(sources[source] for source in ready):
            events += self._hear(worker)
        events += self._look_for_hangs()
        return events

    def _hear(self, worker: _Worker) -> list[Event]:
        events: list[Event] = []
        try:
            while worker.connection.poll():
                message = worker.connection.recv()
                worker.heard = time.monotonic()
                if message is None or worker.key is None:
                    continue
                if message == _RETIRING:
                    worker.retiring = True
                    continue
                kind, value = message
                events.append(Event(kind, worker.key, value))
                if kind is not Kind.MESSAGE:
                    worker.key = None
                    if worker.retiring:
                        self._end_of(worker)
                        self._replace(worker)
                        return events
            dead = not worker.process.is_alive()
        except (EOFError, OSError):
            dead = True
        if dead:
            key = worker.key
            reason = self._end_of(worker)
            if key is not None:
                self._replace(worker)
                events.append(Event(Kind.DIED, key, reason))
            elif worker in self._workers and not worker.process.is_alive():
                self._replace(worker)
        return events

    def _look_for_hangs(self) -> list[Event]:
        events: list[Event] = []
        for worker in list(self._workers):
            if worker.key is None or self._hang_s is None or time.monotonic() - worker.heard < self._hang_s:
                continue
            key = worker.key
            worker.process.kill()
            self._end_of(worker)
            self._replace(worker)
            events.append(Event(Kind.TIMEOUT, key, f"timeout: no sign of life for {self._hang_s:g} s"))
        return events

    def kill(self) -> None:
        """Ends all processes at once."""
        for worker in self._workers:
            worker.process.kill()

    def close(self) -> None:
        """Ends all processes: idle ones by a word, busy ones by a signal, those that don't listen by a kill."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.connection.send(("end", None))
            if worker.key is not None and worker.process.is_alive():
                worker.process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self._workers = []

    def _replace(self, worker: _Worker) -> _Worker:
        with contextlib.suppress(OSError):
            worker.connection.close()
        new = self._start(worker.slot)
        self._workers[self._workers.index(worker)] = new
        return new

    def _end_of(self, worker: _Worker) -> str:
        worker.process.join(_GRACE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        code = worker.process.exitcode or 0
        if self._template is not None and code == _LOST:
            return LOST_TEMPLATE
        if code >= 0:
            return f"its process ended with exit code {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"killed by signal {-code}{hint}"

    def _start(self, slot: int) -> _Worker:
        log = None if self._log_dir is None else str(self._log_dir / f"slot-{slot}.log")
        slot_env = dict(self._env(slot))
        attempts = 2  # a template may end just now: there will be another; if that ends, too, it goes without
        while True:
            if not attempts:
                self._template = None
            context = self._context(slot_env)
            ours, theirs = context.Pipe()
            forked = context.get_start_method() == "forkserver"
            env = {**os.environ, **slot_env}
            arguments = (theirs, self._function, self._warm, env, log, [*self._path, *sys.path], forked)
            process = context.Process(target=_main, args=arguments, name=f"frostline-slot-{slot}")
            attempts -= 1
            try:
                with _hidden_main(), _watched(_TEMPLATE_S) if forked else contextlib.nullcontext():
                    process.start()
            except (EOFError, OSError):
                ours.close()
                if not forked:
                    raise
            else:
                return _Worker(slot, process, ours)
            finally:
                theirs.close()

    def _context(self, env: Mapping[str, str]) -> SpawnContext | ForkServerContext:
        if self._template is not None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([self._template])
            # Python 3.11 hands it no module search path.
            path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            try:
                with _blocked(_NOT_FOR_THE_TEMPLATE):  # a context of its own: its start unblocks some of them
                    multiprocessing.resource_tracker.ensure_running()
                with _environment({**env, **path}), _blocked(_NOT_FOR_THE_TEMPLATE):
                    multiprocessing.forkserver.ensure_running()
            except OSError:  # as where the path of the temporary folder is too long for a socket
                self._template = None
            else:
                return context
        return multiprocessing.get_context("spawn")


@contextlib.contextmanager
def _watched(limit_s: float) -> Iterator[None]:
    """Kills a template that does not answer in time: who waits for a fork hears of that."""

    def kill() -> None:
        with contextlib.suppress(OSError, TypeError):
            os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]

    timer = threading.Timer(limit_s, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Libraries look at some variables when they are imported: a template must have them when it starts."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _blocked(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """What is started within the context gets no such signal; to this process they come after it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _hidden_main() -> Any:
    """Keeps a spawned child from running the parent's main script again: the workers need nothing of it."""
    main = sys.modules["__main__"]
    missing = object()
    file, spec = getattr(main, "__file__", missing), getattr(main, "__spec__", missing)
    try:
        if file is not missing:
            del main.__file__
        main.__spec__ = None
        yield
    finally:
        if file is not missing:
            main.__file__ = file  # type: ignore[assignment]
        if spec is not missing:
            main.__spec__ = spec  # type: ignore[assignment]


def _main(*arguments: Any) -> None:
    """A worker's life, to its end."""
    try:
        _work(*arguments)
    finally:
        if arguments[-1]:  # of a fork multiprocessing asks nobody who wants to be asked at the end of a process
            sys.stdout.flush()
            atexit._run_exitfuncs()


def _work(
    connection: Connection,
    function: str,
    warm: str | None,
    env: dict[str, str],
    log: str | None,
    path: list[str],
    forked: bool,
) -> None:
    os.environ.clear()  # the template's is that of when it started
    os.environ.update(env)
    if forked:
        # Without the template the parent hears no more of it. The kernel asks no thread of ours.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.setsid()  # Ctrl-C in the terminal goes to the parent, which decides what its workers do
    if log is not None:
        _redirect(log)
    sys.path[:] = list(dict.fromkeys(path))
    _die_with_parent()
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NOT_FOR_THE_TEMPLATE)
    if warm is not None:
        with contextlib.suppress(Exception):  # what is wrong with it will show in the first job
            _resolve(warm)()
    channel = Channel(connection)
    while True:
        try:
            word, payload = connection.recv()
        except (EOFError, OSError):
            return
        if word == "end":
            return
        kind, value = Kind.DONE, None
        try:
            value = _resolve(function)(payload, channel)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - the next job must find a worker
            traceback.print_exc()
            kind, value = Kind.ERROR, f"{type(error).__name__}: {' '.join(str(error).split())}"
        finally:
            del payload
        try:
            if channel.retiring:
                connection.send(_RETIRING)
            connection.send((kind, value))
        except (BrokenPipeError, OSError):
            return
        except Exception as error:  # noqa: BLE001 - a result that can't be pickled must not kill the worker
            connection.send((Kind.ERROR, f"its result can't be sent: {type(error).__name__}: {error}"))
        sys.stdout.flush()
        sys.stderr.flush()
        if channel.retiring:
            return


def _leave(signum: int, frame: object) -> None:
    del frame
    os._exit(128 + signum)


def _resolve(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function


def _redirect(log: str) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def _die_with_parent() -> None:
    """Ends this process when the parent is gone, however it went: a killed sweep leaves nobody behind."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
