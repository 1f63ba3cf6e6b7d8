"""The record of a run that is trained again."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.errors import UserError
from frostline.hashes import DamagedError
from frostline.records.result import RESULT_FILE, Cause, RunResult, Status
from frostline.records.run_folder import METRICS_FILE, SPEC_FILE, check_files, metrics_up_to
from frostline.spec import RunSpec

RECORD_FILES = (SPEC_FILE, RESULT_FILE, METRICS_FILE)
"""All that is read of a record."""

log = logging.getLogger(__name__)


Curve = dict[int, dict[str, float]]
"""Recorded numbers by optimizer step."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A run as recorded.

    Attributes:
        spec: What was trained.
        result: Of the run.
        curve: Its numbers by step.
        source: Where the record was found, for messages and the new run's record.
    """

    spec: RunSpec
    result: RunResult
    curve: Curve
    source: str

    @property
    def last_step(self) -> int:
        """The last step with a recorded number; 0 without any."""
        return max(self.curve, default=0)

    def until(self) -> int | None:
        """Returns the step after which the run ended early, for a re-run to end there; None: it ran to its own end.

        Raises:
            UserError: It left no number to compare with.
        """
        if self.result.status is Status.FINISHED or self.result.cause is Cause.DIVERGED:
            return None
        if self.last_step < 1:
            raise UserError(
                f"{self.source}: it ended as {self.result.status.value} ({self.result.reason}) before its first step: "
                "there is nothing to compare with"
            )
        return self.last_step


def read_record(folder: Path, source: str, parse: Any) -> Recorded:
    """Reads a record from the files of a run's folder, or of a copy of them.

    Args:
        folder: With `RECORD_FILES` in it; a link that leads out of it is refused. A `metrics.jsonl` may be missing.
        source: What the user called it.
        parse: Text of `spec.json` -> `RunSpec`.

    Raises:
        UserError: A file is missing, damaged, or of another schema version.
    """
    for name in RECORD_FILES:
        path = folder / name
        if path.is_symlink() and folder.resolve() not in path.resolve().parents:
            raise UserError(f"{path}: leads out of the run's folder: refused")
    try:
        text = (folder / SPEC_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: is no run's record ({SPEC_FILE}: {_why(error)})") from error
    spec: RunSpec = parse(text)
    result = RunResult.read(folder)
    for part in ("versions", "platform", "compute", "git", "variables"):
        if not isinstance(result.provenance.get(part) or {}, dict):
            raise UserError(f"{folder / RESULT_FILE}: its provenance.{part} is no group of keys")
    try:
        rows = metrics_up_to(folder, sys.maxsize)
        if rows or METRICS_FILE in result.files:
            check_files(folder, result, METRICS_FILE)
    except DamagedError:
        log.warning("%s: is not as the run left it: the curve is not compared", folder / METRICS_FILE)
        rows = []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / METRICS_FILE}: can't be read: {_why(error)}") from error
    return Recorded(spec=spec, result=result, curve=curve_of(rows), source=source)


def curve_of(rows: Sequence[tuple[int, Mapping[str, float]]]) -> Curve:
    """Returns rows of `metrics.jsonl` by step; a metric logged twice at a step keeps its last value."""
    curve: Curve = {}
    for step, values in rows:
        curve.setdefault(step, {}).update(values)
    return curve


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
