"""frostline: how much of a pretrained model should be frozen for my task, and at what learning rate?

Importing this package imports nothing heavy: a name is loaded when it is first asked for, and torch when something is
trained. See docs/python.md, and docs/design.md for the rooms.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frostline.api.inspection import Inspection, inspect
    from frostline.api.load import load
    from frostline.api.planning import plan
    from frostline.api.reproducing import Reproduction, reproduce
    from frostline.api.runs import Run, run
    from frostline.api.study import Decision, Study, sweep
    from frostline.errors import RunFailedError, UserError
    from frostline.sweeps.plan import SweepPlan

__version__ = "0.1.0"

_HOMES = {
    "Decision": "api.study",
    "Inspection": "api.inspection",
    "Reproduction": "api.reproducing",
    "Run": "api.runs",
    "RunFailedError": "errors",
    "Study": "api.study",
    "SweepPlan": "sweeps.plan",
    "UserError": "errors",
    "inspect": "api.inspection",
    "load": "api.load",
    "plan": "api.planning",
    "reproduce": "api.reproducing",
    "run": "api.runs",
    "sweep": "api.study",
}
"""The module of each public name."""

__all__ = [
    "Decision",
    "Inspection",
    "Reproduction",
    "Run",
    "RunFailedError",
    "Study",
    "SweepPlan",
    "UserError",
    "inspect",
    "load",
    "plan",
    "reproduce",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
