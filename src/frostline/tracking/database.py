"""Owns: the SQLite file of an MLflow store - whole, or not there. Must not know: what is recorded in it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path


@contextmanager
def migration_lock(uri: str) -> Iterator[None]:
    """Lets one process alone make or migrate a SQLite store: the lock is on its folder, and leaves no file."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    try:
        file = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY) if uri.startswith("sqlite:///") else None
    except OSError:  # it can't be opened either, which is told with the reason
        file = None
    if file is None:
        yield
        return
    try:
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
        _remove_mlflows_lock(uri)
    finally:
        os.close(file)


def _remove_mlflows_lock(uri: str) -> None:
    """Removes the file by which MLflow lets one process alone make a store's tables, when they are there."""
    digest = hashlib.md5(uri.encode(), usedforsecurity=False).hexdigest()
    with suppress(OSError):
        (Path(tempfile.gettempdir()) / f"db_init_lock-{digest}").unlink(missing_ok=True)


def make_database(path: Path) -> None:
    """Makes a database beside its place, and moves it there when it is whole: making one takes seconds."""
    with _made_beside(path) as new:
        new.replace(path)


def make_anew(path: Path) -> Path:
    """Makes a database anew, in its file: MLflow keeps a file open that it has once seen.

    Returns:
        A copy of what the file held.
    """
    aside = path.with_name(f"{path.name}.half-made")
    shutil.copyfile(path, aside)
    with (
        _made_beside(path) as new,
        closing(sqlite3.connect(new)) as source,
        closing(sqlite3.connect(path)) as target,
    ):
        source.backup(target)
    return aside


@contextmanager
def _made_beside(path: Path) -> Iterator[Path]:
    from mlflow import MlflowClient

    for left in path.parent.glob(f".{path.name}.*.new"):  # of a process that was killed; the lock is ours
        left.unlink(missing_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments(max_results=1)
        yield new
    finally:
        new.unlink(missing_ok=True)
        _remove_mlflows_lock(f"sqlite:///{new}")


def is_half_made(path: Path) -> bool:
    """Returns whether a SQLite file is one of MLflow's that holds no run."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            known = bool(tables & {"alembic_version", "experiments"}) or not tables
            return known and not ("runs" in tables and database.execute("SELECT 1 FROM runs LIMIT 1").fetchone())
    except sqlite3.Error:
        return False
