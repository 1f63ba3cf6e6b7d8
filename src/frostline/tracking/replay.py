"""Owns: the folders that a store has missed -> the store. Must not know: training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from frostline.errors import UserError
from frostline.record import LOCK_FILE, OVERRIDES_FILE, SPEC_FILE, RunStart
from frostline.result import RunResult, Status
from frostline.spec import RunSpec, TrackingSpec
from frostline.tracking import spool
from frostline.tracking.client import recorded_run
from frostline.tracking.recorder import Child, MlflowRecorder
from frostline.tracking.sweep import SweepRun


def replay(folder: Path, tracking: TrackingSpec, parse: Callable[[str], RunSpec]) -> bool:
    """Records in MLflow what it has missed of a folder.

    Args:
        folder: Of a run or a sweep; from `spool.pending`.
        tracking: Where to record it.
        parse: Text of `spec.json` -> the spec.

    Returns:
        False if a process is still at work there: it is left alone.

    Raises:
        UserError: The store can't be reached, or the folder can't be read.
    """
    missed = spool.kept(folder)
    if missed is None:
        return True
    if _is_busy(folder):
        return False
    done = _sweep(folder, tracking, missed) if missed.get("kind") == "sweep" else _run(folder, tracking, missed, parse)
    if not done:
        why = (spool.kept(folder) or {}).get("why", "")
        raise UserError(f"{folder}: can't be recorded: {why}")
    return True


def _is_busy(folder: Path) -> bool:
    if not (folder / LOCK_FILE).exists():  # made by whoever works there
        return False
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _sweep(folder: Path, tracking: TrackingSpec, missed: Mapping[str, Any]) -> bool:
    return SweepRun(tracking, str(missed["name"]), folder, missed["params"]).replay(missed)


def _run(folder: Path, tracking: TrackingSpec, missed: Mapping[str, Any], parse: Callable[[str], RunSpec]) -> bool:
    try:
        spec = parse((folder / SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / SPEC_FILE}: can't be read ({error})") from error
    try:
        result = RunResult.read(folder)
    except UserError:  # killed, and told nobody
        result = RunResult(name=spec.name(), status=Status.KILLED, reason="its process died", spec_digest=spec.digest())
    recorder = MlflowRecorder(tracking, spec, folder, child=_child(folder, tracking, missed), reopen=True)
    return recorder.bury(result, _start(folder, spec, result))


def _child(folder: Path, tracking: TrackingSpec, missed: Mapping[str, Any]) -> Child | None:
    """Returns the run's place in its sweep; the sweep's own run may have been made only just now."""
    child = missed.get("child")
    if child is None:
        return None
    parents = (recorded_run(above, tracking.uri) for above in (folder.parent, folder.parent.parent))
    parent = child["parent"] or next((run_id for run_id in parents if run_id is not None), None)
    return Child(
        parent=parent, name=child["name"], params=child["params"], tags=child["tags"], command=child["command"]
    )


def _start(folder: Path, spec: RunSpec, result: RunResult) -> RunStart | None:
    if not result.provenance or not result.data:
        return None
    try:
        overrides = yaml.safe_load((folder / OVERRIDES_FILE).read_text(encoding="utf-8")) or []
    except (OSError, yaml.YAMLError):
        overrides = []
    return RunStart(
        spec=spec,
        folder=folder,
        overrides=tuple(map(str, overrides)),
        freeze_depth=result.freeze.depth if result.freeze is not None else None,
        data=result.data,
        provenance=result.provenance,
    )
