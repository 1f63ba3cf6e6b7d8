"""Hydra plugin: searches with Optuna 5. `hydra/sweeper=frostline_optuna`."""

from hydra_plugins.frostline_optuna_sweeper.sweeper import FrostlineOptunaSweeper

__all__ = ["FrostlineOptunaSweeper"]
