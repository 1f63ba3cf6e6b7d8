"""Checks within seconds whether a store is reachable.

MLflow and SQLAlchemy try again for minutes, each process anew, before they say that no server listens.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from frostline.process_cache import PROCESS_CACHE

LIMIT_S = 2.0
"""So long a store may take to accept a connection."""

_VALID_S = 60.0
"""So long one that did is not asked again."""

_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}

_answered: dict[str, float] = PROCESS_CACHE.container({})


def knock(uri: str) -> None:
    """Raises at once if no server listens where a store should be, or its file can't be made.

    Args:
        uri: A tracking URI; of kinds that aren't known here nothing is found out.

    Raises:
        OSError: With the reason.
    """
    if uri.startswith("sqlite:///"):
        _check_file(Path(uri.removeprefix("sqlite:///").partition("?")[0]))
        return
    if uri.startswith("file:") or (":" not in uri and uri != "databricks"):
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in {"true", "1"}:
            raise OSError("MLflow takes no new runs in a folder of files; give tracking.uri=sqlite:///mlflow.db")
        return
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    except ValueError:  # a database on several hosts
        return
    if not host or port is None or "," in host or _goes_by_proxy(parts.scheme, host):
        return
    place = f"{host}:{port}"
    if _answered.get(place, 0.0) > time.monotonic():
        return
    errors: list[OSError] = []
    thread = threading.Thread(target=connect, args=(host, port, errors), daemon=True)  # a name may take long to resolve
    thread.start()
    thread.join(LIMIT_S + 0.5)
    if thread.is_alive():
        raise TimeoutError(f"{place}: no answer within {LIMIT_S:g} s")
    if errors:
        raise ConnectionError(f"{place}: {errors[0].strerror or errors[0]}") from errors[0]
    _answered[place] = time.monotonic() + _VALID_S


def connect(host: str, port: int, errors: list[OSError]) -> None:
    """Connects to a server and hangs up; an error goes into `errors`, since it runs in a thread."""
    try:
        socket.create_connection((host, port), timeout=LIMIT_S).close()
    except OSError as error:
        errors.append(error)


def _goes_by_proxy(scheme: str, host: str) -> bool:
    return scheme in getproxies() and not proxy_bypass(host)


def _check_file(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(f"{path}: can't be written")
