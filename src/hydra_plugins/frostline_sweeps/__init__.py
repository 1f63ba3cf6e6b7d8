"""Hydra plugin: frostline's `sweeps/` folder as a second place of configs, for frostline's own application only."""

from hydra_plugins.frostline_sweeps.search_path import FrostlineSearchPathPlugin

__all__ = ["FrostlineSearchPathPlugin"]
