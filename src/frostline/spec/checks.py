"""Checks that the groups of a config share."""

from __future__ import annotations

import math

from frostline.errors import SpecError


def require(ok: bool, key: str, value: object, wanted: str) -> None:
    """Refuses a value out of range.

    Raises:
        SpecError: `ok` is false; the message is `key=value: must be wanted`.
    """
    if not ok:
        raise SpecError(f"{key}={value}: must be {wanted}")


def finite(value: float) -> bool:
    """Whether a number is neither NaN nor infinite."""
    return math.isfinite(value)
