"""Owns: one run from spec to result; the only importer of HF `Trainer`. Must not know: Hydra, MLflow, Optuna."""

from frostline.train.run import run
from frostline.train.setup import prepare
from frostline.train.signals import Interrupted

__all__ = ["Interrupted", "prepare", "run"]
