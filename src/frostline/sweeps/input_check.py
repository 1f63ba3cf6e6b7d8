"""Checks that all trials of a sweep were trained on the same weights and rows.

A config says where the data lie, not what they are: a file that was replaced between two commands of one sweep would
put trials of two data sets into one table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from frostline.errors import UserError
from frostline.records.result import RESULT_FILE, RunResult
from frostline.spec import ROWS_KEY, Value
from frostline.sweeps.folder import SweepFolder

_PARTS = {"dataset": ("data_fingerprint", "rows"), "model": ("weights_sha256", "weights")}


class InputCheck:
    """Compares each run's weights and rows with those of the first run that should have had the same.

    Args:
        folder: The sweep's.
        folder_of: Number of a trial -> the folder of its first run.
        axis: `sweep.axis`.
    """

    def __init__(self, folder: SweepFolder, folder_of: Callable[[int], Path], axis: str | None = None) -> None:
        self._folder = folder
        self._axis = axis
        self._folder_of = folder_of
        self._first: dict[tuple[object, ...], str] | None = None

    def trouble(self, params: Mapping[str, Value], run: Path) -> str | None:
        """Returns what is wrong with a run that has just ended, in one line; its result is then no longer there.

        Args:
            params: Of its trial.
            run: Its folder.
        """
        if (missing := self._missing_rows(params, run)) is not None:
            return missing
        if self._first is None:
            self._first = {}
            for trial in self._folder.read_trials():
                if trial.outcome is not None and trial.copy_of is None:
                    self._note(trial.params, self._folder_of(trial.number))
        note = self._note(params, run)
        if note is None:
            return None
        with suppress(OSError):  # else the next command would take it for the trial's
            (run / RESULT_FILE).unlink()
        return (
            f"{note} are not those that this sweep's first trials were trained with: put them back, or begin afresh "
            "with sweep.new=true"
        )

    def _missing_rows(self, params: Mapping[str, Value], run: Path) -> str | None:
        """Returns that there are fewer training rows than a trial of `sweep.axis=dataset.train_rows` stands for."""
        asked = params.get(ROWS_KEY)
        if self._axis != ROWS_KEY or not isinstance(asked, int):
            return None
        with suppress(UserError):
            at_hand = RunResult.read(run).data["train_rows"]
            if at_hand < asked:
                return (
                    f"sweep.axis={ROWS_KEY}: {asked} rows are asked for, and there are {at_hand}: give its largest "
                    f"choice as {at_hand}, with a new sweep.name"
                )
        return None

    def _note(self, params: Mapping[str, Value], run: Path) -> str | None:
        assert self._first is not None
        keys = {group: _key(group, params) for group in _PARTS}
        try:
            result = RunResult.read(run)
        except UserError:
            return None
        for group, (name, words) in _PARTS.items():
            value = result.provenance.get(name)
            if value is not None and self._first.setdefault(keys[group], value) != value:
                return f"the {words} of {'the data set' if group == 'dataset' else 'the model'}"
        return None


def _key(group: str, params: Mapping[str, Value]) -> tuple[object, ...]:
    swept = {key: value for key, value in params.items() if key == group or key.startswith(f"{group}.")}
    return (group, *sorted((key, str(value)) for key, value in swept.items()))
