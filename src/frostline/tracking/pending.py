"""Pending records: what an unreachable store missed, kept in the run's folder.

A run's numbers are in its `metrics.jsonl` and `result.json` anyway; what is kept beside them is its place in a sweep. A
sweep's parent run has no such files: its numbers, tags and status are kept here.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from frostline.errors import in_one_line
from frostline.files import write_atomically
from frostline.process_cache import PROCESS_CACHE
from frostline.provenance import redact
from frostline.spec import TrackingSpec
from frostline.tracking.reach import knock

log = logging.getLogger(__name__)

PENDING_FILE = ".mlflow-pending.json"
_DOWN_S = 60.0
"""So long a server that did not answer isn't asked again by a process (assumed): else each trial would wait for it."""

_down: dict[str, tuple[float, str]] = PROCESS_CACHE.container({})
"""Stores that did not answer: until when they aren't asked again, and why."""

_warned: set[str] = PROCESS_CACHE.container(set())
"""Stores that this process has warned about."""


def save(folder: Path, missed: Mapping[str, Any]) -> None:
    """Keeps what a store has missed; a folder that can't be written loses it, as it loses everything else."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / PENDING_FILE, json.dumps(missed) + "\n")


def load(folder: Path) -> dict[str, Any] | None:
    """Returns what a store has missed of a folder; None if it has it all."""
    try:
        data = json.loads((folder / PENDING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def clear(folder: Path) -> None:
    """The store has it now."""
    with suppress(OSError):
        (folder / PENDING_FILE).unlink(missing_ok=True)


def find_pending(roots: Iterable[Path]) -> list[Path]:
    """Returns the folders below `roots` that a store has missed something of; sweeps come before their runs."""
    folders = {path.parent for root in roots for path in root.rglob(PENDING_FILE)}
    return sorted(folders)


def mark_unreachable(uri: str, error: BaseException) -> None:
    """Notes that a server did not answer; files and databases are asked each time."""
    words = ("API request", "HTTPConnection", "HTTPSConnection", "Connection", "timed out", "Max retries")
    silent = isinstance(error, (ConnectionError, TimeoutError)) or any(word in str(error) for word in words)
    if silent and not uri.startswith("sqlite:"):
        _down[uri] = time.monotonic() + _DOWN_S, str(error)


def location_of(tracking: TrackingSpec) -> dict[str, Any]:
    """Returns where something was to be recorded, without user and password."""
    return {
        "uri": redact(tracking.uri),
        "experiment": tracking.experiment,
        "log_model": tracking.log_model,
        "tags": {key: redact(value) for key, value in tracking.tags.items()},
        "register": tracking.register,
    }


def is_unreachable(uri: str) -> bool:
    """Returns whether a server did not answer a moment ago."""
    return _down.get(uri, (0.0, ""))[0] > time.monotonic()


def check_reachable(uri: str) -> None:
    """Raises within seconds for a store that does not answer, and at once if it did not a moment ago.

    Raises:
        OSError: With the reason.
    """
    if is_unreachable(uri):
        raise ConnectionError(_down[uri][1])  # the same text: a sweep prints equal warnings of its runs once
    try:
        knock(uri)
    except OSError as error:
        mark_unreachable(uri, error)
        raise


def reason_of(error: BaseException) -> str:
    """Returns what a store said, in a line without passwords."""
    return f"{type(error).__name__}: {redact(in_one_line(error, 1000))[:300]}"


def warning(uri: str, reason: str) -> str:
    """Returns one line about a store's trouble."""
    return (
        f"MLflow at {redact(uri)} does not answer as it should ({reason}); training continues. What it misses is "
        "kept in the runs' folders: frostline ui --sync records it later"
    )


def warn(uri: str, reason: str) -> None:
    """Logs a store's trouble once per process: every run of a multirun would repeat it."""
    if uri not in _warned:
        _warned.add(uri)
        log.warning("%s", warning(uri, reason))
