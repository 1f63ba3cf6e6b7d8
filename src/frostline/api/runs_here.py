"""The runs and sweeps below a folder, what they take on the disk, and what of it nothing needs any more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from frostline.config.recorded import read_spec
from frostline.errors import UserError
from frostline.files import regular_files
from frostline.records.result import RESULT_FILE, RunResult, Status
from frostline.records.run_folder import CHECKPOINTS_FOLDER, MODEL_FOLDER, SPEC_FILE, is_locked
from frostline.records.trial import RECOMMENDED_FILE
from frostline.spec import DEPTH_KEY, LR_KEY, short_number
from frostline.sweeps.folder import REPORT_FOLDER, SWEEP_FILE, SweepFolder, read_description


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run, or a sweep with all of its runs.

    Attributes:
        folder: Its folder.
        about: What it is and how it ended, in words.
        size: Bytes on the disk.
        is_sweep: Whether it is a sweep.
    """

    folder: Path
    about: str
    size: int
    is_sweep: bool


@dataclass(frozen=True, kw_only=True)
class Surplus:
    """A folder that may go.

    Attributes:
        folder: `model/` or `checkpoints/` of a run.
        size: Its bytes.
        why: Nothing needs it, in words.
    """

    folder: Path
    size: int
    why: str


def entries_in(folder: Path) -> Iterator[Entry]:
    """Yields the sweeps and the runs below a folder, the newest last; a sweep's runs are part of it.

    Args:
        folder: For example `runs`.
    """
    sweeps = [path.parent for path in folder.rglob(SWEEP_FILE)]
    runs = [path.parent for path in folder.rglob(SPEC_FILE) if not any(path.is_relative_to(sweep) for sweep in sweeps)]
    for place in sorted((*sweeps, *runs), key=lambda path: (path.stat().st_mtime, path)):
        is_sweep = place in sweeps
        yield Entry(
            folder=place, about=_sweep(place) if is_sweep else _run(place), size=_bytes(place), is_sweep=is_sweep
        )


def surplus_in(folder: Path, *, models: bool = False) -> Iterator[Surplus]:
    """Yields what may go below a folder.

    Checkpoints of runs that are FINISHED, and models of a sweep's trials that it does not recommend. What is recorded
    stays: config, numbers, predictions, so that a run is shown, compared, reported and reproduced as before. A run that
    was interrupted keeps its checkpoints, and a folder that a process works in keeps all.

    Args:
        folder: For example `runs`, or a run's.
        models: Whether all other models may go, too, but those that sweeps recommend.
    """
    sweeps = {path.parent: _recommended(path.parent) for path in folder.rglob(SWEEP_FILE)}
    for path in sorted(folder.rglob(RESULT_FILE)):
        run = path.parent
        sweep = next((each for each in sweeps if run.is_relative_to(each)), None)
        try:
            status = RunResult.read(run).status
        except UserError:
            continue
        if is_locked(run) or (sweep is not None and is_locked(sweep)):
            continue
        checkpoints, model = run / CHECKPOINTS_FOLDER, run / MODEL_FOLDER
        if status is Status.FINISHED and checkpoints.is_dir():
            yield Surplus(folder=checkpoints, size=_bytes(checkpoints), why="the run is FINISHED")
        if not model.is_dir():
            continue
        if sweep is None and models:
            yield Surplus(folder=model, size=_bytes(model), why="--models: all but those that sweeps recommend")
        elif sweep is not None and (chosen := sweeps[sweep]) is not None and not run.is_relative_to(chosen):
            yield Surplus(folder=model, size=_bytes(model), why=f"{sweep.name} recommends another trial")


def remove(surplus: Sequence[Surplus]) -> int:
    """Removes folders; returns the bytes that this freed.

    Raises:
        UserError: One of them is a link, or can't be removed.
    """
    freed = 0
    for each in surplus:
        if each.folder.is_symlink():
            raise UserError(f"{each.folder}: is a link; nothing is removed through it")
        try:
            shutil.rmtree(each.folder)
        except OSError as error:
            raise UserError(f"{each.folder}: can't be removed ({error.strerror})") from error
        freed += each.size
    return freed


def _recommended(sweep: Path) -> Path | None:
    """Returns the folder of a sweep's recommended trial; None: it has no answer yet, and all of its models stay."""
    try:
        record = json.loads((sweep / REPORT_FOLDER / RECOMMENDED_FILE).read_text(encoding="utf-8"))
        return SweepFolder(sweep).trial_folder(int(record["trial"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sweep(folder: Path) -> str:
    try:
        description = read_description(folder)
    except UserError as error:
        return f"sweep, {error}"
    trials = [trial for trial in SweepFolder(folder).read_trials() if not trial.is_baseline]
    done = sum(trial.outcome is not None for trial in trials)
    about = f"sweep, {description['model']} on {description['dataset']}, {done} trials"
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((folder / REPORT_FOLDER / RECOMMENDED_FILE).read_text(encoding="utf-8"))
        params, value = record["params"], record.get("mean")
        words = [
            *([f"freeze {params[DEPTH_KEY]}"] if params.get(DEPTH_KEY) is not None else []),
            *([f"lr {short_number(params[LR_KEY])}"] if LR_KEY in params else []),
            *([f"{record['metric']} {value:.3f}"] if isinstance(value, float) else []),
        ]
        standing = record.get("standing") or "no decision"
        about += f", {standing}: {', '.join(words)}"
    return about


def _run(folder: Path) -> str:
    try:
        spec = read_spec(folder)
    except UserError as error:
        return str(error)
    about = f"{spec.name()}, {spec.model_name} on {spec.dataset_name}"
    try:
        result = RunResult.read(folder)
    except UserError:
        return f"{about}, no result: it runs, or was killed"
    value = "" if result.objective is None else f", {result.objective.metric} {result.objective.value:.4f}"
    return f"{about}, {result.status.value}{value}"


def _bytes(folder: Path) -> int:
    total = 0
    for path in regular_files(folder):
        with suppress(OSError):
            total += path.stat().st_size
    return total
