"""Where fetched and made files lie, and where local files lie on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs


def home() -> Path:
    """Returns the cache folder: `FROSTLINE_HOME`, else the platform's user cache."""
    return Path(os.environ.get("FROSTLINE_HOME") or platformdirs.user_cache_dir("frostline")).expanduser().absolute()


def set_places(places: Mapping[str, str]) -> None:
    """Sets where this process finds local files whose path in the config is of another machine.

    Args:
        places: The path to be used, by the path in the config.
    """
    _places.clear()
    _places.update(places)


def places() -> dict[str, str]:
    """Returns what `set_places` was given last: for the processes that this one starts."""
    return dict(_places)


def local_path(location: str) -> Path:
    """Returns where a file or folder of the config lies for this process."""
    return Path(_places.get(location, location)).expanduser()


_places: dict[str, str] = {}
"""Where local files lie in this process, by the path that the config has: on another machine than the config's."""
