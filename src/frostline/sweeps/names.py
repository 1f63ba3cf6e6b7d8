"""The names of sweeps, and the overrides that come with one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from frostline import paths
from frostline.config.own_files import forgotten
from frostline.errors import SpecError, nearest


def names() -> dict[str, str]:
    """Returns the ready-made sweeps with the first line of each file."""
    sweeps = {}
    for path in sorted((paths.sweeps_dir() / "sweep").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = [
            line.removeprefix("# ").strip() for line in lines if line.startswith("# ") and "@package" not in line
        ]
        sweeps[path.stem] = comments[0] if comments else ""
    return sweeps


def check_name(name: str, *, has_own: bool) -> None:
    """Checks that a sweep may have this name.

    Args:
        name: As the user gave it.
        has_own: Whether the user has a folder of configs, which may hold others than the ready-made ones.

    Raises:
        SpecError: There is none, or it is no name.
    """
    if "," in name:
        raise SpecError(f"frostline sweep {name}: one sweep at a time")
    known = names()
    if name not in known and not has_own and not name.endswith((".yaml", ".yml")):
        hint = f"{nearest(name, known)}; there are {', '.join(known)}{forgotten('sweep', name)}"
        raise SpecError(f"frostline sweep {name}: no such sweep{hint}")


def spaced(overrides: Sequence[str]) -> list[str]:
    """Returns overrides of a sweep in which any key of its space may be a new one, which Hydra wants said."""
    return [re.sub(r"^(?=sweep\.space[.=])", "++", word) for word in overrides]
