"""A sweep's folder: locked by one parent, with its description and the trials' files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from frostline.decision import Standing
from frostline.errors import SpecError, UserError, visible
from frostline.files import refuse_links, remove_unfinished, write_atomically
from frostline.hashes import quick_sha256, sealed, unsealed
from frostline.preflight import num_blocks
from frostline.provenance import redact
from frostline.records.run_folder import LOCK_FILE, METRICS_FILE, RUN_FILES
from frostline.records.trial import BASELINE_NUMBER, RECOMMENDED_FILE, TrialRecord, ranked
from frostline.spec import SWEEP_SCHEMA, Direction, Enqueue, RunSpec, Source
from frostline.sweeps.differences import differences
from frostline.sweeps.model_sizes import sizes_of
from frostline.sweeps.progress_file import PROGRESS_FILE
from frostline.sweeps.read_config import Sweep

SWEEP_FILE = "sweep.json"
JOURNAL_FILE = "journal.log"
TRIAL_FILE = "trial.json"
BASELINE_FOLDER = "baseline"
REPORT_FOLDER = "report"
WORKERS_FOLDER = "workers"
_OWNER = ".owner.json"
_OWN_FILES = (SWEEP_FILE, JOURNAL_FILE, LOCK_FILE, _OWNER, PROGRESS_FILE, REPORT_FOLDER, WORKERS_FOLDER)


class SweepFolder:
    """A sweep's folder, held by one process. Use as a context manager.

    The system frees the lock of a dead process, so a stale one is taken over without a word.

    Args:
        folder: Created if it isn't there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / LOCK_FILE)

    def __enter__(self) -> SweepFolder:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            refuse_links(self._places())
            self._lock.acquire(timeout=0)
            for each in (self.folder, *self.folder.glob("[0-9b]*")):
                remove_unfinished(each)
            owner = {"pid": os.getpid(), "host": socket.gethostname()}
            write_atomically(self.folder / _OWNER, json.dumps(owner) + "\n")
        except Timeout:
            raise UserError(
                f"{self.folder}: another process works on this sweep ({_owner(self.folder)}); "
                "wait for it, or give sweep.name=ANOTHER"
            ) from None
        except OSError as error:
            raise UserError(f"{self.folder}: can't be written ({error.strerror}); give hydra.sweep.dir=NEW") from error
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            (self.folder / _OWNER).unlink(missing_ok=True)
        self._lock.release()

    def _places(self) -> Iterator[Path]:
        """Yields what is written in the folder."""
        yield from (self.folder / name for name in _OWN_FILES)
        for name in (REPORT_FOLDER, WORKERS_FOLDER):
            yield from (self.folder / name).glob("*")
        for trial in (self.folder / BASELINE_FOLDER, *self.folder.glob("[0-9]*")):
            yield trial
            for run in (trial, *trial.glob("s[0-9]*")):
                yield run
                yield from (run / name for name in (TRIAL_FILE, *RUN_FILES))

    def admit(self, description: Mapping[str, Any]) -> bool:
        """Records what the sweep is, or compares with what was recorded.

        Returns:
            Whether it resumes an earlier command's sweep.

        Raises:
            SpecError: The record is of another schema version, or of another config; the message has the difference.
        """
        if not (self.folder / SWEEP_FILE).exists():
            self._record(description)
            return False
        recorded = read_description(self.folder)
        difference = differences(recorded, description)
        if not difference:
            ignored = (
                "answer",
                "command",
                "config_dir",
            )  # it may be asked for more or less sure; its files may lie elsewhere
            if any(recorded.get(key) != description.get(key) for key in ignored):
                self._record(description)
            return True
        if self._has_trained():
            raise SpecError(f"{self.folder}: {refusal(difference)}")
        # A first command that ended at a mistake before any training must not keep the name for ever.
        self._forget()
        self._record(description)
        return False

    def _record(self, description: Mapping[str, Any]) -> None:
        record = {"schema": SWEEP_SCHEMA, **description}
        write_atomically(self.folder / SWEEP_FILE, sealed(record))

    def _has_trained(self) -> bool:
        if any(trial.outcome is not None for trial in self.read_trials()):
            return True
        metric_files = (*self.folder.glob(f"[0-9]*/{METRICS_FILE}"), *self.folder.glob(f"[0-9]*/s*/{METRICS_FILE}"))
        return any(path.stat().st_size for path in metric_files)

    def _forget(self) -> None:
        for path in self.folder.glob(f"*/{TRIAL_FILE}"):
            shutil.rmtree(path.parent)
        for path in self.folder.glob(f"{JOURNAL_FILE}*"):
            path.unlink()

    def trial_folder(self, number: int) -> Path:
        """Returns the folder of a trial."""
        return self.folder / (BASELINE_FOLDER if number == BASELINE_NUMBER else f"{number:03d}")

    def write_trial(self, trial: TrialRecord) -> None:
        """Keeps a trial in its folder, so that a lost study can be rebuilt."""
        target = self.trial_folder(trial.number)
        target.mkdir(parents=True, exist_ok=True)
        write_atomically(target / TRIAL_FILE, trial.to_json())

    def read_trials(self) -> list[TrialRecord]:
        """Returns the trials that have a file, by number, the baseline first; unreadable files are left out."""
        trials = []
        for path in sorted(self.folder.glob(f"*/{TRIAL_FILE}")):
            with contextlib.suppress(OSError, UnicodeDecodeError, UserError):
                trials.append(TrialRecord.from_json(path.read_text(encoding="utf-8")))
        return sorted(trials, key=lambda trial: trial.number)


