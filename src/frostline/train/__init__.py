"""Owns: one run from spec to result; the only importer of HF `Trainer`. Must not know: Hydra, MLflow, Optuna."""

from frostline.signals import Interrupted
from frostline.train.probe import Footprint, Probe, footprint, probe
from frostline.train.run import run
from frostline.train.setup import prepare
from frostline.train.worker_setup import can_be_forked, freeze_gc, reseed_fork

__all__ = [
    "Footprint",
    "Interrupted",
    "Probe",
    "can_be_forked",
    "footprint",
    "freeze_gc",
    "prepare",
    "probe",
    "reseed_fork",
    "run",
]
