"""What watches a run while it trains and may stop it."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class RunControl(StrEnum):
    """What a monitor says after an evaluation."""

    GO = "go"
    PRUNE = "prune"  # stop: it promises little
    PAUSE = "pause"  # stop with a checkpoint: it may be resumed later


class Monitor(Protocol):
    """Who watches a run while it trains and may stop it."""

    def heartbeat(self) -> None:
        """Called after each optimizer step and now and then before the first."""

    def evaluated(self, epoch: float, value: float) -> RunControl:
        """Called with the objective of each evaluation; `epoch` counts what is trained so far."""


class NullMonitor:
    """Lets every run go to its end."""

    def heartbeat(self) -> None:
        """Does nothing."""

    def evaluated(self, epoch: float, value: float) -> RunControl:
        """Says go."""
        return RunControl.GO
