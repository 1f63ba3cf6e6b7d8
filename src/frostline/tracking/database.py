"""The SQLite file of a local MLflow store: created whole, repaired, moved."""

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
from urllib.parse import unquote, urlsplit


@contextmanager
def migration_lock(uri: str) -> Iterator[None]:
    """Lets one process alone make or migrate a SQLite store: the lock is on its folder, and leaves no file."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    try:
        file = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY) if uri.startswith("sqlite:///") else None
    except OSError:  # opening the store fails, too, and says why
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


_PLACES = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip
"""Where MLflow keeps absolute paths of artifacts."""

_ARTIFACTS = "/mlruns"
"""The folder of artifacts, beside the database."""


def follow_move(path: Path, folder_tag: str) -> str | None:
    """Makes a store whose folder was moved, or mounted elsewhere, name its artifacts and runs where they are now.

    Args:
        path: Of the database.
        folder_tag: The tag of a run that holds the path of its folder.

    Returns:
        The folder that it names no more; None if it names its own.
    """
    root = path.absolute().parent
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=10)) as database:
        old = _former_folder(database, root, path.name)
        if old is None:
            return None
        pairs = [(f"{old.as_uri()}/", f"{root.as_uri()}/"), (f"{old}/", f"{root}/")]
        with database:
            for table, column in _PLACES:
                for before, after in pairs:
                    statement = (
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                    )
                    arguments = (after, len(before) + 1, len(before), before)
                    with suppress(sqlite3.OperationalError):  # MLflow before 3 has no such table
                        database.execute(statement, arguments)
            before, after = pairs[1]
            database.execute(
                "UPDATE tags SET value = ? || substr(value, ?) WHERE key = ? AND substr(value, 1, ?) = ?",
                (after, len(before) + 1, folder_tag, len(before), before),
            )
        return str(old)
    return None


def _former_folder(database: sqlite3.Connection, root: Path, name: str) -> Path | None:
    """Returns the folder beside whose database the artifacts of a store are said to lie, if it is another one."""
    # MLflow itself makes the first experiment, below whatever folder was the current one.
    for (location,) in database.execute("SELECT artifact_location FROM experiments WHERE experiment_id != 0"):
        plain = unquote(urlsplit(location).path) if str(location).startswith("file:") else str(location)
        # Exactly as frostline names it: another experiment's artifacts may lie on a disk that is not mounted now.
        before, separator, rest = plain.rpartition(_ARTIFACTS)
        if not separator or rest or not before.startswith("/"):
            continue
        old = Path(before)
        is_here = os.path.realpath(old) == os.path.realpath(root)
        is_copy = (old / name).is_file() and (root / "mlruns").is_dir()
        if not is_here and (is_copy or not old.exists()):
            return old
    return None


def is_half_made(path: Path) -> bool:
    """Returns whether a SQLite file is one of MLflow's that holds no run."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            known = bool(tables & {"alembic_version", "experiments"}) or not tables
            return known and not ("runs" in tables and database.execute("SELECT 1 FROM runs LIMIT 1").fetchone())
    except sqlite3.Error:
        return False
