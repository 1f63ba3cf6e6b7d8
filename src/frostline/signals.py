"""SIGINT, SIGTERM and a cluster's preemption signal during a run."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from frostline.records.result import Cause


class Interrupted(BaseException):
    """A signal ends the run; not an `Exception`, so that no handler takes it for a failure.

    Attributes:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum

    @property
    def cause(self) -> Cause:
        """What the record says of a run that it ended."""
        return _CAUSES.get(signal.Signals(self.signum), Cause.INTERRUPTED)


PREEMPTED = signal.SIGUSR2
"""What a cluster's scheduler sends through submitit when it wants the machine back; submitit puts the job into the
queue again, in its own handler."""


_CAUSES = {signal.SIGTERM: Cause.TERMINATED, PREEMPTED: Cause.PREEMPTED}


def exit_code(cause: Cause | None) -> int:
    """Returns the exit code for a KILLED run, as a shell expects it: 143 for SIGTERM, 130 for Ctrl-C and all else."""
    return 143 if cause is Cause.TERMINATED else 130


def signal_of(cause: Cause | None) -> signal.Signals:
    """Returns the signal that ended a KILLED run."""
    return next((number for number, each in _CAUSES.items() if each is cause), signal.SIGINT)


_AT_ONCE_S = 1.5
"""So long a command may take to end in its own way after a second signal."""


def end_on_second() -> None:
    """Makes a second Ctrl-C or SIGTERM end this process within two seconds, wherever it waits.

    Python runs a signal's handler between two of its own instructions: one that waits in a library, for example for a
    name server, would not hear it. The interpreter writes each signal into a pipe at once, and a thread reads that.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_reset_wakeup)  # a terminal sends Ctrl-C to children, too
    threading.Thread(target=_exit_on_second, args=(read_end,), name="second-signal", daemon=True).start()


def _reset_wakeup() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)


def _exit_on_second(read_end: int) -> None:
    signals = 0
    while numbers := os.read(read_end, 64):
        for number in numbers:
            signals += number in {signal.SIGINT, signal.SIGTERM}
            if signals >= 2:
                time.sleep(_AT_ONCE_S)
                _kill_children()
                os._exit(128 + number)


def _kill_children() -> None:
    """Ends what this process has started, as a pip or a git that it waits for."""
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            for pid in map(int, path.read_text(encoding="ascii").split()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class SignalGuard:
    """Turns the first signal into a request to stop after the step, the second into an immediate end.

    Outside of the training loop there is no step to finish, so the first one ends it at once. Preemption is handled
    where it is handled: it is handed on when the guard is left, and nothing that comes after it hurries it. Use
    as a context manager.

    Args:
        patient: No second signal ends it at once: of a process of several, which gets the same one from many sides, and
            is ended by the one that started it.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._patient = patient
        self.requested: int | None = None
        self.finish_step = False
        """Set while the training loop runs: it looks at `requested` after every step."""
        self._before: dict[int, Any] = {}

    def defer(self) -> None:
        """From now on the first signal is only noted."""
        self.finish_step = True

    def __enter__(self) -> SignalGuard:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            signals = [PREEMPTED] if callable(signal.getsignal(PREEMPTED)) else []
            for signum in (signal.SIGINT, signal.SIGTERM, *signals):
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self.requested is not None and (self._patient or self.requested == PREEMPTED):
            return
        if self.requested is not None or not self.finish_step:
            raise Interrupted(signum)
        self.requested = signum
