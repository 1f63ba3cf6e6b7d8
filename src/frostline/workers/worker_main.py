"""What a worker's process runs: jobs, one after the other, over a connection."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from frostline.errors import best_effort, in_one_line

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class Channel:
    """A job's line to the parent, in the worker."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last_message = 0.0
        self.retiring = False

    def send(self, message: Any) -> None:
        """Sends a message."""
        self._connection.send((EventKind.MESSAGE, message))
        self._last_message = time.monotonic()

    def ask(self, message: Any) -> Any:
        """Sends a message and waits for the parent's answer."""
        self.send(message)
        return self._connection.recv()

    def heartbeat(self) -> None:
        """Sends a heartbeat; cheap enough for every step."""
        if time.monotonic() - self._last_message > _HEARTBEAT_S:
            self._last_message = time.monotonic()
            self._connection.send(None)

    def restart_after_job(self) -> None:
        """Has the process replaced once the job is done: it can't be trusted to be as it was."""
        self.retiring = True


def work(connection: Connection, function: str, warm: str | None, log: str | None, path: list[str]) -> None:
    """What a worker does, to its end."""
    if log is not None:
        _redirect(log)
    sys.path[:] = list(dict.fromkeys(path))
    if warm is not None:
        with best_effort("warming up"):  # what is wrong with it will show in the first job
            resolve(warm)()
    channel = Channel(connection)
    while True:
        try:
            word, payload = connection.recv()
        except (EOFError, OSError):
            return
        if word == "end":
            return
        kind, value = EventKind.DONE, None
        try:
            value = resolve(function)(payload, channel)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - the next job must find a worker
            with contextlib.suppress(OSError):
                traceback.print_exc()
            kind, value = EventKind.ERROR, f"{type(error).__name__}: {in_one_line(error, 1000)}"
        finally:
            del payload
        try:
            if channel.retiring:
                connection.send(RETIRING)
            connection.send((kind, value))
        except (BrokenPipeError, OSError):
            return
        except Exception as error:  # noqa: BLE001 - a result that can't be pickled must not kill the worker
            connection.send((EventKind.ERROR, f"its result can't be sent: {type(error).__name__}: {error}"))
        with contextlib.suppress(OSError):  # a full disk is no reason for the next job to find no worker
            sys.stdout.flush()
            sys.stderr.flush()
        if channel.retiring:
            return


def resolve(name: str) -> Callable[..., Any]:
    """Returns what `module:name` names."""
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


_HEARTBEAT_S = 0.5
"""A worker sends a heartbeat at most so often."""


RETIRING = "retiring"


class EventKind(StrEnum):
    """What a job's worker reports."""

    MESSAGE = "message"
    DONE = "done"
    ERROR = "error"  # the function raised
    DIED = "died"  # the process ended
    TEMPLATE_DIED = "template died"  # it ended because the process that it was forked from had ended
    TIMEOUT = "timeout"  # no heartbeat: the process was killed
    MACHINE_DIED = "machine died"
