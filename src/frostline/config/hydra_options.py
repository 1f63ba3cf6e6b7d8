"""What Hydra's entry points are called with, by its version: 1.4 deprecates what 1.3 asks for."""

from __future__ import annotations

from typing import Any

import hydra

_IS_OLD = tuple(int(part) for part in hydra.__version__.split(".")[:2]) < (1, 4)

VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if _IS_OLD else {}
"""For `initialize_config_dir`. Hydra 1.4 has the behaviour of 1.3, and warns of the argument."""

MAIN: dict[str, Any] = (
    VERSION_BASE if _IS_OLD else {"execution_whitelist": ["frostline.*", "hydra.*", "hydra_plugins.*", "logging.*"]}
)
"""For `hydra.main`. Hydra 1.4 wants to know what the node `hydra` of a config may name by `_target_`."""
