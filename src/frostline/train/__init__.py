"""Owns: one run from spec to result; the only importer of HF `Trainer`. Must not know: Hydra, MLflow, Optuna."""

from frostline.train.cached import filled_on
from frostline.train.run import run
from frostline.train.setup import prepare
from frostline.train.signals import Interrupted
from frostline.train.warm import settle

__all__ = ["Interrupted", "filled_on", "prepare", "run", "settle"]
