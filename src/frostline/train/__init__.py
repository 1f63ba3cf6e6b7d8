"""Training one run; nothing else imports Hugging Face's `Trainer`."""

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
