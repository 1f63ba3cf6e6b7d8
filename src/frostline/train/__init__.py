"""Owns: one run from spec to result; the only importer of HF `Trainer`. Must not know: Hydra, MLflow, Optuna."""

from frostline.signals import Interrupted
from frostline.train.probe import Footprint, Probe, footprint, probe
from frostline.train.run import run
from frostline.train.setup import prepare
from frostline.train.worker_setup import be_own_process, can_be_forked, settle

__all__ = [
    "Footprint",
    "Interrupted",
    "Probe",
    "be_own_process",
    "can_be_forked",
    "footprint",
    "prepare",
    "probe",
    "run",
    "settle",
]
