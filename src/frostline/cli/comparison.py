"""The runs of a plain multirun side by side, printed when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from frostline.config import spec_from_json
from frostline.errors import UserError
from frostline.records.result import RESULT_FILE, RunResult
from frostline.records.run_folder import SPEC_FILE
from frostline.report import Row, print_table

OWN_SWEEPER = "hydra_plugins.frostline_optuna_sweeper.sweeper.FrostlineOptunaSweeper"


def multirun_folder() -> Path | None:
    """Returns the folder of the plain multirun that this process has started; None of a single run or a sweep."""
    if not HydraConfig.initialized():
        return None
    settings = HydraConfig.get()
    is_plain = settings.mode == RunMode.MULTIRUN and settings.sweeper._target_ != OWN_SWEEPER
    return Path(settings.sweep.dir) if is_plain else None


def rows_of(folder: Path) -> list[Row]:
    """Returns the recorded runs below a folder, in the order of their names; unreadable ones are left out."""
    rows = []
    results = sorted(folder.rglob(RESULT_FILE), key=lambda path: [(len(part), part) for part in path.parts])
    for path in results:
        try:
            spec = spec_from_json((path.parent / SPEC_FILE).read_text(encoding="utf-8"))
            rows.append(Row(coordinates=spec.flat(), result=RunResult.read(path.parent), folder=path.parent))
        except (UserError, OSError, UnicodeDecodeError):
            continue
    return rows


def print_comparison(started: Sequence[Path]) -> None:
    """Prints the runs of a multirun side by side; nothing after a single run.

    Args:
        started: The folders of the runs that this process started: the multirun's folder may hold earlier ones. Empty
            if other processes started them.
    """
    folder = multirun_folder()
    if folder is None:
        return
    rows = rows_of(folder)
    if started:
        own = {path.absolute() for path in started}
        rows = [row for row in rows if row.folder.absolute() in own]
    if rows:
        print_table(rows)
