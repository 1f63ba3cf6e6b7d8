"""Sends pending records to a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from frostline.errors import UserError
from frostline.provenance import redact
from frostline.records.recorder import RunStart
from frostline.records.result import RunResult, Status
from frostline.records.run_folder import LOCK_FILE, MODEL_FOLDER, OVERRIDES_FILE, RECORDED_FILES, SPEC_FILE, check_files
from frostline.spec import RunSpec, TrackingSpec
from frostline.tracking import pending
from frostline.tracking.content import ChildRun
from frostline.tracking.run import MlflowRecorder
from frostline.tracking.stored_run import recorded_run
from frostline.tracking.sweep import SweepRun

Parse = Callable[[str], RunSpec]
"""Text of `spec.json` -> the spec."""


class OtherStoreError(UserError):
    """A record names another store than the one that is configured."""


class Replay:
    """Records in MLflow what it has missed.

    Args:
        tracking: Tracking settings as this command has them.
        keys: Which of them the person gave on purpose, for example `uri`; the others are those that the run was made
            with.
        parse: Reads a `spec.json`.
    """

    def __init__(self, tracking: TrackingSpec, keys: frozenset[str], parse: Parse) -> None:
        self._tracking_spec = tracking
        self._keys = keys
        self._parse = parse
        self._uri = tracking.uri

    @property
    def is_out(self) -> bool:
        """Whether the store that was asked last does not answer: the others needn't be tried."""
        return pending.is_unreachable(self._uri)

    def begin(self, folder: Path) -> None:
        """Makes the parent run of a sweep, so that its trials find it; does nothing for a run's folder.

        Raises:
            UserError: The store can't be reached.
        """
        missed = _missed(folder)
        if missed["kind"] != "sweep" or _is_busy(folder):
            return
        tracking = self._tracking(folder, missed)
        run = SweepRun(tracking, str(missed["name"]), folder, missed["params"])
        run.start()
        _check(folder, missed, done=run.warning is None)

    def record(self, folder: Path) -> bool:
        """Records what was missed of a folder, from `pending.find_pending`.

        Returns:
            False if a process is still at work there: it is left alone.

        Raises:
            UserError: The store can't be reached, or the folder can't be read.
        """
        missed = _missed(folder)
        above = [place for place in (folder.parent, folder.parent.parent) if (place / "sweep.json").is_file()]
        if any(_is_busy(place) for place in above):  # its parent run may still be to come
            return False
        tracking = self._tracking(folder, missed)
        with _held(folder) as ours:
            if not ours:
                return False
            if missed["kind"] == "sweep":
                run = SweepRun(tracking, str(missed["name"]), folder, missed["params"])
                _check(folder, missed, done=run.replay(missed))
            else:
                _check(folder, missed, done=self._run(folder, tracking, missed))
        return True

    def _tracking(self, folder: Path, missed: Mapping[str, Any]) -> TrackingSpec:
        place = dict(missed["tracking"])
        uri, theirs = self._tracking_spec.uri, str(place["uri"])
        if "uri" not in self._keys and redact(uri) != theirs:
            # A record may be a stranger's: what it names gets neither files nor the token of this environment.
            raise OtherStoreError(
                f"{folder}: belongs to {theirs}, not to {redact(uri)}; if you trust it, "
                f"tracking.uri={theirs.replace('***', 'USER:PASSWORD')}"
            )
        self._uri = uri
        return replace(
            self._tracking_spec,
            enabled=True,
            uri=uri,
            experiment=self._tracking_spec.experiment if "experiment" in self._keys else str(place["experiment"]),
            log_model=self._tracking_spec.log_model if "log_model" in self._keys else bool(place["log_model"]),
            tags={**place["tags"], **self._tracking_spec.tags},
            register=self._tracking_spec.register if "register" in self._keys else place.get("register"),
        )

    def _run(self, folder: Path, tracking: TrackingSpec, missed: Mapping[str, Any]) -> bool:
        try:
            spec = self._parse((folder / SPEC_FILE).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{folder / SPEC_FILE}: can't be read ({error})") from error
        try:
            result = RunResult.read(folder)
        except UserError:  # killed before it recorded its end
            result = RunResult(
                name=spec.name(), status=Status.KILLED, reason="its process died", spec_digest=spec.digest()
            )
        if result.files:  # one whose process died has none
            check_files(folder, result, *(name for name in RECORDED_FILES if name != MODEL_FOLDER))
        recorder = MlflowRecorder(tracking, spec, folder, child=_child(folder, tracking, missed), reopen=True)
        return recorder.close_run(result, _start(folder, spec, result))


def publish_run(tracking: TrackingSpec, spec: RunSpec, folder: Path, result: RunResult, child: ChildRun) -> None:
    """Records in MLflow, from its folder, a run that was trained on another machine. Never raises for a store's error.

    Args:
        tracking: Where.
        spec: Of the run.
        folder: Its folder on this machine.
        result: How it ended.
        child: Its place in a sweep.
    """
    recorder = MlflowRecorder(tracking, spec, folder, child=child, reopen=True)
    recorder.close_run(result, _start(folder, spec, result))


def _missed(folder: Path) -> dict[str, Any]:
    missed = pending.load(folder)
    if missed is None or missed.get("kind") not in {"run", "sweep"} or not isinstance(missed.get("tracking"), dict):
        raise UserError(f"{folder / pending.PENDING_FILE}: is damaged; the folder itself holds the run")
    return missed


def _check(folder: Path, missed: Mapping[str, Any], *, done: bool) -> None:
    if not done:
        why = (pending.load(folder) or {}).get("why", "")
        # An attempt that failed must change nothing of what is kept: how a sweep ended, and where it belongs.
        pending.save(folder, {**missed, "why": why})
        raise UserError(f"{folder}: can't be recorded: {why}")


def _is_busy(folder: Path) -> bool:
    with _held(folder) as ours:
        return not ours


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Holds a folder's lock; yields false if a process works there. Without a lock file none does."""
    path = folder / LOCK_FILE
    if not path.exists():
        yield True
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _child(folder: Path, tracking: TrackingSpec, missed: Mapping[str, Any]) -> ChildRun | None:
    """Returns the run's place in its sweep; the sweep's own run may have been made only just now."""
    child = missed.get("child")
    if child is None:
        return None
    parents = (recorded_run(above, tracking.uri) for above in (folder.parent, folder.parent.parent))
    parent = child["parent"] or next((run_id for run_id in parents if run_id is not None), None)
    return ChildRun(
        parent=parent, name=child["name"], params=child["params"], tags=child["tags"], command=child["command"]
    )


def _start(folder: Path, spec: RunSpec, result: RunResult) -> RunStart | None:
    if not result.provenance or not result.data:
        return None
    try:
        overrides = yaml.safe_load((folder / OVERRIDES_FILE).read_text(encoding="utf-8")) or []
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        overrides = []
    return RunStart(
        spec=spec,
        folder=folder,
        overrides=tuple(map(str, overrides)),
        freeze=result.freeze,
        data=result.data,
        provenance=result.provenance,
    )
