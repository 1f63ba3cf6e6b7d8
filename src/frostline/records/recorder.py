"""Where the numbers of a run go: the protocol, and recorders that do nothing or hand on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from frostline.records.result import Frozen, RunResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from frostline.spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """What is known of a run before it trains.

    Attributes:
        spec: What to train.
        folder: Where it is recorded.
        overrides: What the user typed.
        freeze: What was frozen; None if it isn't known any more.
        data: The data report.
        provenance: Versions, platform, hashes.
    """

    spec: RunSpec
    folder: Path
    overrides: tuple[str, ...]
    freeze: Frozen | None
    data: dict[str, Any]
    provenance: dict[str, Any]


class Recorder(Protocol):
    """Where a run's numbers go. Recording must never end a run: a recorder keeps its troubles to itself."""

    def start(self, run: RunStart) -> None:
        """Called once, before the first step."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Called with metrics of an optimizer step: `train/loss`, `eval/accuracy`."""

    def finish(self, result: RunResult) -> None:
        """Called once, when everything of the run lies in its folder; also without a `start` before it."""


class NullRecorder:
    """Records nothing."""

    def start(self, run: RunStart) -> None:
        """Does nothing."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Does nothing."""

    def finish(self, result: RunResult) -> None:
        """Does nothing."""


class Recorders:
    """Hands everything to several recorders, in order."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self._recorders = tuple(recorders)

    def start(self, run: RunStart) -> None:
        """See `Recorder.start`."""
        for recorder in self._recorders:
            recorder.start(run)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Recorder.log`."""
        for recorder in self._recorders:
            recorder.log(metrics, step)

    def finish(self, result: RunResult) -> None:
        """See `Recorder.finish`."""
        for recorder in self._recorders:
            recorder.finish(result)
