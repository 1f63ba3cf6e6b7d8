"""A run's folder, which holds its record.

A run's folder holds `spec.json`, `overrides.yaml`, `environment.json`, `metrics.jsonl`, `result.json`, `model/` and
`run.log`.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import yaml
from filelock import FileLock, Timeout

from frostline import hashes
from frostline.errors import MachineError, UserError, machine_trouble
from frostline.files import refuse_links, remove_unfinished, write_atomically
from frostline.provenance import environment, git_diff
from frostline.records.model_card import CARD_FILE, model_card
from frostline.records.recorder import RunStart
from frostline.records.result import RESULT_FILE, RunResult, Status, finite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from frostline.spec import RunSpec


SPEC_FILE = "spec.json"
OVERRIDES_FILE = "overrides.yaml"
METRICS_FILE = "metrics.jsonl"
MODEL_FOLDER = "model"
_CARD = f"{MODEL_FOLDER}/{CARD_FILE}"
PREDICTIONS_FILE = "predictions.parquet"
WORST_ROWS_FILE = "worst_rows.jsonl"
GENERATED_FILE = "generated.jsonl"
TEST_FILE = "test.json"
LOG_FILE = "run.log"
LOCK_FILE = ".lock"
ENVIRONMENT_FILE = "environment.json"
DIFF_FILE = "git.diff"
RECORDED_FILES = (
    SPEC_FILE, OVERRIDES_FILE, ENVIRONMENT_FILE, DIFF_FILE, METRICS_FILE, PREDICTIONS_FILE, WORST_ROWS_FILE,
    GENERATED_FILE, MODEL_FOLDER,
)  # fmt: skip
"""What `result.json` has the sha256 of."""

RUN_FILE = ".mlflow.json"
"""Which MLflow run a run's or sweep's folder is recorded in."""

"""Its place in a sweep, for a run that another process starts."""

CHECKPOINTS_FOLDER = "checkpoints"

RUN_FILES = (
    *RECORDED_FILES, RESULT_FILE, TEST_FILE, LOG_FILE, LOCK_FILE, RUN_FILE, CHECKPOINTS_FOLDER,
)  # fmt: skip
"""All that is written in a run's folder."""

INPUTS = {
    "weights_sha256": "model weights",
    "tokenizer_sha256": "tokenizer",
    "image_processor_sha256": "image processor",
    "data_fingerprint": "data",
    "plugins_sha256": "plugins",
}
"""What a run is made of, by its key in the provenance."""

_TAKEOVER_S = 20.0  # assumed: what a killed process with a large model may need to end


FOR_TERMINAL = "tell"
"""Attribute of a log record that a person should see, though it is no warning."""


