"""Owns: where `conf/` and `sweeps/` lie, in a checkout and in an installed wheel. Must not know: what is in them."""

from __future__ import annotations

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