def free_name(folder: Path, taken: Collection[str] = ()) -> Path:
    """Returns the first of `NAME`, `NAME-2`, `NAME-3` that isn't there.

    Args:
        folder: Of the name wished for.
        taken: Names that are taken elsewhere, as in a shared storage.
    """
    number, candidate = 1, folder
    while candidate.exists() or candidate.name in taken:
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def describe(sweep: Sweep, swept_keys: Sequence[str]) -> dict[str, Any]:
    """Returns what must not change when a sweep is resumed: plan, space, and the runs' config but the swept keys."""
    groups = {f"{group.key}." for group in sweep.space.groups}
    flat = sweep.job.run.flat()
    base = {
        key: value
        for key, value in flat.items()
        if key not in swept_keys
        and not key.startswith(("runtime.", *groups))
        and not (key == "seed" and sweep.plan.seeds is not None)
    }
    return {
        "name": sweep.plan.name,
        "plan": {**sweep.plan.describe(), "enqueue": _queue(sweep)},
        "space": sweep.space.describe(),
        "base": base,
        "groups": _group_settings(sweep, swept_keys),
        "answer": {
            "margin": sweep.plan.margin,
            "confidence": sweep.plan.confidence,
            "settle_rows": sweep.plan.settle_rows,
        },
        "content": _content(sweep.job.run, swept_keys),
        "objective": sweep.job.run.training.objective,
        "direction": sweep.job.run.training.direction.value,
        "model": sweep.job.run.model_name,
        "dataset": sweep.job.run.dataset_name,
        "num_blocks": None if "model" in swept_keys else num_blocks(sweep.job.run),
        "storage": redact(sweep.plan.storage) if sweep.plan.storage else None,
        **sizes_of(sweep),
        **({} if sweep.config_dir is None else {"config_dir": sweep.config_dir}),
        "command": [redact(line) for line in sweep.fixed],
    }


def _content(spec: RunSpec, swept_keys: Sequence[str]) -> dict[str, str]:
    """Returns what identifies the content of local files and folders, by the key that names them."""
    places: dict[str, str | None] = {}
    if spec.model.source is Source.PATH and "model" not in swept_keys:
        places["model.location"] = spec.model.location
    if "dataset" not in swept_keys:
        if spec.dataset.source is Source.PATH:
            places["dataset.location"] = spec.dataset.location
        places |= spec.dataset.other_files()
    content = {}
    for key, place in places.items():
        if place is not None:
            with contextlib.suppress(OSError):  # a run says what is wrong with it
                content[key] = quick_sha256(Path(place).expanduser())
    return content