class RunFolder:
    """A run's folder: opened before anything can go wrong, closed with `result.json`.

    Use as a context manager. `metrics.jsonl` is written line by line and flushed, so that a killed run keeps what it
    had; it holds no times, so that equal runs have equal files.

    Args:
        folder: Created if it isn't there.
        spec: Written as `spec.json`.
        overrides: Written as `overrides.yaml`.
        resume_step: None starts a run in a folder that has none. A step resumes the run that lies there: numbers
            up to this step are kept, the others and its result go; 0 begins it again.

        keep_diff: Whether `git.diff` is written.

    Raises:
        UserError: The folder can't be written, or holds a run already.
    """

    def __init__(
        self,
        folder: Path,
        spec: RunSpec,
        overrides: Sequence[str] = (),
        *,
        resume_step: int | None = None,
        keep_diff: bool = True,
    ) -> None:
        self.folder = folder
        self._go_on_from = resume_step
        self._keep_diff = keep_diff
        self._spec = spec
        self._overrides = list(overrides)
        self._metrics: TextIO | None = None
        self._handler: logging.Handler | None = None
        self._lock = _FolderLock(folder / LOCK_FILE)

    def __enter__(self) -> RunFolder:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            refuse_links(self.folder / name for name in RUN_FILES)
            # The command that resumes may come a moment before the system frees the killed process's lock.
            if not self._lock.acquire(0.0 if self._go_on_from is None else _TAKEOVER_S):
                raise UserError(f"{self.folder}: another process is writing a run there; give another folder")
            remove_unfinished(self.folder)
            if self._go_on_from is not None:
                _rewind(self.folder, self._go_on_from)
            elif (self.folder / RESULT_FILE).exists() or (self.folder / METRICS_FILE).exists():
                self._lock.release()
                raise UserError(
                    f"{self.folder}: holds a run already; give another folder, for example hydra.run.dir=runs/NEW"
                )
            write_atomically(self.folder / SPEC_FILE, self._spec.to_json())
            write_atomically(self.folder / OVERRIDES_FILE, yaml.safe_dump(self._overrides, allow_unicode=True))
            self._metrics = (self.folder / METRICS_FILE).open("a", encoding="utf-8")
            self._handler = logging.FileHandler(self.folder / LOG_FILE, encoding="utf-8")
        except OSError as error:
            kind = UserError if machine_trouble(error) is None else MachineError
            raise kind(f"{self.folder}: can't write the run's folder: {error.strerror}") from error
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger = logging.getLogger("frostline")
        logger.addHandler(self._handler)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UserError) and not (self.folder / RESULT_FILE).exists():
            # Found out before the run began: the folder should say why it is empty.
            failed = RunResult(
                name=self._spec.name(),
                status=Status.FAILED,
                reason=str(error),
                spec_digest=self._spec.digest(),
            )
            with suppress(MachineError):
                self.finish(failed)
        if self._handler is not None:
            logging.getLogger("frostline").removeHandler(self._handler)
            self._handler.close()
        if self._metrics is not None:
            with suppress(OSError):  # the full disk was reported already
                self._metrics.close()
        self._lock.release()

    def start(self, run: RunStart) -> None:
        """Keeps what one needs to come back to this environment: `environment.json`, and `git.diff` if there is one."""
        seen = {**environment(), "compute": run.provenance.get("compute")}
        write_atomically(self.folder / ENVIRONMENT_FILE, json.dumps(seen, indent=1, ensure_ascii=False) + "\n")
        diff = git_diff(Path.cwd()) if self._keep_diff else None
        if diff is not None:
            write_atomically(self.folder / DIFF_FILE, diff)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Appends one line to `metrics.jsonl`; steps before a resume are not written twice."""
        assert self._metrics is not None, "log() outside of the context"
        if self._go_on_from is not None and step <= self._go_on_from:
            return
        line = json.dumps(finite({"step": step, **metrics}), allow_nan=False)
        self._metrics.write(line + "\n")
        self._metrics.flush()

    def finish(self, result: RunResult) -> None:
        """Writes `result.json`, with the sha256 of the run's files: all of it or nothing.

        The checkpoints of a finished run are removed only then, so that a run that is killed before can be resumed.

        Raises:
            MachineError: The folder can't be written any more.
        """
        try:
            if result.status is Status.FINISHED and (self.folder / MODEL_FOLDER).is_dir():
                card = model_card(self._spec, result, self.folder)
                write_atomically(self.folder / _CARD, card)
            files = hashes.hashes_of(self.folder, RECORDED_FILES)
            write_atomically(self.folder / RESULT_FILE, replace(result, files=files).to_json())
        except OSError as error:
            raise MachineError(f"{self.folder}: its result can't be written: {error.strerror or error}") from error
        if result.status is Status.FINISHED:
            shutil.rmtree(self.folder / CHECKPOINTS_FOLDER, ignore_errors=True)


def check_files(folder: Path, result: RunResult, *names: str) -> None:
    """Checks files of a run's folder against the hashes in its result.

    Args:
        folder: The run's.
        result: From its `result.json`.
        names: Of `RECORDED_FILES`.

    Raises:
        DamagedError: A file is not as the run left it.
    """
    remedy = f"train it again: frostline reproduce {shlex.quote(str(folder))}"
    hashes.check(folder, result.files, names, remedy, without=[_CARD])


def rewrite_card(folder: Path, spec: RunSpec, answer: Sequence[str]) -> None:
    """Writes the card of a run's model anew, with what its sweep says, unless the user has changed it.

    Args:
        folder: The run's; without a card nothing is done.
        spec: What was trained.
        answer: See `model_card`; nothing where another run is recommended.

    Raises:
        UserError: The folder holds no result that can be read.
    """
    if not (folder / _CARD).is_file():
        return
    result = RunResult.read(folder)
    if hashes.hashes_of(folder, [_CARD])[_CARD] != result.files.get(_CARD):
        return
    card = model_card(spec, result, folder, answer)
    if (folder / _CARD).read_text(encoding="utf-8") != card:
        write_atomically(folder / _CARD, card)
        files = {**result.files, **hashes.hashes_of(folder, [_CARD])}
        write_atomically(folder / RESULT_FILE, replace(result, files=files).to_json())


def has_whole_model(folder: Path) -> bool:
    """Whether a run's folder holds its model as the run left it."""
    try:
        check_files(folder, RunResult.read(folder), MODEL_FOLDER)
    except UserError:
        return False
    return (folder / MODEL_FOLDER).is_dir()


def is_run_id(text: str) -> bool:
    """Returns whether a text has the form of an MLflow run id."""
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


def metrics_up_to(folder: Path, step: int) -> list[tuple[int, dict[str, float]]]:
    """Returns the recorded numbers of a run's folder up to a step; a torn last line is left out.

    Raises:
        UserError: A line is JSON, but not what frostline writes.
    """
    rows = []
    try:
        lines = (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # the torn last line of a killed run
            continue
        try:
            at = int(record.pop("step"))
            if at <= step:
                rows.append((at, {key: float(value) for key, value in record.items()}))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / METRICS_FILE}: a line holds no numbers of a step") from error
    return rows


def _rewind(folder: Path, step: int) -> None:
    rows = metrics_up_to(folder, step)
    lines = [json.dumps(finite({"step": at, **values}), allow_nan=False) + "\n" for at, values in rows]
    write_atomically(folder / METRICS_FILE, "".join(lines))
    (folder / RESULT_FILE).unlink(missing_ok=True)


def is_locked(folder: Path) -> bool:
    """Returns whether a process works in a run's or a sweep's folder; without a lock file none does."""
    lock = folder / LOCK_FILE
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that can't be written is nobody's here
        return False


class _FolderLock:
    """A lock that the system frees when its process dies, and that leaves no file when released."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path)

    def acquire(self, timeout_s: float) -> bool:
        """Returns whether the lock is held now."""
        try:
            self._lock.acquire(timeout=timeout_s, poll_interval=0.05)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Frees the lock; may be called without holding it."""
        if self._lock.is_locked:
            self._path.unlink(missing_ok=True)
            self._lock.release()
