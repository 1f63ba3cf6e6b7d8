"""Hydra plugin that puts `sweeps/` and the user's own folders on the search path.

Every Hydra application imports it: keep it light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydra.plugins.search_path_plugin import SearchPathPlugin

from frostline import paths

if TYPE_CHECKING:
    from hydra.core.config_search_path import ConfigSearchPath


class FrostlineSearchPathPlugin(SearchPathPlugin):
    """Adds `sweeps/` where the main config is frostline's, so that `+sweep=demo` is found."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See Hydra."""
        conf = str(paths.conf_dir())
        entries = search_path.get_path()
        if any(entry.provider == "main" and entry.path.removeprefix("file://") == conf for entry in entries):
            search_path.append("frostline", f"file://{paths.sweeps_dir()}")
            from frostline.config.own_files import searched

            for folder in searched():
                search_path.append("frostline-own", f"file://{folder}")
