"""Storages of a study: the sweep's own journal, or any URL that Optuna takes."""

from __future__ import annotations

import functools
import logging
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from frostline.errors import UserError
from frostline.provenance import redact

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_BEING_MADE = ("already exists", "duplicate key", "unique constraint")
"""What a database says to the second of two that make the same tables."""

MAKING_S = (0.2, 0.5, 1.0, 2.0, 3.0)
"""Seconds to wait for the first one: hosts that begin together all find an empty database."""


AWAY_S = 300.0
"""How long a database that was there is waited for (assumed: one that restarts or fails over is back by then)."""


class CorruptStudyError(Exception):
    """The journal can't be read; the study can be rebuilt from the trials' own files."""


class Journal:
    """The journal file of a sweep that one process at a time works on.

    Args:
        path: Of the file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> BaseStorage:
        """Returns the storage.

        A last line that a crash cut off is removed first: Optuna would append to it, and the joined line could never
        be read again. A lock left by a killed process is removed, too: the sweep's folder has a lock of its own.

        Raises:
            CorruptStudyError: Another line can't be read.
        """
        for lock in self.path.parent.glob(f"{self.path.name}.lock*"):
            lock.unlink(missing_ok=True)
        if self.path.exists():
            _cut_torn_line(self.path)
        try:
            return JournalStorage(JournalFileBackend(str(self.path)))
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise CorruptStudyError(f"{self.path}: can't be read ({type(error).__name__}: {error})") from error

    def put_aside(self) -> Path:
        """Renames the file, so that a new one can be written; returns where it is now."""
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.broken-{number}")).exists():
            number += 1
        self.path.replace(target)
        return target


def _cut_torn_line(path: Path) -> None:
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        end = data.rfind(b"\n") + 1
        log.warning("%s: the last line was cut off by a crash and is dropped", path)
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())


def open_url(url: str) -> BaseStorage:
    """Returns the storage of an Optuna URL.

    Raises:
        UserError: It can't be reached; the message holds no password.
    """
    if url.startswith("journal:"):
        path = Path(url.removeprefix("journal:"))
        try:
            return JournalStorage(JournalFileBackend(str(path)))
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            what = error.strerror if isinstance(error, OSError) else "it is no journal of Optuna's, or damaged"
            raise UserError(f"sweep.storage={url}: can't be opened: {what}") from error
    for wait_s in (*MAKING_S, None):
        try:
            with quiet():
                # A server may drop a connection that was idle: it is tried before it is used.
                is_file = url.startswith("sqlite")
                storage = RDBStorage(url, engine_kwargs={} if is_file else {"pool_pre_ping": True})
                if not is_file:
                    _wait_when_away(storage, redact(url))
                return storage
        except ImportError as error:
            package = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary"}.get(error.name or "", error.name)
            reason = f"its driver is missing: pip install {package}"
            break
        except Exception as error:  # noqa: BLE001 - SQLAlchemy's own tree of errors; a user's URL is wrong or out of reach
            reason = _first_line(error)
            if wait_s is None or not any(word in str(error).lower() for word in _BEING_MADE):
                break
            time.sleep(wait_s * random.uniform(0.5, 1.5))
    raise UserError(f"sweep.storage={redact(url)}: can't be opened: {redact(reason)[:300]}")


def _wait_when_away(storage: RDBStorage, url: str) -> None:
    """Lets each new connection of a storage that was reached once wait until its server is back."""
    from sqlalchemy import event

    since: list[float] = []  # when it went away: one wait for all that is asked meanwhile

    @event.listens_for(storage.engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        del record
        while True:
            try:
                connection = dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError as error:
                if not since:
                    since.append(time.monotonic())
                    log.warning("sweep.storage=%s does not answer: waiting for it (%s)", url, _first_line(error))
                if time.monotonic() - since[0] > AWAY_S:
                    raise
                time.sleep(random.uniform(0.5, 1.5))
            else:
                since.clear()
                return connection


def again_if_cut_off(method: Callable[P, R]) -> Callable[P, R]:
    """Lets a method that may be repeated be tried once more if its storage failed it: as when the server restarted."""

    @functools.wraps(method)
    def tried(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except StorageInternalError as error:
            log.warning("sweep.storage: %s; trying again", storage_trouble(error))
            return method(*args, **kwargs)

    return tried


def storage_trouble(error: BaseException) -> str | None:
    """Returns in a few words what is wrong with a study's storage, if an error is of that kind."""
    if not isinstance(error, StorageInternalError):
        return None
    return _first_line(error.__cause__ or error)


def _first_line(error: BaseException) -> str:
    return redact((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]


def study_names(storage: BaseStorage) -> list[str]:
    """Returns the names of the studies in a storage."""
    return optuna.get_all_study_names(storage)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Optuna's warnings of experimental features from the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
