"""Recorded runs and sweeps, from Python: `frostline.load`."""

from __future__ import annotations

import os
from pathlib import Path

from frostline.api.find_run import find_run, find_sweep
from frostline.api.runs import Run
from frostline.api.study import Study
from frostline.errors import UserError


def load(name: str | os.PathLike[str]) -> Study | Run:
    """Returns a recorded sweep, or a run.

    Args:
        name: A folder, or what lies below `runs/` of this folder or one above it: `"lr_x_depth"`.

    Raises:
        UserError: There is none.
    """
    sweep = find_sweep(str(name))
    if sweep is not None:
        return Study(sweep)
    folder = find_run(str(name))
    if folder is None:
        raise UserError(f"{name}: no run's folder, and no sweep in {Path.cwd() / 'runs'}")
    return Run(folder)
