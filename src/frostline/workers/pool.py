"""A pool of warm worker processes: started once, watched, replaced.

Each slot is one process that takes one job after another. The parent receives a job's messages, its result, the death
of its process, and a timeout if its heartbeat stops.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from frostline.workers.process import ProcessStarter
from frostline.workers.worker_main import RETIRING, EventKind, work

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from frostline.workers.process import Process

_GRACE_S = 5.0  # assumed: what a process gets to end by itself before it is killed


@dataclass(frozen=True)
class WorkerEvent:
    """Something that happened to a job.

    Attributes:
        kind: What.
        key: The job's.
        value: A message, the function's result, or why it ended, in words.
    """

    kind: EventKind
    key: Any
    value: Any


class Workers(Protocol):
    """Who runs jobs: the processes of a `Pool`, or others like them."""

    @property
    def free(self) -> int:
        """How many more jobs they take now."""

    def submit(self, key: Any, payload: Any) -> None:
        """Gives them a job."""

    def poll(self, timeout_s: float) -> list[WorkerEvent]:
        """Returns what happened, waiting for it at most so many seconds."""

    def answer(self, key: Any, value: Any) -> None:
        """Answers a job's `Channel.ask`."""

    def signal_all(self, signum: int) -> None:
        """Sends a signal to all jobs."""

    def kill(self) -> None:
        """Ends all jobs at once."""

    def close(self) -> None:
        """Ends the workers."""


class _Worker:
    """One slot's process, seen from the parent."""

    def __init__(self, slot: int, process: Process, connection: Connection) -> None:
        self.slot = slot
        self.process = process
        self.connection = connection
        self.key: Any = None
        self.retiring = False
        self.last_heartbeat_s = time.monotonic()


@dataclass(frozen=True, kw_only=True)
class WorkerProgram:
    """What workers run.

    Attributes:
        function: `module:name` of what a worker calls for each job: `f(payload, channel)`.
        warm: `module:name` of what it calls once at its start, for example to import; or None.
        path: Folders for the workers' module search, behind their own.
        log_dir: Where what workers print goes, `slot-0.log`; None leaves it on the terminal.
        template: A module that is imported once, in a process that all slots are forks of: they start at once, and
            share the memory of what was imported. None: each slot is a new process that imports for itself. See
            `ProcessStarter`.
    """

    function: str
    warm: str | None = None
    path: Sequence[str] = ()
    log_dir: Path | None = None
    template: str | None = None


class Pool:
    """Slots that take one job each. Use as a context manager; leaving it ends the processes.

    Args:
        slots: How many.
        program: What they run.
        env: Environment variables of each slot, set before anything is imported.
        heartbeat_timeout_s: Seconds without a heartbeat after which a job's process is killed; None: never.
    """

    def __init__(
        self,
        slots: int,
        program: WorkerProgram,
        *,
        env: Callable[[int], Mapping[str, str]] = lambda _slot: {},
        heartbeat_timeout_s: float | None = None,
    ) -> None:
        self._program = program
        self._env = env
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._starter = ProcessStarter(program.template)
        self._slots = slots
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        if self._starter.has_template:
            self._starter.prepare(self._env(0))
        else:
            self._begin()
        return self

    def _begin(self) -> None:
        if not self._workers:
            self._workers = [self._start(slot) for slot in range(self._slots)]

    def grow(self, slots: int, env: Callable[[int], Mapping[str, str]]) -> None:
        """Has more slots from now on.

        Args:
            slots: How many in all.
            env: Environment variables of each; processes that run already keep theirs.
        """
        self._env = env
        more = range(self._slots, slots)
        self._slots = max(self._slots, slots)
        if self._workers:
            self._workers += [self._start(slot) for slot in more]

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def free(self) -> int:
        """How many slots have no job."""
        if not self._workers:
            return self._slots
        return sum(worker.key is None for worker in self._workers)

    def pids(self) -> dict[Any, int]:
        """Returns the process ids by the key of their job."""
        return {w.key: w.process.pid for w in self._workers if w.key is not None and w.process.pid is not None}

    def submit(self, key: Any, payload: Any) -> None:
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
        worker.last_heartbeat_s = time.monotonic()
        with contextlib.suppress(OSError):  # a death right now is reported by `poll`
            worker.connection.send(("job", payload))

    def answer(self, key: Any, value: Any) -> None:
        """Answers a job's `Channel.ask`."""
        for worker in self._workers:
            if worker.key == key:
                with contextlib.suppress(OSError):
                    worker.connection.send(value)

    def signal(self, key: Any, signum: int) -> None:
        """Sends a signal to a job's process."""
        pid = self.pids().get(key)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def signal_all(self, signum: int) -> None:
        """Sends a signal to all jobs' processes."""
        for key in self.pids():
            self.signal(key, signum)

    def poll(self, timeout_s: float) -> list[WorkerEvent]:
        """Returns what happened, waiting for it at most `timeout_s` seconds."""
        sources: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers}
        sources |= {worker.process.sentinel: worker for worker in self._workers if worker.key is not None}
        ready = multiprocessing.connection.wait(list(sources), timeout_s)
        events: list[WorkerEvent] = []
        for worker in dict.fromkeys(sources[source] for source in ready):
            events += self._hear(worker)
        events += self._look_for_hangs()
        return events

    def _hear(self, worker: _Worker) -> list[WorkerEvent]:
        events: list[WorkerEvent] = []
        try:
            while worker.connection.poll():
                message = worker.connection.recv()
                worker.last_heartbeat_s = time.monotonic()
                if message is None or worker.key is None:
                    continue
                if message == RETIRING:
                    worker.retiring = True
                    continue
                kind, value = message
                events.append(WorkerEvent(kind, worker.key, value))
                if kind is not EventKind.MESSAGE:
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
            kind, reason = self._end_of(worker)
            if key is not None:
                self._replace(worker)
                events.append(WorkerEvent(kind, key, reason))
            elif worker in self._workers and not worker.process.is_alive():
                self._replace(worker)
        return events

    def _look_for_hangs(self) -> list[WorkerEvent]:
        events: list[WorkerEvent] = []
        for worker in list(self._workers):
            if (
                worker.key is None
                or self._heartbeat_timeout_s is None
                or time.monotonic() - worker.last_heartbeat_s < self._heartbeat_timeout_s
            ):
                continue
            key = worker.key
            worker.process.kill()
            self._end_of(worker)
            self._replace(worker)
            events.append(
                WorkerEvent(EventKind.TIMEOUT, key, f"timeout: no heartbeat for {self._heartbeat_timeout_s:g} s")
            )
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

    def _end_of(self, worker: _Worker) -> tuple[EventKind, str]:
        worker.process.join(_GRACE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        code = worker.process.exitcode or 0
        if self._starter.lost(worker.process):
            return EventKind.TEMPLATE_DIED, "the process that its worker was forked from has ended"
        if code >= 0:
            return EventKind.DIED, f"its process ended with exit code {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return EventKind.DIED, f"killed by signal {-code}{hint}"

    def _start(self, slot: int) -> _Worker:
        log = None if self._program.log_dir is None else str(self._program.log_dir / f"slot-{slot}.log")
        process, connection = self._starter.start(
            work,
            self._env(slot),
            f"frostline-slot-{slot}",
            self._program.function,
            self._program.warm,
            log,
            [*(path for path in sys.path if path not in {"", *list(self._program.path)}), *list(self._program.path)],
        )
        return _Worker(slot, process, connection)
