"""Messages between the processes of a run and their parent."""

from __future__ import annotations

import io
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from frostline.records.monitor import RunControl
from frostline.records.recorder import RunStart
from frostline.records.result import RunResult
from frostline.records.run_folder import FOR_TERMINAL

_ALIVE_EVERY_S = 0.5
EXIT_CODES_VARIABLE = "FROSTLINE_EXIT_CODES"
"""Names the file for the exit codes of processes that failed: JSON, by rank, negative for a signal."""

LOST_PARENT = 70
"""Exit code of a process whose parent died."""


@dataclass(frozen=True, kw_only=True)
class Hello:
    """A process is there."""

    rank: int
    pid: int


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """A process is at work."""


@dataclass(frozen=True, kw_only=True)
class ProgressText:
    """A piece of a progress bar."""

    text: str


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """The run begins."""

    run: RunStart


@dataclass(frozen=True, kw_only=True)
class MetricsLogged:
    """Numbers of a step."""

    metrics: dict[str, float]
    step: int


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line for the log."""

    logger: str
    level: int
    text: str
    for_terminal: bool


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation: should the run continue?"""

    epoch: float
    value: float


@dataclass(frozen=True, kw_only=True)
class RankEnded:
    """A process has done its part; the first one's result is the run's, another's counts where it failed."""

    result: RunResult


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Bad input."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Disconnected:
    """A process is there no more: its end of the wire is closed."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """A message, and when and from whom it came."""

    rank: int
    message: Any
    at: float = field(default_factory=time.monotonic)


class ParentConnection:
    """A process's end of the wire. When the other end closes, this process ends.

    Args:
        connection: To the parent.
        rank: Of this process.
    """

    def __init__(self, connection: Connection, rank: int) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._answers: queue.Queue[RunControl] = queue.Queue()
        self._next_alive = 0.0
        self.rank = rank
        self.send(Hello(rank=rank, pid=os.getpid()))
        threading.Thread(target=self._listen, name="frostline-wire", daemon=True).start()

    def send(self, message: Any) -> None:
        """Sends the parent a message; a dead parent gets none."""
        with self._lock:
            try:
                self._connection.send(message)
            except OSError:
                os._exit(LOST_PARENT)

    def heartbeat(self) -> None:
        """Sends the parent a heartbeat now and then."""
        if time.monotonic() >= self._next_alive:
            self._next_alive = time.monotonic() + _ALIVE_EVERY_S
            self.send(Heartbeat())

    def ask(self, epoch: float, value: float) -> RunControl:
        """Asks the parent and waits for its answer."""
        self.send(Evaluated(epoch=epoch, value=value))
        return self._answers.get()

    def _listen(self) -> None:
        while True:
            try:
                self._answers.put(self._connection.recv())
            except (EOFError, OSError):
                os._exit(LOST_PARENT)


class ParentRecorder:
    """Sends the parent what is to be recorded: all of it the first process, the others only how they ended."""

    def __init__(self, wire: ParentConnection) -> None:
        self._wire = wire

    def start(self, run: RunStart) -> None:
        """See `Recorder`."""
        if self._wire.rank == 0:
            self._wire.send(RunStarted(run=run))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Recorder`."""
        if self._wire.rank == 0:
            self._wire.send(MetricsLogged(metrics=dict(metrics), step=step))

    def finish(self, result: RunResult) -> None:
        """See `Recorder`."""
        self._wire.send(RankEnded(result=result))


class ParentMonitor:
    """Asks the parent whether to continue."""

    def __init__(self, wire: ParentConnection) -> None:
        self._wire = wire

    def heartbeat(self) -> None:
        """See `Monitor`."""
        self._wire.heartbeat()

    def evaluated(self, epoch: float, value: float) -> RunControl:
        """See `Monitor`."""
        return self._wire.ask(epoch, value)


class ParentScreen(io.TextIOBase):
    """A stderr whose text appears on the parent's: the first process's progress bars."""

    def __init__(self, wire: ParentConnection) -> None:
        self._wire = wire

    def write(self, text: str) -> int:
        """Sends."""
        self._wire.send(ProgressText(text=text))
        return len(text)

    def isatty(self) -> bool:
        """Says yes: the parent only asks for bars where there is a terminal, or where the user wants them."""
        return True


class ParentLogHandler(logging.Handler):
    """Sends the first process's log to the parent, which has the run's."""

    def __init__(self, wire: ParentConnection) -> None:
        super().__init__(logging.INFO)
        self._wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if self._wire.rank == 0 or record.levelno >= logging.ERROR:
            text = record.getMessage() if self._wire.rank == 0 else f"process {self._wire.rank}: {record.getMessage()}"
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            for_terminal = bool(getattr(record, FOR_TERMINAL, False))
            self._wire.send(LogLine(logger=record.name, level=record.levelno, text=text, for_terminal=for_terminal))
