"""What RUN and SWEEP name on a command line: a folder, a name in runs/, or an MLflow run id."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from frostline import scratch
from frostline.config import compose_job
from frostline.config.recorded import read_spec
from frostline.errors import UserError, nearest
from frostline.records.result import RunResult
from frostline.records.run_folder import MODEL_FOLDER, SPEC_FILE, check_files, is_run_id

if TYPE_CHECKING:
    from contextlib import ExitStack

    from frostline.spec import RunSpec

RUNS = Path("runs")
"""Where runs and sweeps lie, below the current folder."""


def find_sweep(name: str) -> Path | None:
    """Returns the folder of a sweep: a path, or its name in `runs/` of this folder or of one above it.

    Args:
        name: What the user gave.
    """
    current = Path.cwd()
    for folder in (Path(name), *(above / RUNS / name for above in (current, *current.parents))):
        if (folder / "sweep.json").is_file():
            return Path(os.path.relpath(folder)) if folder.is_relative_to(current) else folder
    return None


def sweep_folder(name: str) -> Path:
    """Returns the folder of a sweep. See `find_sweep`.

    Raises:
        UserError: No sweep has this name.
    """
    folder = find_sweep(name)
    if folder is not None:
        return folder
    known = sorted(path.parent.name for path in RUNS.glob("*/sweep.json"))
    existing = f"; there are {', '.join(known)}" if known else "; no sweep was run in this folder yet"
    raise UserError(f"{name}: no sweep of this name in {RUNS}/{nearest(name, known)}{existing}")


def find_run(name: str) -> Path | None:
    """Returns the folder of a run on this machine; of a sweep, that of its recommended run.

    Args:
        name: A run's folder or its path below `runs/`, a sweep's folder or name.

    Raises:
        UserError: A trial has one run for each seed.
    """
    sweep = find_sweep(name)
    if sweep is not None:
        from frostline.sweeps.folder import recommended_run_folder

        return recommended_run_folder(sweep)
    folder = next((path for path in (Path(name), RUNS / name) if path.is_dir()), None)
    if folder is None:
        return None
    seeds = sorted(path.parent.name for path in folder.glob(f"s[0-9]*/{SPEC_FILE}"))
    if seeds and not (folder / SPEC_FILE).exists():
        raise UserError(f"{folder}: has a run for each seed: give one, for example {folder / seeds[0]}")
    return folder


def _checked_id(name: str) -> str:
    if not is_run_id(name):
        others = sorted(RUNS.glob(f"*/{glob.escape(Path(name).name)}/{SPEC_FILE}"))
        hint = f" (did you mean {others[-1].parent.relative_to(RUNS)}?)" if others else ""
        raise UserError(
            f"{name}: no run's folder, no sweep in {RUNS}/, and no MLflow run id (32 hexadecimal digits){hint}"
        )
    return name


def run_with_model(name: str, tracking_uri: str | None, config_dir: str | None) -> Path:
    """Returns the folder of a run with its `model/`, downloaded from MLflow if it is not on this machine.

    Args:
        name: See `find_run`; or an MLflow run id.
        tracking_uri: Where to look an id up; None: the config's.
        config_dir: A folder of the user's own config groups.

    Raises:
        UserError: There is none.
    """
    folder = find_run(name)
    if folder is not None:
        return folder
    run_id = _checked_id(name)
    from frostline import tracking

    uri = tracking_uri or compose_job([], config_dir).tracking.uri
    return tracking.run_folder(uri, run_id)


def run_record(name: str, tracking_uri: str, stack: ExitStack) -> tuple[Path, str | None]:
    """Returns a folder with the files of a run's record, and the MLflow run id if they were downloaded.

    Args:
        name: See `find_run`; or an MLflow run id, of a run or a sweep.
        tracking_uri: Where to look an id up.
        stack: Removes downloaded files when it is closed.

    Raises:
        UserError: There is none.
    """
    folder = find_run(name)
    if folder is not None:
        return folder, None
    run_id = _checked_id(name)
    from frostline import tracking
    from frostline.reproduction.record import RECORD_FILES

    target = stack.enter_context(scratch.folder("record"))
    tags = tracking.fetch_files(tracking_uri, run_id, RECORD_FILES, target)
    if tags.get("frostline.kind") != "sweep":
        return target, run_id
    best = tags.get("frostline.best_run")
    if best is None:
        raise UserError(f"{name}: is a sweep; give the run id of one of its trials")
    tracking.fetch_files(tracking_uri, best, RECORD_FILES, target)
    return target, best


def trained_spec(folder: Path) -> RunSpec:
    """Returns the spec of the finished run in a folder, its model checked against the run's record.

    Raises:
        UserError: The folder holds no finished run, no model, or a file that changed since the run.
    """
    spec = read_spec(folder)
    if not (folder / MODEL_FOLDER).is_dir():
        raise UserError(
            f"{folder / MODEL_FOLDER}: no trained model there (did the run finish? frostline prune removes models, too)"
        )
    check_files(folder, RunResult.read(folder), SPEC_FILE, MODEL_FOLDER)
    return spec