def _group_settings(sweep: Sweep, swept_keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns the settings that each choice of a swept group sets, for example `model.location`, without swept ones."""
    prefixes = tuple(f"{group.key}." for group in sweep.space.groups)
    if not prefixes:
        return {}
    return {
        ",".join(map(str, chosen)): {
            key: value for key, value in spec.flat().items() if key.startswith(prefixes) and key not in swept_keys
        }
        for chosen, spec in zip(sweep.space.variants, sweep.variants, strict=True)
    }


def _queue(sweep: Sweep) -> Any:
    return Enqueue.COARSE.value if sweep.enqueue is None else [dict(params) for params in sweep.enqueue]


def recommended_run_folder(folder: Path) -> Path:
    """Returns the folder of a sweep's recommended run: of its first seed, if there are several; says which it is.

    A sweep that has no answer yet has its best run instead.

    Raises:
        UserError: It isn't a sweep's folder, or no trial was trained to its end.
    """
    description = read_description(folder)
    try:
        maximize = description["direction"] == Direction.MAXIMIZE.value
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / SWEEP_FILE}: lacks {error}") from error
    sweep = SweepFolder(folder)
    from frostline.sweeps.recovery import notes_of, recover

    recovery = recover(sweep, description)
    for note in notes_of(recovery):
        print(f"warning: {visible(note)}", file=sys.stderr)
    best = ranked(recovery.trials, maximize)
    if not best:
        raise UserError(f"{folder}: no trial of this sweep was trained to its end")
    number, kind = _recommended(folder)
    if number is None:
        number, kind = best[0].number if best[0].copy_of is None else best[0].copy_of, "best run"
    run = run_folder_of(folder, description, number)
    print(f"{folder.name}: its {kind}, {run}", file=sys.stderr)
    return run


def run_folder_of(folder: Path, description: Mapping[str, Any], trial: int, seed: int | None = None) -> Path:
    """Returns the folder of a trial's run.

    Args:
        folder: The sweep's.
        description: Its `sweep.json`.
        trial: The trial's number.
        seed: Of the run; None: the first.
    """
    target, seeds = SweepFolder(folder).trial_folder(trial), description["plan"]["seeds"]
    if seeds and len(seeds) > 1:
        return target / f"s{seeds[0] if seed is None else seed}"
    return target if seed is None or not (target / f"s{seed}").is_dir() else target / f"s{seed}"


def _recommended(folder: Path) -> tuple[int | None, str]:
    """Returns the number of the trial that the report names, if there is one, and what it calls it."""
    try:
        record = json.loads((folder / REPORT_FOLDER / RECOMMENDED_FILE).read_text(encoding="utf-8"))
        is_guess = record.get("standing") == Standing.NOT_SETTLED.value or record.get("learnt") is False
        return int(record["trial"]), "best guess" if is_guess else "recommended run"
    except (OSError, ValueError, KeyError, TypeError):
        return None, ""


def refusal(difference: Sequence[str]) -> str:
    """Explains why the sweep cannot be resumed: the settings that changed."""
    shown = "; ".join(difference[:6]) + (f"; and {len(difference) - 6} more" if len(difference) > 6 else "")
    return f"holds a sweep of another config ({shown}); sweep.new=true begins afresh under a new name"


def read_description(folder: Path) -> dict[str, Any]:
    """Returns `sweep.json`.

    Raises:
        UserError: There is none, it can't be read, or is of another schema version.
    """
    path = folder / SWEEP_FILE
    try:
        text = path.read_text(encoding="utf-8")
        schema = json.loads(text)["schema"]
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no sweep lies there ({SWEEP_FILE} is missing)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error
    if schema != SWEEP_SCHEMA:
        raise UserError(f"{path}: has schema {schema}, this frostline reads {SWEEP_SCHEMA}; begin with sweep.new=true")
    try:
        return unsealed(text)
    except ValueError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: can't be read ({type(error).__name__}: {error}); move the folder away, or name another")


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
        return f"pid {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its pid is not known"
