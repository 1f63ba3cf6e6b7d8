"""Locates `conf/` and `sweeps/`, and the folders that modules are imported from."""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _data_dir(name: str) -> Path:
    installed = _PACKAGE / "_data" / name  # pyproject.toml: force-include puts it there in a wheel
    checkout = _PACKAGE.parent.parent / name
    for candidate in (installed, checkout):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"frostline's {name}/ is neither at {installed} nor at {checkout}: reinstall it")


def conf_dir() -> Path:
    """Returns the folder of Hydra config groups (absolute)."""
    return _data_dir("conf")


def sweeps_dir() -> Path:
    """Returns the folder whose `sweep/` group holds the ready-made sweeps (absolute)."""
    return _data_dir("sweeps")


def search_path(*, with_here: bool = True) -> list[str]:
    """Returns the module search path with the current folder last.

    The folder is the user's: a file there that is named like a library (`evaluate.py`) is not to be taken for it.

    Args:
        with_here: Whether the current folder belongs there, for plugins, if it doesn't stand there.
    """
    current = str(Path.cwd())
    others = [path for path in dict.fromkeys(sys.path) if path not in {"", current}]
    return [*others, current] if with_here or {"", current} & set(sys.path) else others


def _has_home() -> bool:
    try:
        return Path.home().is_absolute()
    except RuntimeError:
        return False


def take_home() -> Path | None:
    """Gives a user without a home or a name, for example in a container, those that libraries ask for.

    Returns:
        The folder that `HOME` names from now on; None: there was one.
    """
    user = str(os.getuid())
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = user
    if Path(os.environ.get("HOME", "")).is_absolute() or _has_home():
        return None
    folder = Path(tempfile.gettempdir()) / f"frostline-home-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # another user made it first
        folder = Path(tempfile.mkdtemp(prefix="frostline-home-"))
    os.environ["HOME"] = str(folder)
    return folder
