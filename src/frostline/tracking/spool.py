"""Owns: what a store that was out of reach has missed, kept in the folder it belongs to. Must not know: who replays it.

A run's numbers are in its `metrics.jsonl` and `result.json` anyway; what is kept beside them is its place in a sweep. A
sweep's parent run has no such files: its numbers, tags and status are kept here.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from frostline.provenance import redact
from frostline.record import write_atomically
from frostline.spec import TrackingSpec

log = logging.getLogger(__name__)

PENDING_FILE = ".mlflow-pending.json"
_DOWN_S = 60.0
"""So long a server that did not answer isn't asked again by a process (assumed): else each trial would wait for it."""

_down: dict[str, float] = {}


def keep(folder: Path, missed: Mapping[str, Any]) -> None:
    """Keeps what a store has missed; a folder that can't be written loses it, as it loses everything else."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / PENDING_FILE, json.dumps(missed) + "\n")


def kept(folder: Path) -> dict[str, Any] | None:
    """Returns what a store has missed of a folder; None if it has it all."""
    try:
        data = json.loads((folder / PENDING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def forget(folder: Path) -> None:
    """The store has it now."""
    with suppress(OSError):
        (folder / PENDING_FILE).unlink(missing_ok=True)


def pending(roots: Iterable[Path]) -> list[Path]:
    """Returns the folders below `roots` that a store has missed something of; sweeps come before their runs."""
    found = {path.parent for root in roots for path in root.rglob(PENDING_FILE)}
    return sorted(found)


def mark_down(uri: str, error: BaseException) -> None:
    """Notes that a server did not answer; files and databases are asked each time."""
    words = ("API request", "HTTPConnection", "HTTPSConnection", "Connection", "timed out", "Max retries")
    silent = isinstance(error, (ConnectionError, TimeoutError)) or any(word in str(error) for word in words)
    if silent and uri.startswith(("http://", "https://")):
        _down[uri] = time.monotonic() + _DOWN_S


def place(tracking: TrackingSpec) -> dict[str, Any]:
    """Returns where something was to be recorded, without user and password."""
    return {
        "uri": redact(tracking.uri),
        "experiment": tracking.experiment,
        "log_model": tracking.log_model,
        "tags": {key: redact(value) for key, value in tracking.tags.items()},
    }


def is_down(uri: str) -> bool:
    """Returns whether a server did not answer a moment ago."""
    return _down.get(uri, 0.0) > time.monotonic()


def check_up(uri: str) -> None:
    """Raises at once for a server that did not answer a moment ago.

    Raises:
        ConnectionError: It didn't.
    """
    if is_down(uri):
        raise ConnectionError("it did not answer a moment ago")


def warning(uri: str) -> str:
    """Returns the one line that tells of a store's trouble: the same for every run."""
    return (
        f"MLflow at {redact(uri)} does not answer as it should; training goes on. What it misses is kept in the runs' "
        "folders: frostline sync records it later"
    )


@cache
def warn(uri: str) -> None:
    """Tells of a store's trouble, once in a process: every run of a multirun would tell it again."""
    log.warning("%s", warning(uri))
