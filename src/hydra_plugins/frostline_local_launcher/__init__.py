"""Hydra plugin: warm worker processes on this machine. `hydra/launcher=frostline_local`."""

from hydra_plugins.frostline_local_launcher.launcher import FrostlineLocalLauncher

__all__ = ["FrostlineLocalLauncher"]
