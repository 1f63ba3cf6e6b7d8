"""SIGINT and SIGTERM while workers train: the first stops them after a step, the second at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopSignals:
    """The signal that asked the sweep to stop.

    Attributes:
        requested: Its number; None: none came.
    """

    requested: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Catches signals inside; in the main thread, the only one that Python hands them to."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signum
        print("stopping after the step; once more stops at once", file=sys.stderr, flush=True)
