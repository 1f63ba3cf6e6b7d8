"""What a sweep that is under way trains, and what comes next: a file in its folder, for who watches it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from frostline.files import write_atomically
from frostline.records.trial import TrialRecord, TrialState, label
from frostline.search import Key, TrialTask

PROGRESS_FILE = ".progress.json"


@dataclass(frozen=True, kw_only=True)
class SweepProgress:
    """How far the command is that works on a sweep.

    Attributes:
        total: Trials of the search in all.
        settle: `sweep.settle`: what further seeds may take, in times of the search.
        running: Names of what is in training.
        queued: Names of the trials that come next, as far as they are known: others are chosen when a slot is free.
    """

    total: int
    settle: float = 0.0
    running: tuple[str, ...] = ()
    queued: tuple[str, ...] = ()


class ProgressFile:
    """Listens to a sweep and keeps its progress in a file.

    Args:
        folder: The sweep's.
        start: Before anything is trained.
        trials: All of the study.
    """

    def __init__(self, folder: Path, start: SweepProgress, trials: Sequence[TrialRecord]) -> None:
        self._path = folder / PROGRESS_FILE
        self._start = start
        self._queued = _waiting(trials)
        self._running: dict[Key, str] = {}
        self._write()

    def close(self) -> None:
        """Removes the file: the command has ended."""
        self._path.unlink(missing_ok=True)

    def started(self, task: TrialTask) -> None:
        """See `Listener`."""
        self._queued.pop(task.number, None)
        self._running[task.key] = label(task.params) + ("" if task.seed is None else f" seed {task.seed}")
        self._write()

    def reported(self, number: int, step: int, value: float) -> None:
        """See `Listener`."""

    def ended(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""
        self._queued = _waiting(trials)
        self.released(trial.number)

    def pruned(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""

    def replicated(self, trial: TrialRecord, seed: int) -> None:
        """See `Listener`."""
        self._running.pop((trial.number, seed), None)
        self._write()

    def released(self, number: int) -> None:
        """See `Listener`."""
        self._running = {key: name for key, name in self._running.items() if key[0] != number}
        self._write()

    def _write(self) -> None:
        running, queued = tuple(self._running.values()), tuple(self._queued.values())
        progress = replace(self._start, running=running, queued=queued)
        write_atomically(self._path, json.dumps(asdict(progress)) + "\n")


def _waiting(trials: Sequence[TrialRecord]) -> dict[int, str]:
    return {trial.number: trial.label() for trial in trials if trial.state is TrialState.WAITING}


def progress_of(folder: Path) -> SweepProgress | None:
    """Returns how far the command is that works on a sweep; None: none does."""
    try:
        data = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
        return SweepProgress(
            total=int(data["total"]), settle=float(data["settle"]), running=tuple(data["running"]),
            queued=tuple(data["queued"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None
