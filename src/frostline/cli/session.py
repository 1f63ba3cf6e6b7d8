"""Owns: what one command knows of the runs it started. Must not know: how a run is executed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from frostline.config import spec_from_json
from frostline.errors import UserError
from frostline.record import SPEC_FILE
from frostline.report import Row, print_table
from frostline.result import RESULT_FILE, RunResult


@dataclass(frozen=True, kw_only=True)
class Planning:
    """A forecast instead of a sweep.

    Attributes:
        nodes: How many work on it.
        json: Whether a program reads it.
    """

    nodes: int
    json: bool


@dataclass
class Session:
    """A command under way.

    Attributes:
        sweep_dir: The folder of a multirun, None of a single run.
        num_jobs: How many runs it has, if that is known.
        folders: Of the runs that were started in this process.
        exit_code: Of a sweep, None before its end.
        command: What the user typed, to be typed again.
        planning: What to forecast; None: the sweep is run.
    """

    sweep_dir: Path | None = None
    num_jobs: int | None = None
    folders: list[Path] = field(default_factory=list)
    exit_code: int | None = None
    command: str = ""
    planning: Planning | None = None


current = Session()
"""One process runs one command."""


def rows_of(folder: Path) -> list[Row]:
    """Returns the recorded runs below a folder, in the order of their names; unreadable ones are left out."""
    rows = []
    found = sorted(folder.rglob(RESULT_FILE), key=lambda path: [(len(part), part) for part in path.parts])
    for path in found:
        try:
            spec = spec_from_json((path.parent / SPEC_FILE).read_text(encoding="utf-8"))
            rows.append(Row(coordinates=spec.flat(), result=RunResult.read(path.parent), folder=path.parent))
        except (UserError, OSError, UnicodeDecodeError):
            continue
    return rows


def print_comparison() -> None:
    """Prints the runs of a multirun side by side; nothing after a single run."""
    if current.sweep_dir is None:
        return
    rows = rows_of(current.sweep_dir)
    if current.folders:  # the folder may hold the runs of an earlier command, too
        started = {folder.absolute() for folder in current.folders}
        rows = [row for row in rows if row.folder.absolute() in started]
    if rows:
        print_table(rows)
