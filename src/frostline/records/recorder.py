"""Where the numbers of a run go: the protocol, and recorders that do nothing or hand on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from frostline.errors import best_effort
from frostline.records.result import Frozen, RunResult
from frostline.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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


RECORDERS: Registry[Callable[[RunSpec, Path], Recorder]] = Registry("recorder", "frostline.records.recorders")
"""Recorders beside folder and MLflow, by the names that `tracking.recorders` gives: spec, run folder -> recorder."""


def named_recorders(names: Sequence[str], spec: RunSpec, folder: Path) -> list[Recorder]:
    """Returns the recorders of these names.

    Args:
        names: Registered in `RECORDERS`.
        spec: The run.
        folder: The run's.

    Raises:
        UserError: A name is not known.
    """
    return [ForgivingRecorder(name, RECORDERS.get(name)(spec, folder)) for name in names]


class ForgivingRecorder:
    """A recorder whose exceptions are logged: recording must never end a run.

    Args:
        name: Of the recorder.
        recorder: What records; after its first exception it is called no more.
    """

    def __init__(self, name: str, recorder: Recorder) -> None:
        self._name = name
        self._recorder: Recorder = recorder

    def start(self, run: RunStart) -> None:
        """See `Recorder.start`."""
        self._call(lambda: self._recorder.start(run))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Recorder.log`."""
        self._call(lambda: self._recorder.log(metrics, step))

    def finish(self, result: RunResult) -> None:
        """See `Recorder.finish`."""
        self._call(lambda: self._recorder.finish(result))

    def _call(self, record: Callable[[], None]) -> None:
        failed = True
        with best_effort(f"tracking.recorders={self._name}: records no more of this run", logging.WARNING):
            record()
            failed = False
        if failed:
            self._recorder = NullRecorder()


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
