"""A lock on a study: one parent at a time works on it. The storage frees it when its owner dies."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from optuna.storages import BaseStorage, RDBStorage

from frostline.errors import UserError, best_effort
from frostline.provenance import redact
from frostline.search.storages import open_url

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

log = logging.getLogger(__name__)

_PING_S = 5.0
"""Seconds between two looks whether a connection that holds a lock still stands."""

_CONNECT_S = 5

_SESSION = {
    "postgresql": (
        # A host that lost its power closes no connection: the server asks after it, and frees the lock within 30 s.
        "SET tcp_keepalives_idle = 15", "SET tcp_keepalives_interval = 5", "SET tcp_keepalives_count = 3",
        "SET idle_session_timeout = 0",
    ),
    "mysql": ("SET SESSION wait_timeout = 2147483",),
}  # fmt: skip
"""What keeps a server from closing a connection that is quiet, and lets it notice one that is dead."""

_HOLDER = {
    "postgresql": (
        "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' "
        "AND l.granted AND ((l.classid::bigint << 32) | l.objid::bigint) = :key"
    ),
    "mysql": "SELECT CONCAT('connection ', IS_USED_LOCK(:key))",
}


class LockLostError(Exception):
    """Another parent holds the lock by now: the connection that held it was cut off."""


@contextmanager
def open_locked(url: str, name: str) -> Iterator[tuple[BaseStorage, Callable[[], None]]]:
    """Opens a storage and holds the lock on a study in it within the context.

    Args:
        url: See `open_url`.
        name: Of the study.

    Yields:
        The storage, and a function to be called now and then while the lock is needed. It raises `LockLostError` if
        another parent has taken the lock after a connection was cut off.

    Raises:
        UserError: Another parent holds the lock, or the storage can't be opened or has no locks.
    """
    if url.startswith(("sqlite", "journal:")):
        with _held_file(url, name):
            yield open_url(url), lambda: None
        return
    storage = open_url(url)
    assert isinstance(storage, RDBStorage)
    lock = _ServerLock(storage.engine, url, name)
    try:
        lock.acquire()
        yield storage, lock.check
    finally:
        lock.release()
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def _held_file(url: str, name: str) -> Iterator[None]:
    if url.startswith("sqlite"):  # takes one writer for all of its studies
        path = Path(url.partition(":///")[2].partition("?")[0])
        lock = FileLock(f"{path}.lock")
        way = "SQLite takes one writer; wait for it, use a server, for example postgresql://..., or sweep.storage=null"
    else:
        path = Path(url.removeprefix("journal:"))
        lock = FileLock(f"{path}.{hashlib.sha256(name.encode()).hexdigest()[:8]}.parent")
        way = "one command at a time works on a sweep; wait for it, or give sweep.name=ANOTHER"
    try:
        if not url.startswith("sqlite") and not path.parent.is_dir():
            raise UserError(f"sweep.storage={url}: can't be opened: there is no folder {path.parent}")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"sweep.storage={url}: another sweep writes to it, and {way}") from None
    except OSError as error:
        raise UserError(f"sweep.storage={url}: can't be written there ({error.strerror})") from error
    try:
        yield
    finally:
        lock.release()


class _ServerLock:
    """A lock of a database server, held by a connection of its own.

    Sources: PostgreSQL, "Advisory Locks"; MySQL, "Locking Functions".

    Args:
        engine: Of the storage.
        url: For messages.
        name: Of the study.
    """

    def __init__(self, engine: Engine, url: str, name: str) -> None:
        self._address = engine.url
        self._url = redact(url)
        self._name = name
        self._kind = {"mariadb": "mysql"}.get(engine.dialect.name, engine.dialect.name)
        digest = hashlib.sha256(f"frostline:{name}".encode()).digest()
        is_postgres = self._kind == "postgresql"
        self._key: int | str = int.from_bytes(digest[:8], "big", signed=True) if is_postgres else digest.hex()[:60]
        self._connection: Connection | None = None
        self._next_look = 0.0

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            UserError: Another parent holds it, or the server has no such locks.
        """
        if self._kind not in _SESSION:
            raise UserError(
                f"sweep.storage={self._url}: frostline can't hold a lock there; use postgresql://, mysql://, "
                "sqlite:/// or journal:FILE"
            )
        if not self._take():
            holder = self._ask(_HOLDER[self._kind], key=self._key) or "unknown"
            self.release()
            raise UserError(
                f"sweep.storage={self._url}: another command works on {self._name} ({holder}), one at a time; wait "
                "for it, or give sweep.name=ANOTHER"
            )

    def check(self) -> None:
        """Takes the lock again if its connection was cut off; asks the server every few seconds at most.

        Raises:
            LockLostError: Another parent was faster.
        """
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _PING_S
        try:
            self._ask("SELECT 1")
        except Exception:  # of the driver or of SQLAlchemy, whichever notices
            log.info("the connection that holds the lock on %s was cut off", self._name, exc_info=True)
        else:
            return
        try:
            self.release()
            is_ours = self._take()
        except Exception:  # still unreachable: what needs the storage waits for it, or fails
            log.info("the lock on %s could not be taken again yet", self._name, exc_info=True)
            return
        if not is_ours:
            raise LockLostError(f"another command works on {self._name} since the server was away")

    def release(self) -> None:
        """Gives the lock back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with best_effort("giving the lock back"):
                connection.invalidate()  # not back into the pool: the lock goes with the connection
            with best_effort("closing the lock's connection"):
                connection.close()

    def _take(self) -> bool:
        import sqlalchemy

        # An engine of its own: the storage's waits for minutes where the server is away.
        engine = sqlalchemy.create_engine(
            self._address, poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": _CONNECT_S}
        )
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        for statement in _SESSION[self._kind]:
            with best_effort(statement):  # an older server does not know it
                self._ask(statement)
        if self._kind == "postgresql":
            who = f"{socket.gethostname()} pid {os.getpid()}"
            self._ask("SELECT set_config('application_name', :who, false)", who=f"frostline {who}"[:63])
            return bool(self._ask("SELECT pg_try_advisory_lock(:key)", key=self._key))
        return bool(self._ask("SELECT GET_LOCK(:key, 0)", key=self._key))

    def _ask(self, statement: str, **values: Any) -> Any:
        from sqlalchemy import text

        assert self._connection is not None, "acquire() first"
        result = self._connection.execute(text(statement), values)
        return result.scalar() if result.returns_rows else None
